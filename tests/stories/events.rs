//! `chickwork events`, as an operator uses it: what came in is listed and exported, and the story of an
//! event is told so that it explains itself.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::event::{Event, EventId};
use chickwork_queue::job::{Cause, Settlement};
use chickwork_queue::outcome::What;
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_sandbox::town;
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, a_hook};
use chickwork_tests::process::Server;
use chickwork_tests::said::{Said, begin, in_order, run, text, typed};
use chickwork_tests::stage::{Kind, SOON, Stage, an_event, next, settle, soon, until, within};
use jiff::Timestamp;
use serde_json::Value;
use tokio::process::Command;

use crate::spool::behind_a_door;

/// Longer than any of these stories needs for one thing, on a machine with much to do.
const A_MINUTE: Duration = Duration::from_secs(60);

/// `chickwork events …` on this stage.
fn events(stage: &Stage, words: &[&str]) -> anyhow::Result<Command> {
    typed(stage, "events", words)
}

/// Runs it and sees that it succeeds.
async fn succeed(stage: &Stage, words: &[&str]) -> anyhow::Result<Said> {
    let said = run(events(stage, words)?).await?;
    said.succeeded().with_context(|| format!("{words:?}"))
}

/// The same; what it has printed.
async fn done(stage: &Stage, words: &[&str]) -> anyhow::Result<String> {
    Ok(succeed(stage, words).await?.out)
}

/// The same; its lines as JSON.
async fn lines(stage: &Stage, words: &[&str]) -> anyhow::Result<Vec<Value>> {
    succeed(stage, words).await?.lines()
}

/// What a person sees of an event that met everything at once.
pub(super) async fn an_event_that_met_three_faults_tells_exactly_that_story(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let reset = Timestamp::now().as_second() + 4;
    let failing = Fault::status(Service::Simsimi, 500);
    let limited = Fault::status(Service::Chatwork, 429).with_header("x-ratelimit-reset", reset);
    let lost = Fault::drop(Service::Chatwork, When::After);
    bot.sandbox.break_down(failing);
    bot.sandbox.break_down(limited.on(Call::Post));
    bot.sandbox.break_down(lost.on(Call::Post));
    let message = bot.mention("echo through thick and thin").await?;
    assert!(bot.posted(A_MINUTE, &message).await?, "it was looked for");
    // What tells of the look may be written a moment after the post itself.
    let looked = |what: &What| matches!(what, What::Looked { .. }).then_some(());
    bot.became(&message, "it was looked for", looked).await?;
    assert_eq!(bot.answers(&message), 1);

    let shown = done(bot.stage(), &["show", message.as_str()]).await?;
    let in_the_broker = match kind {
        Kind::Sqlite => "stored in the queue file",
        Kind::Rabbitmq => "stored in the broker",
    };
    let reply = bot.sandbox.ledger().answers_to(&message)[0]
        .message_id
        .clone();
    in_order(
        &shown,
        &[
            // First of all, what it comes to.
            "The bot replied after ",
            &format!("with message {reply}."),
            "Whether the post had arrived was not known until ",
            ", when the bot looked into the room and found its reply there.",
            &format!("message   {message}"),
            "state     answered",
            "echo through thick and thin",
            // And then how it came to that.
            in_the_broker,
            "SimSimi failed: HTTP 500",
            "asking is put off: SimSimi failed: HTTP 500",
            "SimSimi answered",
            "question  echo through thick and thin",
            "answer    through thick and thin",
            "the reply is stored, to be posted",
            &format!("reply     [rp aid={SOMEBODY} to={ROOM}-{message}]"),
            "through thick and thin",
            "about to be posted",
            "not posted: Chatwork answered 429",
            "posting is put off: ",
            "limit",
            "about to be posted",
            "posting is put off: no answer from Chatwork",
            "the room will be looked at",
            "looked: it is there",
            "posted, as was found out by looking",
            &format!("(message {reply})"),
        ],
    )?;
    let steps: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("20"))
        .collect();
    assert!(
        steps[1..].iter().all(|step| step.contains(" +")),
        "each says how long it took:\n{shown}"
    );
    assert_eq!(shown.matches("about to be posted").count(), 2, "{shown}");
    assert_eq!(shown.matches("SimSimi answered").count(), 1, "{shown}");

    // However it is named, it is the same.
    let id = lines(bot.stage(), &["show", message.as_str(), "--json"]).await?;
    let [story] = &id[..] else {
        anyhow::bail!("one event is about it: {id:?}");
    };
    let link = format!("https://www.chatwork.com/#!rid{ROOM}-{message}");
    let room = ROOM.to_string();
    for words in [
        &[text(story, "id")][..],
        &[&link],
        &[&room, message.as_str()],
    ] {
        let again = lines(bot.stage(), &[&["show", "--json"], words].concat()).await?;
        assert_eq!(again, id, "{words:?}");
    }
    assert_eq!(text(story, "state"), "answered");
    assert_eq!(text(story, "reply_message_id"), reply.as_str());
    // Also by the reply, which is what somebody has who asks whether there were two.
    let by_reply = format!("https://www.chatwork.com/#!rid{ROOM}-{reply}");
    let told = done(bot.stage(), &["show", &by_reply]).await?;
    let is_reply =
        format!("Message {reply} is the bot's reply to message {message} in room {ROOM}.");
    in_order(&told, &[&is_reply, "The bot replied after "])?;
    let again = lines(bot.stage(), &["show", "--json", &by_reply]).await?;
    assert_eq!(again, id);
    assert_eq!(story["sender"], SOMEBODY.0);
    let what: Vec<&str> = story["outcomes"]
        .as_array()
        .context("an array")?
        .iter()
        .map(|outcome| text(outcome, "what"))
        .filter(|what| *what != "received")
        .collect();
    let expected = [
        "asked",
        "later",
        "asked",
        "reply_stored",
        "intent",
        "not_posted",
        "later",
        "intent",
        "later",
        "looked",
        "posted",
    ];
    assert_eq!(what, expected);
    bot.end().await
}

