//! Misbehaviour on command: a fault waits for the calls that it fits and happens to them, once, so
//! many times, to a share of them, or until it is healed.
//!
//! Here is what can be ordered, and what is refused because it can never be; `waiting` keeps the
//! faults, `happen` lets them happen.

pub(crate) mod happen;
pub(crate) mod waiting;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use actix_web::http::header::{self, HeaderName, HeaderValue};
use chickwork_chatwork::id::RoomId;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

pub use self::waiting::{FaultId, Waiting};

/// Faults that wait at a time; more are not taken.
const MOST_WAITING: usize = 10_000;

/// The longest delay that a fault may ask for, in milliseconds.
const LONGEST_DELAY: u64 = 10 * 60 * 1000;

/// The longest body that has an end, in bytes.
const LONGEST_BODY: usize = 1024 * 1024 * 1024;

/// The word for what has no end.
const ALWAYS: &str = "always";

/// Which service misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// SimSimi.
    Simsimi,
    /// Chatwork.
    Chatwork,
}

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// SimSimi's only one.
    Talk,
    /// `GET /me`.
    Me,
    /// `GET /contacts`.
    Contacts,
    /// `GET /incoming_requests`.
    Requests,
    /// `GET /rooms`.
    Rooms,
    /// `GET /rooms/{room}`.
    Room,
    /// `GET /rooms/{room}/members`.
    Members,
    /// `GET /rooms/{room}/messages`.
    Messages,
    /// `GET /rooms/{room}/messages/{message}`.
    Message,
    /// `POST /rooms/{room}/messages`.
    Post,
}

impl Call {
    fn service(self) -> Service {
        match self {
            Self::Talk => Service::Simsimi,
            _ => Service::Chatwork,
        }
    }

    fn is_in_a_room(self) -> bool {
        match self {
            Self::Talk | Self::Me | Self::Contacts | Self::Requests | Self::Rooms => false,
            Self::Room | Self::Members | Self::Messages | Self::Message | Self::Post => true,
        }
    }
}

/// On which side of the call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// As if the call was never made.
    Before,
    /// The call took effect, the caller does not learn of it.
    After,
}

/// How many times; in JSON a number, or `"always"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// So many.
    Exactly(u32),
    /// Without end.
    Always,
}

impl Times {
    fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        // Through `Option` a `null` would be taken for "nothing said", which means something else.
        Self::deserialize(deserializer).map(Some)
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exactly(times) => serializer.serialize_u32(*times),
            Self::Always => serializer.serialize_str(ALWAYS),
        }
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = Times;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number up to {}, or {ALWAYS:?}", u32::MAX)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Times, E> {
                u32::try_from(number)
                    .map(Times::Exactly)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Times, E> {
                if word == ALWAYS {
                    Ok(Times::Always)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(word), &self))
                }
            }
        }

        deserializer.deserialize_any(Read)
    }
}

