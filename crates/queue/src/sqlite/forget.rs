//! Forgetting: removing what was kept for its time, so that its bytes are gone from the disk too.
//!
//! With `secure_delete` SQLite overwrites what it deletes. Copies of it remain in the journal until that
//! has been written back and begun anew, which may take days where little is written, so it is emptied.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, params};

use super::{Store, StoreError};

/// How many rows are removed at once: short transactions.
const ROWS: u32 = 1_000;
/// How long others may keep the journal from being emptied. It is tried again with the next look.
const EMPTY_LIMIT: Duration = Duration::from_secs(1);

impl Store {
    /// Removes archived events and outcomes that are older than they are kept.
    pub(crate) async fn forget(&self) -> Result<(), StoreError> {
        let now = Timestamp::now();
        for (statement, keep) in [
            (
                "DELETE FROM archive WHERE seq IN
                   (SELECT seq FROM archive WHERE received_at < ?1 ORDER BY received_at LIMIT ?2)",
                self.inner.archive_keep,
            ),
            (
                "DELETE FROM outcomes WHERE seq IN
                   (SELECT seq FROM outcomes WHERE at < ?1 ORDER BY at LIMIT ?2)",
                self.inner.outcomes_keep,
            ),
        ] {
            let before = now.as_millisecond() - i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
            loop {
                let removed = self
                    .write(move |connection| {
                        connection
                            .prepare_cached(statement)?
                            .execute(params![before, ROWS])
                    })
                    .await?;
                if removed > 0 {
                    self.removed();
                }
                if removed < ROWS as usize {
                    break;
                }
            }
        }
        self.leave_no_trace().await
    }

    /// Says that something was removed of which the journal may have a copy.
    pub(super) fn removed(&self) {
        self.inner.journal_is_stale.store(true, Ordering::Relaxed);
    }

    /// Empties the journal if it may have a copy of what was removed; if somebody keeps us from it, the
    /// next time.
    pub(super) async fn leave_no_trace(&self) -> Result<(), StoreError> {
        if self.inner.journal_is_stale.swap(false, Ordering::Relaxed) {
            let emptied = self.empty_journal().await;
            if !matches!(emptied, Ok(true)) {
                self.removed();
            }
            emptied?;
        }
        Ok(())
    }

    /// Writes the journal back into the file and cuts it off, unless somebody keeps us from it by reading
    /// or writing for long; false then.
    pub(super) async fn empty_journal(&self) -> Result<bool, StoreError> {
        let path = self.inner.path.clone();
        let emptied = tokio::task::spawn_blocking(move || {
            // Not on the writer's connection, which is always about to begin a transaction.
            let flags = OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_CREATE);
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(EMPTY_LIMIT)?;
            let busy: i64 =
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            Ok::<_, rusqlite::Error>(busy == 0)
        });
        Ok(emptied.await.map_err(|_| StoreError::Closed)??)
    }
}
