//! Many at once: every mention is answered exactly once, and SimSimi is paid exactly once for each.

use std::time::Duration;

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
    // What a broker is slow to confirm it may have all the same when the spool brings it: then there are
    // two jobs, which two workers may ask about, and one answer.
    let spooled = "chickwork_acks_total{stored=\"spool\"}";
    let spooled = bot.front.figure(spooled).await? as usize;
    let mut asked = bot.asked();
    let questions = asked.len();
    assert!(
        (mentions.len()..=mentions.len() + spooled).contains(&questions),
        "{questions} questions, {spooled} by way of the spool"
    );
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), mentions.len());
    assert_eq!(bot.sandbox.ledger().posted.len(), mentions.len());
    bot.end().await
}
