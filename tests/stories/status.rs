//! What `chickwork status` says of a bot that works, of one that does not, and of none.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::signature::Token;
use chickwork_sandbox::fault::{Fault, Service};
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, webhook};
use chickwork_tests::bot::{Bot, Plan};
use chickwork_tests::process::{chickwork, free_port};
use chickwork_tests::said::{Said, run, run_within, text, typed};
use chickwork_tests::stage::{self, Kind, SOON};
use serde_json::Value;
use tokio::process::Command;

/// How long looking may take: with a broker that is away, some tries.
const LOOK: Duration = Duration::from_secs(45);
/// How long until a process that is gone without a word is not counted any more.
const FADED: Duration = Duration::from_secs(60);
/// How long until everything is as before once the broker has come back.
const BACK: Duration = Duration::from_secs(60);

async fn look(command: &mut Command) -> anyhow::Result<Said> {
    run_within(LOOK, command).await
}

/// The command, pointed at the queue of a bot.
fn status(bot: &Bot) -> anyhow::Result<Command> {
    typed(bot.stage(), "status", &[])
}

async fn in_words(bot: &Bot) -> anyhow::Result<Said> {
    look(&mut status(bot)?).await
}

async fn in_json(bot: &Bot) -> anyhow::Result<(Option<i32>, Value)> {
    let said = look(status(bot)?.arg("--json")).await?;
    Ok((said.code, said.json()?))
}

/// Waits until it looks as expected, and returns how it looks then.
async fn until(
    bot: &Bot,
    limit: Duration,
    what: &str,
    expected: impl Fn(&Value) -> bool,
) -> anyhow::Result<(Option<i32>, Value)> {
    let mut last = Value::Null;
    let looked = stage::until(limit, what, async || {
        let (exit, json) = in_json(bot).await?;
        if expected(&json) {
            return Ok(Some((exit, json)));
        }
        last = json;
        Ok(None)
    });
    looked.await.with_context(|| format!("{last:#}"))
}

fn processes(json: &Value, role: &str) -> usize {
    let processes = json["processes"].as_array().cloned().unwrap_or_default();
    let has_role = |process: &&Value| {
        let roles = process["roles"].as_array().cloned().unwrap_or_default();
        roles.contains(&role.into()) && process["stopping"] == false
    };
    processes.iter().filter(has_role).count()
}

/// The usual case: a bot at work, first without and then with something to tell of.
pub(super) async fn status_tells_in_plain_words_that_the_bot_works(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let works = |json: &Value| json["works"] == true;
    let (exit, json) = until(&bot, SOON, "it works", works).await?;
    assert_eq!(exit, Some(0));
    assert_eq!(json["up"], true);
    assert_eq!(json["last_webhook_at"], Value::Null);
    assert_eq!(
        (processes(&json, "ingress"), processes(&json, "worker")),
        (1, 1)
    );

    let message = bot.mention("echo quack").await?;
    bot.answer(&message).await?;
    bot.posted(SOON, &message).await?;
    // Who has posted has used up some calls.
    let posting = |json: &Value| {
        json["account_limit"]["left"]
            .as_u64()
            .is_some_and(|left| left < 300)
            && json["last_webhook_at"].is_string()
            && json["unfinished"] == 0
    };
    let (exit, json) = until(&bot, SOON, "it has posted", posting).await?;
    assert_eq!(exit, Some(0));
    assert_eq!(json["account_limit"]["calls"], 300);
    for nothing in ["waiting", "later", "dead"] {
        assert_eq!(json[nothing], 0, "{nothing} in {json:#}");
    }
    assert_eq!(json["pauses"], Value::Array(Vec::new()));

    let look = in_words(&bot).await?;
    assert_eq!((look.code, look.err.as_str()), (Some(0), ""));
    for words in [
        "The bot works.",
        "Nothing waits.",
        "of 300 calls left, all of them again in",
        "The last webhook came ",
        match kind {
            Kind::Sqlite => "Processes: 1 serve.",
            Kind::Rabbitmq => "Processes: 1 ingress, 1 worker.",
        },
    ] {
        assert!(look.out.contains(words), "{words} in\n{}", look.out);
    }
    bot.end().await
}

/// What keeps the bot from answering is told first, with the service's own words.
pub(super) async fn status_tells_what_asking_pauses_for(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let quota = r#"{"status":429,"statusMessage":"Limit Exceeded"}"#;
    bot.sandbox
        .break_down(Fault::nothing(Service::Simsimi).with_body(quota));
    bot.mention("one too many").await?;
    let paused = |json: &Value| {
        json["pauses"][0]["step"] == "ask" && json["later"] == 1 && json["unfinished"] == 1
    };
    let (exit, json) = until(&bot, SOON, "asking pauses", paused).await?;
    assert_eq!((exit, &json["works"]), (Some(1), &Value::Bool(false)));
    let look = in_words(&bot).await?;
    assert_eq!(look.code, Some(1));
    for words in [
        "The bot does not work:",
        "asking is paused for ",
        "SimSimi's quota is used up: 429 Limit Exceeded",
        "1 put off until later.",
        "Of the last 1 h, 1 event has not come to an end",
    ] {
        assert!(look.out.contains(words), "{words} in\n{}", look.out);
    }
    bot.end().await
}

