//! Lists and stories from the streams of a broker.
//!
//! A stream is read forwards only, from an offset or a time on. What there is to read by: its end, the
//! first message of a time, and what is between two offsets.

mod find;
mod pages;

use deadpool_lapin::lapin;
use jiff::{SignedDuration, Timestamp};
use lapin::message::Delivery;

pub(crate) use self::pages::EventPages;
use super::stream::{EMPTY, From, Reading, entry, last_chunk};
use super::{Broker, BrokerError, REQUEST_LIMIT, close_in_background, wire};
use crate::Entry;
use crate::event::{Event, EventId};
use crate::outcome::Outcome;

/// A stream as it is when it is looked at first.
#[derive(Debug, Clone, Copy)]
struct End {
    /// The last message.
    offset: i64,
    /// When the youngest of the last messages was written.
    dated: Timestamp,
}

impl End {
    /// The offset behind the last message.
    fn next(self) -> i64 {
        self.offset + 1
    }
}

/// Streams that are read in pieces, on one connection.
#[derive(Debug)]
struct Streams {
    connection: Option<lapin::Connection>,
}

impl Streams {
    async fn open(broker: &Broker) -> Result<Self, BrokerError> {
        let connection = broker.inner.connections.consuming().await?;
        Ok(Self {
            connection: Some(connection),
        })
    }

    fn connection(&self) -> &lapin::Connection {
        let connection = self.connection.as_ref();
        connection.unwrap_or_else(|| unreachable!("it is taken out when this is dropped"))
    }

    /// The first message that was stored at this time or later, or soon before; `None`: none was.
    async fn first_at(
        &self,
        stream: &str,
        from: From,
        end: End,
    ) -> Result<Option<i64>, BrokerError> {
        let mut reading = Reading::on(self.connection(), stream, from).await?;
        let patience = match from {
            From::Time(time) if end.dated < time => EMPTY,
            _ => REQUEST_LIMIT,
        };
        let first = match reading.next_within(stream, patience).await? {
            Some((first, _)) => Some(first).filter(|first| *first <= end.offset),
            // Nothing is as young, or who dated it had a clock that was ahead of the broker's.
            None if matches!(from, From::Time(_)) => None,
            None => return Err(BrokerError::TimedOut("reading a stream")),
        };
        reading.end().await;
        Ok(first)
    }

    /// Takes what is between these offsets, the second not included, until it is told to stop. What the
    /// stream has forgotten meanwhile does not come.
    async fn between(
        &self,
        stream: &str,
        (from, to): (i64, i64),
        mut take: impl FnMut(Delivery) -> Go,
    ) -> Result<(), BrokerError> {
        if from >= to {
            return Ok(());
        }
        let mut reading = Reading::on(self.connection(), stream, From::Offset(from)).await?;
        loop {
            // There is a message at the end or behind it, so silence is not the end.
            let (offset, delivery) = reading.next_in_any_case().await?;
            if offset >= to || take(delivery) == Go::Stop || offset == to - 1 {
                break;
            }
        }
        reading.end().await;
        Ok(())
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(close_in_background(connection, ()));
        }
    }
}

/// Whether to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// The end of a stream; `None`: there is nothing in it, or no such stream.
async fn end_of(broker: &Broker, stream: &str) -> Result<Option<End>, BrokerError> {
    let mut dated = Timestamp::MIN;
    let end = last_chunk(broker, stream, |delivery| {
        dated = dated.max(wire::dated(&delivery.properties).unwrap_or(Timestamp::MAX));
    });
    match end.await {
        Ok(end) => Ok(end.map(|offset| End { offset, dated })),
        Err(BrokerError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn archived(delivery: &Delivery) -> Option<Event> {
    let (content, _) = wire::read(&delivery.properties, &delivery.data).ok()?;
    Some(content.into_event())
}

fn id(delivery: &Delivery) -> Option<EventId> {
    delivery
        .properties
        .message_id()
        .as_ref()?
        .as_str()
        .parse()
        .ok()
}

fn outcome(delivery: &Delivery) -> Option<Outcome> {
    match entry(delivery)? {
        Entry::Outcome(outcome) => Some(outcome),
        Entry::Mark(_) => None,
    }
}
