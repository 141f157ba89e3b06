//! `chickwork recover`, as an operator uses it after a bad night: what people said while nobody could be
//! told is found in the rooms, and answered once.

use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::notation;
use chickwork_queue::Stored;
use chickwork_queue::job::Settlement;
use chickwork_queue::outcome::What;
use chickwork_sandbox::fault::{Call, Fault, Service};
use chickwork_sandbox::ledger::Called;
use chickwork_sandbox::webhook::Kind as HookKind;
use chickwork_sandbox::{DEMO_API_TOKEN, Say, town};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, a_hook, mentioning};
use chickwork_tests::process::free_port;
use chickwork_tests::said::{Said, begin, run, stop, typed};
use chickwork_tests::stage::{Kind, SOON, next, settle, soon, until};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::process::Command;

/// How long it may take until all that was missed is answered.
const ALL_ANSWERED: Duration = Duration::from_secs(60);

/// The messages that a command has printed as JSON with this state.
fn messages(said: &Said, state: &str) -> anyhow::Result<Vec<MessageId>> {
    let lines = said.lines()?;
    let ids = lines.iter().filter(|line| line["state"] == state);
    ids.map(|line| {
        let id = line["message_id"].as_str().context("a message id")?;
        Ok(MessageId::new(id)?)
    })
    .collect()
}

/// `chickwork recover …` for this bot.
fn recover(bot: &Bot, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = typed(bot.stage(), "recover", words)?;
    command
        .env("CHATWORK_API_TOKEN", DEMO_API_TOKEN)
        .env("CHATWORK_API_URL", bot.sandbox.chatwork_url());
    Ok(command)
}

async fn say(bot: &Bot, words: &[&str]) -> anyhow::Result<Said> {
    run(recover(bot, words)?).await
}

/// Somebody writes, and no webhook comes through.
async fn unheard(bot: &Bot, say: Say) -> anyhow::Result<MessageId> {
    let said = bot.sandbox.say(say).await;
    ensure!(said.webhook_status.is_none(), "somebody heard it: {said:?}");
    Ok(said.message_id)
}

/// Somebody mentions the bot, and no webhook comes through.
async fn unheard_mention(
    bot: &Bot,
    room: RoomId,
    who: AccountId,
    text: &str,
) -> anyhow::Result<MessageId> {
    unheard(bot, Say::new(room, who, mentioning(text))).await
}

/// A bot whose ingress is out of reach, and which does not work either.
async fn a_deaf_bot(plan: Plan) -> anyhow::Result<Bot> {
    let bot = plan.workers(1).prepare().await?;
    // The queue is there, as it was before.
    drop(bot.queue().await?);
    Ok(bot)
}