/// The messages of a bot that has met a little of everything.
struct Talk {
    answered: MessageId,
    flooded: MessageId,
    dead: MessageId,
    waiting: MessageId,
}

/// A little of everything.
async fn talk(bot: &Bot) -> anyhow::Result<Talk> {
    let answered = bot.mention("echo Hello there").await?;
    assert_eq!(bot.answer(&answered).await?, "Hello there");
    bot.posted(A_MINUTE, &answered).await?;
    let flooded = bot.mention("echo and more").await?;
    assert_eq!(bot.ignored(&flooded).await?, "flood");
    let refused = Fault::status(Service::Chatwork, 400)
        .with_body(serde_json::json!({ "errors": ["too strange"] }));
    bot.sandbox.break_down(refused.on(Call::Post));
    let dead = bot.mention_in(ROOM, town::BEN, "echo refused").await?;
    bot.buried(A_MINUTE, &dead).await?;
    bot.sandbox
        .break_down(Fault::status(Service::Simsimi, 500).always());
    let room = RoomId(300_000_001);
    let waiting = bot.mention_in(room, SOMEBODY, "echo patience").await?;
    bot.became(&waiting, "it is put off", |what| {
        matches!(what, What::Later { .. }).then_some(())
    })
    .await?;
    Ok(Talk {
        answered,
        flooded,
        dead,
        waiting,
    })
}

