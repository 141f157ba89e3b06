//! What Chatwork posts: one JSON object per event, in three documented types.
//!
//! Types are taken exactly (a room id as a string is not a room id); unknown members are ignored
//! and unknown event types are kept as [`Happening::Other`], because the official list is open.
//! Source of the shapes: Chatwork API Documentation, "Webhook".

use serde::Serialize;
use serde_json::error::Category;
use serde_json::{Map, Value};

use crate::id::{AccountId, MessageId, RoomId};

/// One webhook event, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Which webhook setting fired.
    pub setting_id: String,
    /// When Chatwork recorded the event, Unix seconds.
    pub event_time: i64,
    /// What happened.
    pub happening: Happening,
}

/// What a webhook tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// `message_created`: somebody wrote in a room.
    MessageCreated(Message),
    /// `message_updated`: somebody edited a message.
    MessageUpdated(Message),
    /// `mention_to_me`: somebody addressed the owner of the webhook.
    MentionToMe(Message),
    /// A type that is not documented; its name as it came, shortened to 64 bytes.
    Other(String),
}

/// A message as webhooks carry it. `mention_to_me` calls the author `from_account_id` and adds
/// `to_account_id`; the other two call the author `account_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The message's id, unique in its room.
    pub message_id: MessageId,
    /// The room it was written in.
    pub room_id: RoomId,
    /// Who wrote it.
    pub author: AccountId,
    /// Who was addressed; only in `mention_to_me`.
    pub addressee: Option<AccountId>,
    /// The raw text with its notation.
    pub body: String,
    /// When it was sent, Unix seconds.
    pub send_time: i64,
    /// When it was last edited, Unix seconds; 0 if never.
    pub update_time: i64,
}

/// The longest name of an unknown event type that is kept, in bytes.
const MAX_TYPE_NAME: usize = 64;

/// The body is not a webhook event. Says where and what, never with a value from the body: that
/// may be what somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON at all, cut off, or nested deeper than anything Chatwork sends.
    #[error("not JSON ({what} at line {line}, column {column})")]
    NotJson {
        /// `a syntax error`, `the end`, …
        what: &'static str,
        /// Counted from 1.
        line: usize,
        /// In bytes, counted from 1; 0 at the end of the line before.
        column: usize,
    },
    /// JSON, but a member that the type has is missing.
    #[error("{member} is missing")]
    Missing {
        /// The path of the member, such as `webhook_event.room_id`.
        member: &'static str,
    },
    /// JSON, but something is of another type or outside its range.
    #[error("{member} is not {expected}")]
    Unexpected {
        /// The path of the member, such as `webhook_event.room_id`.
        member: &'static str,
        /// What it has to be, such as `a whole number`.
        expected: &'static str,
    },
}

impl Webhook {
    /// Reads the body of a webhook.
    ///
    /// A known type needs everything that is documented for it, in exactly the documented JSON
    /// types. Of an unknown type only the name has to be there; what else is missing or strange
    /// then becomes empty or 0.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let json = serde_json::from_slice(body).map_err(|error| Malformed::not_json(&error))?;
        let mut webhook = Members::of(json, "the body")?;
        let type_name = webhook.string("webhook_event_type")?;
        let read: fn(Members) -> Result<Happening, Malformed> = match type_name.as_str() {
            MESSAGE_CREATED => |event| message(event).map(Happening::MessageCreated),
            MESSAGE_UPDATED => |event| message(event).map(Happening::MessageUpdated),
            MENTION_TO_ME => |event| mention(event).map(Happening::MentionToMe),
            _ => {
                return Ok(Self {
                    setting_id: webhook.string("webhook_setting_id").unwrap_or_default(),
                    event_time: webhook.time("webhook_event_time").unwrap_or_default(),
                    happening: Happening::Other(shortened(&type_name)),
                });
            }
        };
        Ok(Self {
            setting_id: webhook.string("webhook_setting_id")?,
            event_time: webhook.time("webhook_event_time")?,
            happening: read(webhook.object("webhook_event")?)?,
        })
    }
}

const MESSAGE_CREATED: &str = "message_created";
const MESSAGE_UPDATED: &str = "message_updated";
const MENTION_TO_ME: &str = "mention_to_me";

