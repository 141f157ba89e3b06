//! `chickwork dev --from` and `chickwork replay --shadow`, as somebody uses them who changes the bot: it is
//! tried on what was said, and nobody in a room hears of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_queue::outcome::Outcome;
use chickwork_sandbox::fault::{Fault, Service};
use chickwork_sandbox::{DEMO_API_KEY, DEMO_API_TOKEN, Say, town};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY};
use chickwork_tests::process::chickwork;
use chickwork_tests::said::{Said, run, text, typed};
use chickwork_tests::stage::{Kind, SOON, Stage, soon, until, within};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

/// How long it may take until all is exported, or played.
const DONE: Duration = Duration::from_secs(60);
/// Exported events that an older release has written.
const OLDER: &str = include_str!("../../crates/chickwork/tests/data/export.v1.jsonl");
/// More events than fit into [`LITTLE`] memory.
const MANY: usize = 100_000;
/// In MiB; the file is three times as large.
const LITTLE: f64 = 60.0;

/// All that came in, in a file: so many events, each with all of its story. Copies for the archive, and
/// what happened on the way, may arrive a moment later than the reply.
async fn exported(stage: &Stage, count: usize) -> anyhow::Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.jsonl");
    let mut export = typed(stage, "events", &["export", "--force", "--output"])?;
    export.arg(&file);
    let is_whole = |line: &str| {
        let has = |what: &str| line.contains(&format!("\"what\":\"{what}\""));
        has("received") && (has("ignored") || has("asked") && has("posted"))
    };
    until(DONE, "all is exported", async || {
        run(&mut export).await?.succeeded()?;
        let events = std::fs::read_to_string(&file)?;
        if events.lines().filter(|line| is_whole(line)).count() == count {
            return Ok(Some(()));
        }
        Ok(None)
    })
    .await?;
    Ok((folder, file))
}

/// `chickwork dev --from` on this file.
fn dev(file: &Path, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = chickwork("dev")?;
    command.arg("--from").arg(file).args(words);
    Ok(command)
}

/// `chickwork replay --shadow` at this bot's queue, with its tokens.
fn shadow(bot: &Bot, words: &[&str]) -> anyhow::Result<Command> {
    let words = [&["--shadow", "--rate", "1000/1s"], words].concat();
    let mut command = typed(bot.stage(), "replay", &words)?;
    command
        .env("CHATWORK_API_TOKEN", DEMO_API_TOKEN)
        .env("CHATWORK_API_URL", bot.sandbox.chatwork_url())
        .env("SIMSIMI_API_KEY", DEMO_API_KEY)
        .env("SIMSIMI_API_URL", bot.sandbox.simsimi_url());
    Ok(command)
}

/// The results of a comparison, by the message.
fn results(lines: &[Value]) -> Vec<(&str, &str)> {
    let events = lines.iter().filter(|line| line["sums"] != true);
    events
        .map(|line| (text(line, "message_id"), text(line, "result")))
        .collect()
}

async fn outcomes(stage: &Stage) -> anyhow::Result<Vec<Outcome>> {
    let queue = stage.queue().await?;
    let mut read = queue.outcomes().read(Timestamp::UNIX_EPOCH);
    let mut all = Vec::new();
    while let Some(outcome) = soon("outcomes are read", read.next()).await?? {
        all.push(outcome);
    }
    Ok(all)
}

