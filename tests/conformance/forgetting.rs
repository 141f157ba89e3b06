//! What is kept for a time is gone after it, on both back ends; and gone for real.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::event::Event;
use chickwork_queue::events::{Reach, Standing, Whom};
use chickwork_queue::purge::Whose;
use chickwork_queue::{Location, Queue, Settings};
use chickwork_tests::stage::{Kind, SOON, Stage, an_event, soon, until};
use jiff::Timestamp;
use rusqlite::Connection;

use super::tell;

/// Shorter than a person could set it.
const KEEP: Duration = Duration::from_secs(2);

async fn queue_that_keeps(stage: &Stage, archive_keep: Duration) -> anyhow::Result<Queue> {
    let settings = Settings {
        archive_keep,
        ..stage.settings()?
    };
    let queue = Queue::open(settings).await?;
    soon("it can be used", async {
        while queue.check().await.is_err() {}
    })
    .await?;
    Ok(queue)
}

async fn archived(queue: &Queue) -> anyhow::Result<Vec<Event>> {
    let mut read = queue.archive().read(Timestamp::UNIX_EPOCH);
    let mut events = Vec::new();
    while let Some(event) = read.next().await? {
        events.push(event);
    }
    Ok(events)
}

/// Waits for a copy that nobody waits for.
async fn archived_are(queue: &Queue, count: usize) -> anyhow::Result<()> {
    let are_there = async {
        while archived(queue).await?.len() != count {}
        anyhow::Ok(())
    };
    soon("they are archived", are_there).await?
}

pub(crate) async fn what_was_archived_for_its_time_is_forgotten_although_nothing_new_comes(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = queue_that_keeps(&stage, KEEP).await?;
    for number in 0..3 {
        queue.publisher().publish(&an_event(number)).await?;
    }
    until(SOON, "they are forgotten", async || {
        queue.forget().await?;
        if archived(&queue).await?.is_empty() {
            return Ok(Some(()));
        }
        Ok(None)
    })
    .await
}

pub(crate) async fn what_is_not_archived_for_long_is_still_there(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = queue_that_keeps(&stage, 100 * KEEP).await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    archived_are(&queue, 1).await?;
    for _ in 0..3 {
        queue.forget().await?;
    }
    // Nor does whatever makes it forget look like an event.
    ensure!(archived(&queue).await? == [event]);
    Ok(())
}

#[test]
fn what_a_file_has_forgotten_is_nowhere_in_its_bytes() -> anyhow::Result<()> {
    tell(Stage::new(Kind::Sqlite), async |stage: Stage| {
        let Location::Sqlite(path) = stage.settings()?.location else {
            anyhow::bail!("a file")
        };
        let queue = queue_that_keeps(&stage, KEEP).await?;
        for number in 0..50 {
            let event = Event {
                body: format!("a secret, {number}, {}", "and more ".repeat(1_000)).into(),
                ..an_event(number)
            };
            // Archived, and in no job.
            queue.publisher().archive(&event, "own").await?;
        }
        let tells = || bytes_of(&path, b"a secret");
        ensure!(tells()?, "it is there to be forgotten");
        until(SOON, "it is forgotten", async || {
            if !tells()? {
                return Ok(Some(()));
            }
            queue.forget().await?;
            Ok(None)
        })
        .await?;
        ensure!(archived(&queue).await?.is_empty());
        Ok(())
    })
}

