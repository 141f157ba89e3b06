//! Chatwork's limits as they really are: a crowd of waiting replies, a worker that is killed in the
//! middle, and not one call too many.

use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::AccountId;
use chickwork_tests::bot::Plan;
use chickwork_tests::stage::Kind;
use chickwork_tests::storm::{self, Storm};

/// Replies in the first room, and in each of the others. Chatwork takes ten in ten seconds.
const IN_THE_CROWD: u64 = 24;
const ELSEWHERE: u64 = 4;
/// So many of the crowd have their reply when the worker is killed: the room is closed to its successor.
const WINDOW: usize = 10;
/// All replies, and a quarter as many calls on top for who the bot is and for looking.
const CALLS: usize = 125;
/// By then all has been said, with looks after the kill.
const PATIENCE: Duration = Duration::from_secs(120);

/// A hundred replies wait when Chatwork can be reached again, and the worker is killed in the midst
/// of them, when one room has just had all that it may have. Its successor knows what was posted, and
/// what is left of the limits.
pub(super) async fn a_hundred_replies_keep_to_the_limits_across_a_kill(
    kind: Kind,
) -> anyhow::Result<()> {
    let plan = Plan::on(kind)?.workers(1);
    let mut storm = Storm::start(plan, storm::seed()?).await?;
    storm.chatwork.shut().await;
    let mut mentions = Vec::new();
    let crowd = Storm::rooms().next().context("there are rooms")?;
    for (number, room) in Storm::rooms().enumerate() {
        let many = if room == crowd {
            IN_THE_CROWD
        } else {
            ELSEWHERE
        };
        for nth in 0..many {
            let text = format!("echo {number}-{nth}");
            let who = AccountId(2_000_000 + nth);
            mentions.push(storm.bot.mention_in(room, who, &text).await?);
        }
    }
    let all_asked =
        |ledger: &chickwork_sandbox::ledger::Ledger| ledger.asked.len() == mentions.len();
    ensure!(
        storm.bot.sandbox.until(PATIENCE, all_asked).await,
        "not all were asked"
    );
    storm.chatwork.open().await?;
    let crowded = |ledger: &chickwork_sandbox::ledger::Ledger| {
        let posted = ledger.posted.iter();
        posted.filter(|posted| posted.room_id == crowd).count() >= WINDOW
    };
    ensure!(
        storm.bot.sandbox.until(PATIENCE, crowded).await,
        "the crowd has no replies"
    );
    storm.kill(1, Duration::ZERO).await?;
    storm.bot.all_answered_once(PATIENCE, &mentions).await?;

    let ledger = storm.bot.sandbox.ledger();
    let refused = ledger.calls.iter().filter(|call| call.status == Some(429));
    ensure!(refused.count() == 0, "Chatwork refused calls");
    ensure!(
        ledger.calls.len() <= CALLS,
        "{} calls for {} replies",
        ledger.calls.len(),
        mentions.len()
    );
    ensure!(
        ledger.asked.len() == mentions.len(),
        "SimSimi was asked {} times",
        ledger.asked.len()
    );
    storm.end().await
}
