//! The spool's file: a queue file with one more table, which says of each event in the archive what it
//! is to become once the broker has it. The event's bytes lie in its archive row, once.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use tokio::sync::{mpsc, watch};

use super::rows::{self, CONTENT, CONTENT_WITHOUT_AGAIN};
use super::{OpenError, Purpose, Store, StoreError, is_damage, open_reader, prepare, records};
use crate::content::Content;
use crate::event::Event;
use crate::spool::{Becomes, Spooled};

/// How long the forwarder may be kept by emptying the journal.
const TRACES_LIMIT: Duration = Duration::from_secs(2);
/// What makes a queue file a spool.
pub(super) const TABLE: &str = "spooled";
/// Made together with `schema.sql`, in the same transaction: there is no moment at which a new spool
/// could be taken for a queue.
pub(super) const SCHEMA: &str = "
CREATE TABLE spooled (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT    NOT NULL UNIQUE, -- event id, as in archive
    becomes TEXT    NOT NULL,        -- 'ask', 'malformed' or 'ignored'
    why     TEXT    NOT NULL         -- the error or the reason
) STRICT;
CREATE INDEX spooled_becomes ON spooled (becomes);";

/// The journal is cut back to this size once it has been written into the file.
const JOURNAL_BYTES: u32 = 4 * 1024 * 1024;
/// Pages that an event may take beside its body: those of its rows and of all their indexes, split.
const PAGES_BESIDE_BODY: u64 = 16;
/// What goes out at a time, in events and in bytes of bodies: memory stays flat, however many wait.
const PAGE_EVENTS: usize = 100;
const PAGE_BYTES: usize = 1024 * 1024;

/// The most rows of a damaged file that are looked for: its own numbers may be rubbish.
const MOST_SALVAGED: i64 = 10_000_000;

impl Store {
    /// An error if the file is a spool: an ingress keeps it, and nobody else may write into it.
    pub(crate) async fn refuse_spool(&self) -> Result<(), StoreError> {
        let events = self.read(|connection| {
            let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
            if !connection.prepare_cached(table)?.exists([TABLE])? {
                return Ok(None);
            }
            let count = "SELECT count(*) FROM spooled";
            let events = connection.query_row(count, [], |row| row.get::<_, i64>(0))?;
            Ok(Some(events.cast_unsigned()))
        });
        match events.await? {
            None => Ok(()),
            Some(events) => Err(StoreError::Spool {
                path: self.path().to_owned(),
                events,
            }),
        }
    }
}

/// An open spool file; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SpoolFile {
    store: Store,
    room: Room,
}

/// How many pages the file may use. Checked before each event, as an SQLite that runs into its own
/// limit undoes the whole commit, with everybody else's events and the removal of those that are gone.
#[derive(Debug, Clone, Copy)]
struct Room {
    page_bytes: u64,
    pages: u64,
}

/// What came of putting an event in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is on disk; so many bytes of the file are in use now.
    Stored {
        /// How many.
        bytes: u64,
    },
    /// There is no room for it.
    Full,
}

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) seq: i64,
    /// `None`: nobody can read it.
    pub(crate) event: Option<(Event, Becomes)>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        let event = self.event.as_ref();
        event.map_or(0, |(event, _)| event.body.len())
    }
}

