//! Stopping in two stages: the first SIGTERM or SIGINT asks the process to finish what it holds, the
//! second one, or the end of `CHICKWORK_DRAIN`, to give it back at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    AtOnce,
}

/// Tells everybody in the process when to stop; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown(watch::Receiver<Stage>);

/// Asks the process to stop.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    stage: watch::Sender<Stage>,
    drain: Duration,
}

impl Shutdown {
    /// One that nobody has asked for yet; stopping takes at most `drain`.
    pub(crate) fn new(drain: Duration) -> (Trigger, Self) {
        let (stage, receiver) = watch::channel(Stage::Running);
        (Trigger { stage, drain }, Self(receiver))
    }

    /// One that signals ask for, and the trigger too.
    pub(crate) fn on_signals(drain: Duration) -> io::Result<(Trigger, Self)> {
        let (trigger, shutdown) = Self::new(drain);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let by_signal = trigger.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                by_signal.pull(name);
            }
        });
        Ok((trigger, shutdown))
    }

    /// Waits until the process is to stop.
    pub(crate) async fn requested(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Waits until nothing that is still held may be finished any more.
    pub(crate) async fn deadline(&self) {
        self.reached(Stage::AtOnce).await;
    }

    /// Whether the process is to stop.
    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow() >= Stage::Draining
    }

    async fn reached(&self, stage: Stage) {
        let mut receiver = self.0.clone();
        if receiver
            .wait_for(|current| *current >= stage)
            .await
            .is_err()
        {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }
}

impl Trigger {
    /// Goes one stage further. That is logged before anybody can hear of it, as the process may end at
    /// once then.
    pub(crate) fn pull(&self, reason: &str) {
        self.stage.send_modify(|stage| {
            if *stage == Stage::Running {
                log::info!(
                    "{reason}: stopping, within {:?}; once more to stop at once",
                    self.drain
                );
                *stage = Stage::Draining;
                self.end_after_the_drain();
            } else {
                log::warn!("{reason}: stopping at once");
                *stage = Stage::AtOnce;
            }
        });
    }

    fn end_after_the_drain(&self) {
        let trigger = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(trigger.drain).await;
            trigger.stage.send_replace(Stage::AtOnce);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const DRAIN: Duration = Duration::from_secs(25);
    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_first_request_drains_and_the_deadline_ends_it() {
        let (trigger, shutdown) = Shutdown::new(DRAIN);
        assert!(
            timeout(Duration::from_secs(3600), shutdown.requested())
                .await
                .is_err()
        );
        trigger.pull("test");
        assert!(timeout(SOON, shutdown.requested()).await.is_ok());
        assert!(timeout(SOON, shutdown.deadline()).await.is_err());
        let began = Instant::now();
        shutdown.deadline().await;
        assert!(began.elapsed() <= DRAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_request_does_not_wait() {
        let (trigger, shutdown) = Shutdown::new(DRAIN);
        trigger.pull("test");
        trigger.pull("test");
        assert!(timeout(SOON, shutdown.deadline()).await.is_ok());
        assert!(shutdown.is_requested());
    }
}