/// People talk for a while to a bot that hears nothing: precisely the mentions among it are found, and
/// answered once; not what was answered, or waits; and a second time there is nothing to be found.
pub(super) async fn precisely_the_mentions_that_were_missed_are_found_and_answered_once(
    kind: Kind,
) -> anyhow::Result<()> {
    let ignored = town::BICH.to_string();
    let mut bot = Plan::on(kind)?
        .workers(1)
        .with("CHICKWORK_IGNORE_ACCOUNTS", ignored.clone())
        .start()
        .await?;
    let answered = bot.mention("echo before").await?;
    bot.answer(&answered).await?;
    bot.posted(SOON, &answered).await?;
    let reply = bot.sandbox.ledger().answers_to(&answered)[0]
        .message_id
        .clone();
    bot.workers[0].kill().await?;
    let waits = bot.mention("echo waits").await?;
    bot.archived(&waits).await?;
    bot.front.kill().await?;

    // What is missed.
    let bot_account = town::BOT;
    let missed = [
        unheard_mention(&bot, ROOM, SOMEBODY, "echo one").await?,
        unheard_mention(&bot, town::SECOND_GROUP, town::HANA, "echo two").await?,
        unheard_mention(&bot, town::DIRECT, SOMEBODY, "echo three").await?,
        unheard(
            &bot,
            Say::new(
                ROOM,
                town::BEN,
                format!("[rp aid={bot_account} to={ROOM}-{reply}]Chickwork\necho four"),
            ),
        )
        .await?,
        unheard_mention(&bot, ROOM, town::BEN, "ecko five").await?,
        unheard(&bot, Say::new(ROOM, town::BEN, "for nobody, at first")).await?,
        unheard_mention(&bot, RoomId(300_000_001), town::HANA, "echo seven").await?,
    ];
    let edit = |message: &MessageId, who, body: String| Say {
        kind: Some(HookKind::MessageUpdated),
        message_id: Some(message.clone()),
        ..Say::new(ROOM, who, body)
    };
    unheard(&bot, edit(&missed[4], town::BEN, mentioning("echo five"))).await?;
    unheard(&bot, edit(&missed[5], town::BEN, mentioning("echo six"))).await?;
    // Somebody else takes care of one of them.
    let by_hand = notation::reply(SOMEBODY, ROOM, &missed[0], "the bot is away");
    unheard(&bot, Say::new(ROOM, town::HANA, by_hand)).await?;
    // What else is said.
    for (who, body) in [
        (SOMEBODY, "good night".to_owned()),
        (SOMEBODY, "[toall]\nwhere is the bot?".to_owned()),
        (
            town::HANA,
            format!("[qt][qtmeta aid={bot_account} time=5]chip[/qt] it said"),
        ),
        (town::HANA, format!("[code][To:{bot_account}][/code]")),
        (town::BICH, mentioning("I am a bot as well")),
        (
            town::BOT,
            mentioning("somebody else uses the bot's account"),
        ),
    ] {
        unheard(&bot, Say::new(ROOM, who, body)).await?;
    }
    let deleted = unheard_mention(&bot, ROOM, SOMEBODY, "never mind").await?;
    unheard(&bot, edit(&deleted, SOMEBODY, "[deleted]".to_owned())).await?;
    unheard_mention(&bot, town::READONLY, SOMEBODY, "where it may only read").await?;
    // One is edited that was answered.
    unheard(&bot, edit(&answered, SOMEBODY, mentioning("edited"))).await?;

    bot.front.start()?;
    bot.front.ready().await?;
    let bots_settings = |bot: &Bot, words: &[&str]| -> anyhow::Result<Command> {
        let mut command = recover(bot, words)?;
        command.env("CHICKWORK_IGNORE_ACCOUNTS", &ignored);
        Ok(command)
    };
    let shown = run(bots_settings(&bot, &["--dry-run", "--json"])?).await?;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let mut found = messages(&shown, "missed")?;
    assert_eq!(shown.lines()?.len(), missed.len(), "{shown:?}");
    found.sort();
    let mut expected = missed.to_vec();
    expected.sort();
    assert_eq!(found, expected, "{shown:?}");
    let first = &shown.lines()?[0];
    assert_eq!(first["id"], Value::Null);
    assert_eq!(first["room"], "Phòng trà 雑談");
    assert_eq!(first["text"], mentioning("echo one"));
    for words in [
        "1 room is left out",
        "7 missed mentions to be queued; SimSimi may be asked 7 times.",
    ] {
        assert!(shown.err.contains(words), "{words} is not in {shown:?}");
    }
    // Nobody would answer for a bot of another name.
    let said = run(bots_settings(&bot, &["--bot", "another", "--yes"])?).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    assert!(said.err.contains("no worker answers for"), "{said:?}");
    // Nobody agrees, so nothing happens.
    let said = run(bots_settings(&bot, &[])?).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    // The plan comes first.
    for words in ["\"echo one\"", "no terminal to ask", "add --yes"] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }

    let said = run(bots_settings(&bot, &["--yes"])?).await?;
    assert_eq!(
        (said.code, said.out.lines().count()),
        (Some(0), 7),
        "{said:?}"
    );
    for words in ["\"echo one\"", "7 of 7 queued."] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }
    // They wait now, and so are not found again; and nobody need agree to nothing.
    let again = run(bots_settings(&bot, &[])?).await?;
    assert_eq!((again.code, again.out.as_str()), (Some(0), ""), "{again:?}");
    assert!(again.err.contains("No mention was missed"), "{again:?}");

    bot.workers[0].start()?;
    let all = [&[answered, waits], &missed[..]].concat();
    bot.all_answered_once(ALL_ANSWERED, &all).await?;
    assert_eq!(bot.answer(&missed[4]).await?, "five");
    assert_eq!(bot.answer(&missed[5]).await?, "six");
    let again = run(bots_settings(&bot, &["--yes"])?).await?;
    assert_eq!((again.code, again.out.as_str()), (Some(0), ""), "{again:?}");
    bot.became(
        &missed[1],
        "it is known how it came in",
        |what| match what {
            What::Received {
                stored: Stored::Recovered,
                ..
            } => Some(()),
            _ => None,
        },
    )
    .await?;
    // And one of which its webhook comes in after all.
    let hook = a_hook(missed[0].as_str(), "echo one");
    ensure!(bot.deliver(&hook).await?.status == Some(200));
    let is_duplicate = |what: &What| match what {
        What::Ignored { reason } => Some(reason == "duplicate"),
        _ => None,
    };
    let told = "it is a duplicate";
    assert!(bot.became(&missed[0], told, is_duplicate).await?);
    assert_eq!(bot.sandbox.ledger().totals.posted, 9);
    let audited = run(typed(bot.stage(), "audit", &[])?).await?;
    let sums = "10 received = 9 answered + 1 ignored + 0 dead + 0 waiting + 0 unexplained";
    assert!(audited.out.contains(sums), "{audited:?}");
    assert_eq!(audited.code, Some(0), "{audited:?}");
    bot.end().await
}

