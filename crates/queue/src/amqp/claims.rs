//! Consuming one queue, for ever: a connection that ends, for whatever reason, is followed by the
//! next one, after at most [`LONGEST_PAUSE`].
//!
//! A reply queue has a single active consumer. Its intents are published on the consumer's own
//! channel: an intent that is confirmed there was stored while the broker still took this
//! consumer for the active one, and so before a successor's first delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_lapin::lapin;
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::dead::Burial;
use super::publish::{Routing, confirmed};
use super::topology::Destination;
use super::wire::{self, History, Unreadable};
use super::{Broker, BrokerError, Claiming, REQUEST_LIMIT, close_in_background, dead};
use crate::content::Content;
use crate::job::{Attempt, Cause, Job, Settled, Settlement, Step, Tenure, Work};
use crate::outcome::Outcome;
use crate::reply_json;
use crate::suspect::{Fate, fate, poison_error};

/// The first pause before connecting again; it doubles.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a settlement is tried while its delivery is still ours. Long, because giving up means
/// that SimSimi is asked again; under the broker's consumer timeout of half an hour.
const SETTLE_LIMIT: Duration = Duration::from_secs(25 * 60);
/// How long an intent may wait for the one before it, and how long the broker has to confirm it.
/// Together less than what the poster allows, so that here is known what became of it.
const TURN_LIMIT: Duration = Duration::from_millis(400);
const INTENT_LIMIT: Duration = Duration::from_millis(1500);
/// The pause between tries to settle.
const SETTLE_AGAIN: Duration = Duration::from_millis(500);
/// How often it is said of a settlement that it is still being tried.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Claims jobs of one queue.
#[derive(Debug)]
pub(crate) struct AmqpClaims {
    broker: Broker,
    source: Arc<Source>,
    limit: u16,
    session: Option<Session>,
    /// A session that is being started, on a task of its own: so [`AmqpClaims::next`] may be
    /// cancelled and go on with it later.
    starting: Option<JoinHandle<Result<Session, BrokerError>>>,
    tenures: u64,
    failures: u32,
}

/// The queue that is consumed.
#[derive(Debug)]
struct Source {
    name: String,
    destination: Destination,
    step: Step,
}

/// One consumer, from its start to the end of its connection.
#[derive(Debug)]
struct Session {
    consumer: Consumer,
    shared: Arc<Shared>,
}

/// What the claims of a session share; the connection ends with the last of them.
#[derive(Debug)]
struct Shared {
    connection: Option<(lapin::Connection, Claiming)>,
    /// Confirms are on: intents go here.
    channel: Channel,
    tag: ShortString,
    /// Held while an intent is on its way: one in flight on a channel, see `publish`.
    turn: Mutex<()>,
    /// Whether no more intents may be stored, since this may not be the active consumer any more.
    refused: AtomicBool,
    tenure: Tenure,
}

/// Whose a job has to be for its next state to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Anybodys,
}

/// A claimed job.
#[derive(Debug)]
pub(crate) struct AmqpClaim {
    broker: Broker,
    source: Arc<Source>,
    shared: Arc<Shared>,
    /// Without its bytes, which are in the content; `None` once it is being settled.
    delivery: Option<Delivery>,
    content: Content,
    pub(crate) job: Job,
}

impl AmqpClaims {
    pub(super) fn new(broker: Broker, destination: Destination, limit: u16) -> Self {
        let (name, step) = match &destination {
            Destination::Ask => (broker.names().ask(), Step::Ask),
            Destination::Post(bot) => (broker.names().post(bot), Step::Post),
        };
        Self {
            broker,
            source: Arc::new(Source {
                name,
                destination,
                step,
            }),
            limit,
            session: None,
            starting: None,
            tenures: 0,
            failures: 0,
        }
    }

    pub(crate) async fn next(&mut self) -> AmqpClaim {
        loop {
            let Some(session) = &mut self.session else {
                self.connect().await;
                continue;
            };
            match session.consumer.next().await {
                Some(Ok(delivery)) => {
                    self.failures = 0;
                    let shared = session.shared.clone();
                    if let Some(claim) = self.accept(delivery, shared) {
                        return claim;
                    }
                }
                Some(Err(error)) => self.lost(&error.to_string()),
                // The queue was deleted, or the channel ended without a word.
                None => self.lost("the consumer was ended"),
            }
        }
    }