/// Today's talk is yesterday's, until the bot is changed; and then exactly what changes is told.
pub(super) async fn a_change_of_the_bot_is_tried_on_what_was_said(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let words = bot.mention("echo a\nline").await?;
    let friendly = bot.mention("???").await?;
    let by_ben = bot.mention_in(ROOM, town::BEN, "echo from Ben").await?;
    let aside = bot.hear(Say::new(ROOM, SOMEBODY, "echo aside")).await?;
    for message in [&words, &friendly, &by_ben] {
        bot.posted(SOON, message).await?;
    }
    assert_eq!(bot.ignored(&aside).await?, "not_addressed");
    let (_folder, file) = exported(bot.stage(), 4).await?;
    let (asked, said) = (bot.asked().len(), bot.sandbox.ledger().said.len());

    // Nothing has changed.
    let same = run(dev(&file, &[])?).await?;
    assert_eq!(same.code, Some(0), "{same:?}");
    assert!(
        same.out.contains("4 events:\n       4  the same\n"),
        "{same:?}"
    );
    assert!(same.err.contains("account is 1000001"), "{same:?}");
    assert!(same.err.contains("name is Chickwork"), "{same:?}");
    let same = run(dev(&file, &["--json"])?).await?;
    let lines = same.lines()?;
    assert_eq!(lines.len(), 5, "{same:?}");
    assert_eq!(lines[0]["question"], "echo a line");
    assert_eq!(lines[0]["before"], lines[0]["now"]);
    assert_eq!(lines[4]["same"], 4);

    // Another friendly line.
    let mut other = dev(&file, &[])?;
    let changed = run(other.env("CHICKWORK_FALLBACK", "Pardon?")).await?;
    assert_eq!(changed.code, Some(1), "{changed:?}");
    assert!(changed.out.contains("\n  - Chíp chíp!"), "{changed:?}");
    assert!(changed.out.contains("\n  + Pardon?\n"), "{changed:?}");
    assert!(
        changed.out.contains(&format!("#!rid{ROOM}-{friendly}\n")),
        "{changed:?}"
    );
    assert!(!changed.out.contains(words.as_str()), "{changed:?}");
    assert!(changed.out.contains("       1  differs\n"), "{changed:?}");

    // Somebody more is ignored, and there is no friendly line any more.
    let mut silent = dev(&file, &["--json"])?;
    silent
        .env("CHICKWORK_FALLBACK", "")
        .env("CHICKWORK_IGNORE_ACCOUNTS", town::BEN.to_string());
    let silent = run(silent).await?;
    assert_eq!(silent.code, Some(1), "{silent:?}");
    let lines = silent.lines()?;
    assert_eq!(
        results(&lines),
        [
            (words.as_str(), "same"),
            (friendly.as_str(), "now_silent"),
            (by_ben.as_str(), "now_silent"),
            (aside.as_str(), "same"),
        ]
    );
    assert_eq!(lines[1]["reason"], "nothing_to_say");
    assert_eq!(lines[2]["reason"], "ignored_account");

    // Played by somebody else, whom nobody addresses.
    let played = run(dev(&file, &["--json", "--bot-account", "5"])?).await?;
    let lines = played.lines()?;
    assert_eq!(
        lines[4]["now_silent"], 0,
        "mentions are of whom Chatwork says: {played:?}"
    );

    // By a pipe it is the same.
    let mut piped = chickwork("dev")?;
    let mut piped = piped
        .args(["--from", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = piped.stdin.take().context("its input was asked for")?;
    input.write_all(&tokio::fs::read(&file).await?).await?;
    drop(input);
    let ended = within(DONE, "it has ended", piped.wait_with_output());
    Said::of(ended.await??)?.succeeded()?;

    assert_eq!(bot.asked().len(), asked, "nobody was asked");
    assert_eq!(bot.sandbox.ledger().said.len(), said, "nothing was said");
    Ok(())
}

/// SimSimi is asked, and nobody hears of it.
pub(super) async fn a_shadow_asks_and_says_nothing(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let words = bot.mention("echo one").await?;
    bot.posted(SOON, &words).await?;
    let friendly = bot.mention("???").await?;
    bot.posted(SOON, &friendly).await?;
    let aside = bot.hear(Say::new(ROOM, SOMEBODY, "echo aside")).await?;
    bot.ignored(&aside).await?;
    let (_folder, file) = exported(bot.stage(), 3).await?;
    let written = outcomes(bot.stage()).await?;
    let said = bot.sandbox.ledger().said.len();

    // Nobody agrees; and who only wants to know is told.
    let unasked = run(shadow(&bot, &["--all"])?).await?;
    assert_eq!(unasked.code, Some(1), "{unasked:?}");
    assert!(unasked.err.contains("--yes"), "{unasked:?}");
    let dry = run(shadow(&bot, &["--all", "--dry-run", "--json"])?).await?;
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(
        dry.err.contains("SimSimi is to be asked 2 times"),
        "{dry:?}"
    );
    assert!(
        dry.err.contains("as Chickwork (account 1000001)"),
        "{dry:?}"
    );
    let lines = dry.lines()?;
    assert_eq!(
        (&lines[0]["question"], &lines[0]["reply"]),
        (&json!("echo one"), &Value::Null)
    );
    assert_eq!(bot.asked().len(), 2, "only the worker has asked");

    // Another bot than it was.
    let mut played = shadow(&bot, &["--all", "--yes", "--json"])?;
    let played = run(played.env("CHICKWORK_FALLBACK", "Pardon?")).await?;
    assert_eq!(played.code, Some(0), "{played:?}");
    let lines = played.lines()?;
    assert_eq!(lines.len(), 3, "{played:?}");
    assert_eq!(lines[0]["question"], "echo one");
    assert_eq!(
        lines[0]["reply"],
        format!("[rp aid={SOMEBODY} to={ROOM}-{words}]\none")
    );
    assert_eq!(lines[0]["reply"], lines[0]["before"]);
    let reply = text(&lines[1], "reply");
    assert!(reply.ends_with("]\nPardon?"), "{played:?}");
    assert_ne!(lines[1]["reply"], lines[1]["before"]);
    assert_eq!(
        (&lines[2]["reply"], &lines[2]["reason"]),
        (&Value::Null, &json!("not_addressed"))
    );
    assert_eq!(bot.asked().len(), 4);

    // An error is one event's, a refusal everybody's.
    bot.sandbox.break_down(Fault::status(Service::Simsimi, 500));
    let failed = run(shadow(&bot, &["--all", "--yes", "--json"])?).await?;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let lines = failed.lines()?;
    assert_eq!(lines.len(), 3, "{failed:?}");
    let error = text(&lines[0], "error");
    assert!(error.contains("SimSimi failed"), "{failed:?}");
    assert!(
        failed
            .err
            .contains("3 of 3 rehearsed (1 without an answer)."),
        "{failed:?}"
    );
    bot.sandbox.break_down(Fault::status(Service::Simsimi, 429));
    let refused = run(shadow(&bot, &["--all", "--yes"])?).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("1 of 3 rehearsed; stopped, 2 left."),
        "{refused:?}"
    );
    assert!(refused.err.contains("quota is used up"), "{refused:?}");
    assert_eq!(bot.asked().len(), 7);

    // From a file it needs no queue, and it tells what was said then, too.
    let mut alone = shadow(&bot, &["--all", "--yes"])?;
    alone
        .arg("--from")
        .arg(&file)
        .env("CHICKWORK_QUEUE", "sqlite:/nowhere/chickwork.db");
    let alone = run(alone).await?;
    assert_eq!(alone.code, Some(0), "{alone:?}");
    assert!(alone.out.contains("  asks: echo one\n"), "{alone:?}");
    assert!(
        alone.out.contains("\n    one\n"),
        "it said the same: {alone:?}"
    );

    assert_eq!(
        outcomes(bot.stage()).await?,
        written,
        "nothing is written down"
    );
    assert_eq!(bot.sandbox.ledger().said.len(), said, "nothing is said");
    Ok(())
}

/// The files of earlier releases are played as well, and what they do not tell is said.
pub(super) async fn what_an_older_release_exported_is_played() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("older.jsonl");
    std::fs::write(&file, OLDER)?;
    let said = run(dev(&file, &["--json"])?).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines = said.lines()?;
    assert_eq!(
        results(&lines),
        [
            ("1800000000000000001", "same"),
            ("", "same"),
            ("1800000000000000005", "not_compared")
        ]
    );
    assert_eq!(lines[0]["question_before"], Value::Null);
    assert_eq!(lines[2]["missing"], "not_worked_on");
    Ok(())
}