/// What somebody said to nobody came in; while the bot hears nothing it becomes a mention.
pub(super) async fn a_mention_that_was_edited_in_is_missed_though_the_message_had_come_in(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.workers(1).start().await?;
    let heard = bot
        .sandbox
        .say(Say::new(ROOM, town::BEN, "for nobody, at first"))
        .await;
    ensure!(heard.webhook_status == Some(200), "{heard:?}");
    let message = heard.message_id;
    bot.ignored(&message).await?;
    bot.archived(&message).await?;
    bot.front.kill().await?;
    // Chatwork tells seconds: an edit within the same one is none.
    let second = Timestamp::now().as_second();
    until(SOON, "Chatwork's clock has gone on", async || {
        Ok((Timestamp::now().as_second() != second).then_some(()))
    })
    .await?;
    let edit = Say {
        kind: Some(HookKind::MessageUpdated),
        message_id: Some(message.clone()),
        ..Say::new(ROOM, town::BEN, mentioning("echo in the end"))
    };
    unheard(&bot, edit).await?;

    let said = say(&bot, &["--dry-run", "--json"]).await?;
    assert_eq!(
        messages(&said, "missed")?,
        std::slice::from_ref(&message),
        "{said:?}"
    );
    let said = say(&bot, &["--yes"]).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(bot.answer(&message).await?, "in the end");
    bot.posted(SOON, &message).await?;
    let again = say(&bot, &["--yes"]).await?;
    assert!(again.err.contains("No mention was missed"), "{again:?}");
    bot.end().await
}

/// One person who said more than the limit per sender allows is not taken for a flood.
pub(super) async fn who_asked_for_it_is_no_flood(kind: Kind) -> anyhow::Result<()> {
    let mut bot = a_deaf_bot(Plan::on(kind)?.with("CHICKWORK_SENDER_LIMIT", "2/10m")).await?;
    let mut missed = Vec::new();
    for number in 0..4 {
        missed.push(unheard_mention(&bot, ROOM, SOMEBODY, &format!("echo {number}")).await?);
    }
    let said = say(&bot, &["--yes"]).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    bot.front.start()?;
    bot.workers[0].start()?;
    bot.all_answered_once(ALL_ANSWERED, &missed).await?;
    bot.end().await
}

