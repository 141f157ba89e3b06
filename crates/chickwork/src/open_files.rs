//! Every connection is a file, and the usual limit of 1,024 of them is meant for programs that still
//! use `select(2)`. We do not, so we take what the administrator allows.

/// Raises the limit as far as it can be raised without privileges. Failing to is no reason not to start.
#[expect(
    unsafe_code,
    reason = "the limits of a process are only to be had from libc"
)]
pub(crate) fn allow_as_many_as_possible() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only read or write the struct that they are given, which lives longer.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        log::warn!(
            "the limit of open files cannot be raised: {}",
            std::io::Error::last_os_error()
        );
    }
}
