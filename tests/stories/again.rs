//! A message that was answered is answered once more because a person asked for that: once in every
//! round, whatever happens on the way.

use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::MessageId;
use chickwork_queue::audit::PutBack;
use chickwork_queue::event::Event;
use chickwork_queue::outcome::{By, Outcome, What};
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_tests::bot::{Bot, Plan};
use chickwork_tests::said::{run, typed};
use chickwork_tests::stage::{Kind, SOON, put_back, until};
use jiff::{SignedDuration, Timestamp};

use super::audit::empty_ask_queue;

/// Longer than a look has to wait, with all that comes before and after it.
const DOUBT: Duration = Duration::from_secs(60);
/// An audit looks twice, a second apart, and on a broker until workers have said what they hold.
const AUDIT: Duration = Duration::from_secs(30);

/// A person asks for another answer, in a round of its own; since when.
async fn ask_again(bot: &Bot, event: &Event, replay: u32) -> anyhow::Result<Timestamp> {
    let again = Timestamp::from_millisecond(Timestamp::now().as_millisecond())?;
    join_round(bot, event, replay, again).await?;
    Ok(again)
}

async fn join_round(bot: &Bot, event: &Event, replay: u32, again: Timestamp) -> anyhow::Result<()> {
    let put_back = PutBack {
        replay,
        reason: "a better answer",
        by: By::REPLAY,
        again: Some(again),
    };
    Ok(bot.queue().await?.put_back(event.clone(), put_back).await?)
}

/// Waits until the round's reply is known to be posted; the line that says so.
async fn posted(bot: &Bot, again: Option<Timestamp>) -> anyhow::Result<Outcome> {
    until(DOUBT, "the round's reply is posted", async || {
        let outcomes = bot.outcomes().await?;
        let is_it = |outcome: &Outcome| {
            outcome.again == again && matches!(outcome.what, What::Posted { .. })
        };
        Ok(outcomes.into_iter().find(is_it))
    })
    .await
}

/// What may be written a moment after the post itself.
fn looked(what: &What) -> Option<()> {
    matches!(what, What::Looked { .. }).then_some(())
}

/// Waits until the worker knows of so many posts of its own, which it logs then: a moment after they are
/// stored.
async fn known(bot: &Bot, posts: usize) -> anyhow::Result<()> {
    until(SOON, "the worker knows what it posted", async || {
        let told = bot.workers[0].log();
        let count = told.matches("posted step=post").count();
        Ok((count >= posts).then_some(()))
    })
    .await
}

/// Waits until so many deliveries of the event have come to nothing, as its message is answered.
async fn duplicates(bot: &Bot, event: &Event, count: usize) -> anyhow::Result<()> {
    until(SOON, "it is ignored", async || {
        let outcomes = bot.outcomes().await?;
        let ignored = outcomes.iter().filter(|outcome| {
            outcome.id == event.id
                && matches!(&outcome.what, What::Ignored { reason } if reason == "duplicate")
        });
        Ok((ignored.count() >= count).then_some(()))
    })
    .await
}

fn reply_id(posted: &Outcome) -> anyhow::Result<MessageId> {
    match &posted.what {
        What::Posted {
            reply_message_id: Some(id),
            ..
        } => Ok(id.clone()),
        what => anyhow::bail!("no reply's id in {what:?}"),
    }
}

/// Everything is explained, and nothing was said twice.
async fn audit_is_clean(bot: &Bot) -> anyhow::Result<()> {
    let since = Timestamp::now() - SignedDuration::from_hours(1);
    let audit = bot.queue().await?.audit(since, AUDIT).await?;
    ensure!(audit.is_clean(), "{audit:?}");
    ensure!(audit.sums.answered == audit.sums.received, "{audit:?}");
    Ok(())
}

