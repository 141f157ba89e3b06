//! The durable queue: what the ingress stores, what the workers claim and settle, what was given
//! up, what came in and what became of it.
//!
//! Two back ends keep the same promises, RabbitMQ (`amqp`) and SQLite (`sqlite`); they are an
//! enum, not a trait, and what holds them together is one conformance suite (`tests/conformance`).
//! Nothing here knows why a job is put off or buried: that is the worker's policy.
//!
//! Read on in this order: [`event`], [`job`], [`outcome`], [`dead`], [`report`], [`spool`]; then
//! the handles below.

pub mod audit;
pub mod dead;
pub mod event;
pub mod events;
pub mod examine;
pub mod job;
pub mod outcome;
pub mod purge;
pub mod report;
pub mod spool;

mod amqp;
mod content;
mod course;
mod figures;
mod reply_json;
mod sqlite;
mod suspect;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use crate::amqp::BrokerError;
pub use crate::amqp::users::{BrokerRole, BrokerUser};
pub use crate::examine::examine;
pub use crate::sqlite::{OpenError, StoreError};

use crate::amqp::{AmqpClaim, AmqpClaims, Broker};
use crate::dead::DeadLetters;
use crate::event::{BotName, Event};
use crate::job::{Cause, Job, Settled, Tenure};
use crate::outcome::Outcome;
use crate::spool::{Becomes, Spool, SpoolError};
use crate::sqlite::{ArchiveRead, SqliteClaim, SqliteClaims, Store};

/// A job of a newer release is looked at again after this time, without counting a try.
pub(crate) const NEWER_WAITS: Duration = Duration::from_secs(60);
/// A job of a newer release that nobody could read for this long is buried as `newer`.
pub(crate) const NEWER_WAITS_AT_MOST: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Where the queue is: `CHICKWORK_QUEUE`.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file on this machine.
    Sqlite(PathBuf),
    /// The nodes of one RabbitMQ cluster (`amqp://` or `amqps://`), tried in turn.
    Amqp(Vec<String>),
}

impl std::fmt::Debug for Location {
    /// Without the nodes: their addresses carry passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Amqp(nodes) => write!(f, "Amqp({} nodes)", nodes.len()),
        }
    }
}

/// How this process uses the queue.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is.
    pub location: Location,
    /// Prefix of every broker object.
    pub namespace: String,
    /// The bots of this deployment; each has a reply queue.
    pub bots: Vec<BotName>,
    /// Whether broker objects are declared or only checked.
    pub declare: Declare,
    /// How long events and outcomes are kept; zero keeps no archive.
    pub archive_keep: Duration,
}

impl Settings {
    /// Outcomes are also the memory of what was posted, so they are kept this long in any case.
    /// `CHICKWORK_MAX_AGE` must be well below it.
    pub const OUTCOMES_KEPT_AT_LEAST: Duration = Duration::from_secs(24 * 3600);

    /// How long outcomes are kept.
    pub fn outcomes_keep(&self) -> Duration {
        self.archive_keep.max(Self::OUTCOMES_KEPT_AT_LEAST)
    }
}

/// `CHICKWORK_DECLARE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declare {
    /// Create what is missing.
    Active,
    /// Objects are managed by somebody else: only check that they are there.
    Passive,
    /// Neither create nor check: for a command that looks at what is there.
    Nothing,
}

/// Where an event was made safe; also the label `stored` of `chickwork_acks_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// In RabbitMQ.
    Broker,
    /// On the ingress's disk, until RabbitMQ takes it.
    Spool,
    /// In the SQLite queue.
    Embedded,
    /// In the queue, whichever that is, long after its message: no webhook told of it, and a person
    /// had it looked for (`chickwork recover`).
    Recovered,
}

impl Stored {
    /// The places in which a webhook can be made safe.
    pub const ALL: [Self; 3] = [Self::Broker, Self::Spool, Self::Embedded];

    /// The word used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Spool => "spool",
            Self::Embedded => "embedded",
            Self::Recovered => "recovered",
        }
    }
}

