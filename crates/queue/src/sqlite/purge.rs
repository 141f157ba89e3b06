//! Removing what a file keeps of a room or a message; see [`crate::purge`].

use std::time::Duration;

use chickwork_chatwork::id::MessageId;
use rusqlite::params;
use tokio::time::Instant;

use super::{PAGE, Store, StoreError};
use crate::outcome::Outcome;
use crate::purge::{Purged, Whose, without_words};

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
        loop {
            let page = self
                .list(move |connection| {
                    let mut statement = connection.prepare_cached(&format!(
                        "SELECT seq, outcome FROM outcomes WHERE seq > ?1 ORDER BY seq LIMIT {PAGE}"
                    ))?;
                    let rows = statement.query_map([after], |row| {
                        Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))
                    })?;
                    rows.collect::<rusqlite::Result<Vec<_>>>()
                })
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(purged);
            };
            after = *last;
            let wordless: Vec<_> = page
                .into_iter()
                .filter_map(|(seq, line)| {
                    let outcome: Outcome = serde_json::from_str(&line?).ok()?;
                    let message = outcome.message_id.as_ref();
                    let is_of = whose.is_of(&outcome.bot, outcome.room_id, message);
                    let what = without_words(&outcome.what)
                        .filter(|_| is_of && !waiting.contains(&outcome.id))?;
                    let outcome = Outcome { what, ..outcome };
                    Some((seq, serde_json::to_string(&outcome).ok()?))
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
    }
}
