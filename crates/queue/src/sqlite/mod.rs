//! The embedded queue: one SQLite file in WAL mode with `synchronous=FULL`, one writer with group
//! commit, readers beside it. Several processes on one machine may share the file: claims are
//! leases, and a sleeping process looks for work of others every [`LOOK_EVERY`].

mod audit;
mod claims;
mod dead;
mod events;
pub(crate) mod examine;
mod forget;
mod look;
mod purge;
mod records;
mod report;
mod rows;
mod spool;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Mutex, watch};

pub(crate) use claims::{SqliteClaim, SqliteClaims};
pub(crate) use dead::{DeadRead, DeadTaking};
pub(crate) use events::EventPages;
pub(crate) use records::{ArchiveRead, OutcomesFollow, OutcomesRead};
pub(crate) use spool::{Put, SpoolFile, is_passing, salvage};
use writer::Writer;

use crate::Settings;
use crate::content::Content;
use crate::event::{BotName, Event};
use crate::job::{Cause, Settlement, Step};
use crate::outcome::{Outcome, What};

/// Says that a file is ours: "ChkW".
const APPLICATION_ID: i32 = 0x4368_6b57;
/// The tables of `schema.sql`. They are made in one transaction: a file without one was tampered with.
const TABLES: [&str; 5] = ["jobs", "consumers", "dead", "archive", "outcomes"];
/// The version of `schema.sql`.
const SCHEMA_VERSION: i32 = 1;
/// How long a statement waits for another process's transaction.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// How soon what SQLite refuses without waiting is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);
/// How often a process looks for what other processes wrote. (Within 250 ms is the promise.)
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A claim not renewed for this long is anybody's.
const LEASE: Duration = Duration::from_secs(15);
/// How often claims are renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often what is too old is removed.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// A page of a long listing, in rows.
const PAGE: u32 = 500;

/// Something is wrong with the queue file, the disk or the writer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// SQLite says no.
    #[error("{0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// The transaction was undone by SQLite, presumably because the disk is full.
    #[error("the transaction was undone (is the disk full?)")]
    Undone,
    /// The writer did not get to it in time.
    #[error("the disk is too slow")]
    Slow,
    /// The queue has been closed.
    #[error("the queue is closed")]
    Closed,
    /// The claim has passed to somebody else.
    #[error("the claim was lost to somebody else")]
    Lost,
    /// It is no queue: what is in it waits for a broker, and only an ingress changes it.
    #[error(
        "{} is the spool of an ingress: {events} {} in it; set CHICKWORK_QUEUE to the broker",
        path.display(),
        if *events == 1 { "event waits" } else { "events wait" }
    )]
    Spool {
        /// The file.
        path: PathBuf,
        /// How many events wait in it.
        events: u64,
    },
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl StoreError {
    /// Whether the file's contents are not what they should be.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Sqlite(error) if is_damage(error))
    }

    /// Whether there is no room on the disk.
    pub(crate) fn is_full_disk(&self) -> bool {
        let is_full = |error: &rusqlite::Error| {
            error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
        };
        matches!(self, Self::Sqlite(error) if is_full(error))
    }
}

/// Whether SQLite says that what it read is no database, or a damaged one.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let code = error.sqlite_error_code();
    code.is_some_and(|code| matches!(code, DatabaseCorrupt | NotADatabase))
}

/// The queue file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and this command does not create one.
    #[error(
        "there is no queue file at {}: is CHICKWORK_QUEUE right? Only dev, serve, ingress and worker create one",
        .0.display()
    )]
    Missing(PathBuf),
    /// It is there, but nobody has made a queue of it.
    #[error("{} is empty: no bot has used it yet", .0.display())]
    Empty(PathBuf),
    /// Only its journal is left. SQLite would delete that with the first look.
    #[error(
        "{} is gone or empty, but its journal beside it, which ends in -wal, is not: put the file back, or move the journal away",
        .0.display()
    )]
    JournalOnly(PathBuf),
    /// This user may only read it. Looking takes part in SQLite's bookkeeping, and so writes.
    #[error(
        "{} may not be written to by this user: give it write access to the file, to those beside it that end in -wal and -shm, and to their folder",
        .0.display()
    )]
    ReadOnly(PathBuf),
    /// It is somebody else's file.
    #[error("{} is not a Chickwork queue; move it away or name another file", .0.display())]
    Foreign(PathBuf),
    /// It holds events on their way to a broker.
    #[error("{} is the spool of an ingress; name another file for the queue", .0.display())]
    Spool(PathBuf),
    /// It is a queue in its own right, to be used as a spool.
    #[error("{} is a queue, and no spool", .0.display())]
    Queue(PathBuf),
    /// It is from a newer release.
    #[error("{} has version {version}, this release knows {SCHEMA_VERSION}: use the newer release", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i32,
    },
    /// The broker's address cannot be used.
    #[error("{0}")]
    Broker(String),
    /// It cannot be read to its end.
    #[error("{} cannot be opened: {reason} (`chickwork doctor` says what to do)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// Its disk is full or failing, or somebody is busy with it: what may be over soon.
    #[error("{} cannot be opened: {reason} (`chickwork doctor` says what to do)", path.display())]
    Failing {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// SQLite or the file system says no.
    #[error("{} cannot be opened: {reason} (`chickwork doctor` says what to do)", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// A handle on the queue file; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    bots: Vec<BotName>,
    archive_keep: Duration,
    outcomes_keep: Duration,
    /// Whether what was removed may still lie in the journal.
    journal_is_stale: AtomicBool,
    /// For looking whether there is work; SQLite's readers do not wait for its writer.
    looks: Arc<Mutex<Connection>>,
    /// For listings, which may take long.
    listings: Arc<Mutex<Connection>>,
    /// Changes with every commit of this process.
    written: watch::Receiver<u64>,
    /// Dropped last: its thread says when the file is closed.
    writer: Writer,
}