/// Put back as it is, an answered message stays as it is. Who asks for another answer gets one, however
/// often that round is put back; and another one in the next round.
pub(super) async fn who_asks_for_another_answer_gets_one_more(kind: Kind) -> anyhow::Result<()> {
    // One worker, which knows at once what it has posted. Another hears of it a moment later, and may ask
    // until then, at its price; whatever it is told is not said.
    let bot = Plan::on(kind)?.workers(1).start().await?;
    let message = bot.mention("echo chíp").await?;
    assert_eq!(bot.answer(&message).await?, "chíp");
    let first = posted(&bot, None).await?;
    known(&bot, 1).await?;
    let event = bot.archived(&message).await?;

    let queue = bot.queue().await?;
    let as_it_is = put_back(0, "is it answered?");
    queue.put_back(event.clone(), as_it_is).await?;
    duplicates(&bot, &event, 1).await?;
    assert_eq!((bot.answers(&message), bot.asked().len()), (1, 1));

    let again = ask_again(&bot, &event, 1).await?;
    let second = posted(&bot, Some(again)).await?;
    known(&bot, 2).await?;
    assert_eq!((bot.answers(&message), bot.asked().len()), (2, 2));
    ensure!(reply_id(&first)? != reply_id(&second)?);
    // The command was stopped, and run once more.
    join_round(&bot, &event, 2, again).await?;
    duplicates(&bot, &event, 2).await?;
    assert_eq!(bot.answers(&message), 2);

    let third = ask_again(&bot, &event, 3).await?;
    posted(&bot, Some(third)).await?;
    assert_eq!(bot.answers(&message), 3);
    audit_is_clean(&bot).await?;
    bot.end().await
}

/// Killed in the moment in which the further answer is in the room: the next process looks, does not
/// take the old answer for it, and says nothing.
pub(super) async fn killed_right_after_a_further_answer_it_is_not_said_again(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    let message = bot.mention("echo once more").await?;
    let first = posted(&bot, None).await?;
    let event = bot.archived(&message).await?;

    let slow = Fault::delay(Service::Chatwork, Duration::from_secs(8));
    bot.sandbox.break_down(slow.on(Call::Post));
    let again = ask_again(&bot, &event, 0).await?;
    let there = |ledger: &chickwork_sandbox::ledger::Ledger| ledger.answers_to(&message).len() == 2;
    ensure!(bot.sandbox.until(DOUBT, there).await, "no second answer");
    bot.worker().kill().await?;
    bot.worker().start()?;
    let second = posted(&bot, Some(again)).await?;
    ensure!(
        matches!(second.what, What::Posted { found: true, .. }),
        "it was found by looking: {second:?}"
    );
    ensure!(
        reply_id(&first)? != reply_id(&second)?,
        "the old one was taken for it"
    );
    assert_eq!((bot.answers(&message), bot.asked().len()), (2, 2));
    audit_is_clean(&bot).await?;
    bot.end().await
}

/// Chatwork's answer to the post is lost, and with it the post or not: the room is looked into, where the
/// old answer stands.
pub(super) async fn a_doubtful_further_answer_is_looked_for_beside_the_old_one(
    kind: Kind,
) -> anyhow::Result<()> {
    for (when, is_there) in [(When::Before, false), (When::After, true)] {
        let bot = Plan::on(kind)?.start().await?;
        let message = bot.mention("echo lost").await?;
        let first = posted(&bot, None).await?;
        let event = bot.archived(&message).await?;

        let lost = Fault::drop(Service::Chatwork, when);
        bot.sandbox.break_down(lost.on(Call::Post));
        let again = ask_again(&bot, &event, 0).await?;
        let second = posted(&bot, Some(again)).await?;
        let What::Posted { found, .. } = second.what else {
            anyhow::bail!("{second:?}");
        };
        assert_eq!(found, is_there, "{when:?}");
        ensure!(reply_id(&first)? != reply_id(&second)?, "{when:?}");
        assert_eq!(
            (bot.answers(&message), bot.asked().len()),
            (2, 2),
            "{when:?}"
        );
        audit_is_clean(&bot).await?;
        bot.end().await?;
    }
    Ok(())
}

