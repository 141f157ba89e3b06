//! What a person looks at, in the file: reports of the processes, and how much its queues hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};

use super::claims::{self, ASK};
use super::{Store, StoreError};
use crate::report::{Depth, Report};

/// The newest report of each process. Not in `schema.sql`: it came later, and as releases that do
/// not know it never look at it, the file's version is still 1.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS reports (
    process TEXT    PRIMARY KEY,
    at      INTEGER NOT NULL, -- Unix milliseconds
    report  TEXT    NOT NULL  -- its JSON
) STRICT";

impl Store {
    /// Keeps a report some time soon, in place of the process's last one, and forgets those of
    /// processes that are presumed to be gone.
    pub(crate) fn report(&self, report: &Report) {
        let json = report.encode();
        let (process, at) = (report.process.to_string(), report.at);
        let stale = at.as_millisecond() - 2 * i64::try_from(Report::FRESH.as_millis()).unwrap_or(0);
        let queued = self.inner.writer.write_later(move |connection| {
            connection
                .prepare_cached("DELETE FROM reports WHERE at < ?1")?
                .execute([stale])?;
            connection
                .prepare_cached("INSERT OR REPLACE INTO reports VALUES (?1, ?2, ?3)")?
                .execute(params![process, at.as_millisecond(), json])?;
            Ok(())
        });
        if let Err(error) = queued {
            log::debug!("a report was not written: {error}");
        }
    }

    /// The newest report of each process, however old.
    pub(crate) async fn reports(&self) -> Result<Vec<Report>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT report FROM reports ORDER BY process")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            // What cannot be read is of a newer release.
            rows.filter_map(|json| json.map(|json| Report::decode(json.as_bytes())).transpose())
                .collect()
        })
        .await
    }

    /// How much each queue of this deployment holds, and of any other that holds something.
    pub(crate) async fn depths(&self, now: Timestamp) -> Result<Vec<Depth>, StoreError> {
        let posts = self.inner.bots.iter().map(claims::post_queue);
        let mut queues: BTreeMap<String, Held> = std::iter::once(ASK.to_owned())
            .chain(posts)
            .map(|queue| (queue, Held::default()))
            .collect();
        self.list(move |connection| {
            let now = now.as_millisecond();
            // A claim whose lease has passed waits for somebody, too.
            let mut statement = connection.prepare_cached(
                "SELECT count(*), min(received_at), queue FROM jobs WHERE due <= ?1 GROUP BY queue",
            )?;
            let rows = statement.query_map([now], |row| Ok((row.get(2)?, held(row)?)))?;
            for row in rows {
                let (queue, held) = row?;
                queues.insert(queue, held);
            }
            let later = connection
                .prepare_cached(
                    "SELECT count(*), min(received_at) FROM jobs WHERE due > ?1 AND holder IS NULL",
                )?
                .query_row([now], held)?;
            let dead = connection
                .prepare_cached("SELECT count(*), min(received_at) FROM dead")?
                .query_row([], held)?;
            let others = [
                (Depth::LATER.to_owned(), later),
                (Depth::DEAD.to_owned(), dead),
            ];
            let depths = queues.into_iter().chain(others);
            Ok(depths
                .map(|(queue, held)| Depth {
                    queue,
                    jobs: held.jobs,
                    oldest: held.oldest,
                    consumers: None,
                })
                .collect())
        })
        .await
    }

    pub(crate) async fn last_event(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|connection| {
            let last = connection
                .prepare_cached(
                    "SELECT received_at FROM archive INDEXED BY archive_received
                     WHERE put_back_at IS NULL ORDER BY received_at DESC LIMIT 1",
                )?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(time(last))
        })
        .await
    }
}

/// Some jobs, and when the oldest of them was received.
#[derive(Debug, Default)]
struct Held {
    jobs: u64,
    oldest: Option<Timestamp>,
}

/// Of a row that begins with a count and the oldest time.
fn held(row: &Row<'_>) -> rusqlite::Result<Held> {
    Ok(Held {
        jobs: row.get::<_, i64>(0)?.cast_unsigned(),
        oldest: time(row.get(1)?),
    })
}

fn time(millis: Option<i64>) -> Option<Timestamp> {
    millis.and_then(|millis| Timestamp::from_millisecond(millis).ok())
}
