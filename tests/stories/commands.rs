//! The commands that people and containers run, as they see them: what is printed, the exit code,
//! what is left behind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use chickwork_chatwork::id::MessageId;
use chickwork_sandbox::DEMO_WEBHOOK_TOKEN;
use chickwork_tests::bot::{Plan, ROOM};
use chickwork_tests::process::{chickwork, free_port};
use chickwork_tests::said::{Said, in_order, run, run_within};
use chickwork_tests::stage::{Kind, SOON, soon, until, within};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A post that is in doubt is looked for after 15 s; `dev` itself waits 30 s for its last replies.
const TALK_LIMIT: Duration = Duration::from_secs(40);

fn is_empty(folder: &Path) -> anyhow::Result<bool> {
    Ok(std::fs::read_dir(folder)?.next().is_none())
}

/// The first thing that a newcomer runs.
pub(super) async fn dev_shows_a_mention_and_its_reply_and_leaves_nothing() -> anyhow::Result<()> {
    let (here, temporary) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut command = chickwork("dev")?;
    command
        .arg("--once")
        .current_dir(&here)
        .env("TMPDIR", temporary.path());
    // It does not wait for anything that could take longer.
    let said = run_within(SOON, command).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    for words in [
        "[To:1000001]Chickwork さん",
        "Chào bạn",
        "[rp aid=1000002 to=200000002-",
    ] {
        assert!(said.out.contains(words), "{words} is not in {said:?}");
    }
    assert_eq!(said.err, "");
    ensure!(
        is_empty(here.path())? && is_empty(temporary.path())?,
        "something is left behind"
    );
    Ok(())
}

/// Lines from the terminal are answered; the end of the input is the end.
pub(super) async fn dev_talks_until_the_input_ends() -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let mut command = chickwork("dev")?;
    command
        .env("TMPDIR", temporary.path())
        .env("SIMSIMI_LANG", "ja");
    let mut dev = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = dev.stdin.take().expect("its input was asked for");
    input
        .write_all("echo một con vịt\n/as hana\necho アヒルが一羽\n".as_bytes())
        .await?;
    drop(input);
    let said = Said::of(soon("the talk is over", dev.wait_with_output()).await??)?;
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines: Vec<&str> = said.out.lines().map(str::trim).collect();
    for answer in ["một con vịt", "アヒルが一羽"] {
        assert!(lines.contains(&answer), "{said:?}");
    }
    ensure!(is_empty(temporary.path())?, "something is left behind");
    Ok(())
}

/// Types lines into `chickwork dev`, ends the input, and waits for the end of the talk.
async fn talk(lines: &str) -> anyhow::Result<Said> {
    let temporary = tempfile::tempdir()?;
    let mut command = chickwork("dev")?;
    let mut dev = command
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = dev.stdin.take().expect("its input was asked for");
    input.write_all(lines.as_bytes()).await?;
    drop(input);
    Said::of(within(TALK_LIMIT, "the talk is over", dev.wait_with_output()).await??)
}

/// What goes wrong on command is told as it happens, up to the good end.
pub(super) async fn dev_tells_how_a_lost_answer_is_looked_for_and_found() -> anyhow::Result<()> {
    let said = talk("/lose next answer\necho lost and found\n").await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    in_order(
        &said.out,
        &[
            "echo lost and found\n",
            "  lost and found\n",
            "no answer from Chatwork",
            "; the room will be looked at in 1",
            "  looked: it is there\n",
            "  answered after ",
            " s, known after 1",
        ],
    )?;
    let replies = said.out.matches("\n  lost and found\n").count();
    assert_eq!(replies, 1, "{said:?}");
    assert!(said.err.contains("The next post will arrive"));
    Ok(())
}

/// Faults are ordered, listed and healed from the terminal; who does not know the words is told.
pub(super) async fn dev_breaks_and_heals_on_command() -> anyhow::Result<()> {
    let lines =
        "/simsimi dance\n/chatwork slow\n/faults\n/heal\n/faults\n/simsimi 500\necho at last\n";
    let said = talk(lines).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    in_order(
        &said.err,
        &[
            "/simsimi what? down, slow, 500, 228, 403 or 429.\n",
            "Chatwork takes 3 s for every answer, until /heal.\n",
            r#"{"service":"chatwork","delay_ms":3000,"next":"always"}, 0 times so far"#,
            "Nothing goes wrong any more.",
            "Nothing goes wrong.\n",
            "SimSimi fails at the next question.\n",
        ],
    )?;
    in_order(
        &said.out,
        &[
            "echo at last\n",
            "  SimSimi failed: 500 Server error; again ",
            "  at last\n",
            "  answered after ",
        ],
    )
}