/// A fault. It needs at least one thing that goes wrong: `status`, `body`, `headers`, `delay_ms`,
/// `drop` or `hold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which service.
    pub service: Service,
    /// Only this call; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
    /// Only in this room; absent: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<RoomId>,
    /// Answer with this HTTP status; the call takes no effect, unless `effect` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// With this body: text as it is, anything else as JSON. Absent: the service's usual form of an
    /// error. Without a status: with 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// The body so many times over, for one of megabytes; always: for one that never ends.
    #[serde(
        default,
        deserialize_with = "Times::given",
        skip_serializing_if = "Option::is_none"
    )]
    pub repeat: Option<Times>,
    /// The call took effect, whatever `status` and `body` say.
    #[serde(default, skip_serializing_if = "is_false")]
    pub effect: bool,
    /// And with these headers; alone they are added to the service's own answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Value>,
    /// Let the caller wait so many milliseconds: after the effect, or before it if `before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The delay comes first, then the effect.
    #[serde(default, skip_serializing_if = "is_false")]
    pub before: bool,
    /// Close the connection without an answer, before or after the call took effect. After the
    /// delay, if there is one as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<When>,
    /// Never answer, with the connection open, before or after the call took effect. Nobody waits
    /// longer than ten minutes: then it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<When>,
    /// Happen to this share of the calls that fit, 1 to 100; absent: to every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Which calls those are: the same seed picks the same ones again, by their order. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How many calls it happens to; always: until it is healed. Absent: one, or always with
    /// `percent`.
    #[serde(
        default,
        deserialize_with = "Times::given",
        skip_serializing_if = "Option::is_none"
    )]
    pub next: Option<Times>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The fault asks for something that cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAFault {
    /// It orders nothing.
    #[error(
        "nothing goes wrong: give a `status`, a `body`, `headers`, a `delay_ms`, `drop` or `hold`"
    )]
    Nothing,
    /// Not a status of a final answer.
    #[error("`status` is from 200 to 999")]
    Status,
    /// HTTP has no such answer.
    #[error("an answer with the status 204 or 304 has no body")]
    NoBody,
    /// Longer than anybody waits.
    #[error("`delay_ms` is at most {LONGEST_DELAY}")]
    Delay,
    /// There is nothing that would keep the call from taking effect.
    #[error("`effect` goes with a `status` or a `body`: everything else says it in its own way")]
    Effect,
    /// There is no delay that could come first.
    #[error("`before` says where the delay comes, so it needs a `delay_ms`")]
    NoDelay,
    /// Not a header.
    #[error("`headers` are names with texts or numbers")]
    Header,
    /// The server takes care of these itself.
    #[error("content-length, transfer-encoding and connection follow from the body")]
    Framing,
    /// The call would have an answer and none.
    #[error(
        "with `drop` or `hold` there is no answer, and so no `status`, `body`, `repeat` or `headers`"
    )]
    Answer,
    /// The connection would be closed and open.
    #[error("`drop` closes the connection, `hold` keeps it open: choose one")]
    DropAndHold,
    /// A call that the service does not have.
    #[error("this `call` is one of the other service")]
    Call,
    /// A room where there is none.
    #[error("calls of SimSimi, and `me`, `contacts`, `requests` and `rooms`, have no `room_id`")]
    Room,
    /// Never, or more often than that.
    #[error("`percent` is from 1 to 100")]
    Percent,
    /// Nothing is left to chance.
    #[error("`seed` picks calls for `percent`, so it needs one")]
    Seed,
    /// It would never happen.
    #[error("`next` is at least 1, or {ALWAYS:?}")]
    Next,
    /// No body at all, or none to repeat, or too much of it.
    #[error(
        "`repeat` needs a `body` that is not empty, and is {ALWAYS:?} or 1 to as often as makes a gigabyte"
    )]
    Repeat,
    /// There are too many already.
    #[error("{MOST_WAITING} faults are waiting already; heal some")]
    TooMany,
}

impl Fault {
    /// A fault of a service that answers with `status`, once.
    pub fn status(service: Service, status: u16) -> Self {
        Self {
            status: Some(status),
            ..Self::nothing(service)
        }
    }

    /// A fault of a service that closes the connection, once.
    pub fn drop(service: Service, when: When) -> Self {
        Self {
            drop: Some(when),
            ..Self::nothing(service)
        }
    }

    /// A fault of a service that never answers, once.
    pub fn hold(service: Service, when: When) -> Self {
        Self {
            hold: Some(when),
            ..Self::nothing(service)
        }
    }

    /// A fault of a service that answers late, once.
    pub fn delay(service: Service, delay: Duration) -> Self {
        Self {
            delay_ms: Some(u64::try_from(delay.as_millis()).unwrap_or(LONGEST_DELAY)),
            ..Self::nothing(service)
        }
    }

    /// A fault with nothing that goes wrong yet, to be filled in.
    pub fn nothing(service: Service) -> Self {
        Self {
            service,
            call: None,
            room_id: None,
            status: None,
            body: None,
            repeat: None,
            effect: false,
            headers: BTreeMap::new(),
            delay_ms: None,
            before: false,
            drop: None,
            hold: None,
            percent: None,
            seed: None,
            next: None,
        }
    }

    /// Only to this call.
    pub fn on(self, call: Call) -> Self {
        Self {
            call: Some(call),
            ..self
        }
    }

    /// Only in this room.
    pub fn in_room(self, room: RoomId) -> Self {
        Self {
            room_id: Some(room),
            ..self
        }
    }

