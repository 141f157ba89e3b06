//! Reading streams over AMQP 0.9.1: they are consumed with prefetch and acknowledgements, from an
//! offset or a time on, and nothing is removed by that.

use std::time::Duration;

use deadpool_lapin::lapin;
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use super::{Broker, BrokerError, REQUEST_LIMIT, close_in_background, report, topology, wire};
use crate::Entry;
use crate::event::Event;
use crate::outcome::Outcome;

/// `type` of a mark among the outcomes.
pub(super) const MARK: &str = "mark";
/// Deliveries on their way to us.
const PREFETCH: u16 = 300;
/// Acknowledgements are sent for so many at a time; well under the prefetch.
const ACK_EVERY: u64 = 100;
/// And not later than this: the broker ends a consumer that leaves a delivery unacknowledged for
/// half an hour, and a quiet bot takes longer than that for so many.
const ACK_AFTER: Duration = Duration::from_secs(60);
/// How long to wait before connecting again.
const AGAIN: Duration = Duration::from_secs(1);
/// Where nothing arrives in this time there may be nothing.
pub(super) const EMPTY: Duration = Duration::from_secs(2);
/// The last chunk arrives at once; a pause this long may be its end.
const CHUNK_IDLE: Duration = Duration::from_millis(200);
/// Where others go on writing there is no pause. So long after its first message the last chunk has
/// come, and whatever came with it is younger.
const CHUNK_LIMIT: Duration = Duration::from_millis(500);
/// A stream is entered by the broker's clock, and what is looked for was dated by others: clocks
/// may differ by this much.
pub(super) const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(60);

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    First,
    Time(Timestamp),
    Offset(i64),
    LastChunk,
}

impl From {
    fn argument(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::Time(time) => AMQPValue::Timestamp(time.as_second().max(0).unsigned_abs()),
            // A number as a string would be refused.
            Self::Offset(offset) => AMQPValue::LongLongInt(offset),
            Self::LastChunk => AMQPValue::LongString("last".into()),
        }
    }
}

/// One consumer of a stream.
#[derive(Debug)]
pub(super) struct Reading {
    connection: Option<lapin::Connection>,
    channel: Channel,
    consumer: lapin::Consumer,
    /// The last delivery, and how many were not acknowledged up to it.
    last: u64,
    unacked: u64,
}

impl Reading {
    pub(super) async fn start(
        broker: &Broker,
        stream: &str,
        from: From,
    ) -> Result<Self, BrokerError> {
        let connection = broker.inner.connections.consuming().await?;
        let mut reading = Self::on(&connection, stream, from).await?;
        reading.connection = Some(connection);
        Ok(reading)
    }

    /// On a connection that others use as well, and that outlives this: see [`Reading::end`].
    pub(super) async fn on(
        connection: &lapin::Connection,
        stream: &str,
        from: From,
    ) -> Result<Self, BrokerError> {
        let consumer = async {
            let channel = connection.create_channel().await?;
            channel
                .basic_qos(PREFETCH, BasicQosOptions::default())
                .await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-stream-offset".into(), from.argument());
            let consumer = channel
                .basic_consume(
                    stream.into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    arguments,
                )
                .await?;
            Ok::<_, BrokerError>((channel, consumer))
        };
        let (channel, consumer) = tokio::time::timeout(REQUEST_LIMIT, consumer)
            .await
            .map_err(|_| BrokerError::TimedOut("reading a stream"))??;
        Ok(Self {
            connection: None,
            channel,
            consumer,
            last: 0,
            unacked: 0,
        })
    }

    /// Leaves the connection to others: the consumer is ended, and then the channel, which lapin closes
    /// when it is dropped. An error concerns nobody: it means that the connection is gone, or soon will be.
    pub(super) async fn end(self) {
        let tag = self.consumer.tag();
        let cancelled = self
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        let _ = tokio::time::timeout(REQUEST_LIMIT, cancelled).await;
    }

    /// The next message and its offset. Cancel-safe: what was delivered is acknowledged before the
    /// next delivery is taken.
    pub(super) async fn next(&mut self) -> Result<(i64, Delivery), BrokerError> {
        if self.unacked >= ACK_EVERY {
            self.acknowledge().await?;
        }
        let delivered = match tokio::time::timeout(ACK_AFTER, self.consumer.next()).await {
            Ok(delivered) => delivered,
            Err(_) => {
                self.acknowledge().await?;
                self.consumer.next().await
            }
        };
        let delivery = match delivered {
            Some(delivery) => delivery?,
            None => {
                let reason = "the broker ended the consumer".to_owned();
                return Err(BrokerError::Unreachable(reason));
            }
        };
        self.unacked += 1;
        self.last = delivery.delivery_tag;
        let headers = delivery.properties.headers().as_ref();
        let offset = headers.and_then(|headers| wire::number(headers, "x-stream-offset"));
        let offset = offset.ok_or_else(|| {
            BrokerError::Unusable("a message of the stream has no offset".to_owned())
        })?;
        Ok((offset, delivery))
    }

