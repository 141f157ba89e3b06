//! What is kept beside the jobs: outcomes with their marks, and the archive.

use std::collections::VecDeque;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::rows::{self, CONTENT};
use super::{LOOK_EVERY, PAGE, Store, StoreError};
use crate::Entry;
use crate::content::Content;
use crate::event::Event;
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
    rows::insert(connection, "INSERT OR IGNORE INTO archive", &[], content)
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

    pub(crate) fn follow(&self, since: Timestamp) -> OutcomesFollow {
        OutcomesFollow {
            store: self.clone(),
            position: Position::Since(since),
            page: VecDeque::new(),
        }
    }

    pub(crate) fn outcomes(&self, since: Timestamp) -> OutcomesRead {
        OutcomesRead {
            store: self.clone(),
            position: Position::Since(since),
            end: None,
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
}

#[derive(Debug, Clone, Copy)]
enum Position {
    Since(Timestamp),
    After(i64),
}

/// Reads outcomes in the order in which they were written, and waits for more.
#[derive(Debug)]
pub(crate) struct OutcomesFollow {
    store: Store,
    position: Position,
    page: VecDeque<Entry>,
}

impl OutcomesFollow {
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
        let lines = self
            .store
            .read(move |connection| lines(connection, position, i64::MAX))
            .await?;
        if let Some(last) = lines.last() {
            self.position = Position::After(last.seq);
        }
        let count = lines.len();
        self.page.extend(lines.into_iter().filter_map(Line::entry));
        Ok(count)
    }
}

/// Reads outcomes in the order in which they were written, up to the end that there is at first.
#[derive(Debug)]
pub(crate) struct OutcomesRead {
    store: Store,
    position: Position,
    /// The last row to be read; not known before the first page.
    end: Option<i64>,
    page: VecDeque<Outcome>,
}

impl OutcomesRead {
    pub(crate) async fn next(&mut self) -> Result<Option<Outcome>, StoreError> {
        loop {
            if let Some(outcome) = self.page.pop_front() {
                return Ok(Some(outcome));
            }
            let (position, known) = (self.position, self.end);
            let (end, lines) = self
                .store
                .list(move |connection| {
                    let end = match known {
                        Some(end) => end,
                        None => last_outcome(connection)?,
                    };
                    Ok((end, lines(connection, position, end)?))
                })
                .await?;
            self.end = Some(end);
            let Some(last) = lines.last() else {
                return Ok(None);
            };
            self.position = Position::After(last.seq);
            self.page
                .extend(lines.into_iter().filter_map(|line| match line.entry()? {
                    Entry::Outcome(outcome) => Some(outcome),
                    Entry::Mark(_) => None,
                }));
        }
    }
}

/// A row of the outcomes.
struct Line {
    seq: i64,
    mark: Option<String>,
    outcome: Option<String>,
}

impl Line {
    /// `None`: it is of a newer release that this one cannot read, and says nothing to it.
    fn entry(self) -> Option<Entry> {
        match self.mark {
            Some(mark) => Some(Entry::Mark(mark.parse().ok()?)),
            None => Some(Entry::Outcome(serde_json::from_str(&self.outcome?).ok()?)),
        }
    }
}

/// The next page of outcomes, up to and including this row.
fn lines(connection: &Connection, position: Position, end: i64) -> rusqlite::Result<Vec<Line>> {
    let (condition, value) = match position {
        Position::Since(since) => (
            // By the index: left alone, SQLite walks through all that is older.
            "seq >= (SELECT min(seq) FROM outcomes INDEXED BY outcomes_at WHERE at >= ?1)",
            since.as_millisecond(),
        ),
        Position::After(seq) => ("seq > ?1", seq),
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT seq, mark, outcome FROM outcomes WHERE {condition} AND seq <= ?2 ORDER BY seq LIMIT {PAGE}"
    ))?;
    let rows = statement.query_map([value, end], |row| {
        Ok(Line {
            seq: row.get(0)?,
            mark: text(row, 1)?,
            outcome: text(row, 2)?,
        })
    })?;
    rows.collect()
}

/// A text column, as if there were none where it is not UTF-8: what nobody can read keeps nobody from
/// reading on.
fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()))
}

fn last_outcome(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(seq), 0) FROM outcomes", [], |row| {
        row.get(0)
    })
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
