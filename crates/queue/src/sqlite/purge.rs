//! Removing what a file keeps of a room or a message; see [`crate::purge`].

use std::collections::HashSet;
use std::time::Duration;

use chickwork_chatwork::id::{MessageId, RoomId};
use rusqlite::params;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{PAGE, Store, StoreError};
use crate::event::{BotName, EventId};
use crate::outcome::{Outcome, WORDLESS};
use crate::purge::{Purged, Whose};

/// How many archived events are looked through in one transaction.
const WINDOW: i64 = 5_000;
/// How long it is tried to empty the journal.
const JOURNAL_LIMIT: Duration = Duration::from_secs(20);

impl Store {
    pub(crate) async fn purge(&self, whose: Whose) -> Result<Purged, StoreError> {
        let events = self.purge_archive(&whose).await?;
        let texts = self.purge_outcomes(&whose).await?;
        let until = Instant::now() + JOURNAL_LIMIT;
        let mut journal_emptied = self.empty_journal().await?;
        while !journal_emptied && Instant::now() < until {
            journal_emptied = self.empty_journal().await?;
        }
        Ok(Purged {
            events,
            texts,
            journal_emptied,
        })
    }

    async fn purge_archive(&self, whose: &Whose) -> Result<u64, StoreError> {
        let (room, message) = (whose.room.0.cast_signed(), whose.message.clone());
        let bot = whose.bot.clone();
        let (mut purged, mut after) = (0, 0);
        loop {
            let (message, bot) = (message.clone(), bot.clone());
            let (removed, end) = self
                .write(move |connection| {
                    let end: Option<i64> = connection
                        .prepare_cached(
                            "SELECT max(seq) FROM
                               (SELECT seq FROM archive WHERE seq > ?1 ORDER BY seq LIMIT ?2)",
                        )?
                        .query_row([after, WINDOW], |row| row.get(0))?;
                    let Some(end) = end else {
                        return Ok((0, None));
                    };
                    let removed = connection
                        .prepare_cached(
                            "DELETE FROM archive WHERE seq > ?1 AND seq <= ?2 AND room_id = ?3
                               AND (?4 IS NULL OR message_id = ?4) AND (?5 IS NULL OR bot = ?5)
                               AND id NOT IN (SELECT id FROM jobs)",
                        )?
                        .execute(params![
                            after,
                            end,
                            room,
                            message.as_ref().map(MessageId::as_str),
                            bot.as_ref().map(|bot| bot.as_str()),
                        ])?;
                    Ok((removed, Some(end)))
                })
                .await?;
            purged += removed as u64;
            match end {
                Some(end) => after = end,
                None => return Ok(purged),
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
    #[expect(
        clippy::type_complexity,
        reason = "it is a page of rows, and used here only"
    )]
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
    Outcome(Outcome, &'a [u8]),
    /// It is of a newer release, but it says what it is about as all of them do.
    Unread(Map<String, Value>),
    /// It may be about anything.
    Nobody,
}

impl<'a> Told<'a> {
    fn of(line: &'a [u8]) -> Self {
        if let Ok(outcome) = serde_json::from_slice(line) {
            return Self::Outcome(outcome, line);
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
