//! Looks at a queue file, or at an ingress's spool, or at the place where there will be one, without
//! touching either, and says in sentences how it is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::SCHEMA_VERSION;
use super::look::{self, Holds, Seen, Unreadable};
use crate::examine::{Finding, NoSpool, SpoolSeen};
use crate::report::SpoolReport;
use crate::spool::SpoolSettings;
use crate::spool::place::{LOCK, SAVING, SET_ASIDE, beside, resolved};

/// How long all of it may take: a dead file server answers nothing, ever.
const LIMIT: Duration = Duration::from_secs(60);
/// Less room than this is worth a word.
const LITTLE_ROOM: u64 = 100 * 1024 * 1024;
/// As many files that were set aside for the same reason are named.
const MOST_NAMED: usize = 5;
/// What is said of a queue that somebody takes for a spool.
const A_QUEUE: &str = "is a queue in its own right, and no spool";

/// What a file is for, in the words of the findings about it.
#[derive(Debug)]
struct Use {
    file: &'static str,
    folder: &'static str,
    setting: &'static str,
    example: &'static str,
    /// Where several machines are concerned.
    shared: &'static str,
}

const QUEUE: Use = Use {
    file: "queue file",
    folder: "queue folder",
    setting: "CHICKWORK_QUEUE",
    example: "CHICKWORK_QUEUE=sqlite:/var/lib/chickwork/chickwork.db",
    shared: "For several machines use RabbitMQ.",
};

const SPOOL: Use = Use {
    file: "spool",
    folder: "spool folder",
    setting: "CHICKWORK_SPOOL",
    example: "CHICKWORK_SPOOL=/var/lib/chickwork/spool.db",
    shared: "Each ingress has a spool of its own.",
};

/// Looks at a queue file.
pub(crate) async fn examine(path: &Path) -> Vec<Finding> {
    findings(&QUEUE, path, |path| {
        let is_there = match there(&QUEUE, path) {
            Ok(is_there) => is_there,
            Err(finding) => return vec![finding],
        };
        let finding = if is_there {
            protected(&QUEUE, path).unwrap_or_else(|| of_queue(path, look::check(path)))
        } else {
            let says = format!("There is none yet; {} will be created.", path.display());
            Finding::notice(QUEUE.file, says)
        };
        let mut findings = vec![finding];
        findings.extend(place(&QUEUE, path));
        findings
    })
    .await
}

/// Looks at the spool of an ingress.
pub(crate) async fn examine_spool(settings: &SpoolSettings) -> Vec<Finding> {
    let max_bytes = settings.max_bytes;
    findings(&SPOOL, &settings.path, move |path| {
        let path = &resolved(path);
        let is_there = match there(&SPOOL, path) {
            Ok(is_there) => is_there,
            Err(finding) => return vec![finding],
        };
        let mut findings = vec![if is_there {
            protected(&SPOOL, path).unwrap_or_else(|| of_spool(path, look::check(path), max_bytes))
        } else {
            let says = format!("There is none yet; {} will be created.", path.display());
            Finding::good(SPOOL.file, says)
        }];
        findings.extend(all_set_aside(path));
        findings.extend(place(&SPOOL, path));
        let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
        findings.extend(too_large(path, bytes, max_bytes));
        findings
    })
    .await
}

/// What the file of a spool holds, if there is one.
pub(crate) async fn look_at_spool(path: &Path) -> Result<Option<SpoolSeen>, NoSpool> {
    let looked = apart(path, |path| {
        if !path.exists() {
            return Ok(None);
        }
        let no_spool = |why: &dyn Display| NoSpool(format!("{} {why}", path.display()));
        let path = &resolved(path);
        if !path.is_file() {
            return Err(no_spool(&"is no file"));
        }
        let seen = look::glance(path).map_err(|why| no_spool(&why))?;
        match seen.holds {
            Holds::Nothing => Ok(None),
            Holds::Queue { .. } => Err(no_spool(&A_QUEUE)),
            Holds::Spool {
                events,
                oldest,
                newest,
            } => Ok(Some(SpoolSeen {
                events,
                oldest,
                newest,
                bytes: seen.used,
                process: look::user(path).as_deref().and_then(number),
            })),
        }
    });
    looked
        .await
        .unwrap_or_else(|why| Err(NoSpool(format!("{} cannot be read: {why}", path.display()))))
}