/// What could not be done with the queue, and why. What could not be stored may still turn up.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub enum QueueError {
    /// The embedded queue's reason.
    Sqlite(#[from] StoreError),
    /// The broker's reason.
    Amqp(#[from] BrokerError),
    /// The spool's reason.
    Spool(#[from] SpoolError),
    /// Neither of the two places takes the event.
    #[error("{broker}; {spool}")]
    Nowhere {
        /// The broker's reason.
        broker: BrokerError,
        /// The spool's reason.
        spool: SpoolError,
    },
}

/// A handle on the queue; cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue(Backend);

#[derive(Debug, Clone)]
enum Backend {
    Sqlite(Store),
    Amqp(Broker),
}

impl Backend {
    /// Stores an event where it is worked on. What the outcomes say of where it is stored is for the place
    /// itself to say, unless it is given.
    async fn keep(
        &self,
        event: &Event,
        becomes: &Becomes,
        told: Option<Stored>,
    ) -> Result<Stored, QueueError> {
        match self {
            Self::Sqlite(store) => {
                let received = Outcome::received(event, told.unwrap_or(Stored::Embedded), None);
                match becomes {
                    Becomes::Ask => store.publish(event, received).await,
                    Becomes::Malformed { error } => store.bury(event, received, error).await,
                    Becomes::Ignored { reason } => store.archive(event, received, reason).await,
                }?;
                Ok(Stored::Embedded)
            }
            Self::Amqp(broker) => {
                becomes.at(broker, event).await?;
                broker.received(event, told.unwrap_or(Stored::Broker), None);
                Ok(Stored::Broker)
            }
        }
    }
}

impl Queue {
    /// Opens the embedded queue, creating the file if there is none, or prepares connections to
    /// the broker; a broker that is away is no error here: see [`Queue::check`].
    pub async fn open(settings: Settings) -> Result<Self, OpenError> {
        match &settings.location {
            Location::Sqlite(path) => {
                Ok(Self(Backend::Sqlite(Store::open(path, &settings).await?)))
            }
            Location::Amqp(urls) => Self::on_broker(urls, &settings),
        }
    }

    /// Opens a queue that is there: never creates a file. What a command that only looks at a
    /// broker may create there is for [`Settings::declare`] to say.
    pub async fn open_existing(settings: Settings) -> Result<Self, OpenError> {
        match &settings.location {
            Location::Sqlite(path) => {
                let store = Store::open_existing(path, &settings).await?;
                Ok(Self(Backend::Sqlite(store)))
            }
            Location::Amqp(urls) => Self::on_broker(urls, &settings),
        }
    }

    fn on_broker(urls: &[String], settings: &Settings) -> Result<Self, OpenError> {
        let broker =
            Broker::new(urls, settings).map_err(|error| OpenError::Broker(error.to_string()))?;
        Ok(Self(Backend::Amqp(broker)))
    }

    /// The way in.
    pub fn publisher(&self) -> Publisher {
        Publisher {
            backend: self.0.clone(),
            spool: None,
        }
    }

    /// The way in that leads through this spool, which was opened for this queue, while the broker is
    /// away.
    pub fn publisher_with(&self, spool: &Spool) -> Publisher {
        Publisher {
            spool: Some(spool.clone()),
            ..self.publisher()
        }
    }

    /// Claims events to ask about, at most `limit` of them unsettled at a time.
    pub fn claim_asks(&self, limit: u16) -> Claims {
        Claims(match &self.0 {
            Backend::Sqlite(store) => ClaimsOf::Sqlite(SqliteClaims::asks(store)),
            Backend::Amqp(broker) => ClaimsOf::Amqp(broker.claim_asks(limit)),
        })
    }

    /// Claims replies of this bot, alone among all processes, at most `limit` of them unsettled at a time.
    pub fn claim_posts(&self, bot: &BotName, limit: u16) -> Claims {
        Claims(match &self.0 {
            Backend::Sqlite(store) => ClaimsOf::Sqlite(SqliteClaims::posts(store, bot)),
            Backend::Amqp(broker) => ClaimsOf::Amqp(broker.claim_posts(bot, limit)),
        })
    }

    /// What became of each event.
    pub fn outcomes(&self) -> Outcomes {
        Outcomes(self.0.clone())
    }

    /// What was given up.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters(self.0.clone())
    }

    /// What came in.
    pub fn archive(&self) -> Archive {
        Archive(self.0.clone())
    }

    /// Records the depths of the embedded queue as figures, or whether the broker can be used; its
    /// depths are among the broker's own figures.
    pub async fn measure(&self) {
        match &self.0 {
            Backend::Sqlite(store) => match store.sizes().await {
                Ok(sizes) => figures::sizes(&sizes, Timestamp::now()),
                Err(error) => log::warn!("the queue cannot be measured: {error}"),
            },
            // Asking is what records it.
            Backend::Amqp(broker) => drop(broker.check().await),
        }
    }

    /// Forgets what the archive has kept for its time, as far as that can be done now: a file removes it,
    /// a broker's archive begins a new segment and drops those that are old enough.
    pub async fn forget(&self) -> Result<(), QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.forget().await?),
            Backend::Amqp(broker) => Ok(broker.forget().await?),
        }
    }

    /// Does so whenever it is time, for ever: for a process that takes webhooks. Whoever has opened a file
    /// to work on it does so in any case.
    pub async fn keep_forgetting(&self) {
        match &self.0 {
            Backend::Sqlite(_) => std::future::pending().await,
            Backend::Amqp(broker) => broker.keep_forgetting().await,
        }
    }

    /// Where the queue is, for people: the absolute path of the file, or the nodes without credentials.
    pub fn describe(&self) -> String {
        match &self.0 {
            Backend::Sqlite(store) => {
                let path = std::path::absolute(store.path());
                path.unwrap_or_else(|_| store.path().to_owned())
                    .display()
                    .to_string()
            }
            Backend::Amqp(broker) => broker.describe(),
        }
    }

    /// Whether the queue can be used right now; an error says in a sentence why not.
    pub async fn check(&self) -> Result<(), QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.check().await?),
            Backend::Amqp(broker) => Ok(broker.check().await?),
        }
    }

    /// Stores an event to be answered that no webhook told of: a person had its message looked for. Never in
    /// a spool, which could not tell how it was received.
    pub async fn recover(&self, event: &Event) -> Result<(), QueueError> {
        let _measured = figures::Publishing::begin();
        let told = Some(Stored::Recovered);
        self.0.keep(event, &Becomes::Ask, told).await.map(drop)
    }

    /// An error says if this is no queue, but the spool of an ingress. That may be looked at; what
    /// became of events it does not know, and nothing in it may be changed.
    pub async fn refuse_spool(&self) -> Result<(), QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.refuse_spool().await?),
            Backend::Amqp(_) => Ok(()),
        }
    }

    /// Waits until best-effort records are written, at most this long, and closes connections.
    pub async fn close(&self, limit: Duration) {
        match &self.0 {
            Backend::Sqlite(store) => {
                let flushed = tokio::time::timeout(limit, store.flush()).await;
                if let Err(error) = flushed.unwrap_or(Err(StoreError::Slow)) {
                    log::warn!("the last records may be missing: {error}");
                }
            }
            Backend::Amqp(broker) => broker.close(limit).await,
        }
    }
}