#[test]
fn of_lines_of_a_newer_release_the_words_are_forgotten_and_what_is_nobodys_is_counted()
-> anyhow::Result<()> {
    tell(Stage::new(Kind::Sqlite), async |stage: Stage| {
        let Location::Sqlite(path) = stage.settings()?.location else {
            anyhow::bail!("a file")
        };
        let queue = stage.queue().await?;
        let file = Connection::open(&path)?;
        let tell = |line: String| {
            file.execute("INSERT INTO outcomes (at, outcome) VALUES (0, ?1)", [line])
                .map(drop)
        };
        let line = |room: u64, message: &str, rest: &str| {
            let id = an_event(1).id;
            format!(
                r#"{{"v":2,"at":"2026-11-24T09:00:00Z","id":"{id}","bot":"bot","room_id":{room},"message_id":"{message}",{rest}}}"#
            )
        };
        tell(line(
            5,
            "7",
            r#""what":"sung","song":"hush 1","by":"ear","notes":["hush 2"]"#,
        ))?;
        tell(line(
            5,
            "8",
            r#""what":"ignored","reason":"own","said":"hush 3""#,
        ))?;
        tell(line(6, "7", r#""what":"sung","song":"another's""#))?;
        let whose = Whose {
            room: RoomId(5),
            messages: Vec::new(),
            bot: None,
        };
        for (messages, texts) in [
            (&["7"][..], 1),
            (&["8", "7"], 2),
            (&["9", "8"], 1),
            (&["9"], 0),
        ] {
            let messages = messages.iter().map(|message| MessageId::new(*message));
            let of_messages = Whose {
                messages: messages.collect::<Result<_, _>>()?,
                ..whose.clone()
            };
            let kept = queue.kept_of(&of_messages, || {}).await?;
            ensure!(kept.texts == texts, "{of_messages:?}: {kept:?}");
        }
        let kept = queue.kept_of(&whose, || {}).await?;
        ensure!((kept.texts, kept.nobodys) == (2, 0), "{kept:?}");
        let purged = queue
            .purge(&whose, "asked for", SOON)
            .await?
            .context("a file can")?;
        ensure!(purged.texts == 2, "{purged:?}");
        ensure!(!bytes_of(&path, b"hush")?);
        for rest in [r#""sung""#, r#""ear""#, r#""own""#, "another's"] {
            ensure!(bytes_of(&path, rest.as_bytes())?, "{rest}");
        }
        let kept = queue.kept_of(&whose, || {}).await?;
        ensure!((kept.texts, kept.nobodys) == (0, 0), "{kept:?}");

        tell("no JSON".to_owned())?;
        tell(line(5, "7", r#""what":"sung""#).replace("room_id", "room"))?;
        let kept = queue.kept_of(&whose, || {}).await?;
        ensure!((kept.texts, kept.nobodys) == (0, 2), "{kept:?}");
        Ok(())
    })
}

#[test]
fn what_an_older_release_deleted_is_gone_from_the_files_bytes_after_a_purge() -> anyhow::Result<()>
{
    tell(Stage::new(Kind::Sqlite), async |stage: Stage| {
        let Location::Sqlite(path) = stage.settings()?.location else {
            anyhow::bail!("a file")
        };
        let queue = stage.queue().await?;
        for number in 0..50 {
            let event = Event {
                body: format!("a secret, {number}, {}", "and more ".repeat(100)).into(),
                ..an_event(number)
            };
            queue.publisher().archive(&event, "own").await?;
        }
        let older = Connection::open(&path)?;
        older.pragma_update(None, "secure_delete", "OFF")?;
        older.execute("DELETE FROM archive WHERE seq > 1", [])?;
        older.execute("DELETE FROM archive", [])?;
        ensure!(bytes_of(&path, b"a secret")?, "it is there, in free pages");
        let whose = Whose {
            room: RoomId(5),
            messages: Vec::new(),
            bot: None,
        };
        let hasty = queue.purge(&whose, "a test", Duration::ZERO).await?;
        let hasty = hasty.context("a file can")?;
        ensure!(
            hasty.not_rewritten.is_some(),
            "there was no time: {hasty:?}"
        );
        let purged = queue.purge(&whose, "a test", SOON).await?;
        let purged = purged.context("a file can")?;
        ensure!(
            purged.not_rewritten.is_none() && purged.journal_emptied,
            "{purged:?}"
        );
        ensure!(!bytes_of(&path, b"a secret")?);
        // Whoever has had the file open goes on with it.
        queue.publisher().publish(&an_event(60)).await?;
        archived_are(&queue, 1).await?;
        let jobs: i64 = older.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0))?;
        ensure!(jobs == 1);
        Ok(())
    })
}

#[test]
fn what_has_come_to_no_end_is_counted_and_ended_when_it_is_purged() -> anyhow::Result<()> {
    tell(Stage::new(Kind::Sqlite), async |stage: Stage| {
        let Location::Sqlite(path) = stage.settings()?.location else {
            anyhow::bail!("a file")
        };
        let queue = stage.queue().await?;
        let (lost, waits, ignored) = (an_event(1), an_event(2), an_event(3));
        queue.publisher().publish(&lost).await?;
        queue.publisher().publish(&waits).await?;
        queue.publisher().archive(&ignored, "own").await?;
        let file = Connection::open(&path)?;
        let id = lost.id.to_string();
        file.execute("DELETE FROM jobs WHERE id = ?1", [id])?;
        let whose = Whose {
            room: lost.room_id.context("it has a room")?,
            messages: Vec::new(),
            bot: None,
        };
        let kept = queue.kept_of(&whose, || {}).await?;
        ensure!(
            (kept.events, kept.unexplained, kept.waiting) == (2, 1, Some(1)),
            "{kept:?}"
        );
        let purged = queue.purge(&whose, "purged, says a test", SOON).await?;
        let purged = purged.context("a file can")?;
        ensure!((purged.events, purged.unexplained) == (2, 1), "{purged:?}");
        for (event, standing, why) in [
            (&lost, Standing::Dropped, Some("purged, says a test")),
            (&waits, Standing::Waiting, None),
            (&ignored, Standing::Ignored, Some("own")),
        ] {
            let stories = queue.stories(&Whom::Event(event.id), Reach::End).await?;
            let [story] = &stories[..] else {
                anyhow::bail!("one each: {stories:?}")
            };
            ensure!(
                story.standing == standing && story.why.as_deref() == why,
                "{story:?}"
            );
        }
        Ok(())
    })
}

/// Whether the file, or its journal, contains this.
pub(crate) fn bytes_of(path: &Path, secret: &[u8]) -> anyhow::Result<bool> {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-wal");
    for part in [path, Path::new(&journal)] {
        let bytes = std::fs::read(part).with_context(|| part.display().to_string())?;
        if bytes.windows(secret.len()).any(|window| window == secret) {
            return Ok(true);
        }
    }
    Ok(false)
}