/// Whoever has to mend a file wants to know where.
pub(super) async fn a_line_that_is_no_event_is_named() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("broken.jsonl");
    let (first, rest) = OLDER.split_once('\n').context("there are lines")?;
    std::fs::write(&file, format!("{first}\n{{\"secret\": 1\n{rest}"))?;
    let said = run(dev(&file, &[])?).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(
        said.err
            .contains("broken.jsonl, line 2, is no exported event"),
        "{said:?}"
    );
    assert!(!said.err.contains("secret"), "{said:?}");

    std::fs::write(&file, "")?;
    let said = run(dev(&file, &[])?).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("there is no event in"), "{said:?}");
    for wrong in [
        &["--once"][..],
        &["--listen", "127.0.0.1:0"],
        &["--max-age", "1h"],
    ] {
        let said = run(dev(&file, wrong)?).await?;
        assert_eq!(said.code, Some(2), "{wrong:?}: {said:?}");
    }
    let said = run(chickwork("dev")?.arg("--json")).await?;
    assert_eq!(said.code, Some(2), "{said:?}");
    Ok(())
}

/// The key that pays is missed before anything is done.
pub(super) async fn a_shadow_without_a_key_says_what_it_needs() -> anyhow::Result<()> {
    let said = run(chickwork("replay")?.args(["--shadow", "--all", "--yes"])).await?;
    assert_eq!(said.code, Some(2), "{said:?}");
    for needed in ["SIMSIMI_API_KEY", "CHATWORK_API_TOKEN"] {
        assert!(said.err.contains(needed), "{said:?}");
    }
    Ok(())
}

