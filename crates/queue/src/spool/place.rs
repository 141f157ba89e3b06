//! The spool's place on the disk: taken by one process at a time, and cleared of what cannot be used.

use std::ffi::OsString;
use std::fs::{self, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{CLOSE_LIMIT, File, OPEN_AGAIN, Shared, SpoolOpenError, Stage};
use crate::sqlite::{OpenError, Put, SpoolFile, salvage};

/// How long a predecessor may take to let go of the file: longer than it drains, unless it was told to
/// take very long.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(30);
/// Ends the name of the file by which the spool is locked.
pub(crate) const LOCK: &str = ".lock";
/// Stands behind the name of a spool that was set aside, and then when that was.
pub(crate) const SET_ASIDE: &str = ".set-aside-";
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
pub(super) fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// A file, and the damaged one in whose place it is, if it is.
pub(super) struct Opened {
    pub(super) file: SpoolFile,
    pub(super) damaged: Option<PathBuf>,
}

/// Takes the file for this process and opens it.
pub(super) async fn take(path: &Path, max_bytes: u64) -> Result<(Lock, Opened), Trouble> {
    let lock = lock(path).await?;
    let opened = open(path, max_bytes).await?;
    Ok((lock, opened))
}

/// Opens the file; one that cannot be used is set aside, and another one begun.
async fn open(path: &Path, max_bytes: u64) -> Result<Opened, Trouble> {
    if !path.exists() && beside(path, "-wal").exists() {
        // SQLite would delete what belongs to a file that is gone.
        set_aside(
            path,
            "all but its journal is gone",
            "The journal is of no use without it",
        )?;
    }
    let mut damaged = None;
    match SpoolFile::open(path, max_bytes).await {
        Ok(file) => return Ok(Opened { file, damaged }),
        Err(OpenError::Damaged { reason, .. }) => {
            damaged = Some(set_aside(path, &reason, SAVED)?);
        }
        Err(OpenError::Foreign(_)) => {
            set_aside(path, "it is no spool of ours", PUT_BACK)?;
        }
        Err(OpenError::Newer { version, .. }) => {
            let reason = format!("a newer release has made it: version {version}");
            set_aside(path, &reason, USE_NEWER)?;
        }
        Err(error) => return Err(trouble(path, error)),
    }
    match SpoolFile::open(path, max_bytes).await {
        Ok(file) => Ok(Opened { file, damaged }),
        Err(error) => Err(trouble(path, error)),
    }
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

/// What to do about a file that was set aside.
const SAVED: &str = "What can be read of it goes into the new one";
const PUT_BACK: &str =
    "If somebody misses it, move it back and name another file in CHICKWORK_SPOOL";
const USE_NEWER: &str = "The events in it are not answered: an ingress of the newer release with CHICKWORK_SPOOL=FILE forwards them";

/// Renames the file and what SQLite keeps beside it.
fn set_aside(path: &Path, reason: &str, cure: &str) -> Result<PathBuf, Trouble> {
    let renamed = free_name(path, Timestamp::now()).and_then(|aside| {
        for ending in ["", "-wal", "-shm"] {
            match fs::rename(beside(path, ending), beside(&aside, ending)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(aside)
    });
    match renamed {
        Ok(aside) => {
            log::error!(
                "the spool {} cannot be used ({reason}); it was set aside as {}, and a new one is begun. {cure}",
                path.display(),
                aside.display()
            );
            Ok(aside)
        }
        Err(error) => Err(refusal(path, &error)),
    }
}

/// The file's name with the time behind it, and a number if there is such a file.
fn free_name(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    const MANY: u32 = 1000;
    let time = now.strftime("%Y%m%dT%H%M%SZ");
    let names = (1..MANY).map(|number| match number {
        1 => beside(path, &format!("{SET_ASIDE}{time}")),
        number => beside(path, &format!("{SET_ASIDE}{time}-{number}")),
    });
    let is_free = |name: &PathBuf| !name.exists() && !beside(name, "-wal").exists();
    let free = { names }.find(is_free);
    free.ok_or_else(|| io::Error::other("there are too many files that were set aside"))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// Takes the lock, and waits for a predecessor that is stopping.
async fn lock(path: &Path) -> Result<Lock, Trouble> {
    if path.is_dir() {
        return Err(Trouble::Refused(SpoolOpenError::Unusable {
            path: path.to_owned(),
            reason: "it is a folder".to_owned(),
        }));
    }
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(beside(path, LOCK))
        .map_err(|error| refusal(path, &error))?;
    let begun = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(Trouble::Refused(SpoolOpenError::Unusable {
                    path: path.to_owned(),
                    reason: format!("it cannot be locked: {error}"),
                }));
            }
        }
        let holder = holder(&mut file);
        if begun.elapsed() > PREDECESSOR_LIMIT {
            return Err(Trouble::Refused(SpoolOpenError::InUse {
                path: path.to_owned(),
                holder,
            }));
        }
        if !told {
            log::warn!(
                "the spool {} is in use by {holder}; waiting up to {PREDECESSOR_LIMIT:?} for it to stop",
                path.display()
            );
            told = true;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    // For people only; a full disk is no reason against it.
    let _ = introduce(&mut file);
    Ok(Lock(file))
}

fn introduce(file: &mut fs::File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let (process, now) = (std::process::id(), Timestamp::now());
    writeln!(file, "process {process} since {now:.0}")
}

fn holder(file: &mut fs::File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(LONGEST_HOLDER).read_to_string(&mut text));
    match (read, text.trim()) {
        (Ok(_), text) if !text.is_empty() => text.to_owned(),
        _ => "another process".to_owned(),
    }
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

/// Opens the file again whenever it is not open, until the spool stops. Begins with what can be saved
/// of the damaged one.
pub(super) async fn keep_open(shared: Arc<Shared>, damaged: Option<PathBuf>) {
    tokio::select! {
        () = open_again(&shared, damaged) => {}
        () = shared.reached(Stage::Draining) => {}
    }
}

async fn open_again(shared: &Shared, mut damaged: Option<PathBuf>) {
    let mut files = shared.file.subscribe();
    loop {
        // Without an open file it waits for one.
        if let (Some(aside), Ok(file)) = (&damaged, shared.file()) {
            save(&file, aside).await;
            damaged = None;
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
            match set_aside(&shared.path, &reason, SAVED) {
                Ok(aside) => damaged = Some(aside),
                Err(trouble) => log::error!("the damaged spool cannot be set aside: {trouble}"),
            }
        }
        match reopen(shared).await {
            Ok(opened) => {
                log::info!("the spool {} is open", shared.path.display());
                damaged = opened.damaged.or(damaged);
                shared.file.send_replace(File::Open(opened.file));
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

async fn reopen(shared: &Shared) -> Result<Opened, Trouble> {
    let is_ours = shared
        .lock
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some();
    if is_ours {
        return open(&shared.path, shared.max_bytes).await;
    }
    let (lock, opened) = take(&shared.path, shared.max_bytes).await?;
    *shared.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
    Ok(opened)
}

/// Brings what can be read of a damaged spool into the new one, under the same ids: an event that the
/// broker had already is answered once.
async fn save(file: &SpoolFile, damaged: &Path) {
    let (mut saved, mut lost) = (0, 0);
    let mut salvaged = salvage(damaged);
    while let Some(page) = salvaged.recv().await {
        let puts = page.iter().map(async |waiting| match &waiting.event {
            Some((event, becomes)) => {
                matches!(file.put(event, becomes).await, Ok(Put::Stored { .. }))
            }
            None => false,
        });
        let puts = join_all(puts).await;
        let count = puts.iter().filter(|saved| **saved).count();
        saved += count;
        lost += page.len() - count;
    }
    log::error!(
        "of the damaged spool {} {saved} events could be saved, {lost} could not; keep it until somebody has looked into it",
        damaged.display()
    );
}