/// The number of a process that says of itself `process 7 since …`.
fn number(user: &str) -> Option<u32> {
    user.strip_prefix("process ")?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

/// What is found about the file at this path.
async fn findings(
    of: &'static Use,
    path: &Path,
    look: impl FnOnce(&Path) -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    apart(path, look).await.unwrap_or_else(|why| {
        let says = format!("{} cannot be looked at: {why}.", path.display());
        let cure = "See whether its disk or file server answers. The file has to be on a disk of this machine.";
        vec![Finding::wrong(of.file, says, cure)]
    })
}

/// Looks on a thread of its own, for which nobody has to wait if it hangs. The error says why there
/// is nothing to be told.
async fn apart<T: Send + 'static>(
    path: &Path,
    look: impl FnOnce(&Path) -> T + Send + 'static,
) -> Result<T, String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("examining".to_owned())
        .spawn(move || drop(tell.send(look(&path))))
        .map_err(|error| error.to_string())?;
    let told = tokio::time::timeout(LIMIT, told).await;
    told.ok()
        .and_then(Result::ok)
        .ok_or_else(|| "it took too long".to_owned())
}

/// Whether there is a file already; an error is what keeps one from being there.
fn there(of: &Use, path: &Path) -> Result<bool, Finding> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match std::fs::metadata(path) {
        Ok(file) if file.is_file() => Ok(true),
        Ok(_) => {
            let says = format!("{} is no file, but a folder or a device.", path.display());
            let cure = format!("Name a file, for instance {}.", of.example);
            Err(Finding::wrong(of.file, says, cure))
        }
        Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => Ok(false),
        Err(error) => {
            let says = format!("{} cannot be there: {error}.", path.display());
            let cure = format!("Create the folder, or correct {}.", of.setting);
            Err(Finding::wrong(of.file, says, cure))
        }
    }
}

/// What keeps us from writing to a file that is there, or to one of those that are kept beside it.
fn protected(of: &Use, path: &Path) -> Option<Finding> {
    let all = [
        path.to_owned(),
        beside(path, "-wal"),
        beside(path, "-shm"),
        beside(path, LOCK),
    ];
    all.into_iter().find_map(|file| {
        let error = rustix::fs::access(&file, Access::READ_OK | Access::WRITE_OK).err()?;
        if error == rustix::io::Errno::NOENT {
            return None;
        }
        let error = std::io::Error::from(error);
        let says = format!("{} may not be written to by this user: {error}.", file.display());
        let cure = "Give this user read and write access to the file and to those beside it whose names begin alike.";
        Some(Finding::wrong(of.file, says, cure))
    })
}

/// How a queue file is.
fn of_queue(path: &Path, seen: Result<Seen, Unreadable>) -> Finding {
    let shown = path.display();
    match seen {
        Ok(Seen {
            holds: Holds::Nothing,
            ..
        }) => {
            let says = format!("{shown} is empty; the queue will be created in it.");
            Finding::notice(QUEUE.file, says)
        }
        Ok(Seen {
            holds: Holds::Queue { jobs, dead },
            bytes,
            ..
        }) => {
            let (jobs, dead) = (counted(jobs, "job"), counted(dead, "dead letter"));
            let size = size(bytes);
            let says = format!("{shown} ({size}) is in order; it holds {jobs} and {dead}.");
            Finding::good(QUEUE.file, says)
        }
        Ok(Seen {
            holds: Holds::Spool { events, .. },
            ..
        }) => {
            let events = counted(events, "event");
            let says = format!(
                "{shown} is no queue, but the spool of an ingress, with {events} for a broker."
            );
            let cure = "Name another file in CHICKWORK_QUEUE, or the broker.";
            Finding::wrong(QUEUE.file, says, cure)
        }
        Err(Unreadable::Foreign) => {
            let says = format!("{shown} is not a Chickwork queue.");
            let cure = "Move it away, or name another file in CHICKWORK_QUEUE.";
            Finding::wrong(QUEUE.file, says, cure)
        }
        Err(Unreadable::Newer(version)) => {
            let says =
                format!("{shown} has version {version}; this release knows {SCHEMA_VERSION}.");
            Finding::wrong(QUEUE.file, says, "Use the newer release that wrote it.")
        }
        Err(Unreadable::Damaged(what)) => {
            let says = format!("{shown} is damaged: {what}.");
            let cure = "Stop every process that uses it, keep a copy of it and of the files beside it, and save what can be read with \
                        `sqlite3 FILE .recover`; or start with a new file.";
            Finding::wrong(QUEUE.file, says, cure)
        }
        Err(why @ (Unreadable::Locked | Unreadable::Failed(_))) => failed(&QUEUE, path, &why),
    }
}