/// A talk of months is played on a small machine.
pub(super) async fn a_long_talk_is_played_in_little_memory() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("many.jsonl");
    let line = OLDER.lines().next().context("there are lines")?;
    let long = line.replace("chào", &"chào ".repeat(80));
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file)?);
    for _ in 0..MANY {
        writeln!(out, "{long}")?;
    }
    out.flush()?;
    drop(out);
    let size = std::fs::metadata(&file)?.len() >> 20;
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    let size = size as f64;
    ensure!(size > 3.0 * LITTLE, "{size} MiB");

    let mut playing = dev(&file, &["--json"])?
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = playing.stdout.take().context("its output was asked for")?;
    let mut lines = BufReader::new(out).lines();
    for _ in 0..MANY - 1000 {
        let line = within(DONE, "a line comes", lines.next_line()).await??;
        ensure!(line.is_some(), "there is a line for each");
    }
    // It cannot end before the rest is read, and has used what it uses.
    let status = format!("/proc/{}/status", playing.id().context("it runs")?);
    let status = std::fs::read_to_string(status)?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.split_whitespace().next());
    let peak: f64 = peak.context("no VmHWM")?.parse::<f64>()? / 1024.0;
    ensure!(peak < LITTLE, "{peak} MiB for {size} MiB");
    let mut last = String::new();
    while let Some(line) = within(DONE, "a line comes", lines.next_line()).await?? {
        last = line;
    }
    let sums: Value = serde_json::from_str(&last)?;
    assert_eq!((&sums["sums"], &sums["same"]), (&json!(true), &json!(MANY)));
    let ended = within(DONE, "it has ended", playing.wait()).await??;
    assert_eq!(ended.code(), Some(0));
    Ok(())
}

/// The name is told by the events, unless somebody knows better.
pub(super) async fn what_stands_behind_its_tag_is_the_bots_name() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("named.jsonl");
    let line = OLDER.lines().next().context("there are lines")?;
    let named = line
        .replace("Chick さん\\\\nchào", "Chick\\\\nchào")
        .replace(
            "\"what\":\"asked\",",
            "\"what\":\"asked\",\"question\":\"chào\",\"answer\":\"Chíp chíp!\",",
        );
    ensure!(named.contains("Chick\\\\nchào"), "{named}");
    std::fs::write(&file, format!("{named}\n"))?;
    let said = run(dev(&file, &[])?).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("name is Chick,"), "{said:?}");
    // By another name, it was a part of what was said.
    let said = run(dev(&file, &["--bot-name", "Huhn"])?).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.out
            .contains("  - asked: chào\n  + asked: Chick chào\n"),
        "{said:?}"
    );
    assert!(said.out.contains("would ask SimSimi anew"), "{said:?}");
    Ok(())
}
