//! Looks at a queue file, or at the place where there will be one, without touching either.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::Access;

use super::{APPLICATION_ID, BUSY_LIMIT, SCHEMA_VERSION, TABLES};
use crate::examine::Finding;

/// How long all of it may take: a dead file server answers nothing, ever.
const LIMIT: Duration = Duration::from_secs(60);
/// Larger files are not read from end to end.
const LARGEST_CHECKED: u64 = 256 * 1024 * 1024;
/// Less room than this is worth a word.
const LITTLE_ROOM: u64 = 100 * 1024 * 1024;

const FILE: &str = "queue file";
const FOLDER: &str = "queue folder";

pub(crate) async fn examine(path: &Path) -> Vec<Finding> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (tell, told) = tokio::sync::oneshot::channel();
    // On a thread of its own, for which nobody has to wait if it hangs.
    let examined = path.clone();
    let started = std::thread::Builder::new()
        .name("examining".to_owned())
        .spawn(move || drop(tell.send(look(&examined))));
    let findings = match started {
        Ok(_) => tokio::time::timeout(LIMIT, told).await,
        Err(error) => {
            let says = format!("{} cannot be looked at: {error}.", path.display());
            return vec![Finding::wrong(FILE, says, "Free memory, and try again.")];
        }
    };
    findings.ok().and_then(Result::ok).unwrap_or_else(|| {
        let says = format!("Looking at {} took too long.", path.display());
        let cure =
            "See whether its disk or file server answers. The queue needs a disk of this machine.";
        vec![Finding::wrong(FILE, says, cure)]
    })
}

fn look(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let folder = path.parent().unwrap_or(Path::new("/"));
    match std::fs::metadata(path) {
        Ok(file) if !file.is_file() => {
            let says = format!("{} is no file, but a folder or a device.", path.display());
            let cure =
                "Name a file, for instance CHICKWORK_QUEUE=sqlite:/var/lib/chickwork/chickwork.db.";
            return vec![Finding::wrong(FILE, says, cure)];
        }
        Ok(_) => findings.push(protected(path).unwrap_or_else(|| contents(path))),
        Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => {
            let says = format!("There is none yet; {} will be created.", path.display());
            findings.push(Finding::notice(FILE, says));
        }
        Err(error) => {
            let says = format!("{} cannot be there: {error}.", path.display());
            let cure = "Create the folder, or correct CHICKWORK_QUEUE.";
            return vec![Finding::wrong(FILE, says, cure)];
        }
    }
    findings.extend(place(folder));
    findings
}

