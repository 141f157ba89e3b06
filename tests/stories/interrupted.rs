//! Processes and brokers that are stopped, killed, frozen and started again: nothing is lost, and
//! nothing is said twice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::outcome::What;
use chickwork_sandbox::Say;
use chickwork_sandbox::fault::{Call, Fault, Service};
use chickwork_sandbox::webhook::Kind as HookKind;
use chickwork_tests::bot::{Bot, Plan, SOMEBODY, mentioning};
use chickwork_tests::stage::{Kind, until};

/// Longer than it takes to find out what became of a post of a process that is gone.
const DOUBT: Duration = Duration::from_secs(60);

/// Longer than a story takes.
const A_MINUTE: Duration = Duration::from_secs(60);

/// The next post takes effect, and Chatwork answers so much later.
fn slow_answer(bot: &Bot, delay: Duration) {
    bot.sandbox
        .break_down(Fault::delay(Service::Chatwork, delay).on(Call::Post));
}

/// Waits until there is an answer in the room, whatever the bot knows of it.
async fn in_the_room(bot: &Bot, message: &MessageId) {
    let there = |ledger: &chickwork_sandbox::ledger::Ledger| !ledger.answers_to(message).is_empty();
    assert!(
        bot.sandbox.until(Duration::from_secs(20), there).await,
        "no answer to {message}"
    );
}

/// Killed in the moment in which the post is in the room and nobody has been told: the next process
/// looks, finds it, and is silent.
pub(super) async fn killed_right_after_the_post_it_is_not_posted_again(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    slow_answer(&bot, Duration::from_secs(8));
    let message = bot.mention("echo once").await?;
    in_the_room(&bot, &message).await;
    bot.worker().kill().await?;
    bot.worker().start()?;
    assert!(
        bot.posted(DOUBT, &message).await?,
        "it was found by looking"
    );
    assert_eq!(bot.answer(&message).await?, "once");
    assert_eq!(bot.asked().len(), 1);
    bot.end().await
}

/// Killed with the post not yet in the room: the next process looks, does not find it, and posts.
pub(super) async fn killed_right_before_the_post_it_is_posted_after_all(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    let never = Fault {
        drop: Some(chickwork_sandbox::fault::When::Before),
        ..Fault::delay(Service::Chatwork, Duration::from_secs(8))
    };
    bot.sandbox.break_down(never.on(Call::Post));
    let message = bot.mention("echo after all").await?;
    let intended = |what: &What| matches!(what, What::Intent { .. }).then_some(());
    bot.became(&message, "it is about to be posted", intended)
        .await?;
    bot.worker().kill().await?;
    bot.worker().start()?;
    assert!(
        !bot.posted(DOUBT, &message).await?,
        "it was posted, not found"
    );
    assert_eq!(bot.answer(&message).await?, "after all");
    bot.end().await
}

/// Frozen with a post on its way, while another takes over: whoever wakes up says nothing.
pub(super) async fn who_is_frozen_in_mid_post_does_not_post_when_it_wakes(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.workers(2).start().await?;
    // Which of the two posts is not known: the one that has said so.
    let first = bot.mention("echo first").await?;
    bot.posted(DOUBT, &first).await?;
    let posts =
        |server: &chickwork_tests::process::Server| server.log().contains("this process posts now");
    let poster = bot
        .workers
        .iter()
        .position(posts)
        .expect("somebody has posted");
    slow_answer(&bot, Duration::from_secs(8));
    let message = bot.mention("echo frozen").await?;
    in_the_room(&bot, &message).await;
    bot.workers[poster].freeze_between_writes().await?;
    let second = bot
        .mention_in(RoomId(300_000_001), SOMEBODY, "echo meanwhile")
        .await?;
    assert_eq!(bot.answer_within(DOUBT, &second).await?, "meanwhile");
    assert!(
        bot.posted(DOUBT, &message).await?,
        "it was found by looking"
    );
    bot.workers[poster].thaw()?;
    let third = bot.mention("echo thawed").await?;
    bot.all_answered_once(DOUBT, &[first, message, second, third])
        .await?;
    bot.end().await
}

