//! What is written beside the main way and never waited for: archive copies, most outcomes, and the
//! log of dead letters.
//!
//! One task publishes them in windows and tries each window again until it is confirmed, so a copy
//! may be there twice, under the same id; it is lost only with this process, or when so many wait
//! that memory would suffer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_lapin::lapin;
use futures_util::future::try_join_all;
use lapin::Channel;
use lapin::options::BasicPublishOptions;
use tokio::sync::{mpsc, oneshot};

use super::BrokerError;
use super::connection::Connections;
use super::publish::Message;

/// The most copies that wait for the broker; a few MiB.
const LONGEST_LINE: usize = 10_000;
/// The most copies in one window.
const WINDOW: usize = 256;
/// How long a window may take to be confirmed.
const WINDOW_LIMIT: Duration = Duration::from_secs(10);
/// After so many failures in a row, whatever their reason, what may be given up is.
const FAILURES: u32 = 6;
/// How long to wait after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What becomes of copies while their exchange does not exist or may not be used, and nobody here
/// can help it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithoutExchange {
    /// They wait for it.
    Wait,
    /// They are given up: what they tell can be found out in another way.
    GiveUp,
}

#[derive(Debug)]
enum Item {
    Copy(Copy),
    Flush(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Copy {
    message: Box<Message>,
    /// It soon says nothing any more: it is tried once.
    fleeting: bool,
}

/// Hands copies to the task.
#[derive(Debug)]
pub(super) struct Copies {
    line: mpsc::Sender<Item>,
    full: AtomicBool,
    standing: Arc<Standing>,
}

/// How the task stands.
#[derive(Debug, Default)]
struct Standing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Copies that are neither confirmed nor given up, but for fleeting ones.
    unwritten: usize,
    /// Why the last try failed, if it did.
    failure: Option<BrokerError>,
}

impl Standing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settled(&self, copies: impl Iterator<Item = Copy>) {
        let settled = copies.filter(|copy| !copy.fleeting).count();
        self.state().unwritten -= settled;
    }
}

/// Copies that were not confirmed in time, and may be missing.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) copies: usize,
    pub(super) reason: BrokerError,
}

impl Copies {
    pub(super) fn start(connections: Arc<Connections>, without_exchange: WithoutExchange) -> Self {
        let (line, copies) = mpsc::channel(LONGEST_LINE);
        let standing = Arc::<Standing>::default();
        let told = standing.clone();
        // So that the first one lost is seen as an increase.
        metrics::counter!("chickwork_copies_lost_total").absolute(0);
        tokio::spawn(run(connections, without_exchange, copies, told));
        Self {
            line,
            full: AtomicBool::new(false),
            standing,
        }
    }

