//! What is written beside the main way and never waited for: archive copies, most outcomes, and the
//! log of dead letters.
//!
//! One task publishes them in windows and tries each window again until it is confirmed, so a copy
//! may be there twice, under the same id; it is lost only with this process, or when so many wait
//! that memory would suffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    Copy(Box<Message>),
    Flush(oneshot::Sender<()>),
}

/// Hands copies to the task.
#[derive(Debug)]
pub(super) struct Copies {
    line: mpsc::Sender<Item>,
    full: AtomicBool,
}

impl Copies {
    pub(super) fn start(connections: Arc<Connections>, without_exchange: WithoutExchange) -> Self {
        let (line, copies) = mpsc::channel(LONGEST_LINE);
        tokio::spawn(run(connections, without_exchange, copies));
        Self {
            line,
            full: AtomicBool::new(false),
        }
    }

    /// Hands over a copy; never waits.
    pub(super) fn send(&self, message: Message) {
        let full = self.line.try_send(Item::Copy(Box::new(message))).is_err();
        if full {
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

    /// Hands over a copy that soon says nothing any more; dropped while others wait. Never waits.
    pub(super) fn send_unless_behind(&self, message: Message) {
        let waiting = self.line.max_capacity() - self.line.capacity();
        if waiting < WINDOW {
            // Full, or closed: then it is not missed either.
            let _ = self.line.try_send(Item::Copy(Box::new(message)));
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
}

async fn run(
    connections: Arc<Connections>,
    without_exchange: WithoutExchange,
    mut line: mpsc::Receiver<Item>,
) {
    let mut channel: Option<Channel> = None;
    let mut items = Vec::with_capacity(WINDOW);
    while line.recv_many(&mut items, WINDOW).await > 0 {
        let mut flushes = Vec::new();
        let mut window = Vec::with_capacity(items.len());
        for item in items.drain(..) {
            match item {
                Item::Copy(message) => window.push(*message),
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
                    window.drain(..count);
                    failures = 0;
                }
                failure => {
                    let reason = match failure {
                        Ok(Err(error)) => error,
                        _ => BrokerError::TimedOut("a window of copies"),
                    };
                    if failures == 0 {
                        log::warn!("copies wait for the broker: {reason}");
                    }
                    failures += 1;
                    channel = None;
                    let hopeless = reason.is_refusal()
                        || repaired && reason.calls_for_repair()
                        || failures >= FAILURES;
                    if hopeless && without_exchange == WithoutExchange::GiveUp {
                        log::warn!("{} copies are given up", window.len());
                        break;
                    }
                    if reason.calls_for_repair() {
                        connections.repair().await;
                        repaired = true;
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
    window: &[Message],
) -> Result<(), BrokerError> {
    let channel = match channel {
        Some(channel) => channel,
        None => channel.insert(connections.confirming_channel().await?),
    };
    let mut confirms = Vec::with_capacity(window.len());
    for message in window {
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
