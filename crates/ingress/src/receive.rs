//! What a verified webhook is to us: an event to answer, something of a type that we do not know,
//! or something that we cannot read. Pure; all three are kept, byte for byte.

use chickwork_chatwork::signature::Verified;
use chickwork_chatwork::webhook::Webhook;
use chickwork_queue::event::{BotName, Event, EventId};
use jiff::Timestamp;

/// A verified webhook, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Of a type that is answered: to be published.
    Known(Event),
    /// Of a type that is not documented: to be archived.
    Unknown(Event),
    /// Authentic, but not JSON or not of the shape of its type: to be buried.
    Malformed {
        /// The bytes, as an event about nothing.
        event: Event,
        /// What is wrong with them; free of message text.
        error: String,
    },
}

/// Sorts a verified webhook that was received `now` for `bot`, to be known by `id` from here on.
pub fn receive(verified: &Verified, bot: &BotName, now: Timestamp, id: EventId) -> Received {
    let event = Event {
        id,
        bot: bot.clone(),
        event_type: Event::OTHER,
        room_id: None,
        message_id: None,
        received_at: now,
        put_back_at: None,
        replay: 0,
        again: None,
        body: verified.body().clone(),
    };
    let webhook = match Webhook::parse(&event.body) {
        Ok(webhook) => webhook,
        Err(malformed) => {
            let error = malformed.to_string();
            return Received::Malformed { event, error };
        }
    };
    match webhook.happening.message() {
        Some(message) => Received::Known(Event {
            event_type: Event::known_type(webhook.happening.type_name()),
            room_id: Some(message.room_id),
            message_id: Some(message.message_id.clone()),
            ..event
        }),
        None => Received::Unknown(event),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chickwork_chatwork::id::RoomId;
    use chickwork_chatwork::signature::{Token, Tokens};

    use super::*;

    const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn received(body: &'static str) -> Received {
        let token = Token::parse(TOKEN).expect("a token");
        let verified = Tokens::parse(TOKEN)
            .expect("tokens")
            .verify(
                Bytes::from_static(body.as_bytes()),
                &token.sign(body.as_bytes()),
            )
            .expect("signed by us");
        let received = receive(
            &verified,
            &BotName::default(),
            Timestamp::UNIX_EPOCH,
            EventId::fresh(),
        );
        let (Received::Known(event) | Received::Unknown(event) | Received::Malformed { event, .. }) =
            &received;
        assert_eq!(event.body, body, "kept byte for byte");
        assert_eq!(event.received_at, Timestamp::UNIX_EPOCH);
        received
    }

    #[test]
    fn every_documented_type_is_an_event_to_answer() {
        let cases = [
            (
                r#"{"webhook_setting_id":"1","webhook_event_type":"message_created","webhook_event_time":1700000003,
                "webhook_event":{"message_id":"18","room_id":12,"account_id":3,"body":"x","send_time":1,"update_time":0}}"#,
                "message_created",
            ),
            (
                r#"{"webhook_setting_id":"1","webhook_event_type":"message_updated","webhook_event_time":1700000003,
                "webhook_event":{"message_id":"18","room_id":12,"account_id":3,"body":"x","send_time":1,"update_time":2}}"#,
                "message_updated",
            ),
            (
                r#"{"webhook_setting_id":"1","webhook_event_type":"mention_to_me","webhook_event_time":1700000003,
                "webhook_event":{"message_id":"18","room_id":12,"from_account_id":3,"to_account_id":4,"body":"x","send_time":1,"update_time":0}}"#,
                "mention_to_me",
            ),
        ];
        for (body, event_type) in cases {
            let Received::Known(event) = received(body) else {
                panic!("{event_type} is known");
            };
            assert_eq!(event.event_type, event_type);
            assert_eq!(event.room_id, Some(RoomId(12)));
            assert_eq!(
                event.message_id.map(|id| id.to_string()).as_deref(),
                Some("18")
            );
            assert_eq!((event.replay, event.put_back_at), (0, None));
        }
    }

    #[test]
    fn an_unknown_type_is_kept_as_one() {
        let Received::Unknown(event) = received(
            r#"{"webhook_setting_id":"1","webhook_event_type":"task_created","webhook_event_time":1,"webhook_event":{}}"#,
        ) else {
            panic!("tasks are not documented");
        };
        assert_eq!((event.event_type, event.room_id), ("other", None));
    }

    #[test]
    fn what_cannot_be_read_is_kept_with_the_reason() {
        let bodies = [
            "",
            "no JSON",
            "[]",
            "{}",
            // A room as a string is not a room.
            r#"{"webhook_setting_id":"1","webhook_event_type":"message_created","webhook_event_time":1700000003,
            "webhook_event":{"message_id":"18","room_id":"12","account_id":3,"body":"secret","send_time":1,"update_time":0}}"#,
        ];
        for body in bodies {
            let Received::Malformed { event, error } = received(body) else {
                panic!("{body:?} is malformed");
            };
            assert_eq!((event.event_type, event.room_id), ("other", None));
            assert!(!error.is_empty() && !error.contains("secret"), "{error}");
        }
    }
}