/// What came in is listed with what became of it, newest first, by any of its traits.
pub(super) async fn events_are_listed_and_chosen_by_what_they_are(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .with("CHICKWORK_SENDER_LIMIT", "1/1m")
        .start()
        .await?;
    let empty = run(events(bot.stage(), &["list"])?).await?;
    assert_eq!((empty.code, empty.out.as_str()), (Some(0), ""), "{empty:?}");
    assert!(empty.err.contains("Nothing was received"), "{empty:?}");
    let talk = talk(&bot).await?;

    let all = until(SOON, "all of it is archived", async || {
        let all = lines(bot.stage(), &["list", "--json"]).await?;
        Ok((all.len() >= 4).then_some(all))
    })
    .await?;
    let messages: Vec<&str> = all.iter().map(|line| text(line, "message_id")).collect();
    let newest_first = [&talk.waiting, &talk.dead, &talk.flooded, &talk.answered];
    let newest_first = newest_first.map(MessageId::as_str);
    assert_eq!(messages, newest_first);
    let by_message = |message: &MessageId| -> anyhow::Result<&Value> {
        let line = all
            .iter()
            .find(|line| text(line, "message_id") == message.as_str());
        line.with_context(|| format!("{message} in {all:?}"))
    };
    for (message, state, why) in [
        (&talk.answered, "answered", None),
        (&talk.flooded, "ignored", Some("flood")),
        (&talk.dead, "dead", Some("refused")),
    ] {
        let line = by_message(message)?;
        assert_eq!((text(line, "state"), line["why"].as_str()), (state, why));
    }
    let waiting = text(by_message(&talk.waiting)?, "state");
    match kind {
        Kind::Sqlite => assert_eq!(waiting, "waiting"),
        Kind::Rabbitmq => assert!(["waiting", "open"].contains(&waiting), "{waiting}"),
    }

    let room = ROOM.to_string();
    let ben = town::BEN.to_string();
    let id = text(by_message(&talk.flooded)?, "id").to_owned();
    let since = text(by_message(&talk.dead)?, "received_at").to_owned();
    let until = text(by_message(&talk.answered)?, "received_at").to_owned();
    let table: [(&[&str], &[&MessageId]); 12] = [
        (&["--state", "answered"], &[&talk.answered]),
        (&["--state", "dead,answered"], &[&talk.dead, &talk.answered]),
        (&["--state", "waiting"], &[&talk.waiting]),
        (&["--state", "dropped"], &[]),
        (&["--sender", &ben], &[&talk.dead]),
        (&["--text", "hELLO"], &[&talk.answered]),
        (&["--message", talk.flooded.as_str()], &[&talk.flooded]),
        (&[&id], &[&talk.flooded]),
        (&["--since", &since], &[&talk.waiting, &talk.dead]),
        (&["--until", &until], &[&talk.answered]),
        (&["--bot", "another"], &[]),
        (&["--limit", "1"], &[&talk.waiting]),
    ];
    for (flags, expected) in table {
        let listed = lines(bot.stage(), &[&["list", "--json"], flags].concat()).await?;
        let listed: Vec<&str> = listed.iter().map(|line| text(line, "message_id")).collect();
        let expected: Vec<&str> = expected.iter().map(|message| message.as_str()).collect();
        assert_eq!(listed, expected, "{flags:?}");
    }

    let table = run(events(
        bot.stage(),
        &["list", "--limit", "2", "--room", &room],
    )?)
    .await?;
    assert!(table.out.starts_with("ID "), "{table:?}");
    assert!(table.out.contains("dead: refused"), "{table:?}");
    assert!(table.out.contains("echo refused"), "{table:?}");
    assert!(table.err.contains("the newest 2 events"), "{table:?}");
    assert_eq!(table.code, Some(0));

    // Why did the bot not reply? Each says so in its first line, and what can be typed next.
    for (message, answer, next) in [
        (&talk.flooded, "CHICKWORK_SENDER_LIMIT", "chickwork replay "),
        (&talk.dead, "too strange", "chickwork dead retry "),
        (&talk.waiting, "No reply yet: it wait", "chickwork status"),
    ] {
        let shown = done(bot.stage(), &["show", message.as_str()]).await?;
        let first = shown.lines().next().unwrap_or_default();
        assert!(first.contains(answer), "{shown}");
        assert!(shown.contains(next), "{shown}");
    }
    bot.end().await
}

