//! The spool's place on the disk: taken by one process at a time, and cleared of what cannot be used.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::{CLOSE_LIMIT, File, OPEN_AGAIN, Shared, SpoolOpenError, Stage};
use crate::sqlite::{OpenError, SpoolFile};

/// How long a predecessor may take to let go of the file: longer than it drains, unless it was told to
/// take very long.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(30);
/// Ends the name of the file by which the spool is locked.
pub(crate) const LOCK: &str = ".lock";
/// Stands behind the name of a spool that was set aside, and then when that was.
pub(crate) const SET_ASIDE: &str = ".set-aside-";
/// The same of a damaged one, until all that can be read of it has been brought into the new one.
pub(crate) const SAVING: &str = ".saving-";
/// How often it is looked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The most that is read of what the holder of the lock says of itself.
const LONGEST_HOLDER: u64 = 200;

/// The spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It is not set up as it has to be.
    #[error("{0}")]
    Refused(SpoolOpenError),
    /// The disk is full or failing: what may be over soon.
    #[error("{0}")]
    Passing(String),
}

/// Says that the file belongs to this process. A lock of the system: it is gone with the process,
/// however that ends. It is not on the file itself, which SQLite locks in its own way.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it is what ends the lock")] fs::File);

/// The path as other processes would find it, too: two names of a file must not have two locks.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// A file that SQLite, or we, keep beside this one.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// The file is being opened. That goes on on a thread of its own, for as long as the disk takes.
pub(super) type Opening = JoinHandle<Result<SpoolFile, Trouble>>;

/// Begins to open the file, which is locked until that has ended, whoever waits for it.
pub(super) fn begin(lock: Arc<Lock>, path: &Path, max_bytes: u64) -> Opening {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let opened = open(&path, max_bytes);
        drop(lock);
        opened
    })
}

/// Looks at the disk on a thread that may block.
pub(super) async fn apart<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    ended(tokio::task::spawn_blocking(look)).await
}

/// What came of looking at the disk.
pub(super) async fn ended<T>(looking: impl Future<Output = Result<T, JoinError>>) -> T {
    match looking.await {
        Ok(looked) => looked,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The process ends, and with it whoever waits.
        Err(_) => std::future::pending().await,
    }
}

/// Opens the file; one that cannot be used is set aside, and another one begun.
fn open(path: &Path, max_bytes: u64) -> Result<SpoolFile, Trouble> {
    match SpoolFile::open(path, max_bytes) {
        Ok(file) => return Ok(file),
        Err(OpenError::Damaged { reason, .. }) => set_aside(path, &reason, SAVED)?,
        Err(OpenError::JournalOnly(_)) => {
            // A journal alone has no name that anybody would look for.
            drop(fs::File::create_new(path));
            set_aside(path, "all but its journal is gone", USELESS)?;
        }
        Err(OpenError::Foreign(_)) => set_aside(path, "it is no spool of ours", PUT_BACK)?,
        Err(OpenError::Newer { version, .. }) => {
            let reason = format!("a newer release has made it: version {version}");
            set_aside(path, &reason, USE_NEWER)?;
        }
        Err(error) => return Err(trouble(path, error)),
    }
    SpoolFile::open(path, max_bytes).map_err(|error| trouble(path, error))
}

fn trouble(path: &Path, error: OpenError) -> Trouble {
    let path = path.to_owned();
    Trouble::Refused(match error {
        OpenError::Failing { reason, .. } => return Trouble::Passing(reason),
        OpenError::Queue(_) => SpoolOpenError::Queue(path),
        OpenError::ReadOnly(_) => SpoolOpenError::Protected {
            path,
            reason: "it may only be read".to_owned(),
        },
        OpenError::Unusable { reason, .. } => SpoolOpenError::Unusable { path, reason },
        error => SpoolOpenError::Unusable {
            path,
            reason: error.to_string(),
        },
    })
}

/// Where a file goes that cannot be used, and what to do about it.
#[derive(Debug, Clone, Copy)]
struct Aside {
    ending: &'static str,
    cure: &'static str,
}

