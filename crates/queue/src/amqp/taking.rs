//! Going through the queue of dead letters: consumed without being acknowledged, oldest first, so that
//! whatever is not settled goes back when the pass ends. Taking letters out is such a pass.
//!
//! One pass at a time, by a queue that is exclusively the passing connection's: what one holds the
//! others do not see, and would take for gone.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_lapin::lapin;
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Broker, BrokerError, REQUEST_LIMIT, close, close_in_background, dead, topology, wire};
use crate::dead::{DeadLetter, Verdict};

/// How long a pass may last. The broker ends a channel that holds a delivery for half an hour.
const PASS_LIMIT: Duration = Duration::from_secs(10 * 60);
/// What takes too long when a pass does.
const WHOLE_PASS: &str = "a look through all dead letters";
/// So many letters come at a time, and so many are in memory at most, whatever the caller does.
const WINDOW: u16 = 128;
/// Letters that wait come at once. None for so long twice, and the queue's word in between that none
/// waits, is the end.
const IDLE: Duration = Duration::from_millis(200);
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
    window: Window,
    begun: Instant,
    announced: Announced,
}

/// Whether others know of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    Yes,
    /// Somebody else may be passing through as well, so what is not found may be there.
    No,
}

/// A consumer that gets so many letters, and no more as they are not acknowledged: a pass is many of
/// them, one after the other. One without a limit would fill the memory with what it is sent, and the
/// broker makes 2,000 of "no limit". To fetch the letters one by one is slow: each that is held is a
/// consumer to the broker, which looks through all of them each time.
#[derive(Debug)]
struct Window {
    consumer: Consumer,
    /// How many it has given us that we still hold.
    held: u16,
}

impl Window {
    async fn open(channel: &Channel, queue: &str) -> Result<Self, BrokerError> {
        let consumer = channel.basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        Ok(Self {
            consumer: within(consumer).await?,
            held: 0,
        })
    }
}

impl Pass {
    /// Begins one, once nobody else is at it.
    pub(super) async fn begin(broker: &Broker) -> Result<Self, BrokerError> {
        // On a task of its own: a caller who gives up must not leave a connection that holds its turn.
        let beginning = tokio::spawn(Self::try_begin(broker.clone()));
        beginning.await.unwrap_or(Err(BrokerError::Closed))
    }

    async fn try_begin(broker: Broker) -> Result<Self, BrokerError> {
        let connection = broker.inner.connections.consuming().await?;
        let queue = broker.names().dead();
        match Self::open(&broker, &connection, &queue).await {
            Ok((announced, channel, window)) => Ok(Self {
                connection: Some(connection),
                channel,
                queue,
                window,
                begun: Instant::now(),
                announced,
            }),
            Err(error) => {
                close(connection).await;
                Err(error)
            }
        }
    }

    async fn open(
        broker: &Broker,
        connection: &lapin::Connection,
        queue: &str,
    ) -> Result<(Announced, Channel, Window), BrokerError> {
        let begun = Instant::now();
        let announced = loop {
            match announce(broker, connection).await {
                Err(BrokerError::Busy) if begun.elapsed() < TURN_LIMIT => {
                    tokio::time::sleep(TURN_AGAIN).await;
                }
                announced => break announced?,
            }
        };
        let channel = within(connection.create_channel()).await?;
        within(channel.basic_qos(WINDOW, BasicQosOptions::default())).await?;
        let window = Window::open(&channel, queue).await?;
        Ok((announced, channel, window))
    }