/// Dead letters wait for a person; the bot goes on.
pub(super) async fn status_counts_dead_letters(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let token = Token::parse(DEMO_WEBHOOK_TOKEN)?;
    let sent = webhook::send(&bot.webhook_url(), &token, b"no JSON".to_vec()).await?;
    assert_eq!(sent.status, Some(200));
    let dead = |json: &Value| json["dead"] == 1 && json["works"] == true;
    let (exit, _) = until(&bot, SOON, "there is a dead letter", dead).await?;
    assert_eq!(exit, Some(0));
    let look = in_words(&bot).await?;
    let words = "1 dead letter: see `chickwork dead list`.";
    assert!(look.out.contains(words), "{}", look.out);
    bot.end().await
}

/// A worker that was stopped says so; one that was killed is not counted any more after a while.
pub(super) async fn status_tells_that_nobody_works(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.workers(2).start().await?;
    let both = |json: &Value| processes(json, "worker") == 2;
    until(&bot, SOON, "there are two", both).await?;
    for worker in &mut bot.workers {
        worker.terminate()?;
        assert_eq!(worker.exit_code().await?, Some(0));
    }
    let none = |json: &Value| processes(json, "worker") == 0 && processes(json, "ingress") == 1;
    let (exit, _) = until(&bot, SOON, "they have stopped", none).await?;
    assert_eq!(exit, Some(1));
    bot.mention("anybody?").await?;
    let waits = |json: &Value| json["waiting"] == 1;
    until(&bot, SOON, "the mention waits", waits).await?;
    let look = in_words(&bot).await?;
    for words in [
        "nobody asks and posts: no worker reports",
        "1 waiting, the oldest for ",
    ] {
        assert!(look.out.contains(words), "{words} in\n{}", look.out);
    }

    bot.front.kill().await?;
    let nobody = |json: &Value| json["processes"] == Value::Array(Vec::new());
    until(&bot, FADED, "everybody has faded", nobody).await?;
    bot.end().await
}

/// Where there is no queue, none is made, and the place is named.
pub(super) async fn status_says_when_there_is_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path().canonicalize()?;
    let look_here = look(chickwork("status")?.current_dir(&here)).await?;
    assert_eq!(look_here.code, Some(1));
    let file = here.join("chickwork.db");
    let named = look_here.out.contains(&file.display().to_string());
    assert!(named && !file.exists(), "{}", look_here.out);
    let says = "How the bot is cannot be told: there is no queue file at ";
    assert!(look_here.out.starts_with(says), "{}", look_here.out);

    let nobody = format!("amqp://guest:hush@127.0.0.1:{}/%2f", free_port()?);
    let mut command = chickwork("status")?;
    let away = look(command.env("CHICKWORK_QUEUE", &nobody)).await?;
    assert_eq!(away.code, Some(1));
    assert!(
        away.out.contains("the queue cannot be used"),
        "{}",
        away.out
    );
    let away = look(command.arg("--json")).await?;
    let json = away.json()?;
    assert_eq!(
        (&json["up"], &json["waiting"]),
        (&Value::Bool(false), &Value::Null)
    );
    ensure!(!away.out.contains("hush"), "{}", away.out);
    Ok(())
}