    fn lost(&mut self, reason: &str) {
        log::warn!(queue = self.source.name; "the consumer ended and is started again: {reason}");
        if let Some(session) = self.session.take() {
            // The broker may have ended the consumer alone, and made another one active.
            session.shared.refused.store(true, Ordering::Release);
        }
        self.failures += 1;
    }

    async fn connect(&mut self) {
        let starting = match &mut self.starting {
            Some(starting) => starting,
            None => {
                self.tenures += 1;
                let (broker, source) = (self.broker.clone(), self.source.clone());
                let (limit, tenure, pause) =
                    (self.limit, Tenure(self.tenures), pause(self.failures));
                self.starting.insert(tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    consume(&broker, &source, limit, tenure).await
                }))
            }
        };
        let started = starting.await.unwrap_or(Err(BrokerError::Closed));
        self.starting = None;
        match started {
            Ok(session) => {
                if self.failures > 0 {
                    log::info!(queue = self.source.name; "consuming again");
                }
                self.session = Some(session);
            }
            Err(error) => {
                if self.failures == 0 || self.failures.is_power_of_two() {
                    log::warn!(queue = self.source.name; "cannot be consumed yet: {error}");
                }
                self.failures += 1;
            }
        }
    }

    /// Makes a claim of a delivery. What is suspect, poison or unreadable is put away beside, so
    /// that it holds nobody up.
    fn accept(&self, mut delivery: Delivery, shared: Arc<Shared>) -> Option<AmqpClaim> {
        let returns = wire::returns(&delivery.properties);
        let (content, history, read) = self.read(&mut delivery);
        let (work, problem) = match read {
            Ok(work) => (work, None),
            Err(problem) => (Work::Ask(content.clone().into_event()), Some(problem)),
        };
        let claim = AmqpClaim {
            broker: self.broker.clone(),
            source: self.source.clone(),
            shared,
            delivery: Some(delivery),
            content,
            job: Job {
                work,
                attempts: history.attempts,
                deaths: history.deaths,
            },
        };
        if let Some(problem) = problem {
            tokio::spawn(claim.put_away(problem));
            return None;
        }
        match fate(returns, history.deaths) {
            Fate::Work => return Some(claim),
            Fate::PutOff(delay) => {
                log::warn!(id:% = claim.content.id, deaths = history.deaths; "came back unsettled and is put off");
                tokio::spawn(claim.put_off(delay));
            }
            Fate::Bury => {
                let error = poison_error(history.deaths);
                let letter = claim.dead_letter(Cause::Poison, &error);
                tokio::spawn(claim.bury(letter, Cause::Poison, error));
            }
        }
        None
    }

    /// Takes the delivery's bytes and reads what can be read of it.
    fn read(&self, delivery: &mut Delivery) -> (Content, History, Result<Work, Unreadable>) {
        let body = std::mem::take(&mut delivery.data);
        let reply = match self.source.step {
            Step::Post => Some(reply_json::decode(&body)),
            Step::Ask | Step::Receive => None,
        };
        let (content, history) = match wire::read(&delivery.properties, &body) {
            Ok(read) => read,
            Err(problem) => {
                let content = wire::read_loosely(&delivery.properties, &body, Timestamp::now());
                return (content, History::default(), Err(problem));
            }
        };
        let work = match reply {
            Some(reply) => reply.map(Work::Post).map_err(Unreadable::from),
            None => Ok(Work::Ask(content.clone().into_event())),
        };
        (content, history, work)
    }

    /// Cancels the consumer and gives back what it had fetched. Claims that are still held keep
    /// the connection until they are settled, but can announce no post any more.
    pub(crate) async fn stop(mut self) {
        let mut session = self.session.take();
        if let Some(starting) = self.starting.take() {
            let started = tokio::time::timeout(REQUEST_LIMIT, starting).await;
            session = started.ok().and_then(|started| started.ok()?.ok());
        }
        let Some(mut session) = session else {
            return;
        };
        session.shared.refuse_intents().await;
        let cancelled = async {
            let tag = session.shared.tag.clone();
            session
                .shared
                .channel
                .basic_cancel(tag, BasicCancelOptions::default())
                .await?;
            while let Some(delivery) = session.consumer.next().await {
                if let Some(claim) = self.accept(delivery?, session.shared.clone()) {
                    let settled = Settled {
                        settlement: Settlement::GiveBack,
                        outcomes: Vec::new(),
                    };
                    claim.settle(settled).await?;
                }
            }
            Ok::<_, BrokerError>(())
        };
        match tokio::time::timeout(REQUEST_LIMIT, cancelled).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log::warn!(queue = self.source.name; "jobs were not given back and come back by themselves: {error}")
            }
            Err(_) => {
                log::warn!(queue = self.source.name; "the broker does not answer; jobs come back by themselves")
            }
        }
    }
}

