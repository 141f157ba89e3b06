//! How far a long command has come: one line on a terminal, rewritten once a second. Of one that knows how
//! much there is to do, the part that is done ([`Progress`]); of one that looks for something, how much it has
//! looked through ([`Looking`]).

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval_at};

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

/// A line on stderr about looking through much; nothing at all unless somebody watches it there.
#[derive(Debug)]
pub(crate) struct Looking {
    counter: Arc<AtomicU64>,
    began: Instant,
    watched: bool,
    ticks: Interval,
    stands: bool,
}

impl Looking {
    /// Through events that are counted there.
    pub(crate) fn through(counter: Arc<AtomicU64>) -> Self {
        let mut ticks = interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            counter,
            began: Instant::now(),
            watched: io::stderr().is_terminal(),
            ticks,
            stands: false,
        }
    }

    /// Waits for this. Meanwhile, once a second, this is done and the line rewritten.
    pub(crate) async fn wait<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut meanwhile: impl FnMut() -> io::Result<()>,
    ) -> io::Result<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                _ = self.ticks.tick() => {
                    // First: what stands on the terminal is for what was found.
                    self.clear();
                    meanwhile()?;
                    self.tell();
                }
            }
        }
    }

    fn tell(&mut self) {
        if !self.watched {
            return;
        }
        let seen = self.counter.load(Ordering::Relaxed);
        let rate = seen as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        self.stands = true;
        // It is worth no failure.
        let _ = write!(
            io::stderr(),
            "\r{seen} events looked through, {rate:.0} a second"
        );
    }

    /// Something else can be written now.
    pub(crate) fn clear(&mut self) {
        if self.stands {
            self.stands = false;
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Something else can be written now.
impl Drop for Looking {
    fn drop(&mut self) {
        self.clear();
    }
}