/// The broker objects that a deployment with these settings needs, and these users with their rights, in
/// the format of RabbitMQ's definitions import.
pub fn definitions(settings: &Settings, users: &[BrokerUser]) -> serde_json::Value {
    amqp::topology::definitions(settings, users)
}

/// The way in: what returns `Ok` is stored where it will be worked on, and survives `kill -9` of
/// every process and a restart of the broker. In a spool it is stored on the way there.
#[derive(Debug, Clone)]
pub struct Publisher {
    backend: Backend,
    spool: Option<Spool>,
}

impl Publisher {
    /// Stores an event to be answered. Returns within 2 s of a broker, 4 s of a broker with a spool,
    /// 10 s of a disk.
    pub async fn publish(&self, event: &Event) -> Result<Stored, QueueError> {
        self.keep(event, &Becomes::Ask).await
    }

    /// Stores an event that is none as a dead letter `malformed`.
    pub async fn bury(&self, event: &Event, error: &str) -> Result<Stored, QueueError> {
        let error = error.to_owned();
        let stored = self.keep(event, &Becomes::Malformed { error }).await?;
        figures::dead(Cause::Malformed);
        Ok(stored)
    }

    /// Stores an event that is not answered, for this reason, in the archive and the outcomes.
    pub async fn archive(&self, event: &Event, reason: &str) -> Result<Stored, QueueError> {
        let reason = reason.to_owned();
        self.keep(event, &Becomes::Ignored { reason }).await
    }