impl Message {
    /// The body of the `mention_to_me` that Chatwork would have sent about this message, for one that
    /// was found in its room instead: [`Webhook::parse`] reads it as such.
    pub fn as_mention_of(
        &self,
        addressee: AccountId,
        setting_id: &str,
        event_time: i64,
    ) -> Vec<u8> {
        /// The members in Chatwork's order.
        #[derive(Serialize)]
        struct Outer<'a> {
            webhook_setting_id: &'a str,
            webhook_event_type: &'static str,
            webhook_event_time: i64,
            webhook_event: Mention<'a>,
        }
        #[derive(Serialize)]
        struct Mention<'a> {
            from_account_id: AccountId,
            to_account_id: AccountId,
            room_id: RoomId,
            message_id: &'a MessageId,
            body: &'a str,
            send_time: i64,
            update_time: i64,
        }
        let webhook = Outer {
            webhook_setting_id: setting_id,
            webhook_event_type: MENTION_TO_ME,
            webhook_event_time: event_time,
            webhook_event: Mention {
                from_account_id: self.author,
                to_account_id: addressee,
                room_id: self.room_id,
                message_id: &self.message_id,
                body: &self.body,
                send_time: self.send_time,
                update_time: self.update_time,
            },
        };
        serde_json::to_vec(&webhook).expect("numbers and texts are always JSON")
    }
}

impl Happening {
    /// The message it is about; none of an unknown type.
    pub fn message(&self) -> Option<&Message> {
        match self {
            Self::MessageCreated(message)
            | Self::MessageUpdated(message)
            | Self::MentionToMe(message) => Some(message),
            Self::Other(_) => None,
        }
    }

    /// The type as Chatwork names it.
    pub fn type_name(&self) -> &str {
        match self {
            Self::MessageCreated(_) => MESSAGE_CREATED,
            Self::MessageUpdated(_) => MESSAGE_UPDATED,
            Self::MentionToMe(_) => MENTION_TO_ME,
            Self::Other(name) => name,
        }
    }
}

/// `webhook_event` of `message_created` and `message_updated`.
fn message(mut event: Members) -> Result<Message, Malformed> {
    let author = AccountId(event.id("webhook_event.account_id")?);
    written(event, author, None)
}

/// `webhook_event` of `mention_to_me`.
fn mention(mut event: Members) -> Result<Message, Malformed> {
    let author = AccountId(event.id("webhook_event.from_account_id")?);
    let addressee = AccountId(event.id("webhook_event.to_account_id")?);
    written(event, author, Some(addressee))
}

/// What all three types say about a message.
fn written(
    mut event: Members,
    author: AccountId,
    addressee: Option<AccountId>,
) -> Result<Message, Malformed> {
    Ok(Message {
        message_id: event.message_id("webhook_event.message_id")?,
        room_id: RoomId(event.id("webhook_event.room_id")?),
        author,
        addressee,
        body: event.string("webhook_event.body")?,
        send_time: event.time("webhook_event.send_time")?,
        update_time: event.time("webhook_event.update_time")?,
    })
}

/// The members of a JSON object, taken out one by one. They are asked for by their path in the
/// whole body, which is also what an error names.
///
/// Not serde's derive: that would take `["1", 2]` for an object, and its errors quote values.
struct Members(Map<String, Value>);

impl Members {
    fn of(value: Value, path: &'static str) -> Result<Self, Malformed> {
        match value {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(Malformed::unexpected(path, "an object")),
        }
    }

    fn take(&mut self, member: &'static str) -> Result<Value, Malformed> {
        let name = member.rsplit('.').next().unwrap_or(member);
        self.0.remove(name).ok_or(Malformed::Missing { member })
    }

    fn object(&mut self, member: &'static str) -> Result<Self, Malformed> {
        Self::of(self.take(member)?, member)
    }

    fn string(&mut self, member: &'static str) -> Result<String, Malformed> {
        match self.take(member)? {
            Value::String(text) => Ok(text),
            _ => Err(Malformed::unexpected(member, "a string")),
        }
    }

    fn message_id(&mut self, member: &'static str) -> Result<MessageId, Malformed> {
        MessageId::new(self.string(member)?)
            .map_err(|_| Malformed::unexpected(member, "a message id"))
    }

    fn id(&mut self, member: &'static str) -> Result<u64, Malformed> {
        let number = self.take(member)?.as_u64();
        number.ok_or(Malformed::unexpected(member, "a whole number below 2^64"))
    }

    fn time(&mut self, member: &'static str) -> Result<i64, Malformed> {
        let number = self.take(member)?.as_i64();
        number.ok_or(Malformed::unexpected(member, "a time in whole seconds"))
    }
}

impl Malformed {
    fn unexpected(member: &'static str, expected: &'static str) -> Self {
        Self::Unexpected { member, expected }
    }

