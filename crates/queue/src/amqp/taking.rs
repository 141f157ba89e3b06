//! Going through the queue of dead letters: fetched without being acknowledged, oldest first, so that
//! whatever is not settled goes back when the pass ends. Taking letters out is such a pass.
//!
//! One pass at a time, by a queue that is exclusively the passing connection's: what one holds the
//! others do not see, and would take for gone.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_lapin::lapin;
use jiff::Timestamp;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::time::Instant;

use super::{Broker, BrokerError, REQUEST_LIMIT, close, dead, topology, wire};
use crate::dead::{DeadLetter, Verdict};

/// How long a pass may last. The broker ends a channel that holds a delivery for half an hour.
const PASS_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long somebody else's pass is waited for. The connection of one who died ends within this time.
const TURN_LIMIT: Duration = Duration::from_secs(20);
const TURN_AGAIN: Duration = Duration::from_millis(250);
/// So many failures in a row are borne, with a pause after each.
const FAILURES: u32 = 5;
const AGAIN: Duration = Duration::from_secs(1);

/// One pass through the queue.
#[derive(Debug)]
pub(super) struct Pass {
    connection: Option<lapin::Connection>,
    channel: Channel,
    queue: String,
    begun: Instant,
}

impl Pass {
    /// Begins one, once nobody else is at it.
    pub(super) async fn begin(broker: &Broker) -> Result<Self, BrokerError> {
        let connection = broker.inner.connections.consuming().await?;
        let begun = Instant::now();
        let channel = loop {
            match lock(&connection, &broker.names().dead_pass()).await {
                Ok(()) => break within(connection.create_channel()).await,
                Err(BrokerError::Busy) if begun.elapsed() < TURN_LIMIT => {
                    tokio::time::sleep(TURN_AGAIN).await;
                }
                Err(error) => break Err(error),
            }
        };
        match channel {
            Ok(channel) => Ok(Self {
                connection: Some(connection),
                channel,
                queue: broker.names().dead(),
                begun: Instant::now(),
            }),
            Err(error) => {
                close(connection).await;
                Err(error)
            }
        }
    }

    /// The next letter; `None` when all have come.
    pub(super) async fn next(&self) -> Result<Option<Delivery>, BrokerError> {
        if self.is_over() {
            return Err(BrokerError::TimedOut("a look through all dead letters"));
        }
        let options = BasicGetOptions::default();
        let got = within(self.channel.basic_get(self.queue.as_str().into(), options)).await?;
        Ok(got.map(|message| message.delivery))
    }

    /// Looks for one letter.
    pub(super) async fn find(self, name: &str) -> Result<Option<Delivery>, BrokerError> {
        let mut found = None;
        while let Some(delivery) = self.next().await? {
            if dead::name(&delivery.properties, &delivery.data) == name {
                found = Some(delivery);
                break;
            }
        }
        self.end().await;
        Ok(found)
    }

    fn is_over(&self) -> bool {
        self.begun.elapsed() > PASS_LIMIT
    }

    /// Takes a letter out for good.
    pub(super) async fn remove(&self, delivery: &Delivery) -> Result<(), BrokerError> {
        if within(delivery.ack(BasicAckOptions::default())).await? {
            Ok(())
        } else {
            Err(BrokerError::Lost)
        }
    }

    /// Gives back what was not settled.
    pub(super) async fn end(mut self) {
        if let Some(connection) = self.connection.take() {
            close(connection).await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let (Some(connection), Ok(runtime)) = (
            self.connection.take(),
            tokio::runtime::Handle::try_current(),
        ) {
            runtime.spawn(close(connection));
        }
    }
}

/// Makes this connection the only one that goes through the queue. On a channel of its own, as a
/// refusal closes it.
async fn lock(connection: &lapin::Connection, name: &str) -> Result<(), BrokerError> {
    let channel = within(connection.create_channel()).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(name.into(), options, FieldTable::default());
    match tokio::time::timeout(REQUEST_LIMIT, declared).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let said = topology::said(&error);
            if said.starts_with("RESOURCE_LOCKED") {
                Err(BrokerError::Busy)
            } else if said.starts_with("ACCESS_REFUSED") {
                // Who may create nothing passes unannounced.
                Ok(())
            } else {
                Err(error.into())
            }
        }
        Err(_) => Err(BrokerError::TimedOut("a request about dead letters")),
    }
}

