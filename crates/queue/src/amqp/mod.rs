//! The queue on RabbitMQ, 3.10 to 4.x. Read [`topology`] for the objects, [`publish`] for what proves
//! that a message is stored, [`claims`] for consuming. Facts and measurements behind the rules: the
//! RabbitMQ documentation on quorum queues, streams, confirms and dead lettering, and our own tests.

mod audit;
mod claims;
mod connection;
mod copies;
mod dead;
mod events;
pub(crate) mod examine;
mod forget;
mod greeting;
mod letters;
mod publish;
mod report;
mod stream;
mod taking;
pub(crate) mod topology;
pub(crate) mod users;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_lapin::lapin;
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub(crate) use claims::{AmqpClaim, AmqpClaims};
use connection::Connections;
use copies::{Copies, Unwritten, WithoutExchange};
use dead::Burial;
pub(crate) use events::EventPages;
use publish::{Address, Message, Publishing, Routing};
pub(crate) use stream::{ArchiveRead, OutcomesFollow, OutcomesRead};
pub(crate) use taking::DeadTaking;
use topology::{Destination, Names, Topology};
use wire::History;

use crate::content::Content;
use crate::event::{BotName, Event};
use crate::job::{Cause, Settlement, Step};
use crate::outcome::{Outcome, What};
use crate::{Settings, Stored};

/// How long a polite goodbye to the broker may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long any other single request to the broker may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// What went wrong between us and the broker.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// No node answers, or the connection broke.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    /// It does not let this user in, or do this.
    #[error("the broker refuses this user ({said}): {cure}")]
    Refused {
        /// What to do.
        cure: &'static str,
        /// What the broker said: to whom, and for which object.
        said: String,
    },
    /// A connection was made, but what is needed is not there.
    #[error("{0}")]
    Unusable(String),
    /// A broker object is not as it has to be.
    #[error("the broker's {object} cannot be used ({said}): {cure}")]
    Object {
        /// Which one.
        object: String,
        /// What to do.
        cure: &'static str,
        /// What the broker said.
        said: String,
    },
    /// No queue took the message.
    #[error("no queue is bound to the exchange {0}")]
    Returned(String),
    /// An object that was there at the connection's start is gone.
    #[error("a broker object is missing ({0}): is CHICKWORK_NAMESPACE right?")]
    Missing(String),
    /// The broker refused the message.
    #[error("the broker refused the message (is a queue full, or without a leader?)")]
    Nacked,
    /// An alarm is raised: the broker takes messages again once it is over.
    #[error("the broker takes no messages: {0}")]
    Blocked(String),
    /// The broker did not answer in time.
    #[error("{0} took the broker too long")]
    TimedOut(&'static str),
    /// The claim is somebody else's by now.
    #[error("the claim was lost with its connection")]
    Lost,
    /// Dead letters are gone through by one at a time.
    #[error("somebody else is taking dead letters: try again when they are done")]
    Busy,
    /// Dead letters that no queue would take; all others were treated as was said.
    #[error("dead letters that could not be put back, and remain: {letters} ({reason})")]
    Stuck {
        /// How many.
        letters: usize,
        /// Why the last one could not.
        reason: String,
    },
    /// The queue has been closed.
    #[error("the queue is closed")]
    Closed,
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        let said = topology::said(&error);
        if said.starts_with("NOT_FOUND") {
            Self::Missing(said)
        } else if let Some(cure) = topology::cure_of_refusal(&said) {
            Self::Refused { cure, said }
        } else {
            Self::Unreachable(said)
        }
    }
}

impl BrokerError {
    /// Whether the broker's user lacks a right.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Whether declaring the broker objects anew may help.
    fn calls_for_repair(&self) -> bool {
        matches!(self, Self::Returned(_) | Self::Missing(_))
    }
}

/// A handle on the broker; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    names: Names,
    bots: Vec<BotName>,
    archived: bool,
    archive_keep: Duration,
    /// Bytes of events that went to the archive since it was last turned over.
    copied: AtomicU64,
    connections: Arc<Connections>,
    publishing: Publishing,
    copies: Copies,
    /// Copies for the log of dead letters, which others must not have to wait for.
    letters: Copies,
    /// How many connections on which jobs are claimed are not closed yet.
    claiming: watch::Sender<usize>,
}

/// A connection on which jobs are claimed, until it is closed.
#[derive(Debug)]
struct Claiming(watch::Sender<usize>);

impl Claiming {
    fn begin(broker: &Broker) -> Self {
        let claiming = broker.inner.claiming.clone();
        claiming.send_modify(|connections| *connections += 1);
        Self(claiming)
    }
}

impl Drop for Claiming {
    fn drop(&mut self) {
        self.0.send_modify(|connections| *connections -= 1);
    }
}

