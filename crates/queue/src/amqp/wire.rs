//! Jobs, copies and dead letters as AMQP messages, and back.
//!
//! The body of an event is the webhook's own bytes; what we know about it is in the properties and
//! headers, in plain types, so that a program in another language can consume it:
//! `message_id` the event's id, `type`, `timestamp`, and the headers named below. Headers that the
//! broker adds (`x-death`, `x-delivery-count`) are read and never sent on.

use chickwork_chatwork::id::{MessageId, RoomId};
use deadpool_lapin::lapin;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::content::Content;
use crate::event::{BotName, EventId};
use crate::reply_json::NotAReply;

/// The version of the headers below.
pub(super) const VERSION: i64 = 1;
/// `type` of a reply; an event's is its event type.
pub(super) const REPLY: &str = "reply";

/// What the queue has to remember about a job, beside its content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct History {
    pub(super) attempts: u32,
    pub(super) deaths: u32,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    Newer(String),
    Malformed(String),
}

impl From<NotAReply> for Unreadable {
    fn from(problem: NotAReply) -> Self {
        match problem {
            NotAReply::Newer(version) => {
                Self::Newer(format!("a reply of version {version}, by a newer release"))
            }
            NotAReply::Malformed(error) => Self::Malformed(error),
        }
    }
}

/// The properties of a job or a copy.
pub(super) fn properties(content: &Content, history: History, is_reply: bool) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut text = |name: &str, value: String| {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    text("bot", content.bot.to_string());
    text("event-type", content.event_type.clone());
    text("received-at", content.received_at.to_string());
    if let Some(room_id) = content.room_id {
        text("room-id", room_id.to_string());
    }
    if let Some(message_id) = &content.message_id {
        text("message-id", message_id.to_string());
    }
    if let Some(put_back_at) = content.put_back_at {
        text("put-back-at", put_back_at.to_string());
    }
    for (name, value) in [
        ("version", VERSION),
        ("replay", content.replay.into()),
        ("attempt", history.attempts.into()),
        ("deaths", history.deaths.into()),
    ] {
        headers.insert(name.into(), AMQPValue::LongLongInt(value));
    }
    let kind = if is_reply { REPLY } else { &content.event_type };
    BasicProperties::default()
        .with_message_id(content.id.to_string().into())
        .with_type(kind.into())
        .with_timestamp(content.received_at.as_second().unsigned_abs())
        .with_content_type("application/json".into())
        .with_app_id("chickwork".into())
        .with_delivery_mode(2)
        .with_headers(headers)
}

/// The content and history of a message; deaths include the returns that the broker counted.
pub(super) fn read(
    properties: &BasicProperties,
    body: &[u8],
) -> Result<(Content, History), Unreadable> {
    let headers = properties.headers().clone().unwrap_or_default();
    if number(&headers, "version").unwrap_or(VERSION) > VERSION {
        return Err(Unreadable::Newer(
            "the headers are of a newer version".to_owned(),
        ));
    }
    let malformed = |what: &str| Unreadable::Malformed(format!("{what} is missing or wrong"));
    let id: EventId = properties
        .message_id()
        .as_ref()
        .and_then(|id| id.as_str().parse().ok())
        .ok_or_else(|| malformed("the property message_id"))?;
    let time = |name: &str| text(&headers, name).and_then(|time| time.parse::<Timestamp>().ok());
    let content = Content {
        id,
        bot: text(&headers, "bot")
            .and_then(|bot| BotName::new(bot).ok())
            .ok_or_else(|| malformed("the header bot"))?,
        event_type: text(&headers, "event-type")
            .ok_or_else(|| malformed("the header event-type"))?,
        room_id: text(&headers, "room-id")
            .and_then(|room| room.parse().ok())
            .map(RoomId),
        message_id: text(&headers, "message-id").and_then(|message| MessageId::new(message).ok()),
        received_at: time("received-at").ok_or_else(|| malformed("the header received-at"))?,
        put_back_at: time("put-back-at"),
        replay: count(&headers, "replay"),
        body: body.to_vec(),
    };
    let history = History {
        attempts: count(&headers, "attempt"),
        deaths: count(&headers, "deaths").saturating_add(returns(properties)),
    };
    Ok((content, history))
}

/// The properties as they were written, without what brokers have added since. Sent on, those
/// headers would count old returns again, and RabbitMQ 3.10 would see a cycle of dead lettering
/// and hold the message for good.
pub(super) fn without_broker_headers(properties: &BasicProperties) -> BasicProperties {
    let mut written = FieldTable::default();
    let headers = properties.headers().clone().unwrap_or_default();
    for (name, value) in headers.inner() {
        if !name.as_str().starts_with("x-") {
            written.insert(name.clone(), value.clone());
        }
    }
    properties.clone().with_headers(written)
}

/// When the message was first written, as far as it tells.
pub(super) fn written_at(properties: &BasicProperties) -> Timestamp {
    let seconds = properties
        .timestamp()
        .and_then(|seconds| i64::try_from(seconds).ok());
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or_else(Timestamp::now)
}

/// How often the broker has had the message back since it was written.
pub(super) fn returns(properties: &BasicProperties) -> u32 {
    properties
        .headers()
        .as_ref()
        .map_or(0, |headers| count(headers, "x-delivery-count"))
}

pub(super) fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

pub(super) fn number(headers: &FieldTable, name: &str) -> Option<i64> {
    match *headers.inner().get(name)? {
        AMQPValue::ShortShortInt(number) => Some(number.into()),
        AMQPValue::ShortShortUInt(number) => Some(number.into()),
        AMQPValue::ShortInt(number) => Some(number.into()),
        AMQPValue::ShortUInt(number) => Some(number.into()),
        AMQPValue::LongInt(number) => Some(number.into()),
        AMQPValue::LongUInt(number) => Some(number.into()),
        AMQPValue::LongLongInt(number) => Some(number),
        _ => None,
    }
}

fn count(headers: &FieldTable, name: &str) -> u32 {
    number(headers, name)
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brokers_added_is_not_sent_on() {
        let mut headers = FieldTable::default();
        for name in ["x-death", "x-first-death-queue", "x-delivery-count", "bot"] {
            headers.insert(name.into(), AMQPValue::LongLongInt(7));
        }
        let properties = BasicProperties::default().with_headers(headers);
        assert_eq!(returns(&properties), 7);
        let cleaned = without_broker_headers(&properties);
        assert_eq!(returns(&cleaned), 0);
        let left = cleaned.headers().clone().unwrap_or_default();
        let left: Vec<&str> = left.inner().keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["bot"]);
    }
}