/// How a spool is.
fn of_spool(path: &Path, seen: Result<Seen, Unreadable>, max_bytes: u64) -> Finding {
    let shown = path.display();
    match seen {
        Ok(Seen {
            holds: Holds::Nothing,
            ..
        }) => {
            let says = format!("{shown} is empty; the spool will be created in it.");
            Finding::good(SPOOL.file, says)
        }
        Ok(Seen {
            holds: Holds::Spool { events, oldest, .. },
            used,
            ..
        }) => {
            let spooled = SpoolReport {
                events,
                oldest,
                bytes: used,
                max_bytes,
            };
            of_spooled(path, &spooled, look::user(path).as_deref())
        }
        Ok(Seen {
            holds: Holds::Queue { .. },
            ..
        }) => {
            let says = format!("{shown} {A_QUEUE}.");
            let cure = "Name another file in CHICKWORK_SPOOL; the spool needs one of its own.";
            Finding::wrong(SPOOL.file, says, cure)
        }
        Err(Unreadable::Foreign) => {
            let says = format!(
                "{shown} is not a Chickwork file; an ingress would set it aside and begin a new one."
            );
            let cure = "Name another file in CHICKWORK_SPOOL, or move this one away.";
            Finding::wrong(SPOOL.file, says, cure)
        }
        Err(Unreadable::Newer(version)) => {
            let says = format!(
                "{shown} has version {version}; this release knows {SCHEMA_VERSION}, and would set it aside."
            );
            let cure = "Start an ingress of the newer release with it once more, until the broker has its events.";
            Finding::wrong(SPOOL.file, says, cure)
        }
        Err(Unreadable::Damaged(what)) => {
            let says = format!("{shown} is damaged: {what}.");
            let cure = "See whether the disk is failing. An ingress that is started with it sets it aside, begins a new one, and brings there \
                        what can be read.";
            Finding::wrong(SPOOL.file, says, cure)
        }
        Err(why @ (Unreadable::Locked | Unreadable::Failed(_))) => failed(&SPOOL, path, &why),
    }
}

/// How much a spool holds that is in order, and who uses it.
fn of_spooled(path: &Path, spooled: &SpoolReport, user: Option<&str>) -> Finding {
    let shown = path.display();
    let used_by = match user {
        Some(process) => format!("{process} uses it"),
        None => "no process uses it just now".to_owned(),
    };
    let SpoolReport {
        events,
        bytes,
        max_bytes,
        ..
    } = spooled;
    if *events == 0 {
        let says = format!("{shown} is in order; {used_by}, and nothing waits in it.");
        return Finding::good(SPOOL.file, says);
    }
    let wait = if *events == 1 { "waits" } else { "wait" };
    let since = match spooled.oldest {
        Some(oldest) => format!(", the oldest since {oldest:.0}"),
        None => String::new(),
    };
    let says = format!(
        "{} {wait} in {shown}{since}, and {used_by}. {} of {} are in use.",
        counted(*events, "event"),
        size(*bytes),
        size(*max_bytes)
    );
    let cure = match (user, spooled.is_nearly_full()) {
        (None, _) => "Start an ingress with this CHICKWORK_SPOOL: it brings them to the broker.",
        (Some(_), false) => "They go to the broker by themselves as soon as it takes them.",
        (Some(_), true) => {
            "Get the broker going, or raise CHICKWORK_SPOOL_MAX_BYTES: large webhooks may be refused already, and all are once the spool is full."
        }
    };
    Finding::notice(SPOOL.file, says).with_cure(cure)
}

/// Why a file was set aside, in the order of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Aside {
    Newer,
    Saving,
    Damaged,
    Foreign,
}

impl Aside {
    /// Its reason is not written down, but can still be seen.
    fn of(path: &Path) -> Self {
        match look::glance(path) {
            Err(Unreadable::Newer(_)) => Self::Newer,
            Err(Unreadable::Foreign) => Self::Foreign,
            // In a damaged file much may be whole.
            _ => Self::Damaged,
        }
    }

    fn finding(self, folder: &Path, mut names: Vec<String>) -> Finding {
        names.sort();
        let more = match names.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        names.truncate(MOST_NAMED);
        let (why, cure) = match self {
            Self::Newer => (
                "A newer release has made it, and its events have not reached the broker",
                "Start an ingress of that release with it as CHICKWORK_SPOOL, until the broker has its events. Then move it away.",
            ),
            Self::Saving => (
                "It is damaged, and what can be read of it is not all in the new one yet",
                "An ingress with this CHICKWORK_SPOOL goes on with that by itself; leave it where it is.",
            ),
            Self::Damaged => (
                "It is damaged; what could be read of it went into the new one",
                "The log says how much that was. See whether the disk is failing, and move it away when nobody needs it any more.",
            ),
            Self::Foreign => (
                "It is not a Chickwork file",
                "If somebody misses it, move it back and name another file in CHICKWORK_SPOOL; else move it away.",
            ),
        };
        let says = format!(
            "Set aside in {}: {}{more}. {why}.",
            folder.display(),
            names.join(", ")
        );
        Finding::notice(SPOOL.file, says).with_cure(cure)
    }
}