    /// The next message, if one comes in this time. Silence alone says nothing, as the broker or this
    /// process may have stood still: before it counts, the broker has answered on the channel on which
    /// the message would have come.
    pub(super) async fn next_within(
        &mut self,
        stream: &str,
        patience: Duration,
    ) -> Result<Option<(i64, Delivery)>, BrokerError> {
        if let Ok(next) = tokio::time::timeout(patience, self.next()).await {
            return next.map(Some);
        }
        self.length(stream).await?;
        self.arrived().await
    }

    /// The next message, where there has to be one.
    pub(super) async fn next_in_any_case(&mut self) -> Result<(i64, Delivery), BrokerError> {
        let next = tokio::time::timeout(REQUEST_LIMIT, self.next()).await;
        next.map_err(|_| BrokerError::TimedOut("reading a stream"))?
    }

    /// How many messages there are; short right after writing.
    async fn length(&self, stream: &str) -> Result<u32, BrokerError> {
        let looked = topology::look(&self.channel, stream);
        let looked = tokio::time::timeout(REQUEST_LIMIT, looked).await;
        let looked = looked.map_err(|_| BrokerError::TimedOut("a look at a stream"))??;
        Ok(looked.message_count())
    }

    /// A message that has arrived already.
    async fn arrived(&mut self) -> Result<Option<(i64, Delivery)>, BrokerError> {
        if self.unacked >= ACK_EVERY {
            let acknowledged = tokio::time::timeout(REQUEST_LIMIT, self.acknowledge()).await;
            acknowledged.map_err(|_| BrokerError::TimedOut("reading a stream"))??;
        }
        let next = tokio::time::timeout(Duration::ZERO, self.next()).await;
        next.ok().transpose()
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        if self.unacked > 0 {
            let all_up_to_it = BasicAckOptions { multiple: true };
            // Noted first: whoever gives up waiting has sent it all the same, and it must not be sent twice.
            self.unacked = 0;
            self.channel.basic_ack(self.last, all_up_to_it).await?;
        }
        Ok(())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let used = (self.channel.clone(), self.consumer.clone());
            drop(close_in_background(connection, used));
        }
    }
}

/// Follows the outcomes.
#[derive(Debug)]
pub(crate) struct OutcomesFollow {
    broker: Broker,
    from: From,
    reading: Option<Reading>,
    failing: bool,
}

impl OutcomesFollow {
    pub(super) fn new(broker: Broker, since: Timestamp) -> Self {
        Self {
            broker,
            from: From::Time(since),
            reading: None,
            failing: false,
        }
    }

