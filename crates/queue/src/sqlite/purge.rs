//! Removing what a file keeps of a room or a message; see [`crate::purge`].

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;
use rusqlite::{Connection, InterruptHandle, OpenFlags, ToSql, params};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::rows::{self, CONTENT};
use super::{BUSY_LIMIT, PAGE, Store, StoreError, events, records};
use crate::content::Content;
use crate::course::{Course, Reasons, State};
use crate::event::{BotName, EventId};
use crate::outcome::{Outcome, WORDLESS, What};
use crate::purge::{Purged, Whose};

/// How many archived events are looked through in one transaction.
const WINDOW: i64 = 5_000;
/// The archived events that are to be removed, of those rows.
const THESE: &str = "seq > ?1 AND seq <= ?2 AND room_id = ?3
    AND (?4 IS NULL OR message_id IN (SELECT value FROM json_each(?4))) AND (?5 IS NULL OR bot = ?5)
    AND id NOT IN (SELECT id FROM jobs)";
/// How long it is tried to empty the journal.
const JOURNAL_LIMIT: Duration = Duration::from_secs(20);

impl Store {
    pub(crate) async fn purge(
        &self,
        whose: Whose,
        reason: String,
        rewriting: Duration,
    ) -> Result<Purged, StoreError> {
        let (events, unexplained) = self.purge_archive(&whose, reason).await?;
        let texts = self.purge_outcomes(&whose).await?;
        let not_rewritten = self.rewrite(rewriting).await?.err();
        let until = Instant::now() + JOURNAL_LIMIT;
        let mut journal_emptied = self.empty_journal().await?;
        while !journal_emptied && Instant::now() < until {
            journal_emptied = self.empty_journal().await?;
        }
        Ok(Purged {
            events,
            texts,
            unexplained,
            journal_emptied,
            not_rewritten,
        })
    }

