//! Lists and stories from a file. Each page is read in one transaction: an event, what became of it
//! and whether it waits belong together.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Row, params};

use super::rows::{self, CONTENT};
use super::{Store, StoreError, spool};
use crate::event::{Event, EventId};
use crate::events::{Archived, Choice, Found, Page, Waits, Whom};
use crate::outcome::Outcome;

/// So many events are looked at in one transaction: some milliseconds.
const LOOKED_AT: usize = 5_000;
/// Whereupon so many at most are taken: what became of each is read one by one.
const TAKEN: usize = 500;
/// A message is looked for among what was received this long before and after it was sent, as its id
/// seems to tell, before everything is looked through.
const AROUND: SignedDuration = SignedDuration::from_hours(24);

impl Store {
    pub(crate) fn event_pages(&self, choice: Arc<Choice>) -> EventPages {
        let begins = choice.begins().map_or(i64::MIN, Timestamp::as_millisecond);
        let until = choice.until.map_or(i64::MAX, Timestamp::as_millisecond);
        EventPages {
            store: self.clone(),
            choice,
            begins,
            before: Some((until, i64::MAX)),
            waiting: Waiting::default(),
        }
    }

    /// The events that have a job or are in a spool.
    pub(crate) async fn waiting_anywhere(&self) -> Result<HashSet<EventId>, StoreError> {
        self.list(|connection| {
            let mut waiting = Waiting::default();
            waiting.read_on(connection)?;
            Ok(waiting.ids)
        })
        .await
    }

    /// What is kept of the events so named.
    pub(crate) async fn find(&self, whom: Whom) -> Result<Found, StoreError> {
        self.list(move |connection| {
            let transaction = connection.unchecked_transaction()?;
            find(&transaction, &whom)
        })
        .await
    }
}

/// The archive, page by page, newest first.
#[derive(Debug)]
pub(crate) struct EventPages {
    store: Store,
    choice: Arc<Choice>,
    /// Nothing older is chosen; in milliseconds.
    begins: i64,
    /// What is older than this: time of receipt and row. `None`: nothing is.
    before: Option<(i64, i64)>,
    waiting: Waiting,
}

/// What has a job, or waits in a spool for the broker. For each page only what has been added is read:
/// all of it, once a page, would be the square of a long queue. What has come to an end since it was
/// read has outcomes that say so.
#[derive(Debug, Default)]
struct Waiting {
    ids: HashSet<EventId>,
    /// The last rows that were read.
    last_job: i64,
    last_spooled: i64,
}

impl Waiting {
    fn read_on(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "SELECT seq, id FROM jobs WHERE seq > ?1 ORDER BY seq";
        self.last_job = self.read_table(connection, sql, self.last_job)?;
        if is_spool(connection)? {
            let sql = "SELECT seq, id FROM spooled WHERE seq > ?1 ORDER BY seq";
            self.last_spooled = self.read_table(connection, sql, self.last_spooled)?;
        }
        Ok(())
    }

    fn read_table(
        &mut self,
        connection: &Connection,
        sql: &str,
        mut last: i64,
    ) -> rusqlite::Result<i64> {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([last])?;
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            self.ids.extend(event_id(row, 1)?);
        }
        Ok(last)
    }
}

impl EventPages {
    pub(crate) async fn next(&mut self) -> Result<Option<Page>, StoreError> {
        let Some(before) = self.before else {
            return Ok(None);
        };
        let (choice, begins) = (self.choice.clone(), self.begins);
        let mut waiting = std::mem::take(&mut self.waiting);
        let (page, before, waiting) = self
            .store
            .list(move |connection| {
                let transaction = connection.unchecked_transaction()?;
                let (page, before) = page(&transaction, &choice, begins, before, &mut waiting)?;
                Ok((page, before, waiting))
            })
            .await?;
        self.before = before;
        self.waiting = waiting;
        Ok(Some(page))
    }
}

/// The next page, and before what to go on.
fn page(
    connection: &Connection,
    choice: &Choice,
    begins: i64,
    before: (i64, i64),
    waiting: &mut Waiting,
) -> rusqlite::Result<(Page, Option<(i64, i64)>)> {
    let mut page = Page {
        events: Vec::new(),
        beside: None,
        waits: Waits::These(HashSet::new()),
        looked_through: 0,
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT received_at, seq, {CONTENT} FROM archive INDEXED BY archive_received
         WHERE received_at >= ?1 AND (received_at, seq) < (?2, ?3)
         ORDER BY received_at DESC, seq DESC LIMIT {LOOKED_AT}"
    ))?;
    let mut rows = statement.query(params![begins, before.0, before.1])?;
    let mut last = None;
    while page.events.len() < TAKEN
        && let Some(row) = rows.next()?
    {
        page.looked_through += 1;
        last = Some((row.get(0)?, row.get(1)?));
        if may_be_chosen(choice, row)?
            && let Ok(content) = rows::read_content(row, 2)
        {
            let event = content.into_event();
            if choice.takes(&event) {
                page.events.push(Archived {
                    event,
                    outcomes: Vec::new(),
                });
            }
        }
    }
    drop(rows);
    for archived in &mut page.events {
        archived.outcomes = outcomes(connection, archived.event.id)?;
    }
    if !page.events.is_empty() {
        waiting.read_on(connection)?;
        let ids = page.events.iter().map(|archived| archived.event.id);
        page.waits = Waits::These(ids.filter(|id| waiting.ids.contains(id)).collect());
    }
    Ok((page, last))
}