/// Every mistake in one go, by name, with a hint, before anything starts; no secret among them.
pub(super) async fn mistakes_in_the_settings_are_told_all_at_once() -> anyhow::Result<()> {
    let here = tempfile::tempdir()?;
    let mut command = chickwork("serve")?;
    command.current_dir(&here).envs([
        ("SIMSIMI_LANG", "vi"),
        ("CHICKWORK_CONCURRENCY", "many"),
        ("CHATWORK_ROOM_LIMIT", "ten"),
        ("CHATWORK_WEBHOOK_TOKEN", "hush, this is no token"),
        ("CHICKWORK_MAX_AGE", "1 fortnight and a bit"),
        ("SIMSIMI_API_KEY", "key"),
        ("SIMSIMI_API_KEY_FILE", "/also/a/file"),
    ]);
    let said = run(command).await?;
    assert_eq!(said.code, Some(2));
    for name in [
        "SIMSIMI_LANG",
        "vn",
        "CHICKWORK_CONCURRENCY",
        "CHATWORK_ROOM_LIMIT",
        "CHATWORK_WEBHOOK_TOKEN",
        "CHATWORK_API_TOKEN",
        "CHICKWORK_MAX_AGE",
        "SIMSIMI_API_KEY_FILE",
    ] {
        assert!(said.err.contains(name), "{name} is not in {said:?}");
    }
    assert!(!said.err.contains("hush"), "{said:?}");
    ensure!(is_empty(here.path())?, "a queue was created");

    let said = run(chickwork("serve")?.arg("--no-such-flag")).await?;
    assert_eq!(said.code, Some(2));
    let said = run(chickwork("fly")?).await?;
    assert_eq!(said.code, Some(2));
    Ok(())
}

/// What containers ask, and what they are told.
pub(super) async fn healthcheck_tells_whether_the_process_is_ready() -> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Sqlite)?.start().await?;
    let address = bot.front.admin_address();
    let check =
        async || run(chickwork("healthcheck")?.env("CHICKWORK_ADMIN_LISTEN", &address)).await;
    let said = check().await?;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "ready\n"));
    bot.front.kill().await?;
    let said = check().await?;
    assert_eq!(said.code, Some(1));
    assert!(said.out.starts_with("not ready"), "{said:?}");
    bot.end().await
}

/// A webhook by hand, as Chatwork would send it.
pub(super) async fn send_posts_a_signed_webhook_and_prints_the_status() -> anyhow::Result<()> {
    let bot = Plan::on(Kind::Sqlite)?.start().await?;
    let url = bot.webhook_url();
    let send = |token: &'static str, more: &[&str]| -> anyhow::Result<Command> {
        let mut command = chickwork("send")?;
        command
            .env("CHATWORK_WEBHOOK_TOKEN", token)
            .args(["--url", &url])
            .args(more);
        Ok(command)
    };
    let message = MessageId::new("1800000000000000007")?;
    let room = ROOM.to_string();
    let flags = [
        "--message",
        message.as_str(),
        "--room",
        &room,
        "--text",
        "[To:1000001] echo by hand",
    ];
    let said = run(send(DEMO_WEBHOOK_TOKEN, &flags)?).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("200 in "), "{said:?}");
    assert_eq!(bot.answer(&message).await?, "by hand");

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body");
    std::fs::write(&file, b"\xff no JSON")?;
    let file = file.display().to_string();
    let said = run(send(DEMO_WEBHOOK_TOKEN, &["--file", &file])?).await?;
    assert!(said.out.starts_with("200 in "), "{said:?}");
    assert_eq!(bot.dead_letters().await?.len(), 1);

    let said = run(send("d3Jvbmc=", &flags)?).await?;
    assert_eq!(said.code, Some(1));
    assert!(said.out.starts_with("401 in "), "{said:?}");
    bot.end().await
}

/// The sandbox alone, as `docker compose` runs it: the bot's whole outside world.
pub(super) async fn the_sandbox_runs_alone_and_can_be_talked_to() -> anyhow::Result<()> {
    let (port, bot) = (free_port()?, Plan::on(Kind::Sqlite)?.start().await?);
    let mut command = chickwork("sandbox")?;
    command
        .env("CHICKWORK_SANDBOX_LISTEN", format!("127.0.0.1:{port}"))
        .env("CHICKWORK_SANDBOX_WEBHOOK_URL", bot.webhook_url());
    let mut sandbox = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let http = chickwork_tests::process::http()?;
    let say = serde_json::json!({"room_id": ROOM, "account_id": 1_000_002, "body": "[To:1000001] echo hi"});
    let said = until(SOON, "the sandbox answers", async || {
        let say = http
            .post(format!("http://127.0.0.1:{port}/say"))
            .body(say.to_string());
        Ok(say.send().await.ok())
    });
    let said: serde_json::Value = serde_json::from_str(&said.await?.text().await?)?;
    assert_eq!(said["webhook_status"], 200, "{said}");
    // This bot answers in the sandbox of the story, not in that one.
    let message = MessageId::new(said["message_id"].as_str().unwrap_or_default())?;
    assert_eq!(bot.answer(&message).await?, "hi");
    sandbox.kill().await?;
    bot.end().await
}

/// Where somebody else manages the broker: without its objects the bot says what is missing; with
/// those that `chickwork topology` prints it works.
pub(super) async fn what_topology_prints_is_what_a_managed_broker_needs() -> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Rabbitmq)?
        .alone()
        .with("CHICKWORK_DECLARE", "passive")
        .prepare()
        .await?;
    let namespace = bot.stage().namespace().to_owned();
    // With its spool it takes webhooks all the same, and says what is missing.
    bot.front.start()?;
    bot.front.ready().await?;
    let missing = format!("exchange {namespace}.");
    let said = until(SOON, "it says what is missing", async || {
        Ok(bot.front.log().contains(&missing).then_some(()))
    });
    said.await?;

    let printed = run(chickwork("topology")?.env("CHICKWORK_NAMESPACE", &namespace)).await?;
    let definitions = printed.succeeded()?.out;
    tokio::task::block_in_place(|| bot.stage().node()?.import(&definitions))?;

    for worker in &mut bot.workers {
        worker.start()?;
    }
    bot.ready().await?;
    let message = bot.mention("echo managed").await?;
    assert_eq!(bot.answer(&message).await?, "managed");
    bot.end().await
}