/// While the broker is away or does not take events, they wait in a spool, and are told wherever it is
/// possible to know of them; looking leaves no trace.
pub(super) async fn status_tells_what_waits_in_a_spool() -> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Rabbitmq)?.alone().prepare().await?;
    control(&bot, &["add_user", "ingress", "hush"])?;
    may_write(&bot, ".*")?;
    let queue = bot.stage().location();
    bot.front.set(
        "CHICKWORK_QUEUE",
        queue.replace("guest:guest", "ingress:hush"),
    );
    for server in bot.servers_mut() {
        server.start()?;
    }
    bot.ready().await?;
    let works = |json: &Value| json["works"] == true;
    let (_, json) = until(&bot, SOON, "it works", works).await?;
    assert_eq!(json["spools"][0]["events"], 0, "{json:#}");
    // From now on the broker takes its reports, and no events.
    may_write(&bot, &format!("^(?!{}\\.in$)", bot.stage().namespace()))?;
    let first = bot.mention("echo first").await?;
    let second = bot.mention("echo second").await?;
    let spooled = |json: &Value| json["spools"][0]["events"] == 2;
    let (exit, json) = until(&bot, SOON, "two events wait", spooled).await?;
    assert_eq!((exit, &json["waiting"]), (Some(0), &Value::from(2)));
    assert!(json["oldest_seconds"].is_u64(), "{json:#}");
    let host = text(&json["spools"][0], "host");
    let told = in_words(&bot).await?;
    for words in [
        &format!("  ingress on {host}: 2 events wait in its spool (the oldest for "),
        "until the broker takes them",
        "2 waiting, the oldest for ",
    ] {
        assert!(told.out.contains(words), "{words} in\n{}", told.out);
    }

    // The broker goes; what is on this machine can be seen, if one knows where.
    control(&bot, &["stop_app"])?;
    let third = bot.mention("echo third").await?;
    let spool = &bot.front.environment()["CHICKWORK_SPOOL"];
    let folder = Path::new(spool).parent().context("it is in a folder")?;
    let before = names(folder)?;
    let empty = tempfile::tempdir()?;
    let away = look(status(&bot)?.current_dir(&empty)).await?;
    assert_eq!(away.code, Some(1));
    for words in [
        "the queue cannot be used: ",
        "each ingress keeps events in its spool, and there is none at ",
        "run this beside an ingress, with its CHICKWORK_SPOOL",
    ] {
        assert!(away.out.contains(words), "{words} in\n{}", away.out);
    }
    let beside = look(status(&bot)?.env("CHICKWORK_SPOOL", spool)).await?;
    let waits = format!("3 events wait in {spool} (the oldest for ");
    assert!(beside.out.contains(&waits), "{waits} in\n{}", beside.out);
    let assumed = beside.out.contains(" % full");
    assert!(!assumed, "of what is only assumed:\n{}", beside.out);
    let mut command = status(&bot)?;
    command
        .env("CHICKWORK_SPOOL", spool)
        .env("CHICKWORK_SPOOL_MAX_BYTES", "1MiB");
    let given = look(&mut command).await?;
    assert!(given.out.contains(" % full ("), "{}", given.out);
    let other = empty.path().join("other.db");
    std::fs::write(&other, "somebody's notes\n")?;
    let told = look(status(&bot)?.env("CHICKWORK_SPOOL", &other)).await?;
    std::fs::remove_file(&other)?;
    let is_none = format!("{} is not a Chickwork file", other.display());
    assert!(told.out.contains(&is_none), "{is_none} in\n{}", told.out);
    let json = look(status(&bot)?.env("CHICKWORK_SPOOL", spool).arg("--json")).await?;
    let json = json.json()?;
    assert_eq!(json["spools"][0]["path"].as_str(), Some(spool.as_str()));
    assert_eq!(json["spools"][0]["events"], 3);
    assert_eq!(json["waiting"], Value::Null, "nobody knows how many in all");
    let file = format!("sqlite:{spool}");
    let pointed_at = look(status(&bot)?.env("CHICKWORK_QUEUE", &file)).await?;
    assert_eq!(pointed_at.code, Some(1));
    for words in [
        &format!("{spool} is the spool of an ingress."),
        "3 events wait in it",
    ] {
        assert!(
            pointed_at.out.contains(words),
            "{words} in\n{}",
            pointed_at.out
        );
    }
    assert_eq!(names(folder)?, before, "looking left something");
    ensure!(names(empty.path())?.is_empty(), "looking created something");

    control(&bot, &["start_app"])?;
    may_write(&bot, ".*")?;
    let drained = |json: &Value| json["works"] == true && json["spools"][0]["events"] == 0;
    until(&bot, BACK, "the spool is empty", drained).await?;
    bot.all_answered_once(BACK, &[first, second, third]).await?;
    let pointed_at = look(status(&bot)?.env("CHICKWORK_QUEUE", &file)).await?;
    assert_eq!(pointed_at.code, Some(0), "{}", pointed_at.out);
    assert!(pointed_at.out.contains("Nothing waits in it."));
    bot.end().await
}

/// Does something to the bot's own broker.
fn control(bot: &Bot, arguments: &[&str]) -> anyhow::Result<String> {
    tokio::task::block_in_place(|| bot.stage().node()?.control(arguments))
}

/// Lets the ingress write to these objects of the broker only.
fn may_write(bot: &Bot, objects: &str) -> anyhow::Result<String> {
    let arguments = ["set_permissions", "ingress", ".*", objects, ".*"];
    control(bot, &arguments)
}

/// The names of what is in a folder.
fn names(folder: &Path) -> anyhow::Result<BTreeSet<OsString>> {
    let entries = std::fs::read_dir(folder)?;
    Ok(entries
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?)
}