/// Two people do it at the same moment, while the worker works.
pub(super) async fn two_who_recover_at_once_have_each_mention_answered_once(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = a_deaf_bot(Plan::on(kind)?.unlimited()).await?;
    let mut missed = Vec::new();
    for number in 0..10 {
        let room = RoomId(300_000_000 + number % 3);
        missed.push(unheard_mention(&bot, room, town::BEN, &format!("echo {number}")).await?);
    }
    bot.front.start()?;
    bot.workers[0].start()?;
    bot.ready().await?;
    let twice = || say(&bot, &["--yes", "--rate", "5/1s"]);
    let (one, other) = tokio::join!(twice(), twice());
    for said in [one?, other?] {
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    bot.all_answered_once(ALL_ANSWERED, &missed).await?;
    let queue = bot.queue().await?;
    until(SOON, "nothing is left", async || {
        let depths = queue.depths().await?;
        if depths.iter().all(|depth| depth.jobs == 0) {
            return Ok(Some(()));
        }
        Ok(None)
    })
    .await?;
    assert_eq!(bot.sandbox.ledger().totals.posted, 10);
    bot.end().await
}

/// What is older than what is answered is shown, and left unless somebody says otherwise.
pub(super) async fn what_is_too_old_is_left_unless_its_age_is_ignored(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = a_deaf_bot(Plan::on(kind)?).await?;
    let ago = |hours: i64| Some(Timestamp::now().as_second() - hours * 3600);
    let old = Say {
        send_time: ago(2),
        ..Say::new(ROOM, SOMEBODY, mentioning("echo old"))
    };
    let old = unheard(&bot, old).await?;
    let before = Say {
        send_time: ago(5),
        ..Say::new(ROOM, SOMEBODY, mentioning("echo before that"))
    };
    let before = unheard(&bot, before).await?;
    let shown = say(&bot, &["--dry-run", "--json", "--since", "3h"]).await?;
    assert_eq!(
        messages(&shown, "too_old")?,
        std::slice::from_ref(&old),
        "{shown:?}"
    );
    assert!(shown.err.contains("--ignore-age queues it"), "{shown:?}");
    let until = (Timestamp::now() - SignedDuration::from_hours(3)).to_string();
    let shown = say(&bot, &["--dry-run", "--json", "--until", &until]).await?;
    assert_eq!(
        messages(&shown, "too_old")?,
        std::slice::from_ref(&before),
        "{shown:?}"
    );
    let left = say(&bot, &["--yes"]).await?;
    assert_eq!((left.code, left.out.as_str()), (Some(0), ""), "{left:?}");
    assert!(left.err.contains("2 missed mentions are older"), "{left:?}");

    let queued = say(&bot, &["--yes", "--json", "--ignore-age"]).await?;
    assert_eq!(queued.code, Some(0), "{queued:?}");
    assert_eq!(messages(&queued, "queued")?, [before.clone(), old.clone()]);
    bot.front.start()?;
    bot.workers[0].start()?;
    bot.all_answered_once(ALL_ANSWERED, &[before, old]).await?;
    bot.end().await
}

/// Where Chatwork does not show everything, that is said; and a room that cannot be read does not keep
/// the others from being read.
pub(super) async fn what_cannot_be_seen_is_said(kind: Kind) -> anyhow::Result<()> {
    let bot = a_deaf_bot(Plan::on(kind)?).await?;
    unheard_mention(&bot, ROOM, SOMEBODY, "buried under a hundred others").await?;
    for number in 0..100 {
        unheard(&bot, Say::new(ROOM, town::BEN, format!("{number}"))).await?;
    }
    let hidden = Fault {
        headers: [("chatwork-message-limitation".to_owned(), "true".into())].into(),
        ..Fault::nothing(Service::Chatwork)
    };
    bot.sandbox
        .break_down(hidden.on(Call::Messages).in_room(town::DIRECT).always());
    let missed = unheard_mention(&bot, town::DIRECT, SOMEBODY, "echo seen").await?;
    bot.sandbox.break_down(
        Fault::status(Service::Chatwork, 403)
            .on(Call::Messages)
            .in_room(town::SECOND_GROUP),
    );
    // This one is well again at the second try.
    let restless = RoomId(300_000_001);
    let late = unheard_mention(&bot, restless, town::BEN, "echo tried again").await?;
    bot.sandbox.break_down(
        Fault::status(Service::Chatwork, 502)
            .on(Call::Messages)
            .in_room(restless),
    );
    let said = say(&bot, &["--json", "--yes", "--since", "1h"]).await?;
    assert_eq!(said.code, Some(1), "a room was not read: {said:?}");
    assert_eq!(messages(&said, "queued")?, [missed, late], "{said:?}");
    let group = town::SECOND_GROUP;
    for words in [
        format!("Room {ROOM} Phòng trà 雑談: the newest messages reach back only to 20"),
        format!(
            "Room {} Nguyễn Văn An: Chatwork hides what is older than 20",
            town::DIRECT
        ),
        format!("Room {group} 開発チーム was not read: Chatwork answered 403"),
        "2 of 2 queued.".to_owned(),
    ] {
        assert!(said.err.contains(&words), "{words} is not in {said:?}");
    }
    // Rooms can be named; one that is not the bot's is told.
    let said = say(&bot, &["--dry-run", "--room", "5,200000003"]).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err
            .contains("Room 5 was not read: Chatwork answered 404"),
        "{said:?}"
    );
    assert!(said.err.contains("No mention was missed"), "{said:?}");
    bot.end().await
}

