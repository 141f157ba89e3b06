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
use uuid::Uuid;

use crate::content::Content;
use crate::event::{BotName, Event, EventId};
use crate::reply_json::NotAReply;

/// The version of the headers below.
pub(super) const VERSION: i64 = 1;
/// `type` of a reply; an event's is its event type.
pub(super) const REPLY: &str = "reply";
/// The longest event type, in bytes: it stands in the property `type` as well, which is a short string.
const LONGEST_TYPE: usize = 255;
/// The header that says when a person last put the job back in.
pub(super) const PUT_BACK_AT: &str = "put-back-at";
/// The header that says when a person asked for another answer to a message that was answered. A
/// release that does not know it sees an event of an answered message, and ignores it.
pub(super) const AGAIN: &str = "again";

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
        text(PUT_BACK_AT, put_back_at.to_string());
    }
    if let Some(again) = content.again {
        text(AGAIN, again.to_string());
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
    let headers = headers(properties);
    if number(&headers, "version").unwrap_or(VERSION) > VERSION {
        return Err(Unreadable::Newer(
            "the headers are of a newer version".to_owned(),
        ));
    }
    let received_at = time(&headers, "received-at");
    let needed = [
        ("the property message_id", event_id(properties).is_some()),
        ("the header bot", bot(&headers).is_some()),
        ("the header event-type", event_type(&headers).is_some()),
        ("the header received-at", received_at.is_some()),
    ];
    if let Some((what, _)) = needed.into_iter().find(|(_, is_there)| !is_there) {
        return Err(Unreadable::Malformed(format!("{what} is missing or wrong")));
    }
    let history = History {
        attempts: count(&headers, "attempt"),
        deaths: count(&headers, "deaths").saturating_add(returns(properties)),
    };
    let content = read_loosely(
        properties,
        body,
        received_at.unwrap_or(Timestamp::UNIX_EPOCH),
    );
    Ok((content, history))
}

/// What can be read of a message, even of one that [`read`] refuses. What tells no id gets one that
/// is the same at every reading; what tells no time was received at the time given.
pub(super) fn read_loosely(
    properties: &BasicProperties,
    body: &[u8],
    received_at: Timestamp,
) -> Content {
    let headers = headers(properties);
    Content {
        id: event_id(properties)
            .unwrap_or_else(|| EventId(Uuid::from_u128(fingerprint(properties, body)))),
        bot: bot(&headers).unwrap_or_default(),
        event_type: event_type(&headers).unwrap_or_else(|| Event::OTHER.to_owned()),
        room_id: text(&headers, "room-id")
            .and_then(|room| room.parse().ok())
            .map(RoomId),
        message_id: text(&headers, "message-id").and_then(|message| MessageId::new(message).ok()),
        received_at: time(&headers, "received-at")
            .or_else(|| dated(properties))
            .unwrap_or(received_at),
        put_back_at: time(&headers, PUT_BACK_AT),
        replay: count(&headers, "replay"),
        again: time(&headers, AGAIN),
        body: body.to_vec(),
    }
}

/// The event type, unless it is too long to be written down again.
fn event_type(headers: &FieldTable) -> Option<String> {
    text(headers, "event-type").filter(|name| name.len() <= LONGEST_TYPE)
}

/// Whether it is a reply, by what it says itself.
pub(super) fn is_reply(properties: &BasicProperties) -> bool {
    properties
        .kind()
        .as_ref()
        .is_some_and(|kind| kind.as_str() == REPLY)
}

/// A number that tells messages without an id apart: FNV-1a, which stays what it is in every release.
pub(super) fn fingerprint(properties: &BasicProperties, body: &[u8]) -> u128 {
    let timestamp = properties.timestamp().unwrap_or_default().to_be_bytes();
    body.iter().chain(&timestamp).fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d,
        |hash: u128, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        },
    )
}

/// The properties as they were written, without what brokers have added since, and without what would
/// end the message early (`expiration`) or have the broker refuse it from us (`user_id`). Sent on, the
/// broker's own
/// headers would count old returns again, and RabbitMQ 3.10 would see a cycle of dead lettering
/// and hold the message for good.
pub(super) fn without_broker_headers(properties: &BasicProperties) -> BasicProperties {
    let mut written = FieldTable::default();
    let headers = headers(properties);
    for (name, value) in headers.inner() {
        if !name.as_str().starts_with("x-") {
            written.insert(name.clone(), value.clone());
        }
    }
    let mut kept = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(written);
    if let Some(message_id) = properties.message_id() {
        kept = kept.with_message_id(message_id.clone());
    }
    if let Some(kind) = properties.kind() {
        kept = kept.with_type(kind.clone());
    }
    if let Some(timestamp) = properties.timestamp() {
        kept = kept.with_timestamp(*timestamp);
    }
    if let Some(content_type) = properties.content_type() {
        kept = kept.with_content_type(content_type.clone());
    }
    if let Some(app_id) = properties.app_id() {
        kept = kept.with_app_id(app_id.clone());
    }
    kept
}

/// When the message was first written, if it tells.
pub(super) fn dated(properties: &BasicProperties) -> Option<Timestamp> {
    let seconds = i64::try_from((*properties.timestamp())?).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// How often the broker has had the message back since it was written.
pub(super) fn returns(properties: &BasicProperties) -> u32 {
    properties
        .headers()
        .as_ref()
        .map_or(0, |headers| count(headers, "x-delivery-count"))
}

pub(super) fn headers(properties: &BasicProperties) -> FieldTable {
    properties.headers().clone().unwrap_or_default()
}

fn event_id(properties: &BasicProperties) -> Option<EventId> {
    properties.message_id().as_ref()?.as_str().parse().ok()
}

pub(super) fn bot(headers: &FieldTable) -> Option<BotName> {
    BotName::new(text(headers, "bot")?).ok()
}

pub(super) fn time(headers: &FieldTable, name: &str) -> Option<Timestamp> {
    text(headers, name)?.parse().ok()
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

pub(super) fn count(headers: &FieldTable, name: &str) -> u32 {
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