/// Nothing is known of it: the command says where it looked and what else can be tried.
pub(super) async fn what_nobody_has_heard_of_is_told_with_what_to_try(
    kind: Kind,
) -> anyhow::Result<()> {
    let stage = Stage::new(kind)?;
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let unknown = run(events(&stage, &["show", "1795508813713968449"])?).await?;
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(1), ""));
    for part in [
        "nothing is known of message 1795508813713968449",
        "CHICKWORK_ARCHIVE_KEEP is 7 d",
        "recover",
        "spool",
    ] {
        assert!(unknown.err.contains(part), "{part} in {unknown:?}");
    }
    for words in [
        &["show"][..],
        &["show", "https://www.chatwork.com/#!rid5"],
        &["show", "not-an-id"],
        &["show", "room", "5"],
        &["show", "01a22701"],
        &["show", "1795508813713968449", "1795508813713968450"],
        &["list", "--state", "lost"],
        &["list", "--since", "1h", "--until", "2h"],
        &["export", "--since", "2100-01-01T00:00:00Z"],
    ] {
        let wrong = run(events(&stage, words)?).await?;
        assert_eq!(wrong.code, Some(2), "{words:?}: {wrong:?}");
        let short = format!("Usage: {}", words[0]);
        assert!(!wrong.err.contains(&short), "{words:?}: {wrong:?}");
    }
    // The room is another one, as with a link that was put together by hand.
    let strayed = run(events(&stage, &["show", "446240519-1800000000000000001"])?).await?;
    assert_eq!(strayed.code, Some(1), "{strayed:?}");
    let hint = "is known in room 3: chickwork events show 3-1800000000000000001";
    assert!(strayed.err.contains(hint), "{strayed:?}");
    assert!(!strayed.err.contains("webhook"), "{strayed:?}");
    // A room is no message, but may be taken for one.
    let room = run(events(&stage, &["show", "446240519"])?).await?;
    assert_eq!(room.code, Some(1), "{room:?}");
    assert!(
        room.err.contains("events list --room 446240519"),
        "{room:?}"
    );
    // Of two that are named one is there, and exported all the same.
    let nobody = EventId::fresh();
    let words = ["export", &event.id.to_string(), &nobody.to_string()];
    let export = run(events(&stage, &words)?).await?;
    assert_eq!((export.code, export.out.lines().count()), (Some(1), 1));
    let missing = format!(
        "There is no such event, or these flags do not choose it: {nobody}.\n1 event exported."
    );
    assert!(export.err.contains(&missing), "{export:?}");
    // And where nothing is kept that is said.
    let mut list = events(&stage, &["list", "--room", "5"])?;
    let list = run(list.env("CHICKWORK_ARCHIVE_KEEP", "0")).await?;
    assert_eq!(list.code, Some(0), "{list:?}");
    assert!(list.err.contains("There is no archive"), "{list:?}");
    Ok(())
}

/// Several webhooks about one message are one story each, shown together.
pub(super) async fn all_events_about_a_message_are_shown(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let hook = a_hook("1800000000000000001", "echo once");
    for _ in 0..2 {
        assert_eq!(bot.deliver(&hook).await?.status, Some(200));
    }
    assert_eq!(bot.answer(&hook.message_id).await?, "once");
    bot.posted(A_MINUTE, &hook.message_id).await?;
    bot.ignored(&hook.message_id).await?;
    let shown = done(bot.stage(), &["show", hook.message_id.as_str()]).await?;
    assert!(
        shown.starts_with("2 events came in about message"),
        "{shown}"
    );
    assert_eq!(shown.matches("The bot replied after").count(), 1, "{shown}");
    let duplicate = "another event about the same message was answered";
    assert_eq!(shown.matches(duplicate).count(), 1, "{shown}");
    bot.end().await
}

/// What is exported is what came in, byte for byte, with what became of it, oldest first.
pub(super) async fn what_is_exported_is_what_came_in(kind: Kind) -> anyhow::Result<()> {
    let stage = Stage::new(kind)?;
    let queue = stage.queue().await?;
    let every_byte: Vec<u8> = (0..=u8::MAX).cycle().take(1000).collect();
    let bodies = [
        Bytes::from(every_byte),
        Bytes::from_static("{\"text\":\"chào\u{9b}\u{202e}\\n\"}\r\n".as_bytes()),
        Bytes::new(),
    ];
    let mut sent: Vec<Event> = Vec::new();
    for (number, body) in (1..).zip(&bodies) {
        let event = Event {
            body: body.clone(),
            ..an_event(number)
        };
        queue.publisher().publish(&event).await?;
        sent.push(event);
    }
    let mut asks = queue.claim_asks(1);
    let bury = Settlement::Bury {
        cause: Cause::Exhausted,
        error: "nobody".to_owned(),
    };
    settle(next(&mut asks).await?, bury).await?;
    asks.stop().await;

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("events.jsonl");
    let output = path.display().to_string();
    // A broker has its copies for the archive a little later.
    let begun = std::time::Instant::now();
    let exported = loop {
        let words = ["export", "--output", &output, "--force"];
        let said = run(events(&stage, &words)?).await?;
        ensure!(said.code == Some(0) && said.out.is_empty(), "{said:?}");
        if said.err.contains("3 events exported to") {
            break std::fs::read_to_string(&path)?;
        }
        ensure!(begun.elapsed() < A_MINUTE, "in vain: {said:?}");
    };
    assert_eq!(done(&stage, &["export"]).await?, exported);
    assert!(!exported.contains(['\u{1b}', '\u{9b}', '\u{202e}']));
    let exported: Vec<Value> = exported
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(exported.len(), sent.len());
    for (line, event) in exported.iter().zip(&sent) {
        assert_eq!(
            (&line["v"], text(line, "id")),
            (&1.into(), &*event.id.to_string())
        );
        assert_eq!(body_of(line)?, event.body);
    }
    let states: HashSet<&str> = exported.iter().map(|line| text(line, "state")).collect();
    assert!(states.contains("dead"), "{states:?}");

    // A file that is there is somebody's.
    let careful = run(events(&stage, &["export", "--output", &output])?).await?;
    assert_eq!(careful.code, Some(1), "{careful:?}");
    assert!(careful.err.contains("--force"), "{careful:?}");
    only(&path)?;
    let dead = lines(&stage, &["export", "--state", "dead"]).await?;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["outcomes"][0]["v"], 1);
    Ok(())
}