impl Broker {
    /// Prepares connections to these nodes; makes none yet.
    pub(crate) fn new(urls: &[String], settings: &Settings) -> Result<Self, BrokerError> {
        let names = Names::new(&settings.namespace);
        let topology = Topology::new(&names, &settings.bots, settings);
        let connections = Arc::new(Connections::new(urls, topology, settings)?);
        let inner = Inner {
            names,
            bots: settings.bots.clone(),
            archived: !settings.archive_keep.is_zero(),
            archive_keep: settings.archive_keep,
            copied: AtomicU64::new(0),
            publishing: Publishing::new(connections.clone()),
            copies: Copies::start(connections.clone(), WithoutExchange::Wait),
            letters: Copies::start(connections.clone(), WithoutExchange::GiveUp),
            claiming: watch::Sender::new(0),
            connections,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    fn names(&self) -> &Names {
        &self.inner.names
    }

    /// Stores an event in the ask queue, confirmed. Its archive copy goes another way and is not
    /// waited for: a copy that reached the archive proves nothing about the ask queue. It goes only
    /// once the event is stored: a broker that fails is tried with the same event again and again, and
    /// copies of that would soon be all that waits to be copied.
    pub(crate) async fn publish(&self, event: &Event) -> Result<(), BrokerError> {
        let content = Content::of_event(event);
        let properties = wire::properties(&content, History::default(), false);
        let address = Address {
            exchange: self.names().way_in(),
            key: "ask".to_owned(),
        };
        let message = Message {
            address,
            properties,
            body: content.body,
        };
        self.store(&message).await?;
        self.copy(event, &message.properties);
        Ok(())
    }

    pub(crate) async fn bury(&self, event: &Event, error: &str) -> Result<(), BrokerError> {
        let content = Content::of_event(event);
        let properties = wire::properties(&content, History::default(), false);
        let now = Timestamp::now();
        let error = crate::shortened(error, Settlement::LONGEST_ERROR);
        let burial = Burial {
            destination: &Destination::Ask,
            step: Step::Receive,
            cause: Cause::Malformed,
            error: &error,
            at: now,
        };
        let body = content.body.clone();
        let letter = dead::letter(self.names(), &burial, properties.clone(), body);
        let outcome = content.dead(Step::Receive, Cause::Malformed, error, now);
        let told = self.outcome_message(&outcome);
        let in_turn = [(&told, Routing::Mandatory), (&letter, Routing::Mandatory)];
        self.store_in_turn(&in_turn).await?;
        self.copy(event, &properties);
        Ok(())
    }

    /// Here the copy and the reason are all there is, so both are confirmed.
    pub(crate) async fn archive(&self, event: &Event, reason: &str) -> Result<(), BrokerError> {
        let content = Content::of_event(event);
        let properties = wire::properties(&content, History::default(), false);
        let address = Address {
            exchange: self.names().events(),
            key: event.routing_key(),
        };
        let message = Message {
            address,
            properties,
            body: content.body.clone(),
        };
        let routing = if self.inner.archived {
            Routing::Mandatory
        } else {
            Routing::Optional
        };
        self.count_copy(event.body.len());
        let reason = reason.to_owned();
        let outcome = content.outcome(What::Ignored { reason }, Timestamp::now());
        let told = self.outcome_message(&outcome);
        let in_turn = [(&told, Routing::Mandatory), (&message, routing)];
        self.store_in_turn(&in_turn).await
    }

    fn count_copy(&self, bytes: usize) {
        self.inner.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn copy(&self, event: &Event, properties: &BasicProperties) {
        self.count_copy(event.body.len());
        let address = Address {
            exchange: self.names().events(),
            key: event.routing_key(),
        };
        let body = event.body.to_vec();
        self.inner.copies.send(Message {
            address,
            properties: properties.clone(),
            body,
        });
    }

    /// Publishes with proof.
    async fn store(&self, message: &Message) -> Result<(), BrokerError> {
        self.store_in_turn(&[(message, Routing::Mandatory)]).await
    }

    /// Publishes with proof, each once the one before it is stored, all in the time that one has. What
    /// is told of an event goes first: whoever fails tries again with all of it, and what is told twice
    /// counts once, while each letter is another letter, and each copy takes up room.
    ///
    /// A message that came back, or an exchange that is not there, means that somebody deleted something
    /// under way: it is declared anew, and the next try may succeed.
    async fn store_in_turn(&self, messages: &[(&Message, Routing)]) -> Result<(), BrokerError> {
        let stored = self.inner.publishing.publish_in_turn(messages).await;
        if stored.is_ok() {
            let dead = self.names().dead();
            let letters = messages.iter().map(|(message, _)| *message);
            for letter in letters.filter(|message| message.address.exchange == dead) {
                self.log_burial(letter);
            }
        }
        if stored.as_ref().is_err_and(BrokerError::calls_for_repair) {
            let connections = self.inner.connections.clone();
            // Not waited for: a publish has little time.
            tokio::spawn(async move { connections.repair().await });
        }
        stored
    }

    /// Writes an outcome some time soon.
    pub(crate) fn record(&self, outcome: &Outcome) {
        self.inner.copies.send(self.outcome_message(outcome));
    }

    /// Writes some time soon that an event was received, unless what tells more about it might be lost
    /// for that.
    pub(crate) fn received(&self, event: &Event, stored: Stored, forwarded_at: Option<Timestamp>) {
        let received = Outcome::received(event, stored, forwarded_at);
        let message = self.outcome_message(&received);
        self.inner.copies.send_if_there_is_room(message);
    }

    fn outcome_message(&self, outcome: &Outcome) -> Message {
        let body = serde_json::to_vec(outcome)
            .expect("an outcome has no map with keys that are not strings");
        let properties = BasicProperties::default()
            .with_message_id(outcome.id.to_string().into())
            .with_type("outcome".into())
            .with_timestamp(outcome.at.as_second().unsigned_abs())
            .with_content_type("application/json".into())
            .with_app_id("chickwork".into())
            .with_delivery_mode(2);
        let address = Address {
            exchange: self.names().outcomes(),
            key: outcome.bot.to_string(),
        };
        Message {
            address,
            properties,
            body,
        }
    }

    pub(crate) async fn mark(&self) -> Result<Uuid, BrokerError> {
        let mark = Uuid::now_v7();
        let properties = BasicProperties::default()
            .with_message_id(mark.to_string().into())
            .with_type(stream::MARK.into())
            .with_timestamp(Timestamp::now().as_second().unsigned_abs())
            .with_delivery_mode(2);
        let address = Address {
            exchange: self.names().outcomes(),
            key: stream::MARK.to_owned(),
        };
        let message = Message {
            address,
            properties,
            body: Vec::new(),
        };
        self.store(&message).await?;
        Ok(mark)
    }

    pub(crate) fn claim_asks(&self, limit: u16) -> AmqpClaims {
        AmqpClaims::new(self.clone(), Destination::Ask, limit)
    }

    pub(crate) fn claim_posts(&self, bot: &BotName, limit: u16) -> AmqpClaims {
        AmqpClaims::new(self.clone(), Destination::Post(bot.clone()), limit)
    }

    pub(crate) fn follow(&self, since: Timestamp) -> OutcomesFollow {
        OutcomesFollow::new(self.clone(), since)
    }

    pub(crate) fn outcomes(&self, since: Timestamp) -> OutcomesRead {
        OutcomesRead::new(self.clone(), since)
    }

    pub(crate) fn archived(&self, since: Timestamp) -> ArchiveRead {
        ArchiveRead::new(self.clone(), since)
    }

    /// A confirmed publish that goes nowhere: a blocked connection opens, and says that it is not
    /// blocked, until it publishes.
    pub(crate) async fn check(&self) -> Result<(), BrokerError> {
        let address = Address {
            exchange: self.names().way_in(),
            key: "probe".to_owned(),
        };
        let message = Message {
            address,
            properties: BasicProperties::default(),
            body: Vec::new(),
        };
        self.inner
            .publishing
            .publish(&message, Routing::Optional)
            .await
    }

    /// Waits until archive copies and outcomes are written and claims are settled, at most this long,
    /// and closes connections.
    pub(crate) async fn close(&self, limit: Duration) {
        let Inner {
            copies,
            letters,
            claiming,
            ..
        } = &*self.inner;
        // The last jobs were settled with acks that nobody answers. Only after the end of their
        // connection they are known to have arrived.
        let mut claiming = claiming.subscribe();
        let settled = tokio::time::timeout(limit, async {
            // What this returns would keep others from counting.
            drop(claiming.wait_for(|left| *left == 0).await);
        });
        let (copies, _letters, settled) =
            tokio::join!(copies.finish(limit), letters.finish(limit), settled);
        // What the log of dead letters lacks is found in their queue.
        if let Err(Unwritten { copies, reason }) = copies {
            log::warn!("{copies} archive copies or outcomes may be missing: {reason}");
        }
        if settled.is_err() {
            log::warn!(
                "the broker was not told of all that was done: some jobs may come back once more"
            );
        }
        self.inner.connections.close();
    }

    /// The nodes, without credentials.
    pub(crate) fn describe(&self) -> String {
        self.inner.connections.describe()
    }
}

/// A look at a queue, which changes nothing and needs no right: what waits in it, and how many consume
/// it. On a channel of its own, as a refusal closes it.
async fn look(
    connection: &lapin::Connection,
    queue: &str,
) -> Result<lapin::Result<lapin::Queue>, BrokerError> {
    let looked = async {
        let channel = connection.create_channel().await?;
        Ok(topology::look(&channel, queue).await)
    };
    tokio::time::timeout(REQUEST_LIMIT, looked)
        .await
        .map_err(|_| BrokerError::TimedOut("a look at a queue"))?
}

/// Closes a connection in the background, and lets go of the channels and consumers on it afterwards:
/// lapin ends those that are dropped, and where that meets the end of their connection it may end
/// neither. A consumer that lives on keeps its turn, and what it was given.
fn close_in_background<Used: Send + 'static>(
    connection: lapin::Connection,
    used: Used,
) -> Option<JoinHandle<()>> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    Some(runtime.spawn(async move {
        close(connection).await;
        drop(used);
    }))
}

/// Says goodbye to the broker, which then gives back at once what this connection held.
async fn close(connection: lapin::Connection) {
    let closed = connection.close(200, "done".into());
    let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
}