/// How long to wait before connecting again, after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let longest = SHORTEST_PAUSE
        .saturating_mul(1 << doublings.min(10))
        .min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

async fn consume(
    broker: &Broker,
    source: &Source,
    limit: u16,
    tenure: Tenure,
) -> Result<Session, BrokerError> {
    let connection = broker.inner.connections.consuming().await?;
    let started = async {
        let channel = connection.create_channel().await?;
        channel.basic_qos(limit, BasicQosOptions::default()).await?;
        if source.step == Step::Post {
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
        }
        let consumer = channel
            .basic_consume(
                source.name.as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok::<_, BrokerError>((channel, consumer))
    };
    let (channel, consumer) = tokio::time::timeout(REQUEST_LIMIT, started)
        .await
        .map_err(|_| BrokerError::TimedOut("consuming"))??;
    let shared = Shared {
        connection: Some((connection, Claiming::begin(broker))),
        channel,
        tag: consumer.tag(),
        turn: Mutex::new(()),
        // Only posts are announced.
        refused: AtomicBool::new(source.step != Step::Post),
        tenure,
    };
    Ok(Session {
        consumer,
        shared: Arc::new(shared),
    })
}

impl Shared {
    /// Lets no intent follow, and waits for one that is on its way.
    async fn refuse_intents(&self) {
        self.refused.store(true, Ordering::Release);
        drop(self.turn.lock().await);
    }
}

/// Ends the consumer of a channel on which an intent may or may not be stored: its confirm could be
/// taken for the next one's. A new session follows, under a new tenure; claims that are held stay
/// held, and are settled on the old channel. Works by being dropped, so that a caller who gives up
/// does not prevent it.
struct EndConsumer(Option<Arc<Shared>>);

impl Drop for EndConsumer {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        shared.refused.store(true, Ordering::Release);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let options = BasicCancelOptions::default();
                let cancelled = shared.channel.basic_cancel(shared.tag.clone(), options);
                let _ = tokio::time::timeout(REQUEST_LIMIT, cancelled).await;
            });
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((connection, claiming)) = self.connection.take() {
            drop(close_in_background(
                connection,
                (self.channel.clone(), claiming),
            ));
        }
    }
}

impl AmqpClaim {
    pub(crate) fn tenure(&self) -> Tenure {
        self.shared.tenure
    }

