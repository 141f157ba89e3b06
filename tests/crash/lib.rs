//! A library to be preloaded into a process of the binary (`LD_PRELOAD`): it stands between the
//! process and its disk. It kills the process at a commit that it was told of, and fills the disk or
//! breaks it, all by files in the folder that the environment variable `CRASH_FOLDER` names:
//!
//! - `crash`, with `3 before` or `3 after` in it: killed at the third sync since the file is there,
//!   before the first byte of what it would have made safe is written, or when it has been made safe.
//!   What is written and not synced survives a kill just as well, so there is nothing in between.
//! - `full`: nothing that makes a file larger can be written.
//! - `broken`: nothing can be made safe.

#![expect(
    unsafe_code,
    reason = "functions of the C library are stood in for, as C calls them"
)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_long, c_void, off_t, size_t, ssize_t};

/// What the log of a queue file ends with: every commit is written there, then synced.
const LOG: &[u8] = b"-wal";
/// Where logs go; they stay legible when the disk is full.
const STANDARD_ERROR: c_int = 2;

/// The files that say what is to happen.
struct Orders {
    crash: PathBuf,
    full: PathBuf,
    broken: PathBuf,
}

/// On which side of a commit.
#[derive(PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// The syncs since the order to crash is there.
static SYNCS: AtomicU64 = AtomicU64::new(0);

fn orders() -> Option<&'static Orders> {
    static ORDERS: OnceLock<Option<Orders>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let folder = PathBuf::from(std::env::var_os("CRASH_FOLDER")?);
        Some(Orders {
            crash: folder.join("crash"),
            full: folder.join("full"),
            broken: folder.join("broken"),
        })
    });
    orders.as_ref()
}

/// At which sync to crash, and on which side of it.
fn crash() -> Option<(u64, Side)> {
    let order = std::fs::read_to_string(&orders()?.crash).ok();
    let Some(order) = order else {
        // What is counted begins with the order.
        SYNCS.store(0, Ordering::SeqCst);
        return None;
    };
    let (number, side) = order.trim().split_once(' ')?;
    let side = match side {
        "before" => Side::Before,
        "after" => Side::After,
        _ => return None,
    };
    Some((number.parse().ok()?, side))
}

fn die() -> ! {
    loop {
        // SAFETY: both take numbers and touch no memory. A killed process does not come back here.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
    }
}

fn fail(reason: c_int) {
    // SAFETY: the C library gives each thread an errno of its own, which is always there.
    unsafe { *libc::__errno_location() = reason };
}

fn sync(call: c_long, file: c_int) -> c_int {
    if orders().is_some_and(|orders| orders.broken.exists()) {
        fail(libc::EIO);
        return -1;
    }
    let order = crash();
    // SAFETY: the system call that was asked for, which takes a number.
    let result = unsafe { libc::syscall(call, file) };
    if let Some((number, side)) = order {
        let count = SYNCS.fetch_add(1, Ordering::SeqCst) + 1;
        // Meanwhile the order may have been taken back.
        if count == number && side == Side::After && crash().is_some() {
            die();
        }
    }
    // A sync returns 0 or -1.
    if result == 0 { 0 } else { -1 }
}

fn is_log(file: c_int) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{file}"))
        .is_ok_and(|path| OsStr::as_bytes(path.as_os_str()).ends_with(LOG))
}

/// Called before anything is written: the first byte after a sync belongs to the next one.
fn about_to_write(file: c_int) {
    if file > STANDARD_ERROR
        && let Some((number, Side::Before)) = crash()
        && SYNCS.load(Ordering::SeqCst) + 1 == number
        && is_log(file)
    {
        die();
    }
}

/// Whether the disk is full, and this file would have to be larger than it is.
fn has_no_room(file: c_int, end: off_t) -> bool {
    if file <= STANDARD_ERROR || !orders().is_some_and(|orders| orders.full.exists()) {
        return false;
    }
    // SAFETY: all zeroes are a valid `stat`, which fstat(2) then fills in.
    let status = unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        if libc::fstat(file, &raw mut status) != 0 {
            return false;
        }
        status
    };
    status.st_mode & libc::S_IFMT == libc::S_IFREG && end > status.st_size
}

fn after(start: off_t, length: size_t) -> off_t {
    start.saturating_add(off_t::try_from(length).unwrap_or(off_t::MAX))
}

/// Stands in for fsync(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(file: c_int) -> c_int {
    sync(libc::SYS_fsync, file)
}

/// Stands in for fdatasync(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    sync(libc::SYS_fdatasync, file)
}

/// Stands in for write(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(file: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    about_to_write(file);
    // SAFETY: lseek(2) takes numbers, and without a distance it moves nothing.
    let start = unsafe { libc::lseek(file, 0, libc::SEEK_CUR) };
    // What has no position is no file.
    if start >= 0 && has_no_room(file, after(start, length)) {
        fail(libc::ENOSPC);
        return -1;
    }
    // SAFETY: the system call that was asked for, with what it was asked for with.
    let written = unsafe { libc::syscall(libc::SYS_write, file, bytes, length) };
    written as ssize_t
}

/// Stands in for pwrite(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(
    file: c_int,
    bytes: *const c_void,
    length: size_t,
    start: off_t,
) -> ssize_t {
    about_to_write(file);
    if has_no_room(file, after(start, length)) {
        fail(libc::ENOSPC);
        return -1;
    }
    // SAFETY: the system call that was asked for, with what it was asked for with.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, file, bytes, length, start) };
    written as ssize_t
}

/// Stands in for pwrite64(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    file: c_int,
    bytes: *const c_void,
    length: size_t,
    start: off_t,
) -> ssize_t {
    // SAFETY: the same function by its other name.
    unsafe { pwrite(file, bytes, length, start) }
}

/// Stands in for ftruncate(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(file: c_int, length: off_t) -> c_int {
    if has_no_room(file, length) {
        fail(libc::ENOSPC);
        return -1;
    }
    // SAFETY: the system call that was asked for, which takes numbers.
    let result = unsafe { libc::syscall(libc::SYS_ftruncate, file, length) };
    if result == 0 { 0 } else { -1 }
}

/// Stands in for ftruncate64(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(file: c_int, length: off_t) -> c_int {
    // SAFETY: the same function by its other name.
    unsafe { ftruncate(file, length) }
}

/// Stands in for fallocate(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(file: c_int, mode: c_int, start: off_t, length: off_t) -> c_int {
    if has_no_room(file, start.saturating_add(length)) {
        fail(libc::ENOSPC);
        return -1;
    }
    // SAFETY: the system call that was asked for, which takes numbers.
    let result = unsafe { libc::syscall(libc::SYS_fallocate, file, mode, start, length) };
    if result == 0 { 0 } else { -1 }
}

/// Stands in for fallocate64(2).
///
/// # Safety
///
/// As safe as the function that it stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(
    file: c_int,
    mode: c_int,
    start: off_t,
    length: off_t,
) -> c_int {
    // SAFETY: the same function by its other name.
    unsafe { fallocate(file, mode, start, length) }
}
