//! Looks into a file without touching it: what it is, and what it holds. The file may be a queue or a
//! spool, in use by somebody or not, or nothing of ours at all.

use std::fs::{File, TryLockError};
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use super::{APPLICATION_ID, BUSY_LIMIT, SCHEMA_VERSION, TABLES, spool};
use crate::spool::place::{LOCK, beside, holder, holds_something, resolved};

/// Larger files are not read from end to end.
const LARGEST_CHECKED: u64 = 256 * 1024 * 1024;

/// A file that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) holds: Holds,
    /// How large it is, with what is not in the file itself yet.
    pub(super) bytes: u64,
    /// How many of these bytes are in use; the rest is room for what comes.
    pub(super) used: u64,
}

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nothing at all: nobody has made anything of it yet.
    Nothing,
    /// A queue.
    Queue { jobs: u64, dead: u64 },
    /// The events that an ingress keeps until the broker takes them.
    Spool {
        events: u64,
        oldest: Option<Timestamp>,
        newest: Option<Timestamp>,
    },
}

/// Why nothing can be said of what is in it; the words go on after the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// It is somebody else's.
    #[error("is not a Chickwork file")]
    Foreign,
    /// It is from a newer release.
    #[error("has version {0}; this release knows {SCHEMA_VERSION}")]
    Newer(i64),
    /// Something is broken in it.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// Another program keeps it to itself.
    #[error("is locked by another program")]
    Locked,
    /// SQLite or the file system says no.
    #[error("cannot be read: {0}")]
    Failed(String),
}

impl From<rusqlite::Error> for Unreadable {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::Foreign,
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::Locked
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Looks at what is in the file.
pub(super) fn glance(path: &Path) -> Result<Seen, Unreadable> {
    look(path, read)
}

/// The same, and whether it is whole, from end to end unless it is large.
pub(super) fn check(path: &Path) -> Result<Seen, Unreadable> {
    look(path, |connection| {
        let seen = read(connection)?;
        if seen.holds != Holds::Nothing && seen.bytes <= LARGEST_CHECKED {
            let verdict: String =
                connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if verdict != "ok" {
                let words: Vec<_> = verdict.lines().collect();
                return Err(Unreadable::Damaged(words.join(" ")));
            }
        }
        Ok(seen)
    })
}

fn look(
    path: &Path,
    read: impl Fn(&Connection) -> Result<Seen, Unreadable>,
) -> Result<Seen, Unreadable> {
    let path = &resolved(path);
    if is_journal_only(path) {
        let why = "all but its journal is gone, and that is kept as long as nobody opens it";
        return Err(Unreadable::Failed(why.to_owned()));
    }
    let is_open = || beside(path, "-wal").exists();
    let in_use = || read(&open(path)?);
    if is_open() {
        return in_use();
    }
    match open_still(path)
        .map_err(Unreadable::from)
        .and_then(|connection| read(&connection))
    {
        // Somebody has opened it meanwhile.
        Err(_) if is_open() => in_use(),
        seen => seen,
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    Ok(connection)
}

/// Opens a file that nobody has open: SQLite would leave files beside it, unless it is told that this
/// one cannot change.
fn open_still(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{}?immutable=1", encoded(path)), flags)
}

fn read(connection: &Connection) -> Result<Seen, Unreadable> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    // Not the file's own size: in a file that is in use most of it may lie in the one beside it.
    let pages = number("PRAGMA page_count")?;
    let free = number("PRAGMA freelist_count")?;
    let page = number("PRAGMA page_size")?.cast_unsigned();
    let bytes = |pages: i64| pages.cast_unsigned().saturating_mul(page);
    let seen = |holds| Seen {
        holds,
        bytes: bytes(pages),
        used: bytes(pages.saturating_sub(free)),
    };
    if number("SELECT count(*) FROM sqlite_schema")? == 0 {
        return Ok(seen(Holds::Nothing));
    }
    if number("PRAGMA application_id")? != i64::from(APPLICATION_ID) {
        return Err(Unreadable::Foreign);
    }
    let version = number("PRAGMA user_version")?;
    if version > i64::from(SCHEMA_VERSION) {
        return Err(Unreadable::Newer(version));
    }
    let has = |table: &str| {
        connection
            .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?
            .exists([table])
    };
    for table in TABLES {
        if !has(table)? {
            return Err(Unreadable::Damaged(format!("the table {table} is missing")));
        }
    }
    let count =
        |table: &str| number(&format!("SELECT count(*) FROM {table}")).map(i64::cast_unsigned);
    if has(spool::TABLE)? {
        let received = |which: &str| -> rusqlite::Result<Option<Timestamp>> {
            let sql = format!("SELECT {which}(received_at) FROM archive");
            let millis = connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0))?;
            Ok(millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()))
        };
        return Ok(seen(Holds::Spool {
            events: count(spool::TABLE)?,
            oldest: received("min")?,
            newest: received("max")?,
        }));
    }
    Ok(seen(Holds::Queue {
        jobs: count("jobs")?,
        dead: count("dead")?,
    }))
}

/// The process that uses the spool, if one does. To find out, the lock is shared for a moment with
/// whoever else looks; a process that wants it in that moment tries again.
pub(super) fn user(path: &Path) -> Option<String> {
    let mut lock = File::open(beside(path, LOCK)).ok()?;
    if !matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return None;
    }
    Some(holder(&mut lock))
}

/// Whether nothing is left but the journal, which SQLite deletes as soon as it opens such a file.
pub(super) fn is_journal_only(path: &Path) -> bool {
    // In this order: a file that somebody is just creating has something in it before its journal has.
    holds_something(&beside(&resolved(path), "-wal")) && !holds_something(path)
}

/// A path as SQLite wants it in a URI.
fn encoded(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    bytes
        .map(|&byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_for_a_uri_whatever_is_in_it() {
        assert_eq!(
            encoded(Path::new("/tmp/a b?#%ộ.db")),
            "/tmp/a%20b%3F%23%25%E1%BB%99.db"
        );
    }
}