    /// Stores an intent on the consumer's own channel.
    pub(crate) async fn intend(&self, intent: &Outcome) -> Result<(), BrokerError> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.shared.turn.lock()).await;
        let _turn = turn.map_err(|_| BrokerError::TimedOut("the intent before this one"))?;
        let refused = || self.shared.refused.load(Ordering::Acquire);
        if refused() {
            return Err(BrokerError::Lost);
        }
        let mut end_consumer = EndConsumer(Some(self.shared.clone()));
        let message = self.broker.outcome_message(intent);
        let stored = confirmed(&self.shared.channel, &message, Routing::Mandatory);
        tokio::time::timeout(INTENT_LIMIT, stored)
            .await
            .unwrap_or(Err(BrokerError::TimedOut("an intent")))?;
        if refused() {
            return Err(BrokerError::Lost);
        }
        end_consumer.0 = None;
        Ok(())
    }

    /// Once the job's next state is stored the claim is settled, even if the old one cannot be
    /// acknowledged any more and comes back: what comes back is known by its answer key.
    pub(crate) async fn settle(mut self, settled: Settled) -> Result<(), BrokerError> {
        let Some(delivery) = self.delivery.take() else {
            return Err(BrokerError::Lost);
        };
        let Settled {
            settlement,
            outcomes,
        } = settled;
        let is_result = outcomes.iter().any(Outcome::is_result);
        let (proofs, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Outcome::is_proof);
        // That a job is dead stands before its letter is there: no word of a person about the letter
        // can come in between.
        let mut messages: Vec<_> = proofs
            .iter()
            .map(|outcome| self.broker.outcome_message(outcome))
            .collect();
        messages.extend(self.next_state(&settlement));
        let whose = match settlement {
            // An answer that was paid for is stored, and the result of a post told, whoever has
            // the job by now; anything else would be a second copy of somebody else's job.
            Settlement::Next(_) => Whose::Anybodys,
            Settlement::Done if is_result => Whose::Anybodys,
            Settlement::Done
            | Settlement::Later(..)
            | Settlement::Bury { .. }
            | Settlement::GiveBack => Whose::Ours,
        };
        self.store_until_lost(&delivery, whose, &messages).await?;
        for outcome in &others {
            self.broker.record(outcome);
        }
        match within(delivery.ack(BasicAckOptions::default())).await {
            Err(_) | Ok(false) if settlement == Settlement::Done => Err(BrokerError::Lost),
            _ => Ok(()),
        }
    }

    /// Stores what has to be there before the delivery may be acked, in order; tries again for as
    /// long as the delivery is ours, and then gives it back.
    async fn store_until_lost(
        &self,
        delivery: &Delivery,
        whose: Whose,
        messages: &[super::Message],
    ) -> Result<(), BrokerError> {
        let ours = || delivery.acker.usable() && self.shared.channel.status().connected();
        if whose == Whose::Ours && !ours() {
            return Err(BrokerError::Lost);
        }
        let since = Instant::now();
        let mut said: Option<Instant> = None;
        let mut left = messages.iter();
        let mut next = left.next();
        while let Some(message) = next {
            match self.broker.store(message).await {
                Ok(()) => next = left.next(),
                Err(failure) if !ours() || since.elapsed() > SETTLE_LIMIT => {
                    let nack = BasicNackOptions {
                        requeue: true,
                        ..Default::default()
                    };
                    let _ = within(delivery.nack(nack)).await;
                    return Err(failure);
                }
                Err(failure) => {
                    if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                        log::warn!(id:% = self.content.id; "a settlement is not stored yet: {failure}");
                        said = Some(Instant::now());
                    }
                    tokio::time::sleep(SETTLE_AGAIN).await;
                }
            }
        }
        if said.is_some() {
            log::info!(id:% = self.content.id; "the settlement is stored, after {:.0?}", since.elapsed());
        }
        Ok(())
    }

    /// The message that carries the job on; `None` when nothing is left to do.
    fn next_state(&self, settlement: &Settlement) -> Option<super::Message> {
        let history = History {
            attempts: self.job.attempts,
            deaths: self.job.deaths,
        };
        Some(match settlement {
            Settlement::Done => return None,
            Settlement::Next(reply) => {
                let content = Content::of_reply(reply);
                super::Message {
                    address: super::Address {
                        exchange: self.broker.names().post_exchange(),
                        key: reply.bot.to_string(),
                    },
                    properties: wire::properties(&content, History::default(), true),
                    body: content.body,
                }
            }
            // One that was tried and settled does not kill its worker: its deaths are forgotten.
            Settlement::Later(delay, Attempt::Counted) => {
                let attempts = history.attempts + 1;
                self.delayed(
                    *delay,
                    History {
                        attempts,
                        deaths: 0,
                    },
                )
            }
            Settlement::Later(delay, Attempt::NotCounted) => self.delayed(*delay, history),
            Settlement::GiveBack => self.delayed(Duration::ZERO, history),
            Settlement::Bury { cause, error } => self.dead_letter(*cause, error),
        })
    }

    fn delayed(&self, delay: Duration, history: History) -> super::Message {
        let (exchange, key) = self.broker.names().delayed(delay, &self.source.destination);
        super::Message {
            address: super::Address { exchange, key },
            properties: wire::properties(&self.content, history, self.source.step == Step::Post),
            body: self.content.body.clone(),
        }
    }

    fn dead_letter(&self, cause: Cause, error: &str) -> super::Message {
        let history = History {
            attempts: self.job.attempts,
            deaths: self.job.deaths,
        };
        let is_reply = self.source.step == Step::Post;
        self.letter_of(
            wire::properties(&self.content, history, is_reply),
            cause,
            error,
        )
    }

    fn letter_of(&self, properties: BasicProperties, cause: Cause, error: &str) -> super::Message {
        let burial = Burial {
            destination: &self.source.destination,
            step: self.source.step,
            cause,
            error: &crate::shortened(error, Settlement::LONGEST_ERROR),
            at: Timestamp::now(),
        };
        let body = self.content.body.clone();
        dead::letter(self.broker.names(), &burial, properties, body)
    }

    /// Puts a suspect off, remembering its deaths.
    async fn put_off(mut self, delay: Duration) {
        let history = History {
            attempts: self.job.attempts,
            deaths: self.job.deaths,
        };
        let message = self.delayed(delay, history);
        self.replace_by(&[message]).await;
    }

    /// What a newer release wrote waits for one, a minute at a time, and garbage is buried; either
    /// just as it came.
    async fn put_away(mut self, problem: Unreadable) {
        let age = Timestamp::now().duration_since(self.content.aged_from());
        let Some(delivery) = &self.delivery else {
            return;
        };
        let properties = wire::without_broker_headers(&delivery.properties);
        match problem {
            Unreadable::Newer(_) if age < crate::NEWER_WAITS_AT_MOST => {
                let (exchange, key) = self
                    .broker
                    .names()
                    .delayed(crate::NEWER_WAITS, &self.source.destination);
                let message = super::Message {
                    address: super::Address { exchange, key },
                    properties,
                    body: self.content.body.clone(),
                };
                self.replace_by(&[message]).await;
            }
            Unreadable::Newer(error) => {
                let letter = self.letter_of(properties, Cause::Newer, &error);
                self.bury(letter, Cause::Newer, error).await;
            }
            Unreadable::Malformed(error) => {
                let letter = self.letter_of(properties, Cause::Malformed, &error);
                self.bury(letter, Cause::Malformed, error).await;
            }
        }
    }

    async fn bury(mut self, letter: super::Message, cause: Cause, error: String) {
        let dead = self
            .content
            .dead(self.source.step, cause, error.clone(), Timestamp::now());
        let told = self.broker.outcome_message(&dead);
        if self.replace_by(&[told, letter]).await {
            crate::figures::dead(cause);
            log::error!(id:% = self.content.id, cause = cause.as_str(); "given up: {error}");
        }
    }

    /// Stores the messages, then acks the delivery.
    async fn replace_by(&mut self, messages: &[super::Message]) -> bool {
        let Some(delivery) = self.delivery.take() else {
            return false;
        };
        let stored = self
            .store_until_lost(&delivery, Whose::Ours, messages)
            .await;
        if let Err(error) = stored {
            log::warn!(id:% = self.content.id; "a job could not be put away and comes back: {error}");
            return false;
        }
        // Unacked it comes back beside its copy, which does no harm.
        let _ = within(delivery.ack(BasicAckOptions::default())).await;
        true
    }
}

impl Drop for AmqpClaim {
    fn drop(&mut self) {
        // Its worker died without settling it: back it goes, which counts as a death.
        if let (Some(delivery), Ok(runtime)) =
            (self.delivery.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move {
                let _ = within(delivery.nack(BasicNackOptions {
                    requeue: true,
                    ..Default::default()
                }))
                .await;
            });
        }
    }
}

async fn within(request: impl Future<Output = lapin::Result<bool>>) -> Result<bool, BrokerError> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(BrokerError::TimedOut("an acknowledgement")),
    }
}