/// A mention that came in is not missed, even if the queue has lost it: then that is said.
pub(super) async fn what_came_in_and_has_no_end_is_not_missed_but_said(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = a_deaf_bot(Plan::on(kind)?).await?;
    bot.front.start()?;
    bot.front.ready().await?;
    let lost = bot.mention("echo lost").await?;
    bot.archived(&lost).await?;
    let queue = bot.queue().await?;
    let mut asks = queue.claim_asks(1);
    settle(next(&mut asks).await?, Settlement::Done).await?;
    asks.stop().await;
    let said = say(&bot, &[]).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    for words in [
        "No mention was missed",
        "1 mention without a reply came in",
        "see chickwork audit.",
    ] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }
    if kind == Kind::Sqlite {
        let words = "has come to no end";
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }
    bot.end().await
}

/// More rooms than calls that are kept for reads, beside a worker at work.
pub(super) async fn no_more_is_read_than_the_rate_limit_keeps_for_it(
    kind: Kind,
) -> anyhow::Result<()> {
    const WINDOW: Duration = Duration::from_secs(6);
    const KEPT: usize = 5;
    let mut bot = Plan::on(kind)?
        .workers(1)
        .with("CHATWORK_ACCOUNT_LIMIT", "50/6s")
        .world(|world| world.account_limit = (50, WINDOW))
        .start()
        .await?;
    bot.front.kill().await?;
    let mut missed = Vec::new();
    for number in 0..10 {
        let room = RoomId(300_000_000 + number);
        missed.push(unheard_mention(&bot, room, SOMEBODY, &format!("echo {number}")).await?);
    }
    bot.front.start()?;
    bot.front.ready().await?;
    let mut recover = recover(&bot, &["--yes"])?;
    let said = run(recover.env("CHATWORK_ACCOUNT_LIMIT", "50/6s"));
    let before = bot.sandbox.ledger().totals.last;
    let talk = async {
        let mut said = Vec::new();
        for number in 0..40 {
            let room = RoomId(310_000_000 + number % 10);
            said.push(
                bot.mention_in(room, town::BEN, &format!("echo {number}"))
                    .await?,
            );
        }
        anyhow::Ok(said)
    };
    let (said, talk) = tokio::join!(said, talk);
    let (said, talk) = (said?, talk?);
    assert_eq!(said.code, Some(0), "{said:?}");
    for words in ["5 in 6 s at most", "10 of 10 queued."] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }
    bot.all_answered_once(ALL_ANSWERED, &[missed, talk].concat())
        .await?;

    let ledger = bot.sandbox.ledger().since(before);
    let refused = ledger.calls.iter().filter(|call| call.status == Some(429));
    assert_eq!(refused.count(), 0, "nobody was refused");
    let is_read =
        |call: &&Called| matches!(call.call, Some(Call::Me | Call::Rooms | Call::Messages));
    let reads: Vec<Timestamp> = ledger
        .calls
        .iter()
        .filter(is_read)
        .map(|call| call.time)
        .collect();
    assert!(
        reads.len() >= 15,
        "its ten rooms and the town's among {}",
        reads.len()
    );
    for five in reads.windows(KEPT + 1) {
        let apart = Duration::try_from(five[KEPT].duration_since(five[0]))?;
        assert!(apart >= WINDOW, "{} reads within {apart:?}", KEPT + 1);
    }
    bot.end().await
}

