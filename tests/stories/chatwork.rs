//! What becomes of a reply when Chatwork misbehaves: posted once, whatever happens.

use std::time::Duration;

use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::job::{Cause, Step};
use chickwork_queue::outcome::What;
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_sandbox::town;
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY};
use chickwork_tests::door::Door;
use chickwork_tests::stage::{Kind, SOON, until};
use jiff::Timestamp;

use crate::simsimi::paused;

/// Longer than a look has to wait, with all that comes before and after it.
const DOUBT: Duration = Duration::from_secs(60);

/// A room of a story's own.
fn room(number: u64) -> RoomId {
    RoomId(300_000_000 + number)
}

/// What Chatwork does to the next post in a room.
fn post_in(room: RoomId, fault: Fault) -> Fault {
    fault.on(Call::Post).in_room(room)
}

/// Each way in which nobody can tell whether a post arrived: the bot looks, and in the room there
/// is one reply to each.
pub(super) async fn a_doubtful_post_is_looked_for_and_never_said_twice(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let late = Duration::from_secs(11);
    let chatwork = Service::Chatwork;
    let ways = [
        // How it fails, and whether the message is there nevertheless.
        (Fault::status(chatwork, 500), false),
        (Fault::status(chatwork, 503).with_body("<html>"), false),
        (Fault::drop(chatwork, When::Before), false),
        (Fault::drop(chatwork, When::After), true),
        (Fault::delay(chatwork, late), true),
    ];
    let mut mentions = Vec::new();
    for (number, (fault, there)) in (1..).zip(ways) {
        bot.sandbox.break_down(post_in(room(number), fault));
        let text = format!("echo {number}");
        mentions.push((bot.mention_in(room(number), SOMEBODY, &text).await?, there));
    }
    for (number, (message, there)) in (1..).zip(&mentions) {
        assert_eq!(bot.posted(DOUBT, message).await?, *there, "room {number}");
        assert_eq!(bot.answer(message).await?, number.to_string());
    }
    assert_eq!(bot.asked().len(), mentions.len());
    bot.end().await
}

/// A Chatwork that breaks in the middle of a look, or says nothing about a room for a while.
pub(super) async fn a_look_that_fails_is_repeated(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let chatwork = Service::Chatwork;
    bot.sandbox
        .break_down(post_in(ROOM, Fault::status(chatwork, 502)));
    for look in [
        Fault::status(chatwork, 500),
        Fault::drop(chatwork, When::Before),
        Fault::status(chatwork, 200).with_body("no list"),
    ] {
        bot.sandbox.break_down(look.on(Call::Messages));
    }
    let message = bot.mention("echo found my voice").await?;
    assert_eq!(bot.answer_within(DOUBT, &message).await?, "found my voice");
    assert!(!bot.posted(DOUBT, &message).await?);
    assert_eq!(bot.answers(&message), 1);
    bot.end().await
}

/// The room's newest messages may not reach back to when the reply was sent: then nobody can tell,
/// and nothing is said twice; in the end a person has to look.
pub(super) async fn what_nobody_can_tell_is_left_to_a_person(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .with("CHICKWORK_MAX_AGE", "30s")
        .start()
        .await?;
    let lost = post_in(ROOM, Fault::drop(Service::Chatwork, When::After));
    bot.sandbox.break_down(lost);
    let message = bot.mention("echo lost in the crowd").await?;
    bot.answer(&message).await?;
    for number in 0..120 {
        // Nobody tells the bot of these; they fill the list.
        bot.sandbox.set_webhook_url("");
        let chatter = chickwork_sandbox::Say::new(ROOM, town::BEN, format!("chatter {number}"));
        bot.sandbox.say(chatter).await;
    }
    let letter = bot.buried(2 * DOUBT, &message).await?;
    assert_eq!((letter.cause, letter.step), (Cause::Uncertain, Step::Post));
    assert_eq!(bot.answers(&message), 1);
    bot.end().await
}