impl SpoolFile {
    /// Opens the file, checks it from end to end, and creates it if there is none. It must belong to
    /// this process alone. Blocks for as long as that takes.
    pub(crate) fn open(path: &Path, max_bytes: u64) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let connection = prepare(&path, OpenFlags::default(), Purpose::Spool)?;
        let failing = |error: rusqlite::Error| OpenError::Failing {
            path: path.clone(),
            reason: error.to_string(),
        };
        if let Some(reason) = damage(&connection).map_err(failing)? {
            return Err(OpenError::Damaged { path, reason });
        }
        let nobodys = of_no_kind(&connection).map_err(failing)?;
        if nobodys > 0 {
            log::error!(
                "{nobodys} events in the spool {} are of a kind that this release does not know; they are passed over, and stay there",
                path.display()
            );
        }
        let room = Room::limit(&connection, max_bytes).map_err(failing)?;
        let kept = Duration::MAX;
        let store = Store::on(connection, path, Vec::new(), kept, kept)?;
        Ok(Self { store, room })
    }

    /// Stores an event; one that is there already stays as it is.
    pub(crate) async fn put(&self, event: &Event, becomes: &Becomes) -> Result<Put, StoreError> {
        let (content, becomes, room) = (Content::of_event(event), becomes.clone(), self.room);
        self.store
            .write(move |connection| {
                if room.used(connection)? + room.needed(&content) > room.pages {
                    return Ok(Put::Full);
                }
                records::insert_archive(connection, &content)?;
                connection
                    .prepare_cached(
                        "INSERT OR IGNORE INTO spooled (id, becomes, why) VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![
                        content.id.to_string(),
                        becomes.kind(),
                        becomes.why()
                    ])?;
                let bytes = room.used(connection)? * room.page_bytes;
                Ok(Put::Stored { bytes })
            })
            .await
    }

    /// The oldest events of this kind behind that one, not all of them if there are many.
    pub(crate) async fn oldest(
        &self,
        kind: &'static str,
        after: i64,
    ) -> Result<Vec<Waiting>, StoreError> {
        self.store
            .read(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT spooled.seq, why, {CONTENT} FROM spooled LEFT JOIN archive USING (id)
                     WHERE becomes = ?1 AND spooled.seq > ?2 ORDER BY spooled.seq"
                ))?;
                let mut rows = statement.query(params![kind, after])?;
                let mut page = Vec::new();
                let mut bytes = 0;
                while page.len() < PAGE_EVENTS && bytes < PAGE_BYTES {
                    let Some(row) = rows.next()? else { break };
                    let waiting = waiting(kind, row)?;
                    bytes += waiting.bytes();
                    page.push(waiting);
                }
                Ok(page)
            })
            .await
    }

    /// Removes events that the broker has.
    pub(crate) async fn forget(&self, seqs: Vec<i64>) -> Result<(), StoreError> {
        self.store
            .write(move |connection| {
                let mut archived = connection.prepare_cached(
                    "DELETE FROM archive WHERE id = (SELECT id FROM spooled WHERE seq = ?1)",
                )?;
                let mut spooled =
                    connection.prepare_cached("DELETE FROM spooled WHERE seq = ?1")?;
                for seq in seqs {
                    archived.execute([seq])?;
                    spooled.execute([seq])?;
                }
                Ok(())
            })
            .await?;
        self.store.removed();
        Ok(())
    }

    /// Has nothing of what was removed remain on the disk, once nothing waits any more: while a long spool
    /// goes out, that would be done again and again, and takes longer than the events do. Best effort,
    /// and not for long: it is done again when the spool is empty the next time.
    pub(crate) async fn leave_no_trace(&self) {
        let done = tokio::time::timeout(TRACES_LIMIT, async {
            if self.is_empty().await? {
                self.store.leave_no_trace().await?;
            }
            Ok::<_, StoreError>(())
        });
        if !matches!(done.await, Ok(Ok(()))) {
            self.store.removed();
            log::debug!("the journal of the spool could not be emptied");
        }
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        self.store
            .read(|connection| {
                let mut any = connection.prepare_cached("SELECT 1 FROM spooled LIMIT 1")?;
                Ok(!any.exists([])?)
            })
            .await
    }

    /// What it holds.
    pub(crate) async fn look(&self) -> Result<Spooled, StoreError> {
        let room = self.room;
        self.store
            .list(move |connection| {
                let number = |sql| {
                    let mut statement = connection.prepare_cached(sql)?;
                    statement.query_row([], |row| row.get::<_, Option<i64>>(0))
                };
                let events = number("SELECT count(*) FROM spooled")?.unwrap_or(0);
                let oldest = number("SELECT min(received_at) FROM archive")?;
                Ok(Spooled {
                    events: events.cast_unsigned(),
                    oldest: oldest.and_then(|millis| Timestamp::from_millisecond(millis).ok()),
                    bytes: room.used(connection)? * room.page_bytes,
                    max_bytes: room.pages * room.page_bytes,
                })
            })
            .await
    }

    /// Whether an event would be taken now: a write that changes nothing, and a look at the room.
    pub(crate) async fn check(&self) -> Result<Put, StoreError> {
        self.store.check().await?;
        let room = self.room;
        self.store
            .read(move |connection| {
                let used = room.used(connection)?;
                let bytes = used * room.page_bytes;
                Ok(if used + PAGES_BESIDE_BODY < room.pages {
                    Put::Stored { bytes }
                } else {
                    Put::Full
                })
            })
            .await
    }

    /// Whether both are handles on the same open file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.store.inner, &other.store.inner)
    }

    /// Changes whenever something was written.
    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.store.written()
    }

    /// Lets go of the file and waits until it is closed, which it is with the last handle.
    pub(crate) async fn closed(self) {
        self.store.closed().await;
    }
}

