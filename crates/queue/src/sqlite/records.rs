//! What is kept beside the jobs: outcomes with their marks, the archive, dead letters.

use std::collections::VecDeque;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, named_params, params};
use uuid::Uuid;

use super::rows::{self, CONTENT};
use super::{LOOK_EVERY, PAGE, Store, StoreError};
use crate::Entry;
use crate::content::Content;
use crate::dead::DeadLetter;
use crate::event::{Event, EventId};
use crate::job::{Cause, Step};
use crate::outcome::Outcome;

pub(super) fn insert_outcome(connection: &Connection, outcome: &Outcome) -> rusqlite::Result<()> {
    let json = serde_json::to_string(outcome)
        .expect("an outcome has no map with keys that are not strings");
    connection
        .prepare_cached("INSERT INTO outcomes (at, id, outcome) VALUES (?1, ?2, ?3)")?
        .execute(params![
            outcome.at.as_millisecond(),
            outcome.id.to_string(),
            json
        ])?;
    Ok(())
}

/// Archives an event; one that is there already (it was replayed, or published twice) stays as it is.
pub(super) fn insert_archive(connection: &Connection, content: &Content) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO archive
               (id, bot, event_type, room_id, message_id, received_at, put_back_at, replay, body)
             VALUES (:id, :bot, :event_type, :room_id, :message_id, :received_at, :put_back_at, :replay, :body)",
        )?
        .execute(named_params! {
            ":id": content.id.to_string(),
            ":bot": content.bot.as_str(),
            ":event_type": content.event_type,
            ":room_id": content.room_id.map(|room| room.0.cast_signed()),
            ":message_id": content.message_id.as_ref().map(|message| message.as_str()),
            ":received_at": content.received_at.as_millisecond(),
            ":put_back_at": content.put_back_at.map(Timestamp::as_millisecond),
            ":replay": content.replay,
            ":body": content.body,
        })?;
    Ok(())
}

#[expect(
    clippy::too_many_arguments,
    reason = "one argument a column; a struct would name them all twice"
)]
pub(super) fn insert_dead(
    connection: &Connection,
    queue: &str,
    step: Step,
    cause: Cause,
    error: &str,
    attempts: u32,
    content: &Content,
    now: Timestamp,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO dead (queue, step, cause, error, buried_at, attempts, id, bot, event_type, room_id,
                               message_id, received_at, put_back_at, replay, body)
             VALUES (:queue, :step, :cause, :error, :buried_at, :attempts, :id, :bot, :event_type, :room_id,
                     :message_id, :received_at, :put_back_at, :replay, :body)",
        )?
        .execute(named_params! {
            ":queue": queue,
            ":step": step.as_str(),
            ":cause": cause.as_str(),
            ":error": error,
            ":buried_at": now.as_millisecond(),
            ":attempts": attempts,
            ":id": content.id.to_string(),
            ":bot": content.bot.as_str(),
            ":event_type": content.event_type,
            ":room_id": content.room_id.map(|room| room.0.cast_signed()),
            ":message_id": content.message_id.as_ref().map(|message| message.as_str()),
            ":received_at": content.received_at.as_millisecond(),
            ":put_back_at": content.put_back_at.map(Timestamp::as_millisecond),
            ":replay": content.replay,
            ":body": content.body,
        })?;
    Ok(())
}

impl Store {
    /// Writes an outcome some time soon.
    pub(crate) fn record(&self, outcome: Outcome) {
        let queued = self
            .inner
            .writer
            .write_later(move |connection| insert_outcome(connection, &outcome));
        if let Err(error) = queued {
            log::warn!("an outcome was not written: {error}");
        }
    }

    pub(crate) async fn mark(&self) -> Result<Uuid, StoreError> {
        let mark = Uuid::now_v7();
        self.write(move |connection| {
            connection
                .prepare_cached("INSERT INTO outcomes (at, mark) VALUES (?1, ?2)")?
                .execute(params![Timestamp::now().as_millisecond(), mark.to_string()])
        })
        .await?;
        Ok(mark)
    }

    pub(crate) fn follow(&self, since: Timestamp) -> OutcomesRead {
        OutcomesRead {
            store: self.clone(),
            position: Position::Since(since),
            page: VecDeque::new(),
        }
    }

    pub(crate) fn archived(&self, since: Timestamp) -> ArchiveRead {
        ArchiveRead {
            store: self.clone(),
            since,
            after: 0,
            page: VecDeque::new(),
        }
    }