/// Two webhooks tell of the same message at the same moment, and Chatwork tells of it again later.
pub(super) async fn a_message_told_many_times_is_answered_once(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .workers(3)
        .world(|world| world.simsimi_takes = Duration::from_millis(300))
        .start()
        .await?;
    let mut mentions = Vec::new();
    for number in 0..10 {
        let message = MessageId::new((1_900_000_000_000_000_000_u64 + number).to_string())?;
        let say = |kind| Say {
            kind: Some(kind),
            message_id: Some(message.clone()),
            ..Say::new(
                RoomId(300_000_000 + number),
                SOMEBODY,
                mentioning(&format!("echo {number}")),
            )
        };
        let (mention, created, again) = tokio::join!(
            bot.hear(say(HookKind::MentionToMe)),
            bot.hear(say(HookKind::MessageCreated)),
            bot.hear(say(HookKind::MentionToMe)),
        );
        mentions.push(mention?);
        created?;
        again?;
    }
    bot.all_answered_once(A_MINUTE, &mentions).await?;
    // All three events have come to their end: one posted, the others known to be of the same.
    duplicates(&bot, 2 * mentions.len()).await?;
    for message in &mentions {
        assert_eq!(bot.answers(message), 1);
    }
    bot.end().await
}

/// Waits until so many events have been found to be of a message that is answered.
async fn duplicates(bot: &Bot, count: usize) -> anyhow::Result<()> {
    let mut found = 0;
    let all = until(A_MINUTE, "the duplicates are found", async || {
        let outcomes = bot.outcomes().await?;
        let ignored = outcomes.iter().filter(
            |outcome| matches!(&outcome.what, What::Ignored { reason } if reason == "duplicate"),
        );
        let events: HashSet<_> = ignored.map(|outcome| outcome.id).collect();
        found = events.len();
        Ok((found >= count).then_some(()))
    });
    let all = all.await;
    all.with_context(|| format!("{found} of {count}"))
}

/// The first SIGTERM lets what is in flight come to its end, and the exit code says so.
pub(super) async fn a_stopped_process_finishes_what_it_holds(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    slow_answer(&bot, Duration::from_secs(8));
    let message = bot.mention("echo the last word").await?;
    in_the_room(&bot, &message).await;
    let worker = bot.worker();
    worker.terminate()?;
    worker.not_ready("stopping").await?;
    assert_eq!(worker.exit_code().await?, Some(0));
    assert!(!bot.posted(DOUBT, &message).await?, "its end was heard of");
    assert_eq!(bot.answers(&message), 1);
    bot.end().await
}

/// The second SIGTERM does not wait: what is in flight is left to the next process.
pub(super) async fn the_second_signal_ends_a_process_at_once(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    slow_answer(&bot, Duration::from_secs(9));
    let message = bot.mention("echo interrupted").await?;
    in_the_room(&bot, &message).await;
    let begun = Instant::now();
    let worker = bot.worker();
    worker.terminate()?;
    worker.not_ready("stopping").await?;
    worker.terminate()?;
    assert_eq!(worker.exit_code().await?, Some(0), "given back is no crash");
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
    bot.worker().start()?;
    assert!(
        bot.posted(DOUBT, &message).await?,
        "it was found by looking"
    );
    assert_eq!(bot.answer(&message).await?, "interrupted");
    bot.end().await
}

/// Between the 200 and the answer lies a `kill -9` of everything.
pub(super) async fn what_was_acknowledged_survives_a_kill_of_everything(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .unlimited()
        .world(|world| world.simsimi_takes = Duration::from_secs(1))
        .start()
        .await?;
    let mut mentions = Vec::new();
    for number in 0..20 {
        mentions.push(bot.mention(&format!("echo {number}")).await?);
    }
    bot.front.kill().await?;
    for worker in &mut bot.workers {
        worker.kill().await?;
    }
    bot.front.start()?;
    for worker in &mut bot.workers {
        worker.start()?;
    }
    bot.ready().await?;
    bot.all_answered_once(A_MINUTE, &mentions).await?;
    bot.end().await
}

/// While no worker is there mentions wait; those that come then answer them all.
pub(super) async fn mentions_wait_for_workers(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.workers(2).unlimited().prepare().await?;
    bot.front.start()?;
    bot.front.ready().await?;
    let mut mentions = Vec::new();
    for number in 0..20 {
        mentions.push(bot.mention(&format!("echo {number}")).await?);
    }
    assert!(bot.asked().is_empty());
    for worker in &mut bot.workers {
        worker.start()?;
    }
    bot.all_answered_once(A_MINUTE, &mentions).await?;
    assert_eq!(bot.asked().len(), mentions.len());
    bot.end().await
}