/// What keeps us from writing to a file that is there, or to one of those that SQLite keeps beside it.
fn protected(path: &Path) -> Option<Finding> {
    let all = [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")];
    all.into_iter().find_map(|file| {
        let error = rustix::fs::access(&file, Access::READ_OK | Access::WRITE_OK).err()?;
        if error == rustix::io::Errno::NOENT {
            return None;
        }
        let error = std::io::Error::from(error);
        let says = format!("{} may not be written to by this user: {error}.", file.display());
        let cure = "Give this user read and write access to the file and to those beside it that end in -wal and -shm.";
        Some(Finding::wrong(FILE, says, cure))
    })
}

/// What the file holds.
fn contents(path: &Path) -> Finding {
    let is_open = || beside(path, "-wal").exists();
    let found = if is_open() {
        read(path, open(path))
    } else {
        match read(path, open_still(path)) {
            // Somebody has opened it meanwhile.
            Err(_) if is_open() => read(path, open(path)),
            found => found,
        }
    };
    found.unwrap_or_else(|problem| problem)
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

/// Reads what the file says of itself, from end to end unless it is large.
fn read(path: &Path, opened: rusqlite::Result<Connection>) -> Result<Finding, Finding> {
    let unreadable = |error: rusqlite::Error| unreadable(path, &error);
    let connection = opened.map_err(unreadable)?;
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let shown = path.display();
    if number("SELECT count(*) FROM sqlite_schema").map_err(unreadable)? == 0 {
        let says = format!("{shown} is empty; the queue will be created in it.");
        return Ok(Finding::notice(FILE, says));
    }
    if number("PRAGMA application_id").map_err(unreadable)? != i64::from(APPLICATION_ID) {
        return Err(foreign(path));
    }
    let version = number("PRAGMA user_version").map_err(unreadable)?;
    if version > i64::from(SCHEMA_VERSION) {
        let says = format!("{shown} has version {version}; this release knows {SCHEMA_VERSION}.");
        let cure = "Use the newer release that wrote it.";
        return Err(Finding::wrong(FILE, says, cure));
    }
    // Not the file's own size: in a file that is in use most of it may lie in the one beside it.
    let pages = number("PRAGMA page_count").map_err(unreadable)?;
    let page = number("PRAGMA page_size").map_err(unreadable)?;
    let bytes = pages.cast_unsigned().saturating_mul(page.cast_unsigned());
    if bytes <= LARGEST_CHECKED {
        let verdict: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(unreadable)?;
        if verdict != "ok" {
            return Err(damaged(path, &verdict));
        }
    }
    for table in TABLES {
        let sql =
            format!("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '{table}'");
        if number(&sql).map_err(unreadable)? == 0 {
            return Err(damaged(path, &format!("the table {table} is missing")));
        }
    }
    let jobs = number("SELECT count(*) FROM jobs").map_err(unreadable)?;
    let dead = number("SELECT count(*) FROM dead").map_err(unreadable)?;
    let (jobs, dead) = (counted(jobs, "job"), counted(dead, "dead letter"));
    let size = size(bytes);
    let says = format!("{shown} ({size}) is in order; it holds {jobs} and {dead}.");
    Ok(Finding::good(FILE, says))
}

/// So many of them: `1 job`, `12 jobs`.
fn counted(number: i64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

fn unreadable(path: &Path, error: &rusqlite::Error) -> Finding {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => foreign(path),
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => damaged(path, &error.to_string()),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            let says = format!("{} is locked by another program.", path.display());
            Finding::wrong(
                FILE,
                says,
                "End whatever keeps it locked, for instance a sqlite3 shell or a backup.",
            )
        }
        _ => {
            let says = format!("{} cannot be read: {error}.", path.display());
            Finding::wrong(
                FILE,
                says,
                "See whether it is a file that this user may read and write.",
            )
        }
    }
}

fn foreign(path: &Path) -> Finding {
    let says = format!("{} is not a Chickwork queue.", path.display());
    Finding::wrong(
        FILE,
        says,
        "Move it away, or name another file in CHICKWORK_QUEUE.",
    )
}

fn damaged(path: &Path, what: &str) -> Finding {
    let says = format!("{} is damaged: {what}.", path.display());
    let cure = "Stop every process that uses it, keep a copy of it and of the files beside it, and save what can be read with \
                `sqlite3 FILE .recover`; or start with a new file.";
    Finding::wrong(FILE, says, cure)
}

/// What is wrong with the folder, or with what lies below it.
fn place(folder: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        let error = std::io::Error::from(error);
        let says = format!(
            "{} may not be written to by this user: {error}.",
            folder.display()
        );
        let cure = "Give this user write access to the folder: SQLite keeps two more files beside the queue.";
        findings.push(Finding::wrong(FOLDER, says, cure));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    if let Some(kind) = file_system(&mounts, &resolved)
        && let Some(remote) = remote(kind)
    {
        let cure = "Put the file on a disk of this machine. For several machines use RabbitMQ.";
        findings.push(match remote {
            Remote::Surely => {
                let says = format!(
                    "{} is on a network file system ({kind}): SQLite's write-ahead log does not work there, and events would be lost.",
                    folder.display()
                );
                Finding::wrong(FOLDER, says, cure)
            }
            Remote::Perhaps => {
                let says = format!(
                    "{} is on a file system of the kind {kind}: if that leads to another machine, SQLite's write-ahead log does not work there.",
                    folder.display()
                );
                Finding::notice(FOLDER, says).with_cure(cure)
            }
        });
    }
    if let Ok(there) = rustix::fs::statvfs(folder) {
        let room = there.f_bavail.saturating_mul(there.f_frsize);
        if room < LITTLE_ROOM {
            let says = format!(
                "Only {} are left on the disk of {}.",
                size(room),
                folder.display()
            );
            let cure = "Make room: once the disk is full, webhooks are refused.";
            findings.push(Finding::notice(FOLDER, says).with_cure(cure));
        }
    }
    findings
}

/// The kind of file system that the folder is on, by Linux's list of mounts: of the mount point that
/// is the longest part of its path, the last one mounted.
fn file_system<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        // "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescaped(before.split(' ').nth(4)?));
        let kind = after.split(' ').next()?;
        folder
            .starts_with(&point)
            .then(|| (point.components().count(), kind))
    };
    let mounted = mounts.lines().filter_map(mount);
    mounted
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
}

/// A mount point as it is: blanks and such are written as three octal digits.
fn unescaped(point: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(point.to_owned(), |point, (written, meant)| {
        point.replace(written, meant)
    })
}

/// Whether a file system leads to another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remote {
    Surely,
    Perhaps,
}

fn remote(kind: &str) -> Option<Remote> {
    const SURELY: [&str; 16] = [
        "9p",
        "afs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.davfs2",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
    ];
    if SURELY.contains(&kind) {
        Some(Remote::Surely)
    } else if kind == "fuse" || kind.starts_with("fuse.") || kind == "virtiofs" {
        Some(Remote::Perhaps)
    } else {
        None
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
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

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /srv rw - nfs4 server:/export rw
31 22 0:26 / /srv/local rw - xfs /dev/sdb1 rw
32 22 0:27 / /mnt/my\\040disk rw - fuse.sshfs me@there: rw
33 22 0:28 / /srv/local rw - tmpfs tmpfs rw
";

    #[test]
    fn the_file_system_is_that_of_the_longest_and_last_mount() {
        for (folder, kind) in [
            ("/var/lib", "ext4"),
            ("/srv/queue", "nfs4"),
            ("/srv-not", "ext4"),
            ("/srv/local/queue", "tmpfs"),
            ("/mnt/my disk", "fuse.sshfs"),
        ] {
            assert_eq!(
                file_system(MOUNTS, Path::new(folder)),
                Some(kind),
                "{folder}"
            );
        }
        assert_eq!(file_system("nonsense\n", Path::new("/srv")), None);
    }

    #[test]
    fn a_network_file_system_is_known_by_its_kind() {
        for (kind, expected) in [
            ("ext4", None),
            ("overlay", None),
            ("fuseblk", None),
            ("nfs4", Some(Remote::Surely)),
            ("fuse.sshfs", Some(Remote::Surely)),
            ("fuse.something", Some(Remote::Perhaps)),
        ] {
            assert_eq!(remote(kind), expected, "{kind}");
        }
    }

    #[test]
    fn a_path_is_one_for_a_uri_whatever_is_in_it() {
        assert_eq!(
            encoded(Path::new("/tmp/a b?#%ộ.db")),
            "/tmp/a%20b%3F%23%25%E1%BB%99.db"
        );
    }
}
