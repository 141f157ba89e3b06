//! What the audit of a queue needs of its file.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::params;

use super::{PAGE, Store, StoreError, claims, records, rows};
use crate::content::Content;
use crate::event::{Event, EventId};
use crate::outcome::{Outcome, What};

impl Store {
    /// The events that have a job, whether it waits or somebody works on it.
    pub(crate) async fn waiting(&self) -> Result<HashSet<EventId>, StoreError> {
        let mut waiting = HashSet::new();
        let mut after = 0;
        loop {
            let page: Vec<(i64, String)> = self
                .list(move |connection| {
                    let mut statement = connection.prepare_cached(&format!(
                        "SELECT seq, id FROM jobs WHERE seq > ?1 ORDER BY seq LIMIT {PAGE}"
                    ))?;
                    let rows = statement
                        .query_map(params![after], |row| Ok((row.get(0)?, row.get(1)?)))?;
                    rows.collect()
                })
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(waiting);
            };
            after = *last;
            // What has no id of ours is the job of no event that was received.
            waiting.extend(page.iter().filter_map(|(_, id)| id.parse::<EventId>().ok()));
        }
    }

    /// Puts an event back in, and says so, in one transaction.
    pub(crate) async fn put_back(&self, event: &Event, replayed: What) -> Result<(), StoreError> {
        self.refuse_spool().await?;
        let content = Content::of_event(event);
        self.write(move |connection| {
            let now = Timestamp::now();
            records::insert_outcome(connection, &content.outcome(replayed, now))?;
            rows::insert_job(connection, claims::ASK, &content, now)
        })
        .await
    }

    /// Takes in an event of another deployment, and says so, in one transaction.
    pub(crate) async fn take_in(
        &self,
        event: &Event,
        lines: Vec<Outcome>,
    ) -> Result<(), StoreError> {
        self.refuse_spool().await?;
        let content = Content::of_event(event);
        let archived = !self.inner.archive_keep.is_zero();
        self.write(move |connection| {
            for line in &lines {
                records::insert_outcome(connection, line)?;
            }
            if archived {
                records::insert_archive(connection, &content)?;
            }
            rows::insert_job(connection, claims::ASK, &content, Timestamp::now())
        })
        .await
    }

    /// Says how an event has ended that nobody works on.
    pub(crate) async fn end(&self, outcome: Outcome) -> Result<(), StoreError> {
        self.refuse_spool().await?;
        self.write(move |connection| records::insert_outcome(connection, &outcome))
            .await
    }
}
