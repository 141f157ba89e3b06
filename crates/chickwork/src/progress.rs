//! How far a long command has come: one line on a terminal, rewritten once a second. Of one that knows how
//! much there is to do, the part that is done ([`Progress`]); of one that looks for something, how much it has
//! looked through ([`Looking`]).

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chickwork_queue::events::LookedThrough;
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

/// What is looked through, as far as anybody counts it.
#[derive(Debug)]
pub(crate) enum Through {
    /// Events that [`Queue::events`](chickwork_queue::Queue::events) looks at.
    Events(LookedThrough),
    /// Whatever is kept: events, outcomes and dead letters.
    Records(Arc<AtomicU64>),
    /// Nobody counts it.
    Uncounted,
}

impl Through {
    /// The line, after this time.
    fn line(&self, took: Duration) -> String {
        let (seen, what) = match self {
            Self::Events(seen) => (seen.so_far(), "events"),
            Self::Records(seen) => (
                seen.load(Ordering::Relaxed),
                "events, outcomes and dead letters",
            ),
            Self::Uncounted => return format!("looking for {} s", took.as_secs()),
        };
        let rate = seen as f64 / took.as_secs_f64().max(0.001);
        format!("{seen} {what} looked through, {rate:.0} a second")
    }
}

/// A line on stderr about looking through much; nothing at all unless somebody watches it there.
#[derive(Debug)]
pub(crate) struct Looking {
    through: Through,
    began: Instant,
    watched: bool,
    ticks: Interval,
    stands: bool,
}

impl Looking {
    /// It begins now.
    pub(crate) fn through(through: Through) -> Self {
        let mut ticks = interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            through,
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
        let line = self.through.line(self.began.elapsed());
        self.stands = true;
        // It is worth no failure.
        let _ = write!(io::stderr(), "\r{line}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_counts_is_not_said_to_be_none() {
        let took = Duration::from_millis(2_500);
        let records = Through::Records(Arc::new(AtomicU64::new(500)));
        let line = records.line(took);
        assert_eq!(
            line,
            "500 events, outcomes and dead letters looked through, 200 a second"
        );
        assert_eq!(Through::Uncounted.line(took), "looking for 2 s");
    }
}