    /// Writes the file anew, within this time: what was deleted without being overwritten, as older
    /// releases did, lies in its free pages and between its rows, and nobody could find out where. Tells
    /// why it was not done, if so. As long as it takes nobody else can write to the file.
    async fn rewrite(&self, limit: Duration) -> Result<Result<(), String>, StoreError> {
        if limit.is_zero() {
            return Ok(Err("no time was given for it".to_owned()));
        }
        let path = self.inner.path.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let flags = OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_CREATE);
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_LIMIT)?;
            Ok::<_, rusqlite::Error>(connection)
        });
        let connection = opened.await.map_err(|_| StoreError::Closed)??;
        let too_late = Arc::new(AtomicBool::new(false));
        let interrupted = Interrupted(connection.get_interrupt_handle(), too_late.clone());
        let rewriting = tokio::task::spawn_blocking(move || {
            // What has not begun cannot be interrupted.
            if too_late.load(Ordering::Relaxed) {
                return Ok(());
            }
            connection.execute_batch("VACUUM")
        });
        match tokio::time::timeout(limit, rewriting).await {
            Ok(rewritten) => {
                let rewritten = rewritten.map_err(|_| StoreError::Closed)?;
                Ok(rewritten.map_err(|error| error.to_string()))
            }
            // It is undone, which nobody has to wait for.
            Err(_) => {
                drop(interrupted);
                Ok(Err(format!("it takes longer than {} s", limit.as_secs())))
            }
        }
    }

    /// Removes archived events, and tells how many, and how many of them had come to no end. Nobody could
    /// put those back in any more, or would even know that they came, so they are given an end.
    async fn purge_archive(&self, whose: &Whose, reason: String) -> Result<(u64, u64), StoreError> {
        let room = whose.room.0.cast_signed();
        let messages = whose.messages.iter().map(MessageId::as_str);
        let messages: Vec<&str> = messages.collect();
        // A list of parameters has a fixed length, and this one has not.
        let messages = (!messages.is_empty()).then(|| Value::from(messages).to_string());
        let bot = whose.bot.clone();
        let (mut purged, mut unexplained, mut after) = (0, 0, 0);
        loop {
            let (messages, bot, reason) = (messages.clone(), bot.clone(), reason.clone());
            let (removed, ended, end) = self
                .write(move |connection| {
                    let end: Option<i64> = connection
                        .prepare_cached(
                            "SELECT max(seq) FROM
                               (SELECT seq FROM archive WHERE seq > ?1 ORDER BY seq LIMIT ?2)",
                        )?
                        .query_row([after, WINDOW], |row| row.get(0))?;
                    let Some(end) = end else {
                        return Ok((0, 0, None));
                    };
                    let these = params![
                        after,
                        end,
                        room,
                        messages,
                        bot.as_ref().map(|bot| bot.as_str()),
                    ];
                    let lost = without_end(connection, these)?;
                    let now = Timestamp::now();
                    for content in &lost {
                        let reason = reason.clone();
                        let dropped = content.outcome(What::Dropped { reason }, now);
                        records::insert_outcome(connection, &dropped)?;
                    }
                    let removed = connection
                        .prepare_cached(&format!("DELETE FROM archive WHERE {THESE}"))?
                        .execute(these)?;
                    Ok((removed, lost.len(), Some(end)))
                })
                .await?;
            purged += removed as u64;
            unexplained += ended as u64;
            match end {
                Some(end) => after = end,
                None => return Ok((purged, unexplained)),
            }
        }
    }

    async fn purge_outcomes(&self, whose: &Whose) -> Result<u64, StoreError> {
        let waiting = self.waiting().await?;
        let (mut purged, mut after) = (0, 0);
        while let Some((last, lines)) = self.lines(after).await? {
            after = last;
            let wordless: Vec<_> = lines
                .into_iter()
                .filter_map(|(seq, line)| {
                    let line = Told::of(&line).without_words(whose, &waiting)?;
                    Some((seq, line))
                })
                .collect();
            if wordless.is_empty() {
                continue;
            }
            purged += wordless.len() as u64;
            self.write(move |connection| {
                let mut update =
                    connection.prepare_cached("UPDATE outcomes SET outcome = ?2 WHERE seq = ?1")?;
                for (seq, line) in &wordless {
                    update.execute(params![seq, line])?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(purged)
    }

    /// What there is among the outcomes that this release cannot read.
    pub(crate) async fn unread_of(&self, whose: &Whose) -> Result<Unread, StoreError> {
        let waiting = self.waiting().await?;
        let (mut unread, mut after) = (Unread::default(), 0);
        while let Some((last, lines)) = self.lines(after).await? {
            after = last;
            for (_, line) in lines {
                match Told::of(&line) {
                    Told::Outcome(outcome, _) if outcome.what.has_words() => {}
                    Told::Nobody => unread.nobodys += 1,
                    told => {
                        unread.texts += u64::from(told.without_words(whose, &waiting).is_some());
                    }
                }
            }
        }
        Ok(unread)
    }

    /// The next lines of the outcomes, as they are, without marks; and the row of the last. `None`: there
    /// are no more.
    async fn lines(&self, after: i64) -> Result<Option<(i64, Vec<(i64, Vec<u8>)>)>, StoreError> {
        let page = self
            .list(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT seq, outcome FROM outcomes
                     WHERE seq > ?1 AND mark IS NULL AND outcome IS NOT NULL ORDER BY seq LIMIT {PAGE}"
                ))?;
                let rows = statement.query_map([after], |row| {
                    // What is not UTF-8 is nobody's, and no reason to give up.
                    Ok((row.get(0)?, row.get_ref(1)?.as_bytes()?.to_vec()))
                })?;
                rows.collect::<rusqlite::Result<Vec<(i64, Vec<u8>)>>>()
            })
            .await?;
        Ok(page.last().map(|(last, _)| *last).map(|last| (last, page)))
    }
}

/// Stops what a connection does, or says that it is too late to begin, when dropped.
struct Interrupted(InterruptHandle, Arc<AtomicBool>);

impl Drop for Interrupted {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        self.0.interrupt();
    }
}