/// Refused for good: buried with Chatwork's words, and a room that is closed to the bot is not asked
/// about for a while.
pub(super) async fn a_refused_reply_is_buried_with_chatworks_words(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    let chatwork = Service::Chatwork;
    let words = |text: &str| serde_json::json!({ "errors": [text] });
    let too_strange = Fault::status(chatwork, 400).with_body(words("too strange"));
    let gone = Fault::status(chatwork, 404).with_body(words("no such room"));
    let moved = Fault::status(chatwork, 302)
        .with_body("elsewhere")
        .with_header("location", "http://127.0.0.1:1/");
    bot.sandbox.break_down(post_in(room(1), too_strange));
    bot.sandbox.break_down(post_in(room(2), gone));
    bot.sandbox.break_down(post_in(room(3), moved));
    let refusals = [
        (room(1), "too strange", false),
        (room(2), "no such room", true),
        (room(3), "302", false),
        // The sandbox's own refusal: here the bot may only read.
        (
            town::READONLY,
            "You don't have permission to send/edit message.",
            true,
        ),
    ];
    for (room, said, closed) in refusals {
        let message = bot.mention_in(room, SOMEBODY, "hello?").await?;
        let letter = bot.buried(SOON, &message).await?;
        assert_eq!(
            (letter.cause, letter.step),
            (Cause::Refused, Step::Post),
            "{said}"
        );
        assert!(letter.error.contains(said), "{}", letter.error);

        // The worker logs it once it knows of it itself: a moment after the letter is there.
        let front = &bot.front;
        let worker = bot.workers.first().unwrap_or(front);
        until(SOON, "the worker knows of it", async || {
            let log = worker.log();
            let mut dead = log.lines().filter(|line| line.contains("] dead: refused"));
            Ok(dead
                .any(|line| line.contains(message.as_str()))
                .then_some(()))
        })
        .await?;
        let asked = bot.asked().len();
        let message = bot.mention_in(room, SOMEBODY, "echo once more").await?;
        if closed {
            assert_eq!(bot.ignored(&message).await?, "room_closed");
            assert_eq!(bot.asked().len(), asked);
        } else {
            assert_eq!(bot.answer(&message).await?, "once more");
        }
    }
    let refused = "chickwork_dead_total{cause=\"refused\"}";
    bot.worker()
        .until_figure(refused, |figure| figure == 4.0)
        .await?;
    bot.end().await
}

/// A Chatwork that cannot be reached has certainly not taken anything: the reply is posted as soon
/// as it is back, and SimSimi is not asked again.
pub(super) async fn a_chatwork_out_of_reach_is_tried_again(kind: Kind) -> anyhow::Result<()> {
    let plan = Plan::on(kind)?;
    let mut door = Door::to(plan.sandbox_address()).await?;
    let bot = plan
        .with("CHATWORK_API_URL", format!("http://{}/v2", door.address()))
        .start()
        .await?;
    door.shut().await;
    let message = bot.mention("echo knock knock").await?;
    bot.became(&message, "it is put off", |what| match what {
        What::NotPosted { called: false, .. } => Some(()),
        _ => None,
    })
    .await?;
    door.open().await?;
    assert_eq!(bot.answer_within(DOUBT, &message).await?, "knock knock");
    assert!(!bot.posted(DOUBT, &message).await?);
    assert_eq!(bot.asked().len(), 1);
    assert!(
        bot.sandbox
            .ledger()
            .calls
            .iter()
            .all(|call| call.call != Some(Call::Messages))
    );
    bot.end().await
}

/// Whatever a 2xx says, the message is there; asking again would say it twice.
pub(super) async fn a_taken_post_is_done_whatever_chatwork_says_about_it(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let odd = ["", "<html>", "{\"message_id\":17}", "{}"];
    for (number, body) in (1..).zip(odd) {
        bot.sandbox.break_down(post_in(
            room(number),
            Fault::status(Service::Chatwork, 200).with_body(body),
        ));
        let message = bot.mention_in(room(number), SOMEBODY, "hello").await?;
        assert!(!bot.posted(DOUBT, &message).await?);
    }
    let posts = bot
        .sandbox
        .ledger()
        .calls
        .into_iter()
        .filter(|call| call.call == Some(Call::Post))
        .count();
    assert_eq!(posts, odd.len());
    bot.end().await
}