    /// To so many calls.
    pub fn times(self, next: u32) -> Self {
        Self {
            next: Some(Times::Exactly(next)),
            ..self
        }
    }

    /// To all calls, until it is healed.
    pub fn always(self) -> Self {
        Self {
            next: Some(Times::Always),
            ..self
        }
    }

    /// To this share of the calls, until it is healed; the same ones for the same seed.
    pub fn percent(self, percent: u32, seed: u64) -> Self {
        Self {
            percent: Some(percent),
            seed: Some(seed),
            ..self
        }
    }

    /// With this status.
    pub fn with_status(self, status: u16) -> Self {
        Self {
            status: Some(status),
            ..self
        }
    }

    /// With this body.
    pub fn with_body(self, body: impl Into<Value>) -> Self {
        Self {
            body: Some(body.into()),
            ..self
        }
    }

    /// With this header.
    pub fn with_header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// Whether it can be done as it says.
    pub fn check(&self) -> Result<(), NotAFault> {
        self.check_answer()?;
        self.check_calls()?;
        if self.delay_ms.is_some_and(|delay| delay > LONGEST_DELAY) {
            return Err(NotAFault::Delay);
        }
        if self.before && self.delay_ms.is_none() {
            return Err(NotAFault::NoDelay);
        }
        if self.effect && self.status.is_none() && self.body.is_none() {
            return Err(NotAFault::Effect);
        }
        Ok(())
    }

    /// Whether there can be such an answer.
    fn check_answer(&self) -> Result<(), NotAFault> {
        let answers = self.status.is_some() || self.body.is_some() || !self.headers.is_empty();
        match (answers || self.repeat.is_some(), self.drop, self.hold) {
            (_, Some(_), Some(_)) => return Err(NotAFault::DropAndHold),
            (true, None, None) => {}
            (true, _, _) => return Err(NotAFault::Answer),
            (false, None, None) if self.delay_ms.is_none() => return Err(NotAFault::Nothing),
            (false, _, _) => {}
        }
        match self.status {
            Some(204 | 304) if self.body.is_some() => return Err(NotAFault::NoBody),
            Some(status) if !(200..=999).contains(&status) => return Err(NotAFault::Status),
            _ => {}
        }
        for (name, value) in &self.headers {
            let (name, _) = header(name, value).ok_or(NotAFault::Header)?;
            let framing = [
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
                header::CONNECTION,
            ];
            if framing.contains(&name) {
                return Err(NotAFault::Framing);
            }
        }
        if let Some(repeat) = self.repeat {
            let length = self.body.as_ref().map_or(0, |body| text(body).len());
            let whole = match repeat {
                Times::Exactly(times) => length.saturating_mul(times as usize),
                Times::Always => length,
            };
            if !(1..=LONGEST_BODY).contains(&whole) {
                return Err(NotAFault::Repeat);
            }
        }
        Ok(())
    }

    /// Whether there can be such calls.
    fn check_calls(&self) -> Result<(), NotAFault> {
        if self.call.is_some_and(|call| call.service() != self.service) {
            return Err(NotAFault::Call);
        }
        let roomless =
            self.service == Service::Simsimi || self.call.is_some_and(|call| !call.is_in_a_room());
        if self.room_id.is_some() && roomless {
            return Err(NotAFault::Room);
        }
        if self
            .percent
            .is_some_and(|percent| !(1..=100).contains(&percent))
        {
            return Err(NotAFault::Percent);
        }
        if self.seed.is_some() && self.percent.is_none() {
            return Err(NotAFault::Seed);
        }
        if self.next == Some(Times::Exactly(0)) {
            return Err(NotAFault::Next);
        }
        Ok(())
    }
}

/// A header as it is sent, if it can be one.
fn header(name: &str, value: &Value) -> Option<(HeaderName, HeaderValue)> {
    if !(value.is_string() || value.is_number()) {
        return None;
    }
    let name = HeaderName::try_from(name).ok()?;
    let value = HeaderValue::try_from(text(value)).ok()?;
    Some((name, value))
}