    /// Hands over a copy; never waits.
    pub(super) fn send(&self, message: Message) {
        let copy = Copy {
            message: Box::new(message),
            fleeting: false,
        };
        // Before it can be confirmed.
        self.standing.state().unwritten += 1;
        let full = self.line.try_send(Item::Copy(copy)).is_err();
        if full {
            self.standing.state().unwritten -= 1;
            metrics::counter!("chickwork_copies_lost_total").increment(1);
        }
        if full && !self.full.swap(full, Ordering::Relaxed) {
            log::error!(
                "{LONGEST_LINE} copies wait for the broker: archive, outcomes or the log of dead letters will have gaps"
            );
        } else if !full {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Hands over a copy that others come before: it is left out while so many wait that those might be
    /// lost. Never waits.
    pub(super) fn send_if_there_is_room(&self, message: Message) {
        if self.line.capacity() > self.line.max_capacity() / 2 {
            self.send(message);
        }
    }

    /// Hands over a copy that soon says nothing any more; dropped while others wait, or once it could
    /// not be sent. Never waits.
    pub(super) fn send_unless_behind(&self, message: Message) {
        let waiting = self.line.max_capacity() - self.line.capacity();
        if waiting < WINDOW {
            let copy = Copy {
                message: Box::new(message),
                fleeting: true,
            };
            // Full, or closed: then it is not missed either.
            let _ = self.line.try_send(Item::Copy(copy));
        }
    }

    /// Waits until everything handed over before is confirmed.
    pub(super) async fn flush(&self) -> Result<(), BrokerError> {
        let (done, flushed) = oneshot::channel();
        self.line
            .send(Item::Flush(done))
            .await
            .map_err(|_| BrokerError::Closed)?;
        flushed.await.map_err(|_| BrokerError::Closed)
    }

    /// The same for at most this long, and not at all where only fleeting ones may be left and the
    /// last try has failed.
    pub(super) async fn finish(&self, limit: Duration) -> Result<(), Unwritten> {
        let is_in_vain = {
            let state = self.standing.state();
            state.unwritten == 0 && state.failure.is_some()
        };
        if is_in_vain || matches!(tokio::time::timeout(limit, self.flush()).await, Ok(Ok(()))) {
            return Ok(());
        }
        let state = self.standing.state();
        match state.unwritten {
            0 => Ok(()),
            copies => Err(Unwritten {
                copies,
                reason: state
                    .failure
                    .clone()
                    .unwrap_or(BrokerError::TimedOut("confirming them")),
            }),
        }
    }
}

async fn run(
    connections: Arc<Connections>,
    without_exchange: WithoutExchange,
    mut line: mpsc::Receiver<Item>,
    standing: Arc<Standing>,
) {
    let mut channel: Option<Channel> = None;
    let mut items = Vec::with_capacity(WINDOW);
    while line.recv_many(&mut items, WINDOW).await > 0 {
        let mut flushes = Vec::new();
        let mut window = Vec::with_capacity(items.len());
        for item in items.drain(..) {
            match item {
                Item::Copy(copy) => window.push(copy),
                Item::Flush(done) => flushes.push(done),
            }
        }
        let mut failures = 0;
        let mut repaired = false;
        while !window.is_empty() {
            // After a failure one goes alone: its error has the reason, which those of many often
            // only find the channel closed by.
            let count = if failures == 0 { window.len() } else { 1 };
            let published = publish(&connections, &mut channel, &window[..count]);
            match tokio::time::timeout(WINDOW_LIMIT, published).await {
                Ok(Ok(())) => {
                    standing.settled(window.drain(..count));
                    standing.state().failure = None;
                    failures = 0;
                }
                failure => {
                    let reason = match failure {
                        Ok(Err(error)) => error,
                        _ => BrokerError::TimedOut("a window of copies"),
                    };
                    standing.state().failure = Some(reason.clone());
                    // The next one says more.
                    window.retain(|copy| !copy.fleeting);
                    if failures == 0 && !window.is_empty() {
                        log::warn!("copies wait for the broker: {reason}");
                    }
                    failures += 1;
                    channel = None;
                    let hopeless = reason.is_refusal()
                        || repaired && reason.calls_for_repair()
                        || failures >= FAILURES;
                    if hopeless && without_exchange == WithoutExchange::GiveUp {
                        log::warn!("{} copies are given up", window.len());
                        standing.settled(window.drain(..));
                    }
                    if reason.calls_for_repair() {
                        connections.repair().await;
                        repaired = true;
                    }
                    if window.is_empty() {
                        break;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
        for done in flushes {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

/// Publishes a window and waits for all its confirms before anything else goes out on the channel.
async fn publish(
    connections: &Connections,
    channel: &mut Option<Channel>,
    window: &[Copy],
) -> Result<(), BrokerError> {
    let channel = match channel {
        Some(channel) => channel,
        None => channel.insert(connections.confirming_channel().await?),
    };
    let mut confirms = Vec::with_capacity(window.len());
    for Copy { message, .. } in window {
        let confirm = channel
            .basic_publish(
                message.address.exchange.as_str().into(),
                message.address.key.as_str().into(),
                BasicPublishOptions::default(),
                &message.body,
                message.properties.clone(),
            )
            .await?;
        confirms.push(confirm);
    }
    let confirmations = try_join_all(confirms).await?;
    if confirmations.iter().all(lapin::Confirmation::is_ack) {
        Ok(())
    } else {
        Err(BrokerError::Nacked)
    }
}