    /// Whether an event could be made safe right now, in one place or the other; an error says in a
    /// sentence why not.
    pub async fn check(&self) -> Result<(), QueueError> {
        match &self.spool {
            Some(spool) => spool.check().await,
            None => Queue(self.backend.clone()).check().await,
        }
    }

    async fn keep(&self, event: &Event, becomes: &Becomes) -> Result<Stored, QueueError> {
        let _measured = figures::Publishing::begin();
        match &self.spool {
            Some(spool) => spool.keep(event, becomes).await,
            None => self.backend.keep(event, becomes, None).await,
        }
    }
}

/// The way to work: claims jobs of one queue, for ever, through any number of reconnects.
#[derive(Debug)]
pub struct Claims(ClaimsOf);

#[derive(Debug)]
enum ClaimsOf {
    Sqlite(SqliteClaims),
    Amqp(AmqpClaims),
}

impl Claims {
    /// The next job; waits as long as it takes. Cancel-safe.
    pub async fn next(&mut self) -> Claim {
        Claim(match &mut self.0 {
            ClaimsOf::Sqlite(claims) => ClaimOf::Sqlite(Box::new(claims.next().await)),
            ClaimsOf::Amqp(claims) => ClaimOf::Amqp(Box::new(claims.next().await)),
        })
    }

    /// Claims no more: what was fetched but not handed out is given back, and intents of claims
    /// that are still held are refused from now on.
    pub async fn stop(self) {
        match self.0 {
            ClaimsOf::Sqlite(claims) => claims.stop().await,
            ClaimsOf::Amqp(claims) => claims.stop().await,
        }
    }
}

/// A job that is this process's to do, until it is settled. One that is dropped without having
/// been settled comes back, and that counts as a death.
#[derive(Debug)]
pub struct Claim(ClaimOf);

#[derive(Debug)]
enum ClaimOf {
    Sqlite(Box<SqliteClaim>),
    Amqp(Box<AmqpClaim>),
}

impl Claim {
    /// The job.
    pub fn job(&self) -> &Job {
        match &self.0 {
            ClaimOf::Sqlite(claim) => &claim.job,
            ClaimOf::Amqp(claim) => &claim.job,
        }
    }

    /// Under which tenure it was claimed; meaningful for replies.
    pub fn tenure(&self) -> Tenure {
        match &self.0 {
            ClaimOf::Sqlite(claim) => claim.tenure,
            ClaimOf::Amqp(claim) => claim.tenure(),
        }
    }

    /// Stores an intent, confirmed, provided that this process is still the one that may post.
    /// After an error nothing may be posted, though the intent may have been stored.
    pub async fn intend(&self, intent: &Outcome) -> Result<(), QueueError> {
        match &self.0 {
            ClaimOf::Sqlite(claim) => Ok(claim.intend(intent).await?),
            ClaimOf::Amqp(claim) => Ok(claim.intend(intent).await?),
        }
    }

    /// Ends the claim. After an error the job comes back, to whomever.
    pub async fn settle(self, settled: Settled) -> Result<(), QueueError> {
        match self.0 {
            ClaimOf::Sqlite(claim) => Ok(claim.settle(settled).await?),
            ClaimOf::Amqp(claim) => Ok(claim.settle(settled).await?),
        }
    }
}

/// What became of each event.
#[derive(Debug, Clone)]
pub struct Outcomes(Backend);

impl Outcomes {
    /// Writes an outcome, best effort; never waits.
    pub fn record(&self, outcome: Outcome) {
        match &self.0 {
            Backend::Sqlite(store) => store.record(outcome),
            Backend::Amqp(broker) => broker.record(&outcome),
        }
    }

