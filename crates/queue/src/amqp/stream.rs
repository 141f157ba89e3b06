//! Reading streams over AMQP 0.9.1: they are consumed with prefetch and acknowledgements, from an
//! offset or a time on, and nothing is removed by that.

use std::time::Duration;

use deadpool_lapin::lapin;
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::{Broker, BrokerError, REQUEST_LIMIT, close, wire};
use crate::Entry;
use crate::event::Event;

/// `type` of a mark among the outcomes.
pub(super) const MARK: &str = "mark";
/// Deliveries on their way to us.
const PREFETCH: u16 = 300;
/// Acknowledgements are sent for so many at a time; well under the prefetch.
const ACK_EVERY: u64 = 100;
/// How long to wait before connecting again.
const AGAIN: Duration = Duration::from_secs(1);
/// A stream that delivers nothing for this long has nothing (more) to deliver.
const IDLE: Duration = Duration::from_secs(2);
/// The last chunk arrives at once; a pause this long is its end.
const CHUNK_IDLE: Duration = Duration::from_millis(200);

/// Where to begin.
#[derive(Debug, Clone, Copy)]
enum From {
    Time(Timestamp),
    Offset(i64),
    LastChunk,
}

impl From {
    fn argument(self) -> AMQPValue {
        match self {
            Self::Time(time) => AMQPValue::Timestamp(time.as_second().max(0).unsigned_abs()),
            // A number as a string would be refused.
            Self::Offset(offset) => AMQPValue::LongLongInt(offset),
            Self::LastChunk => AMQPValue::LongString("last".into()),
        }
    }
}

/// One consumer of a stream.
#[derive(Debug)]
struct Reading {
    connection: Option<lapin::Connection>,
    consumer: lapin::Consumer,
    unacked: u64,
}

impl Reading {
    async fn start(broker: &Broker, stream: &str, from: From) -> Result<Self, BrokerError> {
        let connection = broker.inner.connections.consuming().await?;
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
            Ok::<_, BrokerError>(consumer)
        };
        let consumer = tokio::time::timeout(REQUEST_LIMIT, consumer)
            .await
            .map_err(|_| BrokerError::TimedOut("reading a stream"))??;
        Ok(Self {
            connection: Some(connection),
            consumer,
            unacked: 0,
        })
    }

    /// The next message and its offset.
    async fn next(&mut self) -> Result<(i64, Delivery), BrokerError> {
        let delivery = match self.consumer.next().await {
            Some(delivery) => delivery?,
            None => {
                return Err(BrokerError::Unreachable(
                    "the broker ended the consumer".to_owned(),
                ));
            }
        };
        self.unacked += 1;
        if self.unacked >= ACK_EVERY {
            delivery.ack(BasicAckOptions { multiple: true }).await?;
            self.unacked = 0;
        }
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let offset = wire::number(&headers, "x-stream-offset").ok_or_else(|| {
            BrokerError::Unusable("a message of the stream has no offset".to_owned())
        })?;
        Ok((offset, delivery))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let (Some(connection), Ok(runtime)) = (
            self.connection.take(),
            tokio::runtime::Handle::try_current(),
        ) {
            runtime.spawn(close(connection));
        }
    }
}

/// Follows the outcomes.
#[derive(Debug)]
pub(crate) struct OutcomesRead {
    broker: Broker,
    from: From,
    reading: Option<Reading>,
    failing: bool,
}

impl OutcomesRead {
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

fn entry(delivery: &Delivery) -> Option<Entry> {
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
    serde_json::from_slice(&delivery.data)
        .ok()
        .map(Entry::Outcome)
}

/// Reads the archive up to its end.
#[derive(Debug)]
pub(crate) struct ArchiveRead {
    broker: Broker,
    since: Timestamp,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    NotStarted,
    /// Reading up to and including this offset.
    Reading(Box<Reading>, i64),
    Done,
}

impl ArchiveRead {
    pub(super) fn new(broker: Broker, since: Timestamp) -> Self {
        let progress = if broker.inner.archived {
            Progress::NotStarted
        } else {
            Progress::Done
        };
        Self {
            broker,
            since,
            progress,
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Event>, BrokerError> {
        loop {
            match &mut self.progress {
                Progress::Done => return Ok(None),
                Progress::NotStarted => self.start().await?,
                Progress::Reading(reading, end) => {
                    let end = *end;
                    let Ok(next) = tokio::time::timeout(IDLE, reading.next()).await else {
                        self.progress = Progress::Done;
                        continue;
                    };
                    let (offset, delivery) = next?;
                    if offset >= end {
                        self.progress = Progress::Done;
                    }
                    if let Ok((content, _)) = wire::read(&delivery.properties, &delivery.data)
                        && content.received_at >= self.since
                    {
                        return Ok(Some(content.into_event()));
                    }
                }
            }
        }
    }

    /// Finds the end first: the message count is short right after writing, and offsets have gaps.
    async fn start(&mut self) -> Result<(), BrokerError> {
        let archive = self.broker.names().archive();
        let mut last_chunk = Reading::start(&self.broker, &archive, From::LastChunk).await?;
        let mut end = None;
        let mut patience = IDLE;
        while let Ok(next) = tokio::time::timeout(patience, last_chunk.next()).await {
            end = Some(next?.0);
            patience = CHUNK_IDLE;
        }
        self.progress = match end {
            None => Progress::Done,
            Some(end) => {
                let reading =
                    Reading::start(&self.broker, &archive, From::Time(self.since)).await?;
                Progress::Reading(Box::new(reading), end)
            }
        };
        Ok(())
    }
}