/// A broker that serves others, under another name.
pub(super) async fn status_says_when_nobody_uses_this_namespace() -> anyhow::Result<()> {
    let bot = Plan::on(Kind::Rabbitmq)?.start().await?;
    let look = look(status(&bot)?.env("CHICKWORK_NAMESPACE", "nobody-uses-this")).await?;
    assert_eq!(look.code, Some(1));
    assert!(look.out.contains("nobody-uses-this"), "{}", look.out);
    assert!(look.out.contains("CHICKWORK_NAMESPACE"), "{}", look.out);
    bot.end().await
}

/// A broker under an alarm answers as if nothing were, and takes nothing; reports are not taken either.
/// Events wait in the spool meanwhile, and what was reported before does not contradict that.
pub(super) async fn status_says_that_the_broker_takes_no_messages() -> anyhow::Result<()> {
    let bot = Plan::on(Kind::Rabbitmq)?.alone().start().await?;
    let works = |json: &Value| json["works"] == true;
    until(&bot, SOON, "it works", works).await?;
    let memory = |level: &str| {
        let arguments = ["set_vm_memory_high_watermark", "absolute", level];
        tokio::task::block_in_place(|| bot.stage().node()?.control(&arguments))
    };
    memory("1MB")?;
    let blocked = |json: &Value| json["up"] == false;
    let (exit, json) = until(&bot, SOON, "the alarm is told", blocked).await?;
    assert_eq!((exit, &json["works"]), (Some(1), &Value::Bool(false)));
    assert_eq!(json["waiting"], 0, "it is seen nevertheless");
    let seen = in_words(&bot).await?;
    assert_eq!(seen.code, Some(1));
    for words in [
        "the queue cannot be used: the broker takes no messages: low on memory.",
        "Nothing waits.",
    ] {
        assert!(seen.out.contains(words), "{words} in\n{}", seen.out);
    }
    assert!(!seen.out.contains("nobody"), "{}", seen.out);
    assert_eq!(seen.err, "", "it is said once");

    let first = bot.mention("echo first").await?;
    let second = bot.mention("echo second").await?;
    let spool = &bot.front.environment()["CHICKWORK_SPOOL"];
    let beside = async |arguments: &[&str]| {
        let mut command = status(&bot)?;
        command.env("CHICKWORK_SPOOL", spool).args(arguments);
        look(&mut command).await
    };
    let json = beside(&["--json"]).await?.json()?;
    assert_eq!(json["waiting"], 2, "{json:#}");
    let spools = json["spools"].as_array().context("a list")?;
    assert_eq!(spools.len(), 1, "each is told of once: {json:#}");
    assert_eq!(
        (&spools[0]["events"], &spools[0]["path"]),
        (&Value::from(2), &Value::from(spool.as_str()))
    );
    let told = beside(&[]).await?;
    for words in [
        &format!("2 events wait in {spool} (the oldest for "),
        "2 waiting, the oldest for ",
        "The last webhook that is known of came ",
    ] {
        assert!(told.out.contains(words), "{words} in\n{}", told.out);
    }
    memory("1GB")?;
    until(&bot, BACK, "it works again", works).await?;
    bot.all_answered_once(BACK, &[first, second]).await?;
    bot.end().await
}

/// Who may only write is told what could not be seen, and nothing else; an ingress needs no more.
pub(super) async fn what_may_not_be_seen_is_not_made_up() -> anyhow::Result<()> {
    let bot = Plan::on(Kind::Rabbitmq)?.alone().start().await?;
    let message = bot.mention("echo quack").await?;
    bot.answer(&message).await?;
    let all = format!("^{}\\.", bot.stage().namespace());
    tokio::task::block_in_place(|| {
        let node = bot.stage().node()?;
        node.control(&["add_user", "writer", "hush"])?;
        node.control(&["set_permissions", "writer", "^$", &all, "^$"])
    })?;
    let queue = bot.stage().location().replace("guest:guest", "writer:hush");
    let look = look(status(&bot)?.env("CHICKWORK_QUEUE", &queue)).await?;
    assert_eq!(look.code, Some(1), "{}", look.out);
    for words in [
        "  it could not be seen whether anybody works.",
        "The last webhook could not be seen.",
    ] {
        assert!(look.out.contains(words), "{words} in\n{}", look.out);
    }
    for guess in ["nobody", "No webhook", "hush"] {
        assert!(!look.out.contains(guess), "{guess} in\n{}", look.out);
    }

    let mut doctor = chickwork("doctor")?;
    doctor
        .envs(bot.front.environment())
        .env("CHICKWORK_QUEUE", &queue)
        .env("CHICKWORK_DECLARE", "passive")
        .args(["--role", "ingress"]);
    let said = run(doctor).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("This user may write."), "{said:?}");
    bot.end().await
}
