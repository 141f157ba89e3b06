//! What only a file can do to us: be locked by somebody else, be somebody else's, be of another time.

use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_queue::audit::PutBack;
use chickwork_queue::dead::Held;
use chickwork_queue::event::Event;
use chickwork_queue::job::{Cause, Settlement, Work};
use chickwork_queue::{Location, OpenError, Queue};
use chickwork_tests::stage::{
    Kind, Stage, an_event, dead_letters, next, nothing, put_back, retry, settle,
};
use jiff::Timestamp;
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

/// The tables as they were before messages could be answered again.
const WITHOUT_AGAIN: &str =
    include_str!("../../crates/queue/tests/data/schema.v1.without_again.sql");
/// The columns that its jobs, dead letters and archived events share.
const ITS_CONTENT: &str =
    "id, bot, event_type, room_id, message_id, received_at, put_back_at, replay, body";

#[test]
fn a_file_of_a_release_before_rounds_is_used_and_goes_on_being_used_by_that_release()
-> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let older = file_of(&stage)?;
        older.execute_batch(WITHOUT_AGAIN)?;
        older.execute_batch("PRAGMA application_id = 0x43686b57; PRAGMA user_version = 1")?;
        let store = |event: &Event, table: &str, own: &str, values: &str| {
            let insert = format!(
                "INSERT INTO {table} ({own}{ITS_CONTENT}) VALUES ({values}?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8)"
            );
            older.execute(
                &insert,
                rusqlite::params![
                    event.id.to_string(),
                    event.bot.as_str(),
                    event.event_type,
                    event.room_id.map(|room| room.0.cast_signed()),
                    event.message_id.as_ref().map(|message| message.as_str()),
                    event.received_at.as_millisecond(),
                    event.put_back_at.map(Timestamp::as_millisecond),
                    event.body.to_vec(),
                ],
            )
        };
        let (waiting, buried, later) = (an_event(1), an_event(2), an_event(3));
        let job = |event: &Event| store(event, "jobs", "queue, due, ", "'ask', 0, ");
        job(&waiting)?;
        store(&waiting, "archive", "", "")?;
        let burial = "queue, step, cause, error, buried_at, attempts, ";
        store(
            &buried,
            "dead",
            burial,
            "'ask', 'ask', 'exhausted', 'no', 0, 1, ",
        )?;

        let queue = stage.queue().await?;
        let mut archive = queue.archive().read(Timestamp::UNIX_EPOCH);
        ensure!(archive.next().await? == Some(waiting.clone()));
        let mut asks = queue.claim_asks(LIMIT);
        let claim = next(&mut asks).await?;
        ensure!(matches!(&claim.job().work, Work::Ask(event) if *event == waiting));
        settle(claim, Settlement::Done).await?;
        let again = Some(Timestamp::from_millisecond(1_000)?);
        queue
            .put_back(
                waiting.clone(),
                PutBack {
                    again,
                    ..put_back(0, "again")
                },
            )
            .await?;
        let claim = next(&mut asks).await?;
        ensure!(matches!(&claim.job().work, Work::Ask(event) if event.again == again));
        settle(claim, Settlement::Done).await?;
        let letters = dead_letters(&queue).await?;
        ensure!(
            letters.len() == 1 && letters[0].id == buried.id,
            "{letters:?}"
        );
        retry(&queue, letters).await?;
        settle(next(&mut asks).await?, Settlement::Done).await?;

        // The older one is still running beside it.
        job(&later)?;
        let claim = next(&mut asks).await?;
        ensure!(matches!(&claim.job().work, Work::Ask(event) if *event == later));
        settle(claim, Settlement::Done).await
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
