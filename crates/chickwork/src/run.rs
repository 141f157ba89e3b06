//! A run: the same is done to many, one after the other, at a pace. It shows how far it has come, can be
//! stopped between two of them, and says at the end what is done and what is left.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::QueueError;
use chickwork_queue::dead::{DeadLetter, Taking};
use tokio::time::Interval;

use crate::pace::Pace;
use crate::progress::Progress;
use crate::shutdown::Shutdown;
use crate::{output, words};

/// Why a run ended before all was done that could be.
#[derive(Debug)]
pub(crate) enum Halt {
    /// A signal came.
    Stopped,
    /// Whoever read the results has gone.
    Unread,
    /// It cannot go on.
    Failed(anyhow::Error),
}

impl Halt {
    /// A result could not be printed.
    fn unprinted(error: io::Error) -> Self {
        if output::is_closed(&error) {
            Self::Unread
        } else {
            Self::Failed(anyhow::Error::new(error).context("stdout cannot be written to"))
        }
    }
}

impl From<anyhow::Error> for Halt {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<QueueError> for Halt {
    fn from(error: QueueError) -> Self {
        Self::Failed(error.into())
    }
}

/// One that is under way.
#[derive(Debug)]
pub(crate) struct Run {
    total: u64,
    pace: Interval,
    progress: Progress,
    shutdown: Shutdown,
}

impl Run {
    /// Begins one over so many. From here on a signal stops it, and the one at hand may take so long: a
    /// prompt before it is better interrupted in the usual way.
    pub(crate) fn begin(total: u64, pace: Pace, finish_limit: Duration) -> anyhow::Result<Self> {
        let (_, shutdown) =
            Shutdown::on_signals(finish_limit).context("cannot wait for signals")?;
        Ok(Self::stopped_by(shutdown, total, pace))
    }

    /// One that whoever has begun it stops.
    pub(crate) fn stopped_by(shutdown: Shutdown, total: u64, pace: Pace) -> Self {
        Self {
            total,
            pace: pace.ticks(),
            progress: Progress::of(total),
            shutdown,
        }
    }

    /// Waits until it is time for the next one.
    pub(crate) async fn turn(&mut self) -> Result<(), Halt> {
        tokio::select! {
            biased;
            () = self.shutdown.requested() => Err(Halt::Stopped),
            _ = self.pace.tick() => Ok(()),
        }
    }

    /// Waits for what changes nothing, such as reading; broken off as soon as the run is to stop.
    pub(crate) async fn prepare<T>(&self, work: impl Future<Output = T>) -> Result<T, Halt> {
        tokio::select! {
            biased;
            () = self.shutdown.requested() => Err(Halt::Stopped),
            done = work => Ok(done),
        }
    }

    /// Waits for what should not be broken off: it has its time once the run is to stop.
    pub(crate) async fn finish<T>(&self, work: impl Future<Output = T>) -> Result<T, Halt> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.shutdown.deadline() => Err(Halt::Stopped),
        }
    }

    /// One more is done, and this became of printing it.
    pub(crate) fn step(&mut self, printed: io::Result<()>) -> Result<(), Halt> {
        self.progress.step();
        printed.map_err(Halt::unprinted)
    }

    /// Takes out dead letters, so many if nobody else takes them, and prints each that was taken.
    pub(crate) async fn take(
        &mut self,
        mut taking: Taking,
        expected: usize,
        mut print: impl FnMut(&DeadLetter) -> io::Result<()>,
    ) -> Result<(), Halt> {
        for _ in 0..expected {
            self.turn().await?;
            let Some(letter) = self.finish(taking.next()).await?? else {
                return Ok(());
            };
            self.step(print(&letter))?;
        }
        // All are taken, so it is no failure if this does not come to its end, and nobody has to wait.
        let _ = self.finish(taking.next()).await?;
        Ok(())
    }

    /// Says how far it came: `3 of 5 put back; stopped, 2 left.` Where nothing stopped it and some are left
    /// all the same, it is said of that number what became of them. Returns how many are left; an error if
    /// it could not go on.
    pub(crate) fn end(
        self,
        result: Result<(), Halt>,
        deed: &str,
        gone: impl FnOnce(u64) -> String,
    ) -> anyhow::Result<u64> {
        let Self {
            total, progress, ..
        } = self;
        let done = progress.done();
        // Its line goes before another one comes.
        drop(progress);
        let left = total - done;
        let rest = match &result {
            _ if left == 0 => String::new(),
            Ok(()) => format!("; {}", gone(left)),
            Err(Halt::Stopped | Halt::Failed(_)) => format!("; stopped, {left} left"),
            Err(Halt::Unread) => format!("; nobody reads on, so stopped, {left} left"),
        };
        words::tell(format_args!("{done} of {total} {deed}{rest}."));
        match result {
            Err(Halt::Failed(error)) => Err(error),
            Ok(()) | Err(Halt::Stopped | Halt::Unread) => Ok(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_no_more_is_told_apart_from_a_disk_that_is_full() {
        let halt = |kind: io::ErrorKind| Halt::unprinted(kind.into());
        assert!(matches!(halt(io::ErrorKind::BrokenPipe), Halt::Unread));
        let Halt::Failed(error) = halt(io::ErrorKind::StorageFull) else {
            panic!("nobody has gone");
        };
        assert_eq!(error.to_string(), "stdout cannot be written to");
    }
}