impl Store {
    /// Opens the file, and creates it if there is none. Ends its background work with its last handle.
    pub(crate) async fn open(path: &Path, settings: &Settings) -> Result<Self, OpenError> {
        let purpose = Purpose::Queue;
        let store = Self::open_with(path, settings, OpenFlags::default(), purpose).await?;
        tokio::spawn(tidy(Arc::downgrade(&store.inner)));
        Ok(store)
    }

    /// Opens a file that is there. Nothing is tidied away: how long records are kept is for those to
    /// say who work on the file, not for a command that may have been told something else.
    pub(crate) async fn open_existing(path: &Path, settings: &Settings) -> Result<Self, OpenError> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match tokio::fs::try_exists(path).await {
            Ok(true) => {}
            Ok(false) => return Err(OpenError::Missing(absolute)),
            Err(error) => {
                return Err(OpenError::Unusable {
                    path: absolute,
                    reason: error.to_string(),
                });
            }
        }
        let flags = OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_CREATE);
        Self::open_with(&absolute, settings, flags, Purpose::Look).await
    }

    async fn open_with(
        path: &Path,
        settings: &Settings,
        flags: OpenFlags,
        purpose: Purpose,
    ) -> Result<Self, OpenError> {
        let (path, archive_keep) = (path.to_owned(), settings.archive_keep);
        let (bots, outcomes_keep) = (settings.bots.clone(), settings.outcomes_keep());
        tokio::task::spawn_blocking(move || {
            let connection = prepare(&path, flags, purpose)?;
            Self::on(connection, path, bots, archive_keep, outcomes_keep)
        })
        .await
        .unwrap_or_else(|_| unreachable!("opening does not panic, and nobody aborts it"))
    }

    /// Begins to work on a file that has been prepared.
    fn on(
        connection: Connection,
        path: PathBuf,
        bots: Vec<BotName>,
        archive_keep: Duration,
        outcomes_keep: Duration,
    ) -> Result<Self, OpenError> {
        let unusable = |reason: String| OpenError::Unusable {
            path: path.clone(),
            reason,
        };
        let reader = || open_reader(&path).map_err(|error| unusable(error.to_string()));
        let (looks, listings) = (
            Arc::new(Mutex::new(reader()?)),
            Arc::new(Mutex::new(reader()?)),
        );
        let (tell, written) = watch::channel(0);
        let writer = Writer::start(connection, move || {
            tell.send_modify(|count| *count += 1);
        })
        .map_err(|error| unusable(error.to_string()))?;
        let inner = Inner {
            path,
            bots,
            archive_keep,
            outcomes_keep,
            // A process that was killed may have left it so.
            journal_is_stale: AtomicBool::new(true),
            looks,
            listings,
            written,
            writer,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Lets go of the file and waits until it is closed, which it is with the last handle.
    async fn closed(self) {
        let mut written = self.written();
        drop(self);
        while written.changed().await.is_ok() {}
    }

    pub(crate) fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Changes whenever this process has written something.
    fn written(&self) -> watch::Receiver<u64> {
        self.inner.written.clone()
    }

    async fn write<T, F>(&self, task: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.inner.writer.write(task).await
    }

    /// Reads something short.
    async fn read<T, F>(&self, task: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_with(|inner| &inner.looks, task).await
    }

    /// Reads something that may take long, without keeping [`Store::read`] waiting.
    async fn list<T, F>(&self, task: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_with(|inner| &inner.listings, task).await
    }

    async fn read_with<T, F>(
        &self,
        reader: fn(&Inner) -> &Arc<Mutex<Connection>>,
        task: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let store = self.clone();
        let reader = reader(&self.inner).clone().lock_owned().await;
        // On a thread that may block: one for each reader, however many wait for a disk that hangs.
        tokio::task::spawn_blocking(move || {
            let read = task(&reader).map_err(StoreError::from);
            // In this order: the file is closed with the last handle.
            drop(reader);
            drop(store);
            read
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }

    /// Stores an event to be answered, its archive copy and that it was received, in one transaction.
    pub(crate) async fn publish(&self, event: &Event, received: Outcome) -> Result<(), StoreError> {
        let content = Content::of_event(event);
        let archived = !self.inner.archive_keep.is_zero();
        self.write(move |connection| {
            rows::insert_job(connection, claims::ASK, &content, Timestamp::now())?;
            records::insert_outcome(connection, &received)?;
            if archived {
                records::insert_archive(connection, &content)?;
            }
            Ok(())
        })
        .await
    }

    /// Stores an event as a dead letter of the ingress.
    pub(crate) async fn bury(
        &self,
        event: &Event,
        received: Outcome,
        error: &str,
    ) -> Result<(), StoreError> {
        let content = Content::of_event(event);
        let error = crate::shortened(error, Settlement::LONGEST_ERROR);
        let archived = !self.inner.archive_keep.is_zero();
        self.write(move |connection| {
            let now = Timestamp::now();
            dead::insert(
                connection,
                claims::ASK,
                Step::Receive,
                Cause::Malformed,
                &error,
                0,
                &content,
                now,
            )?;
            records::insert_outcome(connection, &received)?;
            records::insert_outcome(
                connection,
                &content.dead(Step::Receive, Cause::Malformed, error, now),
            )?;
            if archived {
                records::insert_archive(connection, &content)?;
            }
            Ok(())
        })
        .await
    }

    /// Stores an event that is not answered.
    pub(crate) async fn archive(
        &self,
        event: &Event,
        received: Outcome,
        reason: &str,
    ) -> Result<(), StoreError> {
        let content = Content::of_event(event);
        let reason = reason.to_owned();
        let archived = !self.inner.archive_keep.is_zero();
        self.write(move |connection| {
            let now = Timestamp::now();
            records::insert_outcome(connection, &received)?;
            records::insert_outcome(connection, &content.outcome(What::Ignored { reason }, now))?;
            if archived {
                records::insert_archive(connection, &content)?;
            }
            Ok(())
        })
        .await
    }

    /// A write that changes nothing, to see whether writing works.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        self.write(|connection| {
            // As it is: a newer release may have migrated the file under us.
            let version: i32 =
                connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            connection.pragma_update(None, "user_version", version)
        })
        .await
    }

    /// Waits until what was handed to the writer before is on disk.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.write(|_| Ok(())).await
    }

    /// How many jobs each queue holds, waiting or not, and when the oldest was received: for figures.
    /// A queue that is empty is there as well, or its figure would stay what it was.
    pub(crate) async fn sizes(&self) -> Result<Sizes, StoreError> {
        let posts = self.inner.bots.iter().map(claims::post_queue);
        let mut sizes: Sizes = std::iter::once(claims::ASK.to_owned())
            .chain(posts)
            .map(|queue| (queue, (0, None)))
            .collect();
        self.list(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT queue, count(*), min(received_at) FROM jobs GROUP BY queue
                 UNION ALL SELECT 'dead', count(*), min(received_at) FROM dead",
            )?;
            let rows = statement.query_map([], |row| {
                let oldest = row
                    .get::<_, Option<i64>>(2)?
                    .and_then(|millis| Timestamp::from_millisecond(millis).ok());
                Ok((row.get(0)?, (row.get::<_, i64>(1)?.cast_unsigned(), oldest)))
            })?;
            for row in rows {
                let (queue, size) = row?;
                sizes.insert(queue, size);
            }
            Ok(sizes)
        })
        .await
    }
}

