//! `chickwork events purge`, as somebody uses it who was asked to forget: on a file it is gone from the
//! disk, on a broker it is said what remains, and nobody is answered twice on either.

use anyhow::Context;
use chickwork_sandbox::fault::{Call, Fault, Service};
use chickwork_sandbox::town;
use chickwork_sandbox::webhook::{Hook, Kind as HookKind};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, a_hook};
use chickwork_tests::said::{Said, run, typed};
use chickwork_tests::stage::{Kind, SOON};
use serde_json::Value;

async fn said(bot: &Bot, words: &[&str]) -> anyhow::Result<Said> {
    let (command, words) = words.split_first().context("no command")?;
    run(typed(bot.stage(), command, words)?).await
}

async fn purge(bot: &Bot, words: &[&str]) -> anyhow::Result<Said> {
    let all = [&["events", "purge", "--json"], words].concat();
    said(bot, &all).await
}

/// An audit finds nothing wrong.
async fn all_is_explained(bot: &Bot) -> anyhow::Result<()> {
    let audit = said(bot, &["audit", "--json", "--wait", "2s"]).await?;
    audit.succeeded().map(drop)
}

/// Whether the bytes of the queue's file and of its journal contain this.
fn file_tells(bot: &Bot, words: &str) -> anyhow::Result<bool> {
    let location = bot.stage().location();
    let path = location.strip_prefix("sqlite:").context("a file")?;
    for part in [path.to_owned(), format!("{path}-wal")] {
        let bytes = std::fs::read(&part).context(part)?;
        if bytes
            .windows(words.len())
            .any(|window| window == words.as_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn numbers(report: &Value, fields: &[&str]) -> Vec<Option<u64>> {
    fields.iter().map(|field| report[*field].as_u64()).collect()
}

const DONE: [&str; 3] = ["events", "texts", "letters"];
const REMAINING: [&str; 3] = ["remaining_events", "remaining_texts", "remaining_letters"];

/// Two mentions in a room, one answered and one given up, and one in another room.
async fn three_mentions(bot: &Bot) -> anyhow::Result<()> {
    let answered = bot.mention("echo hush-answered").await?;
    bot.posted(SOON, &answered).await?;
    bot.sandbox
        .break_down(Fault::status(Service::Chatwork, 400).on(Call::Post));
    let buried = bot.mention("echo hush-buried").await?;
    bot.buried(SOON, &buried).await?;
    let elsewhere = bot
        .mention_in(town::DIRECT, SOMEBODY, "echo said-elsewhere")
        .await?;
    bot.posted(SOON, &elsewhere).await?;
    Ok(())
}

pub(super) async fn what_is_kept_of_a_room_is_forgotten_or_said_to_remain(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    three_mentions(&bot).await?;
    let room = ROOM.to_string();

    let dry = purge(&bot, &["--room", &room, "--dry-run"]).await?;
    assert_eq!(dry.code, Some(0), "{dry:?}");
    let denied = purge(&bot, &["--room", &room]).await?;
    assert_eq!(denied.code, Some(1), "nobody can be asked: {denied:?}");
    assert_eq!(bot.dead_letters().await?.len(), 1, "nothing was changed");

    let purged = purge(&bot, &["--room", &room, "--yes"]).await?;
    let report = purged.json()?;
    assert!(bot.dead_letters().await?.is_empty());
    match kind {
        Kind::Sqlite => {
            assert_eq!(purged.code, Some(0), "{purged:?}");
            // The words of each are in what was asked and in the reply.
            assert_eq!(numbers(&report, &DONE), [Some(2), Some(4), Some(1)]);
            assert_eq!(numbers(&report, &REMAINING), [Some(0); 3]);
            assert_eq!(
                (&report["waiting"], &report["rewritten"]),
                (&0.into(), &true.into())
            );
            assert_eq!(report["until"], Value::Null);
            assert!(!file_tells(&bot, "hush-")?, "it is gone from the disk");
            assert!(file_tells(&bot, "said-elsewhere")?, "this is kept");
            let again = purge(&bot, &["--room", &room, "--yes"]).await?;
            assert_eq!(numbers(&again.json()?, &DONE), [Some(0); 3]);
            assert_eq!(again.code, Some(0), "{again:?}");
        }
        Kind::Rabbitmq => {
            assert_eq!(purged.code, Some(1), "something remains: {purged:?}");
            assert_eq!(numbers(&report, &DONE), [Some(0), Some(0), Some(1)]);
            assert_eq!(numbers(&report, &REMAINING), [Some(2), Some(4), Some(0)]);
            assert_eq!(
                (&report["waiting"], &report["rewritten"]),
                (&Value::Null, &Value::Null)
            );
            assert!(purged.err.contains("once nothing waits"), "{purged:?}");
            let until = report["until"].as_str().context("it is said until when")?;
            let until: jiff::Timestamp = until.parse()?;
            let days = until.duration_since(jiff::Timestamp::now()).as_hours() / 24;
            assert!((7..9).contains(&days), "{until}");
            for words in ["cannot forget single messages", "operations.md"] {
                assert!(purged.err.contains(words), "{words} in {purged:?}");
            }
        }
    }
    all_is_explained(&bot).await?;
    bot.end().await
}

pub(super) async fn what_was_forgotten_is_not_answered_again(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let hook = a_hook("7001", "echo hush");
    bot.deliver(&hook).await?;
    bot.posted(SOON, &hook.message_id).await?;
    let link = format!("https://www.chatwork.com/#!rid{ROOM}-{}", hook.message_id);
    let purged = purge(&bot, &["--message", &link, "--yes"]).await?;
    let expected = match kind {
        Kind::Sqlite => 0,
        Kind::Rabbitmq => 1,
    };
    assert_eq!(purged.code, Some(expected), "{purged:?}");

    bot.deliver(&hook).await?;
    bot.ignored(&hook.message_id).await?;
    assert_eq!(bot.answers(&hook.message_id), 1);
    all_is_explained(&bot).await?;
    bot.end().await
}

/// Whoever copies the link of the bot's reply means that, and what it quotes.
pub(super) async fn a_reply_is_forgotten_with_what_it_answers(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let asked = bot.mention("echo hush").await?;
    bot.posted(SOON, &asked).await?;
    let other = bot.mention("echo said-elsewhere").await?;
    bot.posted(SOON, &other).await?;
    for message in [&asked, &other] {
        bot.archived(message).await?;
    }
    let reply = bot.sandbox.ledger().answers_to(&asked)[0]
        .message_id
        .clone();
    // Where all messages come as webhooks, the reply came as one too.
    let own = Hook {
        kind: HookKind::MessageCreated,
        author: town::BOT,
        ..a_hook(reply.as_str(), "hush")
    };
    bot.deliver(&own).await?;
    bot.archived(&reply).await?;
    bot.ignored(&reply).await?;
    let link = format!("{ROOM}-{reply}");
    // Elsewhere nothing is done to what was not named, and it is said what may be meant.
    let hint = format!("is the bot's reply to message {asked}: --message {ROOM}-{asked} ");
    for command in [
        &["events", "list", "--type", "mention_to_me"][..],
        &["events", "export", "--type", "mention_to_me"],
        &["replay", "--type", "mention_to_me", "--yes"],
    ] {
        let words = [command, &["--message", &link]].concat();
        let nothing = said(&bot, &words).await?;
        assert_eq!(
            (nothing.code, nothing.out.as_str()),
            (Some(0), ""),
            "{nothing:?}"
        );
        assert!(nothing.err.contains(&hint), "{hint} in {nothing:?}");
    }

    let purged = purge(&bot, &["--message", &link, "--yes"]).await?;
    let words = format!("{reply} is the bot's reply to message {asked}: what is kept");
    assert!(purged.err.contains(&words), "{purged:?}");
    let report = purged.json()?;
    assert_eq!(report["message_id"], asked.as_str());
    assert_eq!(report["replies"], serde_json::json!([reply]));
    // What was asked, and what was replied, of which there is a webhook, too.
    let all = [Some(2), Some(2), Some(0)];
    match kind {
        Kind::Sqlite => {
            assert_eq!(purged.code, Some(0), "{purged:?}");
            assert_eq!(numbers(&report, &DONE), all);
            assert!(!file_tells(&bot, "hush")?, "it is gone from the disk");
            assert!(file_tells(&bot, "said-elsewhere")?, "this is kept");
        }
        Kind::Rabbitmq => {
            assert_eq!(purged.code, Some(1), "something remains: {purged:?}");
            assert_eq!(numbers(&report, &REMAINING), all);
        }
    }
    all_is_explained(&bot).await?;
    bot.end().await
}

pub(super) async fn what_waits_to_be_answered_is_left_and_said() -> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Sqlite)?.workers(1).start().await?;
    bot.worker().kill().await?;
    let waiting = bot.mention("echo hush").await?;
    let room = ROOM.to_string();
    let left = purge(&bot, &["--room", &room, "--yes"]).await?;
    assert_eq!(left.code, Some(1), "{left:?}");
    let report = left.json()?;
    assert_eq!(report["waiting"], 1, "{report}");
    assert_eq!(numbers(&report, &DONE), [Some(0); 3]);

    bot.worker().start()?;
    bot.ready().await?;
    assert_eq!(bot.answer(&waiting).await?, "hush");
    bot.posted(SOON, &waiting).await?;
    let gone = purge(&bot, &["--room", &room, "--yes"]).await?;
    assert_eq!(gone.code, Some(0), "{gone:?}");
    assert!(!file_tells(&bot, "hush")?);
    bot.end().await
}