async fn within<T>(request: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(BrokerError::TimedOut("a request about dead letters")),
    }
}

/// Takes dead letters out, as a person said.
#[derive(Debug)]
pub(crate) struct DeadTaking {
    broker: Broker,
    verdict: Verdict,
    letters: HashMap<String, Wanted>,
    /// How many are still to be taken.
    left: usize,
    pass: Option<Pass>,
    /// A pass ended before its time. What it held may be back a moment later than its connection is
    /// gone, so a letter that is not found then is looked for once more.
    disturbed: bool,
}

#[derive(Debug)]
struct Wanted {
    letter: DeadLetter,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    /// The verdict is carried out, but the letter is still in the queue.
    Settled,
    Taken,
}

impl Broker {
    pub(crate) fn take_dead(&self, letters: Vec<DeadLetter>, verdict: Verdict) -> DeadTaking {
        let letters: HashMap<_, _> = letters
            .into_iter()
            .map(|letter| {
                let progress = Progress::Waiting;
                (letter.letter.name.clone(), Wanted { letter, progress })
            })
            .collect();
        DeadTaking {
            broker: self.clone(),
            verdict,
            left: letters.len(),
            letters,
            pass: None,
            disturbed: false,
        }
    }
}

impl DeadTaking {
    pub(crate) async fn next(&mut self) -> Result<Option<DeadLetter>, BrokerError> {
        let mut failures = 0;
        loop {
            let error = match self.try_next().await {
                Ok(taken) => return Ok(taken),
                Err(error) => error,
            };
            self.end_pass().await;
            failures += 1;
            if failures == FAILURES || matches!(error, BrokerError::Busy) {
                return Err(error);
            }
            log::warn!("the dead letters are gone through again: {error}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_next(&mut self) -> Result<Option<DeadLetter>, BrokerError> {
        loop {
            if self.left == 0 {
                self.end_pass().await;
                return Ok(None);
            }
            if self.pass.as_ref().is_some_and(Pass::is_over) {
                self.end_pass().await;
            }
            let pass = match &self.pass {
                Some(pass) => pass,
                None => self.pass.insert(Pass::begin(&self.broker).await?),
            };
            let Some(delivery) = pass.next().await? else {
                self.exhausted().await;
                continue;
            };
            let name = dead::name(&delivery.properties, &delivery.data);
            // The others stay where they are until the pass ends.
            let Some(wanted) = self.letters.get_mut(&name) else {
                continue;
            };
            if wanted.progress == Progress::Waiting {
                carry_out(&self.broker, &self.verdict, &wanted.letter, &delivery).await?;
                wanted.progress = Progress::Settled;
            }
            pass.remove(&delivery).await?;
            if wanted.progress == Progress::Taken {
                // One burial, stored twice because its confirm came late.
                continue;
            }
            wanted.progress = Progress::Taken;
            self.left -= 1;
            self.broker.log_gone(&name);
            return Ok(Some(wanted.letter.clone()));
        }
    }

    /// What was not found is not there any more, unless it is on its way back.
    async fn exhausted(&mut self) {
        let disturbed = self.disturbed;
        self.end_pass().await;
        if disturbed {
            self.disturbed = false;
            tokio::time::sleep(AGAIN).await;
        } else {
            self.left = 0;
        }
    }

    async fn end_pass(&mut self) {
        if let Some(pass) = self.pass.take() {
            pass.end().await;
            self.disturbed = true;
        }
    }
}

/// Everything that has to be stored before the letter may be gone, in this order: what is said of it,
/// and the job that it becomes. Stopped in between it is done again, and the job may be there twice.
async fn carry_out(
    broker: &Broker,
    verdict: &Verdict,
    letter: &DeadLetter,
    delivery: &Delivery,
) -> Result<(), BrokerError> {
    let Delivery {
        properties, data, ..
    } = delivery;
    let now = Timestamp::now();
    let content = wire::read_loosely(properties, data, letter.received_at);
    for outcome in content.taken(verdict, now) {
        broker.store(&broker.outcome_message(&outcome)).await?;
    }
    if let Verdict::Retry { .. } = verdict {
        let job = dead::put_back(broker.names(), properties, data, now);
        broker.store(&job).await?;
    }
    Ok(())
}