    pub(crate) async fn next(&mut self) -> Entry {
        loop {
            match self.try_next().await {
                Ok((offset, delivery)) => {
                    self.failing = false;
                    self.from = From::Offset(offset + 1);
                    // A line of a newer release that this one cannot read says nothing to it.
                    if let Some(entry) = entry(&delivery) {
                        return entry;
                    }
                }
                Err(error) => {
                    if !self.failing {
                        log::warn!("outcomes cannot be read at the moment: {error}");
                    }
                    self.failing = true;
                    self.reading = None;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<(i64, Delivery), BrokerError> {
        let reading = match &mut self.reading {
            Some(reading) => reading,
            None => {
                let stream = self.broker.names().outcomes();
                self.reading
                    .insert(Reading::start(&self.broker, &stream, self.from).await?)
            }
        };
        reading.next().await
    }
}

pub(super) fn entry(delivery: &Delivery) -> Option<Entry> {
    let properties = &delivery.properties;
    if properties
        .kind()
        .as_ref()
        .is_some_and(|kind| kind.as_str() == MARK)
    {
        return properties
            .message_id()
            .as_ref()?
            .as_str()
            .parse()
            .ok()
            .map(Entry::Mark);
    }
    if report::is_report(properties) {
        return None;
    }
    serde_json::from_slice(&delivery.data)
        .ok()
        .map(Entry::Outcome)
}

/// Reads a stream up to the end that it has when this begins.
#[derive(Debug)]
pub(super) struct ReadToEnd {
    broker: Broker,
    stream: String,
    from: From,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    NotStarted,
    Reading {
        reading: Box<Reading>,
        /// Up to and including this offset.
        end: i64,
        /// Nothing has come so far, and it may be that nothing will.
        perhaps_nothing: bool,
    },
    Done,
}

impl ReadToEnd {
    pub(super) fn new(broker: Broker, stream: String, from: From) -> Self {
        Self {
            broker,
            stream,
            from,
            progress: Progress::NotStarted,
        }
    }

    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        loop {
            match &mut self.progress {
                Progress::Done => return Ok(None),
                Progress::NotStarted => self.progress = self.start().await?,
                Progress::Reading {
                    reading,
                    end,
                    perhaps_nothing,
                } => {
                    let next = if *perhaps_nothing {
                        // From a time after its end a stream delivers what is still to come.
                        reading.next_within(&self.stream, EMPTY).await?
                    } else {
                        // The end is known, so silence before it is not the end.
                        Some(reading.next_in_any_case().await?)
                    };
                    let Some((offset, delivery)) = next else {
                        self.progress = Progress::Done;
                        return Ok(None);
                    };
                    *perhaps_nothing = false;
                    let end = *end;
                    if offset >= end {
                        self.progress = Progress::Done;
                    }
                    if offset <= end {
                        return Ok(Some(delivery));
                    }
                }
            }
        }
    }

    /// Finds the end first: the message count is short right after writing, and offsets have gaps.
    async fn start(&self) -> Result<Progress, BrokerError> {
        let mut newest = None;
        let end = last_chunk(&self.broker, &self.stream, |delivery| {
            newest = newest.max(wire::dated(&delivery.properties));
        })
        .await?;
        let Some(end) = end else {
            return Ok(Progress::Done);
        };
        let (from, perhaps_nothing) = match self.from {
            From::Time(since) => {
                // Not the last word: what was spooled is archived late, behind younger ones.
                let all_are_older = newest.is_none_or(|newest| newest < since);
                let earlier = since.checked_sub(CLOCKS_DIFFER).unwrap_or(since);
                (From::Time(earlier), all_are_older)
            }
            // Whoever has read to the end before: from there on nothing has come.
            From::Offset(offset) if offset > end => return Ok(Progress::Done),
            from => (from, false),
        };
        let reading = Reading::start(&self.broker, &self.stream, from).await?;
        Ok(Progress::Reading {
            reading: Box::new(reading),
            end,
            perhaps_nothing,
        })
    }
}

/// Looks at the messages of a stream's last chunk, and at some that others write meanwhile. Tells the
/// offset of the last one; `None`: the stream is empty.
pub(super) async fn last_chunk(
    broker: &Broker,
    stream: &str,
    mut look: impl FnMut(&Delivery),
) -> Result<Option<i64>, BrokerError> {
    let mut reading = Box::pin(Reading::start(broker, stream, From::LastChunk)).await?;
    let first = match reading.next_within(stream, EMPTY).await? {
        Some(first) => first,
        None if reading.length(stream).await? == 0 => return Ok(None),
        None => reading.next_in_any_case().await?,
    };
    let (mut end, first) = first;
    look(&first);
    let limit = Instant::now() + CHUNK_LIMIT;
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let next = reading.next_within(stream, left.min(CHUNK_IDLE)).await?;
        let Some((offset, delivery)) = next else {
            return Ok(Some(end));
        };
        look(&delivery);
        end = offset;
    }
    // Others go on writing, or this process stood still. What has come by now is taken; nothing is waited for.
    reading.length(stream).await?;
    let until = Instant::now() + EMPTY;
    while Instant::now() < until
        && let Some((offset, delivery)) = reading.arrived().await?
    {
        look(&delivery);
        end = offset;
    }
    Ok(Some(end))
}

/// Reads the archive up to its end.
#[derive(Debug)]
pub(crate) struct ArchiveRead {
    /// `None`: nothing is archived.
    stream: Option<ReadToEnd>,
    since: Timestamp,
}

impl ArchiveRead {
    pub(super) fn new(broker: Broker, since: Timestamp) -> Self {
        let archived = broker.inner.archived;
        let stream = archived.then(|| {
            let archive = broker.names().archive();
            ReadToEnd::new(broker, archive, From::Time(since))
        });
        Self { stream, since }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Event>, BrokerError> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        while let Some(delivery) = stream.next().await? {
            if let Ok((content, _)) = wire::read(&delivery.properties, &delivery.data)
                && content.received_at >= self.since
            {
                return Ok(Some(content.into_event()));
            }
        }
        Ok(None)
    }
}

/// Reads the outcomes up to their end.
#[derive(Debug)]
pub(crate) struct OutcomesRead(ReadToEnd);

impl OutcomesRead {
    pub(super) fn new(broker: Broker, since: Timestamp) -> Self {
        let outcomes = broker.names().outcomes();
        Self(ReadToEnd::new(broker, outcomes, From::Time(since)))
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Outcome>, BrokerError> {
        while let Some(delivery) = self.0.next().await? {
            if let Some(Entry::Outcome(outcome)) = entry(&delivery) {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }
}