/// A token that is not accepted any more: posting pauses, asking goes on, nothing is lost.
pub(super) async fn posting_pauses_when_chatwork_does_not_know_the_token(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.start().await?;
    bot.sandbox
        .break_down(post_in(ROOM, Fault::status(Service::Chatwork, 401)));
    let message = bot.mention("echo let me speak").await?;
    let stored = bot.became(&message, "its reply is stored", |what| match what {
        What::ReplyStored { text } => Some(text.clone()),
        _ => None,
    });
    assert!(stored.await?.ends_with("let me speak"));
    paused(&mut bot, &message, "post").await?;
    assert_eq!(bot.answers(&message), 0);
    // The operator puts the right token in and starts it again.
    bot.worker().kill().await?;
    bot.worker().start()?;
    bot.ready().await?;
    // The reply itself waits for the rest of the pause, but others need not.
    let other = bot.mention("echo me first").await?;
    assert_eq!(bot.answer(&other).await?, "me first");
    assert!(bot.dead_letters().await?.is_empty());
    bot.end().await
}

/// The account's limit: nobody posts until it is over, then everything is there, once.
pub(super) async fn after_the_accounts_limit_everything_is_posted(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let reset = Timestamp::now().as_second() + 6;
    let limited = Fault::status(Service::Chatwork, 429).with_header("x-ratelimit-reset", reset);
    bot.sandbox.break_down(limited.on(Call::Post));
    let mut mentions = vec![bot.mention("echo 0").await?];
    let limited = |what: &What| matches!(what, What::NotPosted { called: true, .. }).then_some(());
    bot.became(&mentions[0], "it is refused", limited).await?;
    for number in 1..5 {
        mentions.push(
            bot.mention_in(room(number), SOMEBODY, &format!("echo {number}"))
                .await?,
        );
    }
    bot.all_answered_once(DOUBT, &mentions).await?;
    let ledger = bot.sandbox.ledger();
    let first = ledger.posted.front().map(|posted| posted.time.as_second());
    assert!(first >= Some(reset), "{first:?} is before {reset}");
    // One post more than there are mentions: the refused one.
    let posts = ledger
        .calls
        .iter()
        .filter(|call| call.call == Some(Call::Post))
        .count();
    assert_eq!(posts, mentions.len() + 1);
    bot.end().await
}

/// A room's limit that is tighter than ours: that room waits, others go on.
pub(super) async fn a_rooms_limit_holds_up_that_room_alone(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .world(|world| world.room_limit = (2, Duration::from_secs(15)))
        .start()
        .await?;
    let mut mentions = Vec::new();
    for number in 0..4 {
        mentions.push(bot.mention(&format!("echo {number}")).await?);
    }
    refused_by_chatwork(&bot, 1).await;
    let elsewhere = bot.mention_in(room(1), SOMEBODY, "echo elsewhere").await?;
    assert_eq!(bot.answer(&elsewhere).await?, "elsewhere");
    assert!(
        mentions.iter().any(|message| bot.answers(message) == 0),
        "the room with the limit has to wait longer"
    );
    mentions.push(elsewhere);
    bot.all_answered_once(DOUBT, &mentions).await?;
    bot.end().await
}

async fn refused_by_chatwork(bot: &Bot, at_least: usize) {
    let refused = |ledger: &chickwork_sandbox::ledger::Ledger| {
        ledger
            .calls
            .iter()
            .filter(|call| call.status == Some(429))
            .count()
            >= at_least
    };
    assert!(
        bot.sandbox.until(Duration::from_secs(20), refused).await,
        "nothing was refused"
    );
}

/// Who keeps to the limits is never told about them.
pub(super) async fn within_its_limits_the_bot_is_never_refused(kind: Kind) -> anyhow::Result<()> {
    let window = Duration::from_secs(4);
    let bot = Plan::on(kind)?
        .with("CHATWORK_ROOM_LIMIT", "3/4s")
        .with("CHATWORK_ACCOUNT_LIMIT", "12/4s")
        .with("CHICKWORK_SENDER_LIMIT", "100/1m")
        .world(|world| {
            world.room_limit = (3, window);
            world.account_limit = (12, window);
        })
        .start()
        .await?;
    let mut mentions: Vec<MessageId> = Vec::new();
    for number in 0..24 {
        let room = room(1 + number % 4);
        mentions.push(
            bot.mention_in(room, SOMEBODY, &format!("echo {number}"))
                .await?,
        );
    }
    bot.all_answered_once(Duration::from_secs(90), &mentions)
        .await?;
    let refused = bot
        .sandbox
        .ledger()
        .calls
        .into_iter()
        .filter(|call| call.status == Some(429))
        .count();
    assert_eq!(refused, 0);
    assert_eq!(bot.asked().len(), mentions.len());
    bot.end().await
}