const SAVED: Aside = Aside {
    ending: SAVING,
    cure: "What can be read of it goes into the new one",
};
const USELESS: Aside = Aside {
    ending: SET_ASIDE,
    cure: "The journal is of no use without it",
};
const PUT_BACK: Aside = Aside {
    ending: SET_ASIDE,
    cure: "If somebody misses it, move it back and name another file in CHICKWORK_SPOOL. If it was the spool, its beginning is damaged: keep it, `sqlite3 FILE .recover` may read the rest",
};
const USE_NEWER: Aside = Aside {
    ending: SET_ASIDE,
    cure: "The events in it are not answered: an ingress of the newer release with CHICKWORK_SPOOL=FILE forwards them",
};

/// Renames the file and what SQLite keeps beside it.
fn set_aside(path: &Path, reason: &str, to: Aside) -> Result<(), Trouble> {
    let renamed = name_for(path, to.ending, Timestamp::now())
        .and_then(|aside| rename(path, &aside).map(|()| aside));
    let aside = renamed.map_err(|error| refusal(path, &error))?;
    log::error!(
        "the spool {} cannot be used ({reason}); it was set aside as {}, and a new one is begun. {}",
        path.display(),
        aside.display(),
        to.cure
    );
    Ok(())
}

/// The file itself comes last: as long as it has its old name, the rest is still to be done.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    for ending in ["-shm", "-wal", ""] {
        match fs::rename(beside(from, ending), beside(to, ending)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The file's name with the time behind it, and a number if there is such a file. Where somebody has
/// got no further than the journal, the file follows it.
fn name_for(path: &Path, ending: &str, now: Timestamp) -> io::Result<PathBuf> {
    const MANY: u32 = 1000;
    let name = |ending: &str, time: &str| beside(path, &format!("{ending}{time}"));
    let has_journal = |name: &Path| holds_something(&beside(name, "-wal"));
    if !has_journal(path) {
        let known = times(path, ending).unwrap_or_default();
        let mut known = known.iter().map(|time| name(ending, time));
        if let Some(begun) = known.find(|name| !name.exists() && has_journal(name)) {
            return Ok(begun);
        }
    }
    let time = now.strftime("%Y%m%dT%H%M%SZ");
    let mut times = (1..MANY).map(|number| match number {
        1 => time.to_string(),
        number => format!("{time}-{number}"),
    });
    let is_free = |time: &String| {
        [SAVING, SET_ASIDE].iter().all(|ending| {
            let name = name(ending, time);
            !name.exists() && !beside(&name, "-wal").exists()
        })
    };
    let free = times.find(is_free).map(|time| name(ending, &time));
    free.ok_or_else(|| io::Error::other("there are too many files that were set aside"))
}

/// When something was set aside under this ending, oldest first. That may be no more than a journal.
fn times(path: &Path, ending: &str) -> io::Result<BTreeSet<String>> {
    let begins = beside(Path::new(path.file_name().unwrap_or_default()), ending);
    let begins = begins.as_os_str().as_encoded_bytes();
    let mut times = BTreeSet::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let name = entry?.file_name();
        let time = name.as_encoded_bytes().strip_prefix(begins);
        let Some(time) = time.and_then(|time| std::str::from_utf8(time).ok()) else {
            continue;
        };
        let time = ["-wal", "-shm"]
            .iter()
            .find_map(|ending| time.strip_suffix(ending))
            .unwrap_or(time);
        // Somebody may use such a file as his spool, and then there is more that begins so.
        if time
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"TZ-".contains(&byte))
        {
            times.insert(time.to_owned());
        }
    }
    Ok(times)
}