    /// The next letter; `None` when all have come.
    pub(super) async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        if self.begun.elapsed() > PASS_LIMIT {
            return Err(BrokerError::TimedOut(WHOLE_PASS));
        }
        if self.window.held == WINDOW {
            // Ended, or it would get another one for each that is acknowledged.
            let full = self.window.consumer.tag();
            let options = BasicCancelOptions::default();
            within(self.channel.basic_cancel(full, options)).await?;
            self.window = Window::open(&self.channel, &self.queue).await?;
        }
        let asked = Instant::now();
        let mut none_waits = false;
        loop {
            match tokio::time::timeout(IDLE, self.window.consumer.next()).await {
                Ok(Some(delivery)) => {
                    self.window.held += 1;
                    return Ok(Some(delivery?));
                }
                Ok(None) => {
                    let reason = "the broker ended the consumer".to_owned();
                    return Err(BrokerError::Unreachable(reason));
                }
                Err(_) if none_waits => return Ok(None),
                Err(_) if asked.elapsed() > REQUEST_LIMIT => {
                    return Err(BrokerError::TimedOut("the next dead letter"));
                }
                Err(_) => none_waits = self.waiting().await? == 0,
            }
        }
    }

    /// How many letters the queue still has for us.
    async fn waiting(&self) -> Result<u32, BrokerError> {
        let looked = topology::look(&self.channel, &self.queue);
        Ok(within(looked).await?.message_count())
    }

    /// Looks for one letter.
    pub(super) async fn find(mut self, name: &str) -> Result<Option<Delivery>, BrokerError> {
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

    pub(super) fn announced(&self) -> Announced {
        self.announced
    }

    /// Takes the letter that came last out for good.
    pub(super) async fn remove(&mut self, delivery: &Delivery) -> Result<(), BrokerError> {
        if within(delivery.ack(BasicAckOptions::default())).await? {
            self.window.held -= 1;
            Ok(())
        } else {
            Err(BrokerError::Lost)
        }
    }

    /// Gives back what was not settled.
    pub(super) async fn end(mut self) {
        if let Some(closing) = self.close() {
            // It has a limit, and what it tells is nothing.
            let _ = closing.await;
        }
    }

    fn close(&mut self) -> Option<JoinHandle<()>> {
        let used = (self.channel.clone(), self.window.consumer.clone());
        close_in_background(self.connection.take()?, used)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// Makes this connection the only one that goes through the queue. On a channel of its own, as a
/// refusal closes it.
async fn announce(
    broker: &Broker,
    connection: &lapin::Connection,
) -> Result<Announced, BrokerError> {
    let name = broker.names().dead_pass();
    let channel = within(connection.create_channel()).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
    match tokio::time::timeout(REQUEST_LIMIT, declared).await {
        Ok(Ok(_)) => Ok(Announced::Yes),
        Ok(Err(error)) => {
            let said = topology::said(&error);
            if said.starts_with("RESOURCE_LOCKED") {
                Err(BrokerError::Busy)
            } else if said.starts_with("ACCESS_REFUSED") {
                // Who may create nothing can still see that another one is at it.
                if broker.is_passed_through(connection).await? {
                    return Err(BrokerError::Busy);
                }
                log::warn!(
                    "the broker user may not configure {name}, so others are not told that dead \
                     letters are gone through: let one person at a time do it, or grant the right"
                );
                Ok(Announced::No)
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
    /// Whether it has taken any.
    took: bool,
    /// A pass ended before its time. What it held may be back a moment later than its connection is
    /// gone, so a letter that is not found then is looked for once more.
    disturbed: bool,
    /// Who passes unannounced looks twice: somebody else may have held what was not found.
    looked_twice: bool,
    stuck: Stuck,
}

/// Letters that nobody would take when they were to be put back.
#[derive(Debug, Default)]
struct Stuck {
    letters: usize,
    /// Why the last one is stuck.
    reason: Option<BrokerError>,
}

#[derive(Debug)]
struct Wanted {
    letter: DeadLetter,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    /// It could not be carried out; the next pass tries again.
    Refused,
    /// It could not be carried out twice. The letter stays, and holds up no other.
    Stuck,
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
            took: false,
            disturbed: false,
            looked_twice: false,
            stuck: Stuck::default(),
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
            let is_final = matches!(
                error,
                BrokerError::Busy | BrokerError::Stuck { .. } | BrokerError::TimedOut(WHOLE_PASS)
            );
            if failures == FAILURES || is_final {
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
                return self.stuck.told();
            }
            let pass = match &mut self.pass {
                Some(pass) => pass,
                None => {
                    self.took = false;
                    self.pass.insert(Pass::begin(&self.broker).await?)
                }
            };
            let delivery = match pass.next().await {
                Ok(Some(delivery)) => delivery,
                Ok(None) => {
                    self.exhausted().await;
                    continue;
                }
                // A slow caller takes many passes; one that takes nothing would be followed by another.
                Err(BrokerError::TimedOut(WHOLE_PASS)) if self.took => {
                    self.end_pass().await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let name = dead::name(&delivery.properties, &delivery.data);
            // The others stay where they are until the pass ends.
            let Some(wanted) = self.letters.get_mut(&name) else {
                continue;
            };
            match wanted.progress {
                Progress::Stuck => continue,
                Progress::Settled | Progress::Taken => {}
                Progress::Waiting | Progress::Refused => {
                    let carried_out =
                        carry_out(&self.broker, &self.verdict, &wanted.letter, &delivery);
                    match carried_out.await {
                        Ok(()) => wanted.progress = Progress::Settled,
                        Err(reason @ (BrokerError::Returned(_) | BrokerError::Nacked)) => {
                            if wanted.progress == Progress::Waiting {
                                wanted.progress = Progress::Refused;
                                self.disturbed = true;
                            } else {
                                wanted.progress = Progress::Stuck;
                                self.stuck.add(reason);
                                self.left -= 1;
                            }
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            pass.remove(&delivery).await?;
            if wanted.progress == Progress::Taken {
                // One burial, stored twice because its confirm came late.
                continue;
            }
            wanted.progress = Progress::Taken;
            self.took = true;
            self.left -= 1;
            self.broker.log_gone(&name);
            return Ok(Some(wanted.letter.clone()));
        }
    }

    /// What was not found is not there any more, unless it is on its way back or somebody else has it.
    async fn exhausted(&mut self) {
        let announced = self.pass.as_ref().map(Pass::announced);
        let mut again = self.disturbed;
        if announced == Some(Announced::No) && !self.looked_twice {
            self.looked_twice = true;
            again = true;
        }
        self.end_pass().await;
        if again {
            self.disturbed = false;
            tokio::time::sleep(AGAIN).await;
            return;
        }
        self.left = 0;
        if announced == Some(Announced::Yes) {
            // Purged, or taken out by somebody who could not say so: else they are listed for ever.
            let missing = self.letters.iter().filter(|(_, wanted)| {
                !matches!(wanted.progress, Progress::Stuck | Progress::Taken)
            });
            let missing = missing.map(|(name, _)| name.as_str());
            self.broker.log_all_gone(missing).await;
        }
    }

    async fn end_pass(&mut self) {
        if let Some(pass) = self.pass.take() {
            pass.end().await;
            self.disturbed = true;
        }
    }
}

impl Stuck {
    fn add(&mut self, reason: BrokerError) {
        self.letters += 1;
        self.reason = Some(reason);
    }

    /// Tells of them, once.
    fn told(&mut self) -> Result<Option<DeadLetter>, BrokerError> {
        let Self { letters, reason } = std::mem::take(self);
        match reason {
            Some(reason) => Err(BrokerError::Stuck {
                letters,
                reason: reason.to_string(),
            }),
            None => Ok(None),
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
    for outcome in content.taken(verdict, letter.buried_at, now) {
        broker.store(&broker.outcome_message(&outcome)).await?;
    }
    if let Verdict::Retry { .. } = verdict {
        let job = dead::put_back(broker.names(), properties, data, now);
        broker.store(&job).await?;
    }
    Ok(())
}