/// Whether the columns of a row fit the choice, so that it is worth its bytes.
fn may_be_chosen(choice: &Choice, row: &Row<'_>) -> rusqlite::Result<bool> {
    let is = |column: usize, wanted: Option<&str>| -> rusqlite::Result<bool> {
        let Some(wanted) = wanted else {
            return Ok(true);
        };
        Ok(row.get_ref(column)?.as_bytes_or_null().ok().flatten() == Some(wanted.as_bytes()))
    };
    let is_room = match choice.room {
        Some(room) => row.get_ref(5)?.as_i64_or_null().ok().flatten() == Some(room.0.cast_signed()),
        None => true,
    };
    let message = choice.message.as_ref().map(|message| message.as_str());
    Ok(is_room && is(3, choice.bot.as_ref().map(|bot| bot.as_str()))? && is(6, message)?)
}

/// What became of an event, in the order in which it was written. A line of a newer release that this
/// one cannot read says nothing to it.
pub(super) fn outcomes(connection: &Connection, id: EventId) -> rusqlite::Result<Vec<Outcome>> {
    let mut statement =
        connection.prepare_cached("SELECT outcome FROM outcomes WHERE id = ?1 ORDER BY seq")?;
    let mut rows = statement.query([id.to_string()])?;
    let mut outcomes = Vec::new();
    while let Some(row) = rows.next()? {
        outcomes.extend(read_outcome(row, 0)?);
    }
    Ok(outcomes)
}

fn read_outcome(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Outcome>> {
    let line = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(line.and_then(|line| serde_json::from_slice(line).ok()))
}

fn is_spool(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?
        .exists([spool::TABLE])
}

/// The ids of events that a statement finds.
pub(super) fn ids(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<HashSet<EventId>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut ids = HashSet::new();
    while let Some(row) = rows.next()? {
        ids.extend(event_id(row, 0)?);
    }
    Ok(ids)
}

/// What is no id of ours is no event.
fn event_id(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<EventId>> {
    let id = row.get_ref(column)?.as_str_or_null().ok().flatten();
    Ok(id.and_then(|id| id.parse().ok()))
}

fn find(connection: &Connection, whom: &Whom) -> rusqlite::Result<Found> {
    let named = match whom {
        Whom::Event(id) => HashSet::from([*id]),
        Whom::Message { .. } => {
            let mut named = HashSet::new();
            if let Some(sent_at) = whom.time() {
                let from = sent_at.saturating_sub(AROUND).unwrap_or(Timestamp::MIN);
                let to = sent_at.saturating_add(AROUND).unwrap_or(Timestamp::MAX);
                named = about_message(connection, whom, (from, to))?;
            }
            if named.is_empty() {
                named = about_message(connection, whom, (Timestamp::MIN, Timestamp::MAX))?;
            }
            named
        }
    };
    let mut found = Found::default();
    for id in named {
        let outcomes = outcomes(connection, id)?;
        found.outcomes.extend(
            outcomes
                .into_iter()
                .filter(|outcome| whom.is_outcome(outcome)),
        );
        found.events.extend(event(connection, id)?);
    }
    // By their own words: an event's id may have been used for something else.
    found.events.retain(|event| whom.is_event(event));
    Ok(found)
}

/// An event from the archive or, where there is none, from what waits.
fn event(connection: &Connection, id: EventId) -> rusqlite::Result<Option<Event>> {
    for from in ["archive WHERE", "jobs WHERE queue = 'ask' AND"] {
        let sql = format!("SELECT {CONTENT} FROM {from} id = ?1 ORDER BY seq LIMIT 1");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([id.to_string()])?;
        if let Some(row) = rows.next()?
            && let Ok(content) = rows::read_content(row, 0)
        {
            return Ok(Some(content.into_event()));
        }
    }
    Ok(None)
}

/// The events about a message, by what was received or written in between.
fn about_message(
    connection: &Connection,
    whom: &Whom,
    (from, to): (Timestamp, Timestamp),
) -> rusqlite::Result<HashSet<EventId>> {
    let Whom::Message { message, .. } = whom else {
        return Ok(HashSet::new());
    };
    let between = (from.as_millisecond(), to.as_millisecond());
    let mut named = HashSet::new();
    for sql in [
        "SELECT id FROM archive INDEXED BY archive_received
         WHERE received_at BETWEEN ?1 AND ?2 AND message_id = ?3",
        "SELECT id FROM jobs WHERE received_at BETWEEN ?1 AND ?2 AND message_id = ?3",
        "SELECT id FROM dead WHERE received_at BETWEEN ?1 AND ?2 AND message_id = ?3",
    ] {
        let parameters = params![between.0, between.1, message.as_str()];
        named.extend(ids(connection, sql, parameters)?);
    }
    if !named.is_empty() {
        return Ok(named);
    }
    // Forgotten, or never archived: only what became of it is left, which has its message inside.
    let written = format!("\"message_id\":\"{message}\"");
    let sql = "SELECT id FROM outcomes INDEXED BY outcomes_at
               WHERE at BETWEEN ?1 AND ?2 AND instr(outcome, ?3) > 0";
    ids(connection, sql, params![between.0, between.1, written])
}
