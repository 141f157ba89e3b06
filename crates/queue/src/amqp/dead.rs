//! Dead letters as messages: the job as it was, and in the headers named below what its burial adds.
//! [`super::letters`] reads them, [`super::taking`] takes them out.

use std::time::Duration;

use deadpool_lapin::lapin;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use uuid::Uuid;

use super::topology::{Destination, Names};
use super::wire::{self, History};
use super::{Address, Message};
use crate::content::Content;
use crate::dead::{DeadLetter, LetterId};
use crate::job::{Cause, Step};
use crate::reply_json;

/// The letter's identity: the same job may be buried again.
const LETTER: &str = "letter";
/// Where the job goes when somebody retries it: `ask` or `post.<bot>`.
const QUEUE: &str = "queue";
const STEP: &str = "step";
const CAUSE: &str = "cause";
const ERROR: &str = "error";
const BURIED_AT: &str = "buried-at";
/// Set in a line of the log that leaves the letter's body to the queue.
const WITHOUT_BODY: &str = "without-body";
/// What a burial adds, and putting back takes away.
const BURIAL: [&str; 6] = [LETTER, QUEUE, STEP, CAUSE, ERROR, BURIED_AT];

/// Why and where a job is given up.
#[derive(Debug)]
pub(super) struct Burial<'a> {
    pub(super) destination: &'a Destination,
    pub(super) step: Step,
    pub(super) cause: Cause,
    pub(super) error: &'a str,
    pub(super) at: Timestamp,
}

/// Makes a dead letter of a job with these properties.
pub(super) fn letter(
    names: &Names,
    burial: &Burial<'_>,
    properties: BasicProperties,
    body: Vec<u8>,
) -> Message {
    let added = [
        (LETTER, Uuid::now_v7().to_string()),
        (QUEUE, burial.destination.key()),
        (STEP, burial.step.as_str().to_owned()),
        (CAUSE, burial.cause.as_str().to_owned()),
        (ERROR, burial.error.to_owned()),
        (BURIED_AT, burial.at.to_string()),
    ];
    Message {
        address: Address {
            exchange: names.dead(),
            key: burial.step.as_str().to_owned(),
        },
        properties: with_texts(properties, added),
        body,
    }
}

fn with_texts<const N: usize>(
    properties: BasicProperties,
    texts: [(&str, String); N],
) -> BasicProperties {
    let mut headers = wire::headers(&properties);
    for (name, value) in texts {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    properties.with_headers(headers)
}

/// A message that names a letter, as a line of the log that carries nothing else.
pub(super) fn naming(name: &str, kind: &str) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_type(kind.into())
        .with_timestamp(Timestamp::now().as_second().unsigned_abs())
        .with_app_id("chickwork".into())
        .with_delivery_mode(2);
    with_texts(properties, [(LETTER, name.to_owned())])
}

/// A letter's properties for a line of the log without its body: all that is told of it is there.
pub(super) fn for_log(properties: &BasicProperties, letter: &DeadLetter) -> BasicProperties {
    let told = [
        (LETTER, letter.letter.name.clone()),
        (QUEUE, destination(properties).key()),
        (STEP, letter.step.as_str().to_owned()),
        (CAUSE, letter.cause.as_str().to_owned()),
        (ERROR, letter.error.clone()),
        (BURIED_AT, letter.buried_at.to_string()),
        (WITHOUT_BODY, "yes".to_owned()),
    ];
    // What tells no id is known by one that is made of its body.
    let properties =
        wire::without_broker_headers(properties).with_message_id(letter.id.to_string().into());
    with_texts(properties, told)
}

/// Whether this is a line of the log that leaves the body to the queue.
pub(super) fn is_without_body(properties: &BasicProperties) -> bool {
    wire::text(&wire::headers(properties), WITHOUT_BODY).is_some()
}

/// The letter's identity. One by an older release, or by the broker itself, is known by its event
/// and the time of its burial.
pub(super) fn name(properties: &BasicProperties, body: &[u8]) -> String {
    let headers = wire::headers(properties);
    wire::text(&headers, LETTER).unwrap_or_else(|| {
        let event = match properties.message_id() {
            Some(id) => id.to_string(),
            None => format!("{:032x}", wire::fingerprint(properties, body)),
        };
        match buried_at(&headers) {
            Some(at) => format!("{event}@{at}"),
            None => event,
        }
    })
}

/// What is told of a dead letter; one that the broker itself put there has no cause of ours.
pub(super) fn describe(properties: &BasicProperties, body: &[u8]) -> DeadLetter {
    let headers = wire::headers(properties);
    let text = |name: &str| wire::text(&headers, name);
    let buried_at = buried_at(&headers);
    let received_at = buried_at.unwrap_or(Timestamp::UNIX_EPOCH);
    let content = wire::read_loosely(properties, body, received_at);
    let by_broker = || match destination(properties) {
        Destination::Post(_) => Step::Post,
        Destination::Ask if text("x-first-death-queue").is_some() => Step::Ask,
        Destination::Ask => Step::Receive,
    };
    DeadLetter {
        letter: LetterId {
            name: name(properties, body),
            offset: None,
        },
        id: content.id,
        bot: content.bot,
        event_type: content.event_type,
        room_id: content.room_id,
        message_id: content.message_id,
        step: text(STEP)
            .and_then(|step| Step::from_name(&step))
            .unwrap_or_else(by_broker),
        cause: text(CAUSE)
            .and_then(|cause| Cause::from_name(&cause))
            .unwrap_or(Cause::Poison),
        error: text(ERROR).unwrap_or_else(|| "buried by the broker itself".to_owned()),
        attempts: wire::count(&headers, "attempt"),
        received_at: content.received_at,
        buried_at: buried_at.unwrap_or(content.received_at),
    }
}