    /// Dead letters, oldest first, at most `limit`.
    pub(crate) async fn dead(&self, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.list(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT step, cause, error, buried_at, attempts, {CONTENT} FROM dead ORDER BY seq LIMIT ?1"
            ))?;
            let rows = statement.query_map([limit], |row| {
                let content = rows::read_content(row, 5)?;
                Ok(DeadLetter {
                    id: content.id,
                    bot: content.bot,
                    event_type: content.event_type,
                    room_id: content.room_id,
                    message_id: content.message_id,
                    step: Step::from_name(&row.get::<_, String>(0)?).unwrap_or(Step::Receive),
                    cause: Cause::from_name(&row.get::<_, String>(1)?).unwrap_or(Cause::Malformed),
                    error: row.get(2)?,
                    attempts: row.get(4)?,
                    received_at: content.received_at,
                    buried_at: rows::time(row, 3)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// Puts a dead letter back where it was given up, aged from now. False: there is none of this id.
    pub(crate) async fn retry_dead(&self, id: EventId) -> Result<bool, StoreError> {
        self.write(move |connection| {
            let now = Timestamp::now();
            let found = connection
                .prepare_cached(&format!(
                    "SELECT seq, queue, {CONTENT} FROM dead WHERE id = ?1 ORDER BY seq LIMIT 1"
                ))?
                .query_row([id.to_string()], |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, String>(1)?,
                        rows::read_content(row, 2)?,
                    ))
                })
                .optional()?;
            let Some((seq, queue, content)) = found else {
                return Ok(false);
            };
            rows::insert_job(connection, &queue, &content.put_back(now), now)?;
            connection.execute("DELETE FROM dead WHERE seq = ?1", [seq])?;
            Ok(true)
        })
        .await
    }

    /// Removes a dead letter. False: there is none of this id.
    pub(crate) async fn drop_dead(&self, id: EventId) -> Result<bool, StoreError> {
        self.write(move |connection| {
            let dropped = connection.execute("DELETE FROM dead WHERE id = ?1", [id.to_string()])?;
            Ok(dropped > 0)
        })
        .await
    }
}

#[derive(Debug, Clone, Copy)]
enum Position {
    Since(Timestamp),
    After(i64),
}

/// Reads outcomes in the order in which they were written.
#[derive(Debug)]
pub(crate) struct OutcomesRead {
    store: Store,
    position: Position,
    page: VecDeque<Entry>,
}

impl OutcomesRead {
    pub(crate) async fn next(&mut self) -> Entry {
        let mut written = self.store.written();
        loop {
            if let Some(entry) = self.page.pop_front() {
                return entry;
            }
            written.mark_unchanged();
            match self.read_page().await {
                Ok(0) => {
                    // Woken by our own writes, or in time to see those of other processes.
                    let _ = tokio::time::timeout(LOOK_EVERY, written.changed()).await;
                }
                Ok(_) => {}
                Err(error) => {
                    log::warn!("outcomes cannot be read: {error}");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Reads the next page; returns how many rows there were, readable or not.
    async fn read_page(&mut self) -> Result<usize, StoreError> {
        let position = self.position;
        let rows = self
            .store
            .read(move |connection| {
                let (condition, value) = match position {
                    Position::Since(since) => ("at >= ?1", since.as_millisecond()),
                    Position::After(seq) => ("seq > ?1", seq),
                };
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT seq, mark, outcome FROM outcomes WHERE {condition} ORDER BY seq LIMIT {PAGE}"
                ))?;
                let rows = statement.query_map([value], |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, Option<String>>(1)?,
                        row.get::<_, Option<String>>(2)?,
                    ))
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        let count = rows.len();
        if let Some((seq, ..)) = rows.last() {
            self.position = Position::After(*seq);
        }
        self.page.extend(
            rows.into_iter()
                .filter_map(|(_, mark, outcome)| match mark {
                    Some(mark) => Some(Entry::Mark(mark.parse().ok()?)),
                    // A line of a newer release that this one cannot read says nothing to it.
                    None => Some(Entry::Outcome(serde_json::from_str(&outcome?).ok()?)),
                }),
        );
        Ok(count)
    }
}

/// Reads archived events, oldest first, up to the end as it is when that is reached.
#[derive(Debug)]
pub(crate) struct ArchiveRead {
    store: Store,
    since: Timestamp,
    after: i64,
    page: VecDeque<Event>,
}

impl ArchiveRead {
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, StoreError> {
        if let Some(event) = self.page.pop_front() {
            return Ok(Some(event));
        }
        let (since, after) = (self.since.as_millisecond(), self.after);
        let rows = self
            .store
            .list(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT seq, {CONTENT} FROM archive WHERE seq > ?1 AND received_at >= ?2 ORDER BY seq LIMIT {PAGE}"
                ))?;
                let rows = statement.query_map([after, since], |row| {
                    Ok((row.get::<_, i64>(0)?, rows::read_content(row, 1)?.into_event()))
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        if let Some((seq, _)) = rows.last() {
            self.after = *seq;
        }
        self.page.extend(rows.into_iter().map(|(_, event)| event));
        Ok(self.page.pop_front())
    }
}