/// Whether there is such a file, and not an empty one. One that cannot be seen may well hold something.
pub(crate) fn holds_something(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(file) => file.len() > 0,
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// A damaged spool of which not all that can be read has been saved yet.
#[derive(Debug, Clone)]
pub(super) struct Unsaved {
    pub(super) file: PathBuf,
    aside: PathBuf,
}

/// All of them.
pub(super) async fn unsaved(path: &Path) -> Vec<Unsaved> {
    let path = path.to_owned();
    apart(move || {
        let times = times(&path, SAVING).unwrap_or_else(|error| {
            log::error!("whether there are damaged spools to be saved is not known: {error}");
            BTreeSet::new()
        });
        let unsaved = times.iter().map(|time| Unsaved {
            file: beside(&path, &format!("{SAVING}{time}")),
            aside: beside(&path, &format!("{SET_ASIDE}{time}")),
        });
        unsaved.filter(|unsaved| unsaved.file.exists()).collect()
    })
    .await
}

impl Unsaved {
    /// All that can be read of it has been saved. Gives its new name.
    pub(super) async fn saved(self) -> io::Result<PathBuf> {
        apart(move || rename(&self.file, &self.aside).map(|()| self.aside)).await
    }
}

/// Takes the lock, and waits for a predecessor that is stopping. So long may the disk take each time.
pub(super) async fn lock(path: &Path, limit: Duration) -> Result<Arc<Lock>, Trouble> {
    let begun = Instant::now();
    for tried in 0_u32.. {
        let place = path.to_owned();
        let taking = tokio::time::timeout(limit, apart(move || try_lock(&place)));
        let holder = match taking.await {
            Ok(Ok(Taken::Ours(lock))) => return Ok(Arc::new(lock)),
            Ok(Ok(Taken::By(holder))) => holder,
            Ok(Err(trouble)) => return Err(trouble),
            Err(_elapsed) => return Err(Trouble::Passing("its disk does not answer".to_owned())),
        };
        if begun.elapsed() > PREDECESSOR_LIMIT {
            return Err(Trouble::Refused(SpoolOpenError::InUse {
                path: path.to_owned(),
                holder,
            }));
        }
        // The first time it may be somebody who only looks, and what is written there may be old.
        if tried == 1 {
            log::warn!(
                "the spool {} is in use by {holder}; waiting up to {PREDECESSOR_LIMIT:?} for it to stop",
                path.display()
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    unreachable!("the limit comes first")
}

/// What came of trying to take the lock.
enum Taken {
    Ours(Lock),
    /// By whom, as far as is known.
    By(String),
}

fn try_lock(path: &Path) -> Result<Taken, Trouble> {
    let unusable = |reason: String| {
        let path = path.to_owned();
        Trouble::Refused(SpoolOpenError::Unusable { path, reason })
    };
    if path.is_dir() {
        return Err(unusable("it is a folder".to_owned()));
    }
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(beside(path, LOCK))
        .map_err(|error| refusal(path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Taken::By(holder(&mut file))),
        Err(TryLockError::Error(error)) => {
            return Err(unusable(format!("it cannot be locked: {error}")));
        }
    }
    // For people only; a full disk is no reason against it.
    let _ = introduce(&mut file);
    Ok(Taken::Ours(Lock(file)))
}

fn introduce(file: &mut fs::File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let (process, now) = (std::process::id(), Timestamp::now());
    writeln!(file, "process {process} since {now:.0}")
}

/// What the holder of a lock says of itself.
pub(crate) fn holder(lock: &mut fs::File) -> String {
    let mut says = String::new();
    let read = lock
        .rewind()
        .and_then(|()| lock.take(LONGEST_HOLDER).read_to_string(&mut says));
    let says = says.trim();
    let is_plain = read.is_ok() && !says.is_empty() && !says.contains(char::is_control);
    if is_plain { says } else { "another process" }.to_owned()
}

fn refusal(path: &Path, error: &io::Error) -> Trouble {
    let (path, reason) = (path.to_owned(), error.to_string());
    Trouble::Refused(match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => SpoolOpenError::NoFolder { path, reason },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            SpoolOpenError::Protected { path, reason }
        }
        ErrorKind::IsADirectory | ErrorKind::InvalidFilename => {
            SpoolOpenError::Unusable { path, reason }
        }
        _ => return Trouble::Passing(reason),
    })
}

/// Opens the file again whenever it is not open, until the spool stops. It may be about to be opened.
pub(super) async fn keep_open(shared: Arc<Shared>, opening: Option<Opening>) {
    tokio::select! {
        () = open_again(&shared, opening) => {}
        () = shared.reached(Stage::Draining) => {}
    }
}

async fn open_again(shared: &Shared, mut opening: Option<Opening>) {
    let mut files = shared.file.subscribe();
    loop {
        if let Ok(file) = shared.file() {
            shared.say_what_waits(file).await;
        }
        // An error is impossible: `shared` has the sender.
        let _ = files.wait_for(|file| !matches!(file, File::Open(_))).await;
        if let Some((file, reason)) = let_go(shared) {
            log::error!("the spool {} is damaged: {reason}", shared.path.display());
            // It must be closed by everybody before it is renamed: SQLite removes by name what it
            // keeps beside a file, and would then remove that of the new one.
            let mut closing = std::pin::pin!(file.closed());
            while tokio::time::timeout(CLOSE_LIMIT, &mut closing)
                .await
                .is_err()
            {
                log::warn!("the damaged spool is still in use");
            }
            let path = shared.path.clone();
            if let Err(trouble) = apart(move || set_aside(&path, &reason, SAVED)).await {
                log::error!("the damaged spool cannot be set aside: {trouble}");
            }
        }
        let opened = match opening.take() {
            Some(opening) => ended(opening).await,
            None => reopen(shared).await,
        };
        match opened {
            Ok(file) => {
                log::info!("the spool {} is open", shared.path.display());
                shared.file.send_replace(File::Open(file));
            }
            Err(trouble) => {
                log::warn!("the spool cannot be opened yet: {trouble}");
                shared.file.send_replace(File::Closed(trouble.to_string()));
                tokio::time::sleep(OPEN_AGAIN).await;
            }
        }
    }
}

/// The file if it is damaged; from now on there is none.
fn let_go(shared: &Shared) -> Option<(SpoolFile, String)> {
    let mut damaged = None;
    shared.file.send_if_modified(|file| {
        if let File::Damaged(_, reason) = file {
            let closed = File::Closed(reason.clone());
            damaged = Some(std::mem::replace(file, closed));
        }
        damaged.is_some()
    });
    match damaged? {
        File::Damaged(file, reason) => Some((file, reason)),
        File::Open(_) | File::Closed(_) => None,
    }
}

/// Nobody waits for it: the disk may take as long as it likes, so that no more than one thread hangs.
async fn reopen(shared: &Shared) -> Result<SpoolFile, Trouble> {
    let kept = || shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = kept().clone();
    let lock = match ours {
        Some(lock) => lock,
        None => {
            let lock = lock(&shared.path, Duration::MAX).await?;
            kept().insert(lock).clone()
        }
    };
    ended(begin(lock, &shared.path, shared.max_bytes)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_follows_its_journal_where_nobody_got_further() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("spool.db");
        let at = |ending: &str| beside(&path, ending);
        let now = "2026-08-01T10:00:00Z".parse().expect("a time");
        fs::write(&path, "damaged")?;
        let fresh = name_for(&path, SAVING, now)?;
        assert_eq!(fresh, at(".saving-20260801T100000Z"));
        fs::write(at(".saving-20260701T090000Z-wal"), "the journal")?;
        let begun = name_for(&path, SAVING, now)?;
        assert_eq!(begun, at(".saving-20260701T090000Z"));
        assert_eq!(
            name_for(&path, SET_ASIDE, now)?,
            at(".set-aside-20260801T100000Z")
        );
        fs::write(at("-wal"), "another journal")?;
        assert_eq!(name_for(&path, SAVING, now)?, fresh);
        fs::remove_file(at("-wal"))?;
        rename(&path, &begun)?;
        assert_eq!(name_for(&path, SAVING, now)?, fresh, "it is complete");
        fs::write(at(".set-aside-20260801T100000Z"), "another one")?;
        assert_eq!(
            name_for(&path, SAVING, now)?,
            at(".saving-20260801T100000Z-2")
        );
        Ok(())
    }
}