    /// Keeps the place and the kind of the error and drops its words.
    fn not_json(error: &serde_json::Error) -> Self {
        Self::NotJson {
            what: match error.classify() {
                Category::Eof => "the end",
                Category::Syntax => "a syntax error",
                Category::Data | Category::Io => "unreadable data",
            },
            line: error.line(),
            column: error.column(),
        }
    }
}

/// The name of an unknown type, fit for a log line and a header.
fn shortened(name: &str) -> String {
    let mut short = String::new();
    for character in name.chars().filter(|character| !character.is_control()) {
        if short.len() + character.len_utf8() > MAX_TYPE_NAME {
            break;
        }
        short.push(character);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn created() -> Value {
        json!({
            "webhook_setting_id": "12345",
            "webhook_event_type": "message_created",
            "webhook_event_time": 1_700_000_003,
            "webhook_event": {
                "message_id": "1800000000000000001",
                "room_id": 567_890_123,
                "account_id": 1_484_814,
                "body": "a secret",
                "send_time": 1_700_000_000,
                "update_time": 0
            }
        })
    }

    fn mention() -> Value {
        let mut webhook = created();
        webhook["webhook_event_type"] = json!("mention_to_me");
        let event = webhook["webhook_event"].as_object_mut().expect("an object");
        event.remove("account_id");
        event.insert("from_account_id".into(), json!(1_484_814));
        event.insert("to_account_id".into(), json!(1_484_815));
        webhook
    }

    fn parse(webhook: &Value) -> Result<Webhook, Malformed> {
        Webhook::parse(webhook.to_string().as_bytes())
    }

    fn message(addressee: Option<u64>) -> Message {
        Message {
            message_id: MessageId::new("1800000000000000001").expect("digits"),
            room_id: RoomId(567_890_123),
            author: AccountId(1_484_814),
            addressee: addressee.map(AccountId),
            body: "a secret".to_owned(),
            send_time: 1_700_000_000,
            update_time: 0,
        }
    }

    #[test]
    fn the_three_documented_types_are_read() {
        let mut updated = created();
        updated["webhook_event_type"] = json!("message_updated");
        for (webhook, happening) in [
            (created(), Happening::MessageCreated(message(None))),
            (updated, Happening::MessageUpdated(message(None))),
            (mention(), Happening::MentionToMe(message(Some(1_484_815)))),
        ] {
            let type_name = webhook["webhook_event_type"].clone();
            let webhook = parse(&webhook).expect("as documented");
            assert_eq!(webhook.happening.type_name(), type_name);
            assert!(webhook.happening.message().is_some());
            let (setting_id, event_time) = ("12345".to_owned(), 1_700_000_003);
            assert_eq!(
                webhook,
                Webhook {
                    setting_id,
                    event_time,
                    happening
                }
            );
        }
    }

    #[test]
    fn a_mention_that_is_written_is_read_as_one() {
        let message = Message {
            body: "[To:1484815]chào 😀 \"\n".to_owned(),
            update_time: 1_700_000_002,
            ..message(None)
        };
        let written = message.as_mention_of(AccountId(1_484_815), "of mine", 1_700_000_003);
        let expected = Webhook {
            setting_id: "of mine".to_owned(),
            event_time: 1_700_000_003,
            happening: Happening::MentionToMe(Message {
                addressee: Some(AccountId(1_484_815)),
                ..message
            }),
        };
        assert_eq!(Webhook::parse(&written), Ok(expected));
    }

    #[test]
    fn members_that_are_not_documented_do_no_harm() {
        let mut webhook = mention();
        webhook["new"] = json!({"a": [1, null]});
        webhook["webhook_event"]["account_id"] = json!("of another type");
        assert!(parse(&webhook).is_ok());
    }

    #[test]
    fn every_documented_member_is_needed() {
        for webhook in [created(), mention()] {
            let names = |object: &Value| -> Vec<String> {
                object
                    .as_object()
                    .expect("an object")
                    .keys()
                    .cloned()
                    .collect()
            };
            for name in names(&webhook) {
                let mut less = webhook.clone();
                less.as_object_mut().expect("an object").remove(&name);
                assert!(parse(&less).is_err(), "without {name}");
            }
            for name in names(&webhook["webhook_event"]) {
                let mut less = webhook.clone();
                less["webhook_event"]
                    .as_object_mut()
                    .expect("an object")
                    .remove(&name);
                let error = parse(&less).expect_err("a member is missing").to_string();
                assert_eq!(error, format!("webhook_event.{name} is missing"));
            }
        }
    }

    #[test]
    fn json_types_are_taken_exactly() {
        for (member, value) in [
            ("message_id", json!(1_800_000_000_000_000_001_u64)),
            ("message_id", json!("")),
            ("message_id", json!("1-2")),
            ("room_id", json!("567890123")),
            ("room_id", json!(5.0)),
            ("room_id", json!(-5)),
            ("room_id", json!(null)),
            ("account_id", json!("1484814")),
            ("account_id", json!([1_484_814])),
            ("body", json!(7)),
            ("body", json!(null)),
            ("send_time", json!("1700000000")),
            ("send_time", json!(1_700_000_000.5)),
            ("send_time", json!(u64::MAX)),
            ("update_time", json!(false)),
        ] {
            let mut webhook = created();
            webhook["webhook_event"][member] = value.clone();
            let error = parse(&webhook).expect_err("of another type").to_string();
            assert!(
                error.starts_with(&format!("webhook_event.{member} is not ")),
                "{error}"
            );
        }
        for (member, value) in [
            ("webhook_setting_id", json!(12345)),
            ("webhook_event_type", json!(1)),
            ("webhook_event_time", json!("1700000003")),
            ("webhook_event", json!([])),
            ("webhook_event", json!("{}")),
        ] {
            let mut webhook = created();
            webhook[member] = value.clone();
            assert!(parse(&webhook).is_err(), "{member}: {value}");
        }
    }

    #[test]
    fn ids_go_to_the_end_of_u64_and_no_further() {
        let with_room = |room: &str| {
            let body = created().to_string().replace("567890123", room);
            Webhook::parse(body.as_bytes())
        };
        assert!(with_room("18446744073709551615").is_ok());
        assert!(with_room("18446744073709551616").is_err());
        assert!(with_room("1e30").is_err());
    }

    #[test]
    fn a_mention_and_a_message_name_their_author_differently() {
        let mut webhook = created();
        webhook["webhook_event_type"] = json!("mention_to_me");
        assert!(parse(&webhook).is_err());
        let mut webhook = mention();
        webhook["webhook_event_type"] = json!("message_created");
        assert!(parse(&webhook).is_err());
    }

    #[test]
    fn of_an_unknown_type_only_the_name_is_needed() {
        let webhook = parse(&json!({"webhook_event_type": "message_deleted"})).expect("a type");
        assert_eq!(
            webhook.happening,
            Happening::Other("message_deleted".to_owned())
        );
        assert_eq!(webhook.happening.type_name(), "message_deleted");
        assert_eq!(webhook.happening.message(), None);
        let strange =
            json!({"webhook_event_type": "x", "webhook_event": 7, "webhook_event_time": 5});
        assert_eq!(parse(&strange).expect("a type").event_time, 5);
    }

    #[test]
    fn the_name_of_an_unknown_type_is_short_and_shows() {
        let name = format!("a\n\u{0}b{}", "あ".repeat(100));
        let webhook = parse(&json!({"webhook_event_type": name})).expect("a type");
        assert_eq!(
            webhook.happening.type_name(),
            format!("ab{}", "あ".repeat(20))
        );
    }

    #[test]
    fn what_is_not_an_object_is_malformed() {
        let deep = "[".repeat(100_000);
        let deep_object = "{\"a\":".repeat(100_000);
        for body in [
            "",
            "null",
            "[]",
            "7",
            "\"x\"",
            "{",
            "{}x",
            "\u{feff}{}",
            "{}",
            &deep,
            &deep_object,
        ] {
            assert!(Webhook::parse(body.as_bytes()).is_err(), "{}", body.len());
        }
        assert!(Webhook::parse(b"{\"webhook_event_type\":\"\xff\"}").is_err());
    }

    #[test]
    fn an_error_tells_the_place_and_not_the_text() {
        let body = created().to_string();
        let cut_off = &body[..body.find("secret").expect("in the body") + 6];
        let mut wrong = created();
        wrong["webhook_event"]["room_id"] = json!("a secret");
        for error in [
            Webhook::parse(cut_off.as_bytes()).expect_err("cut off"),
            Webhook::parse(body.replace("secret", "\\secret").as_bytes()).expect_err("no escape"),
            parse(&wrong).expect_err("a string for a room"),
        ] {
            let printed = format!("{error} {error:?}");
            assert!(!printed.contains("secret"), "{printed}");
            assert!(
                printed.contains("line 1") || printed.contains("room_id"),
                "{printed}"
            );
        }
    }
}
