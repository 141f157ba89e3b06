//! Dead letters in the file. Each is taken out in a transaction of its own, together with the job
//! that it becomes again and what the outcomes say of it.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, ToSql};

use super::rows::{self, CONTENT};
use super::{PAGE, Store, StoreError, records};
use crate::content::Content;
use crate::dead::{DeadLetter, Held, LetterId, Verdict};
use crate::job::{Cause, Step};

#[expect(
    clippy::too_many_arguments,
    reason = "one argument a column; a struct would name them all once more"
)]
pub(super) fn insert(
    connection: &Connection,
    queue: &str,
    step: Step,
    cause: Cause,
    error: &str,
    attempts: u32,
    content: &Content,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let own: [(&str, &dyn ToSql); 6] = [
        ("queue", &queue),
        ("step", &step.as_str()),
        ("cause", &cause.as_str()),
        ("error", &error),
        ("buried_at", &now.as_millisecond()),
        ("attempts", &attempts),
    ];
    rows::insert(connection, "INSERT INTO dead", &own, content)
}

/// The row of a letter: its sequence number, which is never used again.
fn seq(letter: &LetterId) -> Option<i64> {
    letter.name.parse().ok()
}

impl Store {
    /// Reads the dead letters that are there now.
    pub(crate) async fn dead(&self) -> Result<DeadRead, StoreError> {
        let last = self
            .list(|connection| {
                connection.query_row("SELECT coalesce(max(seq), 0) FROM dead", [], |row| {
                    row.get(0)
                })
            })
            .await?;
        Ok(DeadRead {
            store: self.clone(),
            after: 0,
            last,
            page: VecDeque::new(),
        })
    }

    pub(crate) async fn held(&self, letter: &DeadLetter) -> Result<Option<Held>, StoreError> {
        let seq = seq(&letter.letter);
        self.list(move |connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT queue LIKE 'post.%', {CONTENT} FROM dead WHERE seq = ?1"
                ))?
                .query_row([seq], |row| {
                    let content = rows::read_content(row, 1)?;
                    Ok(content.into_held(row.get(0)?))
                })
                .optional()
        })
        .await
    }

    pub(crate) fn take_dead(&self, letters: Vec<DeadLetter>, verdict: Verdict) -> DeadTaking {
        DeadTaking {
            store: self.clone(),
            left: letters.into(),
            verdict: Arc::new(verdict),
        }
    }
}

/// Reads dead letters in the order in which they were buried.
#[derive(Debug)]
pub(crate) struct DeadRead {
    store: Store,
    after: i64,
    last: i64,
    page: VecDeque<DeadLetter>,
}

impl DeadRead {
    pub(crate) async fn next(&mut self) -> Result<Option<DeadLetter>, StoreError> {
        if let Some(letter) = self.page.pop_front() {
            return Ok(Some(letter));
        }
        let (after, last) = (self.after, self.last);
        let rows = self
            .store
            .list(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT seq, step, cause, error, buried_at, attempts, {CONTENT} FROM dead
                     WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT {PAGE}"
                ))?;
                let rows =
                    statement.query_map([after, last], |row| Ok((row.get(0)?, letter(row)?)))?;
                rows.collect::<rusqlite::Result<Vec<(i64, DeadLetter)>>>()
            })
            .await?;
        if let Some((seq, _)) = rows.last() {
            self.after = *seq;
        }
        self.page.extend(rows.into_iter().map(|(_, letter)| letter));
        Ok(self.page.pop_front())
    }
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let content = rows::read_content(row, 6)?;
    let text = |column| row.get::<_, String>(column);
    Ok(DeadLetter {
        letter: LetterId {
            name: row.get::<_, i64>(0)?.to_string(),
            offset: None,
        },
        id: content.id,
        bot: content.bot,
        event_type: content.event_type,
        room_id: content.room_id,
        message_id: content.message_id,
        step: Step::from_name(&text(1)?).unwrap_or(Step::Receive),
        cause: Cause::from_name(&text(2)?).unwrap_or(Cause::Malformed),
        error: text(3)?,
        attempts: row.get(5)?,
        received_at: content.received_at,
        buried_at: rows::time(row, 4)?,
    })
}

/// Takes dead letters out.
#[derive(Debug)]
pub(crate) struct DeadTaking {
    store: Store,
    left: VecDeque<DeadLetter>,
    verdict: Arc<Verdict>,
}

impl DeadTaking {
    pub(crate) async fn next(&mut self) -> Result<Option<DeadLetter>, StoreError> {
        self.store.refuse_spool().await?;
        while let Some(letter) = self.left.front() {
            let (seq, verdict) = (seq(&letter.letter), self.verdict.clone());
            let taken = self
                .store
                .write(move |connection| take(connection, seq, &verdict, Timestamp::now()))
                .await?;
            let letter = self.left.pop_front();
            if taken {
                return Ok(letter);
            }
        }
        Ok(None)
    }
}

/// False: it is not there any more.
fn take(
    connection: &Connection,
    seq: Option<i64>,
    verdict: &Verdict,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT queue, buried_at, {CONTENT} FROM dead WHERE seq = ?1"
        ))?
        .query_row([seq], |row| {
            let (queue, buried_at) = (row.get::<_, String>(0)?, rows::time(row, 1)?);
            Ok((queue, buried_at, rows::read_content(row, 2)?))
        })
        .optional()?;
    let Some((queue, buried_at, content)) = found else {
        return Ok(false);
    };
    for outcome in content.taken(verdict, buried_at, now) {
        records::insert_outcome(connection, &outcome)?;
    }
    if let Verdict::Retry { .. } = verdict {
        rows::insert_job(connection, &queue, &content.put_back(now), now)?;
    }
    connection
        .prepare_cached("DELETE FROM dead WHERE seq = ?1")?
        .execute([seq])?;
    Ok(true)
}