/// The body of an exported line, as another program would read it.
fn body_of(line: &Value) -> anyhow::Result<Bytes> {
    use base64::Engine as _;
    match (line["body"].as_str(), line["body_base64"].as_str()) {
        (Some(text), None) => Ok(Bytes::from(text.to_owned())),
        (None, Some(base64)) => {
            let engine = base64::engine::general_purpose::STANDARD;
            Ok(engine.decode(base64)?.into())
        }
        _ => anyhow::bail!("one of both: {line}"),
    }
}

/// Sees that there is only this file in its folder, and that it is its owner's.
fn only(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().context("it is in a folder")?;
    let there: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    assert_eq!(there.len(), 1, "{there:?}");
    let mode = std::fs::metadata(path)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}

/// `chickwork events list | head -1`.
pub(super) async fn who_has_seen_enough_may_go(kind: Kind) -> anyhow::Result<()> {
    let stage = Stage::new(kind)?;
    let queue = stage.queue().await?;
    for number in 0..400 {
        queue.publisher().publish(&an_event(number)).await?;
    }
    for words in [&["list", "--all"][..], &["list", "--json"], &["export"]] {
        let (process, mut out) = begin(events(&stage, words)?)?;
        soon("a line comes", out.next_line()).await??;
        drop(out);
        let ended = within(A_MINUTE, "it ends", process.wait_with_output());
        let said = Said::of(ended.await??)?;
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        assert!(!said.err.contains("error"), "{words:?}: {said:?}");
    }
    Ok(())
}

/// While the broker is away, what an ingress has taken is listed from its spool.
pub(super) async fn what_waits_in_a_spool_is_listed() -> anyhow::Result<()> {
    let (plan, mut door) = behind_a_door().await?;
    let bot = plan.start().await?;
    door.shut().await;
    let message = bot.mention("echo from the spool").await?;
    let spool = spool_of(&bot.front)?;
    let of_spool = async |words: &[&str]| {
        let mut command = events(bot.stage(), words)?;
        command
            .env("CHICKWORK_QUEUE", &spool)
            .env("CHICKWORK_NAMESPACE", "any");
        run(command).await
    };
    let line = of_spool(&["list", "--json"]).await?.json()?;
    assert_eq!(text(&line, "message_id"), message.as_str());
    assert_eq!(text(&line, "state"), "waiting");
    let shown = of_spool(&["show", message.as_str()]).await?;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(
        shown
            .out
            .starts_with("No reply yet: it waits in this spool"),
        "{shown:?}"
    );
    door.open().await?;
    assert_eq!(
        bot.answer_within(A_MINUTE, &message).await?,
        "from the spool"
    );
    bot.posted(A_MINUTE, &message).await?;
    let received = |what: &What| matches!(what, What::Received { .. }).then_some(());
    bot.became(&message, "it was received", received).await?;
    // And later it says how it came.
    let shown = done(bot.stage(), &["show", message.as_str()]).await?;
    in_order(
        &shown,
        &["The bot replied after", "stored in the ingress's spool"],
    )?;
    bot.end().await
}

fn spool_of(front: &Server) -> anyhow::Result<String> {
    let spool = front.environment().get("CHICKWORK_SPOOL");
    Ok(format!("sqlite:{}", spool.context("it has a spool")?))
}