/// It is interrupted while it reads, and while it queues; another run does the rest.
pub(super) async fn it_can_be_stopped_and_says_how_far_it_came(kind: Kind) -> anyhow::Result<()> {
    let mut bot = a_deaf_bot(Plan::on(kind)?).await?;
    let mut missed = Vec::new();
    for number in 0..3 {
        missed.push(unheard_mention(&bot, ROOM, SOMEBODY, &format!("echo {number}")).await?);
    }
    let slow = Fault::delay(Service::Chatwork, Duration::from_secs(60));
    bot.sandbox
        .break_down(slow.on(Call::Messages).in_room(town::DIRECT));
    let (reading, _lines) = begin(recover(&bot, &["--yes"])?)?;
    // The direct chat comes after two groups, whose reads were noted by then.
    let two_read = |ledger: &chickwork_sandbox::ledger::Ledger| {
        let calls = ledger.calls.iter();
        calls
            .filter(|call| call.call == Some(Call::Messages))
            .count()
            >= 2
    };
    assert!(bot.sandbox.until(SOON, two_read).await, "it reads");
    // Its third call is on its way, or about to be: it is interrupted either way.
    let said = stop(reading, libc::SIGINT).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    for words in ["Stopped, with ", "of 3 rooms read; nothing was changed."] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }
    bot.sandbox.heal();

    let (queueing, mut lines) = begin(recover(&bot, &["--yes", "--rate", "1/1h"])?)?;
    let id = soon("one is queued", lines.next_line()).await??;
    assert_eq!(id.context("an id")?.len(), 36);
    let said = stop(queueing, libc::SIGTERM).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    for words in ["1 of 3 queued; stopped, 2 left.", "see --rate"] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }

    bot.archived(&missed[0]).await?;
    let rest = say(&bot, &["--yes", "--json"]).await?;
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert_eq!(messages(&rest, "queued")?, missed[1..], "{rest:?}");
    bot.front.start()?;
    bot.workers[0].start()?;
    bot.all_answered_once(ALL_ANSWERED, &missed).await?;
    bot.end().await
}

/// Without a queue that can be used nothing is read, and nothing is created.
pub(super) async fn without_a_queue_nothing_is_read() -> anyhow::Result<()> {
    let bot = a_deaf_bot(Plan::on(Kind::Sqlite)?).await?;
    unheard_mention(&bot, ROOM, SOMEBODY, "anybody there?").await?;
    let away = format!("amqp://guest:sesame@127.0.0.1:{}/%2f", free_port()?);
    let folder = tempfile::tempdir()?;
    let nowhere = folder.path().join("nowhere.db");
    for (queue, words) in [
        (away, "the queue cannot be used, so nothing was read"),
        (format!("sqlite:{}", nowhere.display()), "nowhere.db"),
    ] {
        let said = run(recover(&bot, &["--yes"])?.env("CHICKWORK_QUEUE", queue)).await?;
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.err.contains(words), "{words} is not in {said:?}");
        assert!(!said.err.contains("sesame"), "{said:?}");
    }
    assert!(!nowhere.exists());
    assert_eq!(bot.sandbox.ledger().totals.calls, 0);
    // Nor with the token of somebody else, or none.
    let mut command = recover(&bot, &["--yes"])?;
    let said = run(command.env("CHATWORK_API_TOKEN", "another")).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    let words = "Chatwork does not say whose the API token is: Chatwork answered 401";
    assert!(said.err.contains(words), "{said:?}");
    let said = run(command.env_remove("CHATWORK_API_TOKEN")).await?;
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.err.contains("CHATWORK_API_TOKEN is not set"),
        "{said:?}"
    );
    bot.end().await
}

/// A namespace that nobody uses on this broker: it is told, and not taken for one in which nothing is
/// known, where every mention would be missed.
pub(super) async fn a_wrong_namespace_recovers_nothing() -> anyhow::Result<()> {
    let bot = a_deaf_bot(Plan::on(Kind::Rabbitmq)?).await?;
    unheard_mention(&bot, ROOM, SOMEBODY, "anybody there?").await?;
    let said = run(recover(&bot, &["--yes"])?.env("CHICKWORK_NAMESPACE", "nobodys")).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    let words = "is CHICKWORK_NAMESPACE right?";
    assert!(said.err.contains(words), "{said:?}");
    bot.end().await
}
