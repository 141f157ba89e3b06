//! Chatwork and SimSimi fail under traffic, in every way that they can. The ingress does not know; in
//! the rooms everything is said once, if late.

use std::time::Duration;

use anyhow::ensure;
use chickwork_tests::bot::Plan;
use chickwork_tests::stage::Kind;
use chickwork_tests::storm::{self, Mood, Storm};

/// How long it rages in one mood.
const A_WHILE: Duration = Duration::from_secs(5);

/// As many processes as such a bot usually has. A limit of the account that is over soon keeps a refusal
/// without any times from taking a minute.
async fn a_storm(kind: Kind) -> anyhow::Result<Storm> {
    let plan = Plan::on(kind)?
        .unlimited()
        .with("CHATWORK_ACCOUNT_LIMIT", "100000/5s");
    let mut storm = Storm::start(plan, storm::seed()?).await?;
    storm.traffic()?;
    storm.acked(10).await?;
    Ok(storm)
}

/// Each mood after the other, with those before still there.
pub(super) async fn simsimi_fails_in_every_way(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    for mood in [Mood::Failing, Mood::Deaf, Mood::Mute, Mood::Babbling] {
        storm.spoil_simsimi(mood);
        storm.rage(A_WHILE).await;
    }
    storm.shut_simsimi(A_WHILE).await?;
    storm.settle_the_sums().await?;
    storm.end().await
}

/// Slow beyond every limit: it occupies who asks, and holds up no webhook.
pub(super) async fn simsimi_is_slow_beyond_every_limit(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    storm.spoil_simsimi(Mood::Slow);
    storm.rage(A_WHILE * 3).await;
    storm.settle_the_sums().await?;
    storm.end().await
}

/// A quota that is used up: asking pauses, and then everything is asked.
pub(super) async fn simsimi_refuses_and_everything_waits(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    storm.spoil_simsimi(Mood::Refusing);
    storm.rage(A_WHILE).await;
    storm.settle_the_sums().await?;
    storm.end().await
}

/// Whatever Chatwork does to a post, SimSimi is paid once.
pub(super) async fn chatwork_fails_in_every_way(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    for mood in [Mood::Failing, Mood::Deaf, Mood::Mute, Mood::Babbling] {
        storm.spoil_chatwork(mood);
        storm.rage(A_WHILE).await;
    }
    storm.shut_chatwork(A_WHILE).await?;
    let sums = storm.settle_the_sums().await?;
    ensure!(sums.asked_again == 0, "{sums}");
    storm.end().await
}

pub(super) async fn chatwork_is_slow_beyond_every_limit(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    storm.spoil_chatwork(Mood::Slow);
    storm.rage(A_WHILE * 3).await;
    let sums = storm.settle_the_sums().await?;
    ensure!(sums.asked_again == 0, "{sums}");
    storm.end().await
}

pub(super) async fn chatwork_refuses_in_storms(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    for _ in 0..3 {
        storm.spoil_chatwork(Mood::Refusing);
        storm.rage(A_WHILE).await;
    }
    let sums = storm.settle_the_sums().await?;
    ensure!(sums.asked_again == 0, "{sums}");
    storm.end().await
}