impl Room {
    /// Sets the limits of the connection that writes.
    fn limit(connection: &Connection, max_bytes: u64) -> rusqlite::Result<Self> {
        let page_bytes = connection
            .pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?
            .cast_unsigned();
        let pages = max_bytes / page_bytes;
        // Never reached, as there is always a look before; but a wrong estimate shall not fill the disk.
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        connection.query_row(
            &format!("PRAGMA journal_size_limit = {JOURNAL_BYTES}"),
            [],
            |_| Ok(()),
        )?;
        Ok(Self { page_bytes, pages })
    }

    /// The pages in use. A file does not become smaller; what was removed from it is free.
    fn used(self, connection: &Connection) -> rusqlite::Result<u64> {
        let number = |sql| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_row([], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
        };
        let (pages, free) = (
            number("PRAGMA page_count")?,
            number("PRAGMA freelist_count")?,
        );
        Ok(pages.saturating_sub(free))
    }

    fn needed(self, content: &Content) -> u64 {
        content.body.len() as u64 / self.page_bytes + PAGES_BESIDE_BODY
    }
}

/// Reads what can still be read of a damaged spool, in its order. Row by row, as one that is lost must
/// not take the others along; it comes without its event. An error comes last.
pub(crate) fn salvage(path: &Path) -> mpsc::Receiver<rusqlite::Result<Vec<Waiting>>> {
    let (tell, told) = mpsc::channel(1);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = salvage_into(&path, &tell) {
            let _ = tell.blocking_send(Err(error));
        }
    });
    told
}

fn salvage_into(
    path: &Path,
    tell: &mpsc::Sender<rusqlite::Result<Vec<Waiting>>>,
) -> rusqlite::Result<()> {
    let connection = open_reader(path)?;
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    // Each of them lies on a page of its own.
    let last = number("SELECT max(seq) FROM spooled")
        .or_else(|_| number("SELECT seq FROM sqlite_sequence WHERE name = 'spooled'"))?;
    let first = number("SELECT min(seq) FROM spooled").unwrap_or(1);
    // One of an older release may be too damaged to get the column that it lacks.
    let lacks = !rows::has_again(&connection, "archive").unwrap_or(true);
    let content = if lacks {
        CONTENT_WITHOUT_AGAIN
    } else {
        CONTENT
    };
    let mut statement = connection.prepare(&format!(
        "SELECT spooled.seq, why, {content}, becomes FROM spooled LEFT JOIN archive USING (id)
         WHERE spooled.seq = ?1"
    ))?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    for seq in first.max(last.saturating_sub(MOST_SALVAGED))..=last {
        let row = statement.query_row([seq], |row| waiting(&row.get::<_, String>("becomes")?, row));
        let row = match row.optional() {
            Ok(None) => continue,
            Ok(Some(waiting)) => waiting,
            Err(_) => Waiting { seq, event: None },
        };
        bytes += row.bytes();
        page.push(row);
        if page.len() >= PAGE_EVENTS || bytes >= PAGE_BYTES {
            bytes = 0;
            if tell.blocking_send(Ok(std::mem::take(&mut page))).is_err() {
                // Nobody wants them any more.
                return Ok(());
            }
        }
    }
    let _ = tell.blocking_send(Ok(page));
    Ok(())
}

fn waiting(kind: &str, row: &rusqlite::Row<'_>) -> rusqlite::Result<Waiting> {
    let seq = row.get(0)?;
    let event = || {
        let content = rows::read_content(row, 2).ok()?;
        let becomes = Becomes::read(kind, row.get(1).ok()?)?;
        Some((content.into_event(), becomes))
    };
    Ok(Waiting {
        seq,
        event: event(),
    })
}

/// Whether a file that could not be read may be so in a while, as far as SQLite's word for it tells.
pub(crate) fn is_passing(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    let code = error.sqlite_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            Code::SystemIoFailure
                | Code::CannotOpen
                | Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::DiskFull
                | Code::OutOfMemory
                | Code::PermissionDenied
                | Code::ReadOnly
        )
    })
}

/// How many events are to become something that nobody here can make of them.
fn of_no_kind(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT count(*) FROM spooled WHERE becomes NOT IN (?1, ?2, ?3)";
    connection.query_row(sql, Becomes::KINDS, |row| row.get(0))
}

/// What is wrong with the file's contents, if anything is.
fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match check {
        // It speaks in several lines.
        Ok(says) => Ok((says != "ok").then(|| says.lines().collect::<Vec<_>>().join(" "))),
        Err(error) if is_damage(&error) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}