/// What was to be answered once more is taken out by hand. The audit finds it, and puts it back as what
/// it was: the room hears the further answer, and hears it once.
pub(super) async fn a_further_answer_that_was_lost_is_given_when_the_audit_puts_it_back(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.workers(1).start().await?;
    let message = bot.mention("echo lost and found").await?;
    let first = posted(&bot, None).await?;
    let event = bot.archived(&message).await?;
    bot.worker().kill().await?;
    let again = ask_again(&bot, &event, 0).await?;
    empty_ask_queue(bot.stage()).await?;

    let requeue = ["--wait", "0", "--requeue", "--yes"];
    let said = run(typed(bot.stage(), "audit", &requeue)?)
        .await?
        .succeeded()?;
    ensure!(said.err.contains("answered AGAIN"), "{said:?}");

    bot.worker().start()?;
    let second = posted(&bot, Some(again)).await?;
    ensure!(reply_id(&first)? != reply_id(&second)?);
    assert_eq!((bot.answers(&message), bot.asked().len()), (2, 2));
    audit_is_clean(&bot).await?;
    bot.end().await
}

/// SimSimi fails once, Chatwork limits, an answer is lost: the outcomes tell precisely that.
pub(super) async fn an_event_that_met_everything_tells_precisely_that(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let (simsimi, chatwork) = (Service::Simsimi, Service::Chatwork);
    let reset = Timestamp::now().as_second() + 3;
    bot.sandbox.break_down(Fault::status(simsimi, 500));
    let limited = Fault::status(chatwork, 429).with_header("x-ratelimit-reset", reset);
    bot.sandbox.break_down(limited.on(Call::Post));
    let lost = Fault::drop(chatwork, When::After);
    bot.sandbox.break_down(lost.on(Call::Post));
    let message = bot.mention("echo at last").await?;
    let posted = posted(&bot, None).await?;
    bot.became(&message, "it was looked for", looked).await?;

    let told = bot.outcomes().await?;
    let mut told: Vec<_> = told
        .into_iter()
        .filter(|outcome| outcome.id == posted.id)
        .collect();
    told.sort_by_key(|outcome| outcome.at);
    let story: Vec<String> = told
        .iter()
        .filter_map(|outcome| {
            Some(match &outcome.what {
                What::Received { stored, .. } => format!("received {}", stored.as_str()),
                What::Asked {
                    result,
                    question,
                    answer,
                    ..
                } => format!("asked {question:?}: {result} {answer:?}"),
                What::ReplyStored { .. } => "reply stored".to_owned(),
                // How often it had to wait for a look to tell is a matter of time.
                What::Later { reason, .. } if reason.starts_with("in doubt") => return None,
                What::Later { step, reason, .. } => format!("later {}: {reason}", step.as_str()),
                What::Intent { .. } => "intent".to_owned(),
                What::NotPosted { reason, called, .. } => format!("not posted {called}: {reason}"),
                What::Looked {
                    result,
                    reply_message_id,
                    reaches_back_to,
                } => format!(
                    "looked {result} {} {}",
                    reply_message_id.is_some(),
                    reaches_back_to.is_some()
                ),
                What::Posted { found, .. } => format!("posted, found {found}"),
                other => format!("{other:?}"),
            })
        })
        .collect();
    let stored = match kind {
        Kind::Sqlite => "received embedded",
        // A broker that is slow on a busy machine gets it by way of the spool.
        Kind::Rabbitmq => "received ",
    };
    let expected = [
        stored,
        "asked Some(\"echo at last\"): SimSimi failed: HTTP 500",
        "later ask: SimSimi failed: HTTP 500",
        "asked Some(\"echo at last\"): answered Some(\"at last\")",
        "reply stored",
        "intent",
        "not posted true: Chatwork answered 429: ",
        "later post: rate limit: Chatwork wants no more calls by this account",
        "intent",
        "later post: no answer from Chatwork: ",
        "looked found true true",
        "posted, found true",
    ];
    ensure!(story.len() == expected.len(), "{story:#?}");
    for (line, expected) in story.iter().zip(expected) {
        ensure!(line.starts_with(expected), "{line:?} is not {expected:?}");
    }
    let looked_for = told.iter().find_map(|outcome| match &outcome.what {
        What::Looked {
            reply_message_id, ..
        } => reply_message_id.clone(),
        _ => None,
    });
    let found = looked_for.context("the look tells what it found")?;
    assert_eq!(found, reply_id(&posted)?);
    assert_eq!(bot.answer(&message).await?, "at last");
    bot.end().await
}