fn buried_at(headers: &FieldTable) -> Option<Timestamp> {
    wire::time(headers, BURIED_AT).or_else(|| {
        // The broker's own account, the last burial first.
        let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else {
            return None;
        };
        let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else {
            return None;
        };
        let AMQPValue::Timestamp(seconds) = *last.inner().get("time")? else {
            return None;
        };
        Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
    })
}

/// The queue that the job was in; older releases and the broker itself do not tell it.
pub(super) fn destination(properties: &BasicProperties) -> Destination {
    let headers = wire::headers(properties);
    let told = wire::text(&headers, QUEUE).and_then(|key| Destination::of_key(&key));
    told.unwrap_or_else(|| {
        let step = wire::text(&headers, STEP).and_then(|step| Step::from_name(&step));
        if step == Some(Step::Post) || wire::is_reply(properties) {
            Destination::Post(wire::bot(&headers).unwrap_or_default())
        } else {
            Destination::Ask
        }
    })
}

/// The job that a dead letter becomes again, due at once. What this release cannot read goes back as
/// it was written, for one that can.
pub(super) fn put_back(
    names: &Names,
    properties: &BasicProperties,
    body: &[u8],
    now: Timestamp,
) -> Message {
    let destination = destination(properties);
    let is_reply = matches!(destination, Destination::Post(_));
    let (properties, body) = match readable(properties, body, is_reply) {
        Some(content) => {
            let content = content.put_back(now);
            let properties = wire::properties(&content, History::default(), is_reply);
            (properties, content.body)
        }
        None => (as_written(properties, now), body.to_vec()),
    };
    let (exchange, key) = names.delayed(Duration::ZERO, &destination);
    Message {
        address: Address { exchange, key },
        properties,
        body,
    }
}

fn readable(properties: &BasicProperties, body: &[u8], is_reply: bool) -> Option<Content> {
    let (content, _) = wire::read(properties, body).ok()?;
    let is_read = !is_reply || reply_json::decode(body).is_ok();
    is_read.then_some(content)
}

/// Without what brokers and the burial have added. Only its age and its history begin anew.
fn as_written(properties: &BasicProperties, now: Timestamp) -> BasicProperties {
    let written = wire::headers(&wire::without_broker_headers(properties));
    let replay = i64::from(wire::count(&written, "replay")) + 1;
    let mut headers = FieldTable::default();
    for (name, value) in written.inner() {
        if !BURIAL.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in [("replay", replay), ("attempt", 0), ("deaths", 0)] {
        headers.insert(name.into(), AMQPValue::LongLongInt(value));
    }
    let put_back_at = AMQPValue::LongString(now.to_string().into());
    headers.insert(wire::PUT_BACK_AT.into(), put_back_at);
    properties.clone().with_headers(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BotName;

    fn text(value: &str) -> AMQPValue {
        AMQPValue::LongString(value.into())
    }

    fn written(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default()
            .with_message_id("of a newer kind".into())
            .with_headers(table)
    }

    fn buried(properties: BasicProperties, destination: &Destination) -> Message {
        let burial = Burial {
            destination,
            step: Step::Post,
            cause: Cause::Newer,
            error: "of a newer version",
            at: Timestamp::UNIX_EPOCH,
        };
        letter(&Names::new("t"), &burial, properties, b"newer".to_vec())
    }

    #[test]
    fn what_cannot_be_read_is_put_back_as_it_was_written_but_for_its_age_and_history() {
        let headers = [
            ("version", AMQPValue::LongLongInt(2)),
            ("mood", text("good")),
            ("attempt", AMQPValue::LongLongInt(3)),
            ("replay", AMQPValue::LongLongInt(1)),
        ];
        let chick = BotName::new("chick").expect("a name");
        let letter = buried(written(&headers), &Destination::Post(chick));
        let now = Timestamp::UNIX_EPOCH + Duration::from_secs(1);
        let job = put_back(&Names::new("t"), &letter.properties, &letter.body, now);
        assert_eq!(job.address.exchange, "t.due");
        assert!(job.address.key.ends_with(".post.chick"));
        assert_eq!(job.body, letter.body);
        let expected = written(&[
            ("version", AMQPValue::LongLongInt(2)),
            ("mood", text("good")),
            ("attempt", AMQPValue::LongLongInt(0)),
            ("deaths", AMQPValue::LongLongInt(0)),
            ("replay", AMQPValue::LongLongInt(2)),
            ("put-back-at", text("1970-01-01T00:00:01Z")),
        ]);
        assert_eq!(job.properties, expected);
    }

    #[test]
    fn each_burial_is_another_letter() {
        let bury = || buried(written(&[]), &Destination::Ask).properties;
        assert_ne!(name(&bury(), b""), name(&bury(), b""));
    }

    #[test]
    fn a_letter_without_a_name_has_the_same_one_in_the_queue_and_in_the_log() {
        let by_older_release = written(&[("buried-at", text("1970-01-01T00:00:01Z"))]);
        let by_nobody = BasicProperties::default();
        for (properties, expected) in [
            (by_older_release, "of a newer kind@1970-01-01T00:00:01Z"),
            (by_nobody, "157fa9211c0a9da70009404e1adc0a1d"),
        ] {
            let letter = describe(&properties, b"body");
            let line = for_log(&properties, &letter);
            let logged = describe(&line, b"");
            assert!(is_without_body(&line) && !is_without_body(&properties));
            assert_eq!(letter.letter.name, expected);
            assert_eq!(logged, letter);
        }
    }
}