/// What an ingress has set aside because it could not be used, and nobody has looked after since.
fn all_set_aside(path: &Path) -> Vec<Finding> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let [saving, set_aside] = [SAVING, SET_ASIDE]
        .map(|ending| beside(Path::new(path.file_name().unwrap_or_default()), ending));
    let begins = |name: &OsStr, with: &Path| {
        let with = with.as_os_str().as_encoded_bytes();
        name.as_encoded_bytes().starts_with(with)
    };
    let mut names: BTreeMap<Aside, Vec<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_of_another = [&b"-wal"[..], b"-shm"]
            .iter()
            .any(|ending| name.as_encoded_bytes().ends_with(ending));
        let is_being_saved = begins(&name, &saving);
        if (is_being_saved || begins(&name, &set_aside)) && !is_of_another {
            let reason = if is_being_saved {
                Aside::Saving
            } else {
                Aside::of(&entry.path())
            };
            let name = name.to_string_lossy().into_owned();
            names.entry(reason).or_default().push(name);
        }
    }
    names
        .into_iter()
        .map(|(reason, names)| reason.finding(folder, names))
        .collect()
}

/// So many of them: `1 job`, `12 jobs`.
fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

/// The file is there, and nothing can be said of what is in it.
fn failed(of: &Use, path: &Path, why: &Unreadable) -> Finding {
    let cure = match why {
        Unreadable::Locked => {
            "End whatever keeps it locked, for instance a sqlite3 shell or a backup."
        }
        _ => "See whether it is a file that this user may read and write.",
    };
    let says = format!("{} {why}.", path.display());
    Finding::wrong(of.file, says, cure)
}

/// What is wrong with the folder of the file, or with what lies below it.
fn place(of: &Use, path: &Path) -> Vec<Finding> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut findings = Vec::new();
    if let Err(error) = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        let error = std::io::Error::from(error);
        let says = format!(
            "{} may not be written to by this user: {error}.",
            folder.display()
        );
        let cure = format!(
            "Give this user write access to the folder: SQLite keeps two more files beside the {}.",
            of.file
        );
        findings.push(Finding::wrong(of.folder, says, cure));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let kind = file_system(&mounts, &resolved);
    if let Some(kind) = kind
        && let Some(remote) = remote(kind)
    {
        let cure = format!("Put the file on a disk of this machine. {}", of.shared);
        findings.push(match remote {
            Remote::Surely => {
                let says = format!(
                    "{} is on a network file system ({kind}): SQLite's write-ahead log does not work there, and events would be lost.",
                    folder.display()
                );
                Finding::wrong(of.folder, says, cure)
            }
            Remote::Perhaps => {
                let says = format!(
                    "{} is on a file system of the kind {kind}: if that leads to another machine, SQLite's write-ahead log does not work there.",
                    folder.display()
                );
                Finding::notice(of.folder, says).with_cure(cure)
            }
        });
    }
    if let Some(kind) = kind.filter(|kind| is_passing(kind)) {
        let says = format!(
            "{} is on a file system of the kind {kind}: what lies there is gone with the container, or after a restart.",
            folder.display()
        );
        let cure = "Put the file on a disk or a volume that stays: what is in it has been answered with 200.";
        findings.push(Finding::notice(of.folder, says).with_cure(cure));
    }
    if let Some(room) = room(folder).filter(|room| *room < LITTLE_ROOM) {
        let says = format!(
            "Only {} are left on the disk of {}.",
            size(room),
            folder.display()
        );
        let cure = "Make room: once the disk is full, webhooks are refused.";
        findings.push(Finding::notice(of.folder, says).with_cure(cure));
    }
    findings
}

/// What is left on the disk, in bytes.
fn room(folder: &Path) -> Option<u64> {
    let there = rustix::fs::statvfs(folder).ok()?;
    Some(there.f_bavail.saturating_mul(there.f_frsize))
}

/// The disk has less room than the spool is allowed: a note, as it has to be full first.
fn too_large(path: &Path, bytes: u64, max_bytes: u64) -> Option<Finding> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let room = room(folder)?;
    if room.saturating_add(bytes) >= max_bytes {
        return None;
    }
    let says = format!(
        "CHICKWORK_SPOOL_MAX_BYTES allows {}, and only {} are left on the disk of {}.",
        size(max_bytes),
        size(room),
        folder.display()
    );
    let cure = "Make room, or lower it: a full disk refuses webhooks just as a full spool does, and troubles others too.";
    Some(Finding::notice(SPOOL.folder, says).with_cure(cure))
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

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// Whether a file system ends with its container or its machine.
fn is_passing(kind: &str) -> bool {
    ["overlay", "ramfs", "tmpfs"].contains(&kind)
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
        assert!(is_passing("tmpfs") && !is_passing("xfs"));
    }
}
