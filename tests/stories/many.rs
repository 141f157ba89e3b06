//! Many at once: every mention is answered exactly once, and SimSimi is paid exactly once for each.

use std::time::{Duration, Instant};

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_tests::bot::{Bot, Plan};
use chickwork_tests::stage::Kind;
use futures_util::future::try_join_all;

/// Rooms in which people talk.
const ROOMS: u64 = 30;

/// Mentions in each of the rooms, by several people, as many rooms at once as there are.
async fn everybody_talks(bot: &Bot, each: u64) -> anyhow::Result<Vec<MessageId>> {
    let rooms = (0..ROOMS).map(|room| async move {
        let mut mentions = Vec::new();
        for number in 0..each {
            let who = AccountId(2_000_000 + number % 3);
            let text = format!("echo {room}-{number}");
            mentions.push(
                bot.mention_in(RoomId(300_000_000 + room), who, &text)
                    .await?,
            );
        }
        anyhow::Ok(mentions)
    });
    Ok(try_join_all(rooms).await?.concat())
}

/// Three hundred mentions in thirty rooms.
pub(super) async fn a_company_talks_at_once_and_each_is_answered_once(
    kind: Kind,
) -> anyhow::Result<()> {
    let plan = Plan::on(kind)?.unlimited();
    let plan = match kind {
        Kind::Sqlite => plan,
        Kind::Rabbitmq => plan.workers(3),
    };
    let bot = plan
        .world(|world| world.simsimi_takes = Duration::from_millis(100))
        .start()
        .await?;
    let mentions = everybody_talks(&bot, 10).await?;
    bot.all_answered_once(Duration::from_secs(90), &mentions)
        .await?;
    let mut asked = bot.asked();
    asked.sort();
    asked.dedup();
    assert_eq!(
        (bot.asked().len(), asked.len()),
        (mentions.len(), mentions.len())
    );
    assert_eq!(bot.sandbox.ledger().posted.len(), mentions.len());
    bot.end().await
}

/// Workers die at random, again and again, while people talk: every mention is answered exactly
/// once, and none is buried.
pub(super) async fn workers_die_at_random_and_each_mention_is_answered_once(
    kind: Kind,
) -> anyhow::Result<()> {
    let seconds = std::env::var("CHICKWORK_TEST_KILLING_SECONDS").ok();
    let seconds: u64 = seconds.map_or(Ok(20), |seconds| seconds.parse())?;
    let seed = fastrand::u64(..);
    tell_seed(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bot = Plan::on(kind)?
        .workers(3)
        .unlimited()
        .world(|world| {
            world.simsimi_takes = Duration::from_millis(200);
            world.chatwork_takes = Duration::from_millis(100);
        })
        .start()
        .await?;
    let mut mentions = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..10 {
            let room = RoomId(300_000_000 + random.u64(..ROOMS));
            let text = format!("echo {}", mentions.len());
            mentions.push(bot.mention_in(room, AccountId(2_000_000), &text).await?);
            tokio::time::sleep(Duration::from_millis(random.u64(..200))).await;
        }
        let victim = random.usize(..bot.workers.len());
        bot.workers[victim].kill().await?;
        bot.workers[victim].start()?;
    }
    bot.all_answered_once(Duration::from_secs(120), &mentions)
        .await?;
    assert_eq!(bot.sandbox.ledger().posted.len(), mentions.len());
    bot.end().await
}

#[expect(
    clippy::print_stderr,
    reason = "shown when the story fails, to tell it again"
)]
fn tell_seed(seed: u64) {
    eprintln!("the seed is {seed}");
}