/// A text as it is, anything else as JSON.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(fault: Value) -> Result<Fault, String> {
        let fault: Fault = serde_json::from_value(fault).map_err(|error| error.to_string())?;
        match fault.check() {
            Ok(()) => Ok(fault),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_can_be_done_is_a_fault_and_written_as_it_was_read() {
        for fault in [
            json!({"service": "simsimi", "status": 500}),
            json!({"service": "simsimi", "call": "talk", "body": "x", "repeat": 1_048_576}),
            json!({"service": "simsimi", "body": {"a": 1}, "repeat": "always"}),
            json!({"service": "simsimi", "hold": "before", "next": "always"}),
            json!({"service": "chatwork", "headers": {"x-ratelimit-reset": -1, "date": "today"}}),
            json!({"service": "chatwork", "drop": "after", "percent": 30, "seed": 7}),
            json!({"service": "chatwork", "call": "post", "room_id": 5, "delay_ms": 10, "before": true}),
            json!({"service": "chatwork", "status": 204, "percent": 100, "next": 3}),
            json!({"service": "chatwork", "call": "post", "status": 500, "effect": true}),
        ] {
            let read = read(fault.clone());
            assert_eq!(read.map(|read| json!(read)), Ok(fault));
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_sentence() {
        for (rest, expected) in [
            (json!({}), NotAFault::Nothing),
            (json!({"next": 3}), NotAFault::Nothing),
            (json!({"status": 100}), NotAFault::Status),
            (json!({"status": 1000}), NotAFault::Status),
            (json!({"status": 204, "body": "x"}), NotAFault::NoBody),
            (json!({"delay_ms": 6_000_000}), NotAFault::Delay),
            (json!({"status": 500, "before": true}), NotAFault::NoDelay),
            (json!({"drop": "after", "effect": true}), NotAFault::Effect),
            (json!({"headers": {"a b": "c"}}), NotAFault::Header),
            (json!({"headers": {"a": "b\nc"}}), NotAFault::Header),
            (json!({"headers": {"a": ["b"]}}), NotAFault::Header),
            (
                json!({"headers": {"Content-Length": 5}}),
                NotAFault::Framing,
            ),
            (json!({"drop": "after", "status": 500}), NotAFault::Answer),
            (json!({"hold": "before", "body": "x"}), NotAFault::Answer),
            (
                json!({"drop": "before", "hold": "after"}),
                NotAFault::DropAndHold,
            ),
            (json!({"call": "talk", "status": 500}), NotAFault::Call),
            (
                json!({"call": "me", "room_id": 5, "status": 500}),
                NotAFault::Room,
            ),
            (
                json!({"service": "simsimi", "room_id": 5, "status": 500}),
                NotAFault::Room,
            ),
            (
                json!({"service": "simsimi", "call": "post", "status": 500}),
                NotAFault::Call,
            ),
            (json!({"status": 500, "percent": 0}), NotAFault::Percent),
            (json!({"status": 500, "percent": 101}), NotAFault::Percent),
            (json!({"status": 500, "seed": 1}), NotAFault::Seed),
            (json!({"status": 500, "next": 0}), NotAFault::Next),
            (json!({"repeat": 3}), NotAFault::Repeat),
            (json!({"body": "x", "repeat": 0}), NotAFault::Repeat),
            (json!({"body": "", "repeat": "always"}), NotAFault::Repeat),
            (
                json!({"body": "12345678", "repeat": 4_000_000_000_u32}),
                NotAFault::Repeat,
            ),
        ] {
            let mut fault = json!({"service": "chatwork"});
            for (name, value) in rest.as_object().expect("an object") {
                fault[name] = value.clone();
            }
            assert_eq!(read(fault), Err(expected.to_string()), "{rest}");
        }
        for (rest, part) in [
            (json!({"stauts": 500}), "unknown field `stauts`"),
            (json!({"status": "500"}), "invalid type"),
            (
                json!({"next": null}),
                "a number up to 4294967295, or \"always\"",
            ),
            (
                json!({"next": "ever"}),
                "a number up to 4294967295, or \"always\"",
            ),
            (json!({"drop": "during"}), "`before` or `after`"),
        ] {
            let mut fault = json!({"service": "chatwork"});
            for (name, value) in rest.as_object().expect("an object") {
                fault[name] = value.clone();
            }
            let error = read(fault).expect_err("no fault");
            assert!(error.contains(part), "{error}");
        }
    }
}