/// Jobs and the receipt of the oldest, by queue.
pub(crate) type Sizes = BTreeMap<String, (u64, Option<Timestamp>)>;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Events are answered from it.
    Queue,
    /// Events wait in it for a broker.
    Spool,
    /// A person looks into it, whichever of the two it is.
    Look,
}

/// Opens the file for writing, checks that it is ours, and makes it so if it is new.
fn prepare(path: &Path, flags: OpenFlags, purpose: Purpose) -> Result<Connection, OpenError> {
    use rusqlite::ErrorCode;
    let unusable = |error: rusqlite::Error| {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly) => OpenError::ReadOnly(path),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                OpenError::Damaged { path, reason }
            }
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked,
            ) => OpenError::Failing { path, reason },
            _ => OpenError::Unusable { path, reason },
        }
    };
    if look::is_journal_only(path) {
        return Err(OpenError::JournalOnly(path.to_owned()));
    }
    let connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    connection.busy_timeout(BUSY_LIMIT).map_err(unusable)?;
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let foreign = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => OpenError::Foreign(path.to_owned()),
        _ => unusable(error),
    };
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(foreign)?;
    let may_be_new = flags.contains(OpenFlags::SQLITE_OPEN_CREATE);
    if tables == 0 && !may_be_new {
        return Err(OpenError::Empty(path.to_owned()));
    }
    if tables > 0 && pragma("application_id").map_err(unusable)? != APPLICATION_ID {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    let version = pragma("user_version").map_err(unusable)?;
    if version > SCHEMA_VERSION {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            version,
        });
    }
    let has = |table: &&str| {
        connection
            .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?
            .exists([*table])
    };
    for table in TABLES.iter().filter(|_| version > 0) {
        if !has(table).map_err(unusable)? {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                reason: format!(
                    "its table {table} is missing; put a good copy in its place, or move it away"
                ),
            });
        }
    }
    let is_spool = has(&spool::TABLE).map_err(unusable)?;
    match purpose {
        Purpose::Queue if is_spool => return Err(OpenError::Spool(path.to_owned())),
        Purpose::Spool if version > 0 && !is_spool => {
            return Err(OpenError::Queue(path.to_owned()));
        }
        Purpose::Queue | Purpose::Spool | Purpose::Look => {}
    }
    journal_ahead(&connection).map_err(unusable)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(unusable)?;
    // What is deleted is overwritten: what was forgotten must not lie in the file's free pages.
    connection
        .pragma_update(None, "secure_delete", "ON")
        .map_err(unusable)?;
    create(&connection, purpose).map_err(unusable)?;
    Ok(connection)
}