    /// Sets a mark, confirmed: whatever was stored before it is read before it.
    pub async fn mark(&self) -> Result<Uuid, QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.mark().await?),
            Backend::Amqp(broker) => Ok(broker.mark().await?),
        }
    }

    /// Reads from this time on (a little earlier is possible) up to the end as it is when begun.
    pub fn read(&self, since: Timestamp) -> OutcomesRead {
        OutcomesRead(match &self.0 {
            Backend::Sqlite(store) => OutcomesReadOf::Sqlite(store.outcomes(since)),
            Backend::Amqp(broker) => OutcomesReadOf::Amqp(broker.outcomes(since)),
        })
    }

    /// Reads from this time on (a little earlier is possible), and then what is being written.
    pub fn follow(&self, since: Timestamp) -> Follow {
        Follow(match &self.0 {
            Backend::Sqlite(store) => FollowOf::Sqlite(store.follow(since)),
            Backend::Amqp(broker) => FollowOf::Amqp(Box::new(broker.follow(since))),
        })
    }
}

/// Outcomes up to the end, in the order in which they were stored. One may be read twice.
#[derive(Debug)]
pub struct OutcomesRead(OutcomesReadOf);

#[derive(Debug)]
enum OutcomesReadOf {
    Sqlite(sqlite::OutcomesRead),
    Amqp(amqp::OutcomesRead),
}

impl OutcomesRead {
    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Outcome>, QueueError> {
        match &mut self.0 {
            OutcomesReadOf::Sqlite(read) => Ok(read.next().await?),
            OutcomesReadOf::Amqp(read) => Ok(read.next().await?),
        }
    }
}

/// Reads outcomes in the order in which they were stored. One may be read twice.
#[derive(Debug)]
pub struct Follow(FollowOf);

#[derive(Debug)]
enum FollowOf {
    Sqlite(sqlite::OutcomesFollow),
    Amqp(Box<amqp::OutcomesFollow>),
}

impl Follow {
    /// The next entry; waits as long as it takes, through any number of reconnects. Cancel-safe.
    pub async fn next(&mut self) -> Entry {
        match &mut self.0 {
            FollowOf::Sqlite(read) => read.next().await,
            FollowOf::Amqp(read) => read.next().await,
        }
    }
}

/// What [`Follow::next`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An outcome.
    Outcome(Outcome),
    /// A mark that somebody has set with [`Outcomes::mark`].
    Mark(Uuid),
}

/// Every event as it was received, at least for `CHICKWORK_ARCHIVE_KEEP`.
#[derive(Debug, Clone)]
pub struct Archive(Backend);

impl Archive {
    /// Reads what was received from this time on (a little earlier is possible), oldest first, up
    /// to the end. On RabbitMQ an event whose publisher was interrupted may be read twice.
    pub fn read(&self, since: Timestamp) -> ArchivedEvents {
        ArchivedEvents(match &self.0 {
            Backend::Sqlite(store) => ArchivedEventsOf::Sqlite(store.archived(since)),
            Backend::Amqp(broker) => ArchivedEventsOf::Amqp(broker.archived(since)),
        })
    }
}

/// Archived events, one at a time.
#[derive(Debug)]
pub struct ArchivedEvents(ArchivedEventsOf);

#[derive(Debug)]
enum ArchivedEventsOf {
    Sqlite(ArchiveRead),
    Amqp(amqp::ArchiveRead),
}

impl ArchivedEvents {
    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Event>, QueueError> {
        match &mut self.0 {
            ArchivedEventsOf::Sqlite(read) => Ok(read.next().await?),
            ArchivedEventsOf::Amqp(read) => Ok(read.next().await?),
        }
    }
}

/// Delays are kept in whole seconds, never shorter than asked for, and bounded.
pub(crate) fn whole_seconds(delay: Duration) -> Duration {
    let up = u64::from(delay.subsec_nanos() > 0);
    Duration::from_secs(delay.as_secs() + up).min(job::Settlement::LONGEST_DELAY)
}

/// The text up to this many bytes, cut between characters.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
