//! How far a long command has come: one line on a terminal, rewritten once a second.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often the line is rewritten.
const EVERY: Duration = Duration::from_secs(1);

/// A line of progress on stderr; nothing at all unless somebody watches it there.
#[derive(Debug)]
pub(crate) struct Progress {
    total: u64,
    done: u64,
    watched: bool,
    next: Instant,
    /// Whether the line stands there now.
    stands: bool,
}

impl Progress {
    /// Of a command with so many steps.
    pub(crate) fn of(total: u64) -> Self {
        Self {
            total,
            done: 0,
            // Results that scroll by on the same terminal are progress enough.
            watched: io::stderr().is_terminal() && !io::stdout().is_terminal(),
            next: Instant::now() + EVERY,
            stands: false,
        }
    }

    /// One step is done.
    pub(crate) fn step(&mut self) {
        self.done += 1;
        if self.watched && Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            self.stands = true;
            // It is worth no failure.
            let _ = write!(io::stderr(), "\r{} of {}", self.done, self.total);
        }
    }

    /// So many steps are done.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }
}

/// Something else can be written now.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.stands {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