/// Those of the archived events, in a window of rows, that have come to no end and wait nowhere.
fn without_end(connection: &Connection, these: &[&dyn ToSql]) -> rusqlite::Result<Vec<Content>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {CONTENT} FROM archive WHERE {THESE}"))?;
    let mut rows = statement.query(these)?;
    let mut lost = Vec::new();
    let mut reasons = Reasons::default();
    while let Some(row) = rows.next()? {
        // What cannot be read is no event.
        let Ok(content) = rows::read_content(row, 0) else {
            continue;
        };
        let mut course = Course::default();
        for outcome in events::outcomes(connection, content.id)? {
            course.apply(&outcome, &mut reasons);
        }
        if course.state(None) == State::Open {
            lost.push(content);
        }
    }
    if !lost.is_empty() {
        let dead = events::ids(connection, "SELECT id FROM dead", [])?;
        lost.retain(|content| !dead.contains(&content.id));
    }
    Ok(lost)
}

/// What this release cannot read.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Lines about what is looked for that may have words where this release knows none.
    pub(crate) texts: u64,
    /// Lines of which cannot be told what they are about.
    pub(crate) nobodys: u64,
}

/// A line of the outcomes.
enum Told<'a> {
    /// With the line itself, in which a newer release may say more.
    Outcome(Box<Outcome>, &'a [u8]),
    /// It is of a newer release, but it says what it is about as all of them do.
    Unread(Map<String, Value>),
    /// It may be about anything.
    Nobody,
}

impl<'a> Told<'a> {
    fn of(line: &'a [u8]) -> Self {
        if let Ok(outcome) = serde_json::from_slice(line) {
            return Self::Outcome(Box::new(outcome), line);
        }
        match serde_json::from_slice(line) {
            Ok(Value::Object(fields)) if About::of(&fields).is_some() => Self::Unread(fields),
            _ => Self::Nobody,
        }
    }

    /// The line without words, if it is about this and has some. All that belongs to what waits is left.
    fn without_words(self, whose: &Whose, waiting: &HashSet<EventId>) -> Option<String> {
        let is_theirs = |bot: &BotName, room, message: Option<&MessageId>, id: &EventId| {
            whose.is_of(bot, room, message) && !waiting.contains(id)
        };
        match self {
            Self::Outcome(outcome, line) => {
                let outcome = *outcome;
                let message = outcome.message_id.as_ref();
                let is_theirs = is_theirs(&outcome.bot, outcome.room_id, message, &outcome.id);
                if !is_theirs {
                    return None;
                }
                let had_words = outcome.what.has_words();
                let what = outcome.what.without_words();
                let without = serde_json::to_value(&Outcome { what, ..outcome }).ok()?;
                let all: Map<String, Value> = serde_json::from_slice(line).ok()?;
                let says_more = all.keys().any(|name| without.get(name).is_none());
                (had_words || says_more).then(|| without.to_string())
            }
            Self::Unread(mut fields) => {
                let about = About::of(&fields)?;
                let message = about.message_id.as_ref();
                if !is_theirs(&about.bot, about.room_id, message, &about.id) {
                    return None;
                }
                let all = fields.len();
                fields.retain(|name, value| {
                    let is_simple = !value.is_object() && !value.is_array();
                    is_simple && WORDLESS.contains(&name.as_str())
                });
                (fields.len() < all).then(|| Value::Object(fields).to_string())
            }
            Self::Nobody => None,
        }
    }
}

/// What every outcome says, of whichever release.
#[derive(Deserialize)]
struct About {
    id: EventId,
    bot: BotName,
    room_id: Option<RoomId>,
    message_id: Option<MessageId>,
}

impl About {
    fn of(fields: &Map<String, Value>) -> Option<Self> {
        // A line that leaves the room out would be about none.
        let says_where = fields.contains_key("room_id") && fields.contains_key("message_id");
        let about = || Self::deserialize(fields).ok();
        says_where.then(about)?
    }
}
