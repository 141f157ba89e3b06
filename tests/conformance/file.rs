//! What only a file can do to us: be locked by somebody else, be somebody else's, be of another time.

use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_queue::dead::Held;
use chickwork_queue::job::{Cause, Settlement, Work};
use chickwork_queue::{Location, OpenError, Queue};
use chickwork_tests::stage::{Kind, Stage, an_event, dead_letters, next, nothing, settle};
use rusqlite::Connection;

use super::tell;

const LIMIT: u16 = 16;

fn in_a_file<F: Future<Output = anyhow::Result<()>>>(
    story: impl FnOnce(Stage) -> F,
) -> anyhow::Result<()> {
    tell(Stage::new(Kind::Sqlite), story)
}

fn file_of(stage: &Stage) -> anyhow::Result<Connection> {
    let Location::Sqlite(path) = stage.settings()?.location else {
        anyhow::bail!("a file")
    };
    Ok(Connection::open(path)?)
}

#[test]
fn a_settlement_outlasts_a_file_that_somebody_keeps_locked() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let queue = stage.queue().await?;
        queue.publisher().publish(&an_event(1)).await?;
        let mut claims = queue.claim_asks(LIMIT);
        let claim = next(&mut claims).await?;
        let locked = file_of(&stage)?;
        locked.execute_batch("BEGIN IMMEDIATE")?;
        let settling = tokio::spawn(settle(claim, Settlement::Done));
        // Longer than a statement waits for the lock: this is the failure that is to be outlasted.
        tokio::time::sleep(Duration::from_secs(7)).await;
        ensure!(!settling.is_finished(), "it goes on trying");
        locked.execute_batch("COMMIT")?;
        settling.await??;
        nothing(&mut claims).await
    })
}

#[test]
fn a_command_that_only_looks_creates_no_file() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let settings = stage.settings()?;
        let Location::Sqlite(path) = settings.location.clone() else {
            anyhow::bail!("a file")
        };
        let opened = Queue::open_existing(settings.clone()).await;
        let error = opened.err().context("there is no file")?;
        ensure!(matches!(&error, OpenError::Missing(missing) if *missing == path));
        ensure!(error.to_string().contains("CHICKWORK_QUEUE"), "{error}");
        ensure!(!path.exists());
        // Nor does it make a queue of what is none.
        std::fs::write(&path, b"")?;
        let opened = Queue::open_existing(settings.clone()).await;
        ensure!(matches!(opened, Err(OpenError::Empty(_))));
        ensure!(std::fs::read(&path)?.is_empty());
        std::fs::remove_file(&path)?;
        stage
            .queue()
            .await?
            .publisher()
            .publish(&an_event(1))
            .await?;
        let queue = Queue::open_existing(settings).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await
    })
}

#[test]
fn a_publish_that_meets_a_locked_file_says_no() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let queue = stage.queue().await?;
        let locked = file_of(&stage)?;
        locked.execute_batch("BEGIN IMMEDIATE")?;
        ensure!(queue.publisher().publish(&an_event(1)).await.is_err());
        locked.execute_batch("COMMIT")?;
        queue.publisher().publish(&an_event(2)).await?;
        Ok(())
    })
}

#[test]
fn a_clock_that_was_set_back_keeps_nobody_from_claiming() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let queue = stage.queue().await?;
        queue.publisher().publish(&an_event(1)).await?;
        // As if somebody had claimed it, and died, when the clock was an hour ahead.
        let hour = 3_600_000;
        file_of(&stage)?.execute(
            "UPDATE jobs SET holder = 'somebody', due = due + ?1",
            [hour],
        )?;
        let claim = next(&mut stage.queue().await?.claim_asks(LIMIT)).await?;
        settle(claim, Settlement::Done).await
    })
}

#[test]
fn a_row_that_nobody_can_read_is_buried_and_in_nobodys_way() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let queue = stage.queue().await?;
        let (spoilt, event) = (an_event(1), an_event(2));
        queue.publisher().publish(&spoilt).await?;
        queue.publisher().publish(&event).await?;
        let id = spoilt.id.to_string();
        file_of(&stage)?.execute("UPDATE jobs SET bot = 'NO BOT' WHERE id = ?1", [&id])?;
        let mut claims = queue.claim_asks(LIMIT);
        let claim = next(&mut claims).await?;
        ensure!(claim.job().work == Work::Ask(event));
        settle(claim, Settlement::Done).await?;
        let letters = dead_letters(&queue).await?;
        let [letter] = &letters[..] else {
            anyhow::bail!("one was buried: {letters:?}")
        };
        ensure!((letter.id, letter.cause) == (spoilt.id, Cause::Malformed));
        let held = queue.dead_letters().held(letter).await?;
        ensure!(matches!(held, Some(Held::Event(held)) if held.body == spoilt.body));
        Ok(())
    })
}

#[test]
fn a_file_of_somebody_else_or_of_a_newer_release_is_left_alone() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let file = file_of(&stage)?;
        file.execute_batch("CREATE TABLE recipes (name TEXT)")?;
        let refused = Queue::open(stage.settings()?).await.err();
        ensure!(
            matches!(refused, Some(OpenError::Foreign(_))),
            "{refused:?}"
        );

        let newer = Stage::new(Kind::Sqlite)?;
        newer.queue().await?;
        file_of(&newer)?.pragma_update(None, "user_version", 99)?;
        let refused = Queue::open(newer.settings()?)
            .await
            .err()
            .context("version 99")?;
        ensure!(
            matches!(refused, OpenError::Newer { version: 99, .. }),
            "{refused}"
        );

        let text = Stage::new(Kind::Sqlite)?;
        let Location::Sqlite(path) = text.settings()?.location else {
            anyhow::bail!("a file")
        };
        std::fs::write(&path, "Dear diary, ".repeat(1000))?;
        let refused = Queue::open(text.settings()?).await.err();
        ensure!(
            matches!(refused, Some(OpenError::Foreign(_))),
            "{refused:?}"
        );
        Ok(())
    })
}
