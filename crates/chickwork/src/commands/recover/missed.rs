//! Which messages of a room were missed, and what event becomes of one. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::notation;
use chickwork_chatwork::webhook::{Happening, Message};
use chickwork_clients::chatwork::{Newest, RoomMessage};
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_worker::{Me, is_for_us};
use jiff::Timestamp;

/// In the place of the webhook setting's id: no webhook told of it.
const SETTING_ID: &str = "recovered";
/// The type that the event has: what Chatwork would have said.
const EVENT_TYPE: &str = "mention_to_me";
/// Chatwork gives so many messages at most.
const GIVEN_AT_MOST: usize = 100;

/// What a message is known by.
pub(super) type Key = (RoomId, MessageId);

/// Mentions without a reply, of which it is still to be seen whether they came in.
pub(super) type Mentions = BTreeMap<Key, Mention>;

/// A mention that was read in its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) message: Message,
    /// When it was written.
    pub(super) sent_at: Timestamp,
    /// When it was last edited, or written if never: from then on it is as it is.
    pub(super) written_at: Timestamp,
}

/// What is looked for in a room.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) me: Me,
    pub(super) ignored: Vec<AccountId>,
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
}

/// How far back a room's messages could be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// As far as was asked for.
    FarEnough,
    /// Only to this time: there are more messages than Chatwork gives.
    To(Timestamp),
    /// Only so far, as the plan of the account hides what is older; `None`: it hides everything.
    Hidden(Option<Timestamp>),
}

impl Search {
    /// The mentions among the newest messages of a room that the bot has not replied to, and how far
    /// back these go.
    pub(super) fn through(&self, room: RoomId, newest: Newest) -> (Vec<Mention>, Reach) {
        let reach = self.reach(&newest);
        let (ours, others): (Vec<RoomMessage>, Vec<RoomMessage>) = newest
            .messages
            .into_iter()
            .partition(|message| message.account_id == self.me.account);
        let is_answered = |id: &MessageId| {
            ours.iter().any(|message| {
                // To read notation takes longer than to see that there is nothing to be read.
                message.body.contains(id.as_str()) && notation::replies_to(&message.body, room, id)
            })
        };
        let missed = others
            .into_iter()
            .filter_map(|message| self.mention(room, message))
            .filter(|mention| !is_answered(&mention.message.message_id));
        (missed.collect(), reach)
    }

    /// The message, if it is a mention from the time that is looked at. One that was edited counts as
    /// it is now, and from when it was.
    fn mention(&self, room: RoomId, message: RoomMessage) -> Option<Mention> {
        let sent_at = time(message.send_time);
        let written_at = time(message.update_time).max(sent_at);
        if !(self.since..=self.until).contains(&written_at) {
            return None;
        }
        let happening = Happening::MessageCreated(Message {
            message_id: message.message_id,
            room_id: room,
            author: message.account_id,
            addressee: None,
            body: message.body,
            send_time: message.send_time,
            update_time: message.update_time,
        });
        if !is_for_us(&happening, &self.me, &self.ignored) {
            return None;
        }
        let Happening::MessageCreated(message) = happening else {
            return None;
        };
        Some(Mention {
            message,
            sent_at,
            written_at,
        })
    }

    fn reach(&self, newest: &Newest) -> Reach {
        let sent = newest.messages.iter().map(|message| message.send_time);
        let oldest = sent.min().map(time);
        if newest.whole_room || oldest.is_some_and(|oldest| oldest <= self.since) {
            return Reach::FarEnough;
        }
        match oldest {
            Some(oldest) if newest.messages.len() >= GIVEN_AT_MOST => Reach::To(oldest),
            oldest => Reach::Hidden(oldest),
        }
    }
}

impl Mention {
    /// Whether it is not any more as it was sent.
    pub(super) fn is_edited(&self) -> bool {
        self.written_at > self.sent_at
    }

    pub(super) fn key(&self) -> Key {
        (self.message.room_id, self.message.message_id.clone())
    }

    /// The event that its webhook would have become. Whoever has it queued wants it answered: that a
    /// person put it in is told by when, so it is aged from now on and is no flood. It has not been in the
    /// queue before, so it was never put back.
    pub(super) fn event(&self, bot: &BotName, me: &Me, now: Timestamp) -> Event {
        let time = self.written_at.as_second();
        let body = self.message.as_mention_of(me.account, SETTING_ID, time);
        Event {
            id: EventId::fresh(),
            bot: bot.clone(),
            event_type: Event::known_type(EVENT_TYPE),
            room_id: Some(self.message.room_id),
            message_id: Some(self.message.message_id.clone()),
            received_at: now,
            put_back_at: Some(now),
            replay: 0,
            again: None,
            body: Bytes::from(body),
        }
    }
}