/// Puts the file into WAL mode, if it is not. Of several who do that at the same time SQLite refuses all
/// but one at once, however long they would wait: each holds a lock that the others want.
fn journal_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY_LIMIT =>
            {
                std::thread::sleep(TRY_AGAIN);
            }
            done => return done,
        }
    }
}

/// Creates the tables unless another process has just done so.
fn create(connection: &Connection, purpose: Purpose) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        connection.execute_batch(include_str!("schema.sql"))?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        if purpose == Purpose::Spool {
            connection.execute_batch(spool::SCHEMA)?;
        }
    }
    connection.execute_batch(report::TABLE)?;
    rows::add_missing_columns(connection)?;
    // A lease that ends later than any can was written before the clock was set back.
    let now = Timestamp::now().as_millisecond();
    let longest = now + i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX / 2);
    connection.execute(
        "UPDATE jobs SET due = ?1 WHERE holder IS NOT NULL AND due > ?2",
        [now, longest],
    )?;
    connection.execute_batch("COMMIT")
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_LIMIT)?;
    Ok(connection)
}

/// Forgets what is too old, for as long as the store is used.
async fn tidy(inner: std::sync::Weak<Inner>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = (Store { inner }).forget().await {
            log::warn!("old records could not be removed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_empty_or_may_only_be_read_is_said_to_be_so() -> Result<(), OpenError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("queue.db");
        std::fs::write(&path, "").expect("an empty file");
        let existing = OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_CREATE);
        let empty = prepare(&path, existing, Purpose::Look).expect_err("it is empty");
        assert!(matches!(empty, OpenError::Empty(_)), "{empty}");
        drop(prepare(&path, OpenFlags::default(), Purpose::Queue)?);
        let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let protected = prepare(&path, read_only, Purpose::Queue).expect_err("it may only be read");
        assert!(matches!(protected, OpenError::ReadOnly(_)), "{protected}");
        Ok(())
    }

    #[test]
    fn processes_that_make_the_same_file_at_the_same_time_all_open_it() {
        for _ in 0..100 {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("queue.db");
            let together = std::sync::Barrier::new(4);
            let open = || {
                together.wait();
                prepare(&path, OpenFlags::default(), Purpose::Queue).map(drop)
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                for thread in threads {
                    thread.join().expect("no panic").expect("it is opened");
                }
            });
        }
    }

    #[test]
    fn a_commit_is_synced_to_the_disk_before_it_is_answered() -> Result<(), OpenError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("queue.db");
        let connection = prepare(&path, OpenFlags::default(), Purpose::Queue)?;
        let pragma = |name: &str| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, String>(0))
                .or_else(|_| {
                    connection
                        .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                        .map(|n| n.to_string())
                })
                .expect("every pragma has a value")
        };
        assert_eq!(pragma("journal_mode"), "wal");
        assert_eq!(
            pragma("synchronous"),
            "2",
            "FULL: in WAL mode, NORMAL would sync at checkpoints only"
        );
        Ok(())
    }
}