/// Unix seconds as a time; what is none is taken for long ago.
fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::webhook::Webhook;

    use super::*;

    const ROOM: RoomId = RoomId(2);
    const PERSON: AccountId = AccountId(1);
    const BOT: AccountId = AccountId(7);
    const OTHER_BOT: AccountId = AccountId(8);

    fn message(number: u32, account_id: AccountId, body: &str, send_time: i64) -> RoomMessage {
        RoomMessage {
            message_id: id(number),
            account_id,
            body: body.to_owned(),
            send_time,
            update_time: 0,
        }
    }

    fn id(number: u32) -> MessageId {
        MessageId::new(number.to_string()).expect("digits")
    }

    fn search(since: i64, until: i64) -> Search {
        Search {
            me: Me {
                account: BOT,
                name: "Chick".to_owned(),
            },
            ignored: vec![OTHER_BOT],
            since: time(since),
            until: time(until),
        }
    }

    fn found(messages: Vec<RoomMessage>, search: &Search) -> Vec<MessageId> {
        let newest = Newest {
            messages,
            whole_room: true,
        };
        let (missed, reach) = search.through(ROOM, newest);
        assert_eq!(reach, Reach::FarEnough);
        let ids = missed.into_iter().map(|mention| mention.message.message_id);
        ids.collect()
    }

    #[test]
    fn a_mention_without_a_reply_of_ours_is_found_and_nothing_else() {
        let reply_to = |number| notation::reply(PERSON, ROOM, &id(number), "chip");
        let quoting = "[qt][qtmeta aid=1 time=5][rp aid=1 to=2-12]x[/qt] well";
        let messages = vec![
            message(1, PERSON, "[To:7]Chick\nhello", 100),
            message(2, PERSON, "hello", 101),
            message(3, PERSON, "[toall]\nhello", 102),
            message(4, PERSON, "[qt][To:7]hi[/qt] see above", 103),
            message(5, OTHER_BOT, "[To:7]Chick\nyou", 104),
            message(6, BOT, "[To:7]Chick\nme", 105),
            message(7, PERSON, "[deleted]", 106),
            message(8, PERSON, "[rp aid=7 to=2-6]Chick\nand you", 107),
            message(9, PERSON, "[To:7]Chick\nanswered", 108),
            message(10, BOT, &reply_to(9), 109),
            message(11, PERSON, "[To:7]answered by hand", 110),
            message(12, PERSON, "[To:7]only quoted by us", 111),
            message(13, PERSON, &reply_to(11), 112),
            message(14, BOT, quoting, 113),
        ];
        let expected = [1, 8, 11, 12].map(id);
        assert_eq!(found(messages, &search(0, 1000)), expected);
    }

    #[test]
    fn what_was_edited_counts_as_it_is_and_from_when_it_was() {
        let edited = |number, body, send_time, update_time| RoomMessage {
            update_time,
            ..message(number, PERSON, body, send_time)
        };
        let messages = vec![
            message(1, PERSON, "[To:7]too early", 99),
            message(2, PERSON, "[To:7]just in time", 100),
            message(3, PERSON, "[To:7]late, but in time", 200),
            message(4, PERSON, "[To:7]too late", 201),
            edited(5, "[To:7]edited in time", 50, 150),
            edited(6, "edited, and not for us any more", 150, 151),
            edited(7, "[To:7]edited too late", 150, 250),
        ];
        let expected = [2, 3, 5].map(id);
        assert_eq!(found(messages, &search(100, 200)), expected);
    }

    #[test]
    fn how_far_back_it_goes_is_told() {
        let messages = |count: u32| {
            (0..count)
                .map(|number| message(number, PERSON, "hi", 1000 + i64::from(number)))
                .collect::<Vec<_>>()
        };
        for (count, whole_room, since, expected) in [
            (100, false, 1000, Reach::FarEnough),
            (100, false, 999, Reach::To(time(1000))),
            (99, true, 0, Reach::FarEnough),
            (0, true, 0, Reach::FarEnough),
            (40, false, 0, Reach::Hidden(Some(time(1000)))),
            (40, false, 1000, Reach::FarEnough),
            (0, false, 0, Reach::Hidden(None)),
        ] {
            let newest = Newest {
                messages: messages(count),
                whole_room,
            };
            let (_, reach) = search(since, 9999).through(ROOM, newest);
            assert_eq!(reach, expected, "{count} since {since}");
        }
    }

    #[test]
    fn its_event_is_the_webhook_that_did_not_come() {
        let newest = Newest {
            messages: vec![RoomMessage {
                update_time: 150,
                ..message(5, PERSON, "[To:7]Chick\nchào", 100)
            }],
            whole_room: true,
        };
        let search = search(0, 1000);
        let (missed, _) = search.through(ROOM, newest);
        let now = time(5000);
        let event = missed[0].event(&BotName::default(), &search.me, now);
        assert_eq!(event.event_type, "mention_to_me");
        assert_eq!((event.room_id, event.message_id), (Some(ROOM), Some(id(5))));
        assert_eq!((event.received_at, event.put_back_at), (now, Some(now)));
        assert_eq!(event.replay, 0);
        let webhook = Webhook::parse(&event.body).expect("as documented");
        assert_eq!(webhook.event_time, 150);
        let Happening::MentionToMe(mention) = &webhook.happening else {
            panic!("it is a mention");
        };
        assert_eq!(mention.addressee, Some(BOT));
        assert_eq!(mention.body, "[To:7]Chick\nchào");
        assert!(is_for_us(&webhook.happening, &search.me, &[]));
    }
}
