//! Looking: whether a reply that may have been posted is in its room. One read of the room's newest
//! messages serves all doubtful replies of that room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::notation;
use chickwork_clients::chatwork::{Answered, CallError, Newest};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::desk::{Desk, called, chatwork_result};
use crate::limits::{Slot, Told};

/// How long a read is kept for others. It holds what the bot said lately in a room.
const KEPT: Duration = Duration::from_secs(60);

/// How far the clocks of those who write intents may be from Chatwork's, seconds. The list has to
/// reach back this much further than the intent.
const CLOCKS: i64 = 60;

/// A reply that may be in its room.
#[derive(Debug)]
pub(crate) struct Doubt<'a> {
    pub(crate) room: RoomId,
    pub(crate) message: &'a MessageId,
    /// Before this it cannot have been posted, by the clock of who meant to.
    pub(crate) intended_at: Timestamp,
    /// A read that began before this does not tell.
    pub(crate) look_at: Instant,
}

/// What a look shows.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It is there, as this message.
    Found(MessageId),
    /// It is not there, and would have been seen.
    Absent,
    /// It may be older than what was seen.
    Unclear,
    /// The room could not be read.
    Failed(CallError),
    /// The rate limit does not allow a read before this.
    NotBefore(Instant),
}

/// The rooms that were read lately.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<HashMap<RoomId, Place>>);

/// A room's last read; who wants to read holds it, so that others wait and share.
type Place = Arc<tokio::sync::Mutex<Option<Read>>>;

/// What is kept of a read.
#[derive(Debug)]
struct Read {
    begun: Instant,
    /// What the bot said.
    ours: Vec<(MessageId, String)>,
    /// When the oldest message was sent, Unix seconds.
    oldest: Option<i64>,
    whole_room: bool,
    /// Chatwork's clock minus ours.
    ahead: SignedDuration,
}

impl Looks {
    /// Looks for the reply, in a fresh read of its room or in one that was begun late enough.
    pub(crate) async fn look(&self, desk: &Desk, bot: AccountId, doubt: &Doubt<'_>) -> Seen {
        let place = self.place(doubt.room);
        let mut last = place.lock().await;
        if let Some(read) = last.as_ref().filter(|read| read.begun >= doubt.look_at) {
            return read.tell(doubt);
        }
        let mut ticket = match desk.limiter.read(Instant::now()) {
            Slot::Now(ticket) => ticket,
            Slot::At(at) => return Seen::NotBefore(at),
        };
        let begun = Instant::now();
        ticket.sent();
        let answer = desk.chatwork.newest(doubt.room).await;
        called("chatwork", chatwork_result(&answer), begun.elapsed());
        let (now, clock) = (Instant::now(), Timestamp::now());
        match answer {
            Ok(Answered { value, limits }) => {
                ticket.answered(&Told::new(&limits, clock), now);
                let ahead = limits.date.unwrap_or(clock).duration_since(clock);
                last.insert(Read::new(begun, value, bot, ahead)).tell(doubt)
            }
            Err(CallError::Refused {
                status: 429,
                said,
                limits,
                room_limit,
            }) => {
                ticket.refused_for_account(&Told::new(&limits, clock), now);
                Seen::Failed(CallError::Refused {
                    status: 429,
                    said,
                    limits,
                    room_limit,
                })
            }
            Err(CallError::NotSent(why)) => {
                ticket.unsent();
                Seen::Failed(CallError::NotSent(why))
            }
            Err(error) => {
                ticket.unanswered(now);
                Seen::Failed(error)
            }
        }
    }

    fn place(&self, room: RoomId) -> Place {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, place| {
            let in_use = Arc::strong_count(place) > 1;
            let fresh = |read: &Read| read.begun.elapsed() < KEPT;
            in_use
                || place
                    .try_lock()
                    .is_ok_and(|read| read.as_ref().is_some_and(fresh))
        });
        Arc::clone(rooms.entry(room).or_default())
    }
}

impl Read {
    fn new(begun: Instant, newest: Newest, bot: AccountId, ahead: SignedDuration) -> Self {
        Self {
            begun,
            oldest: newest
                .messages
                .iter()
                .map(|message| message.send_time)
                .min(),
            whole_room: newest.whole_room,
            ours: newest
                .messages
                .into_iter()
                .filter(|message| message.account_id == bot)
                .map(|message| (message.message_id, message.body))
                .collect(),
            ahead,
        }
    }

    fn tell(&self, doubt: &Doubt<'_>) -> Seen {
        let found = self
            .ours
            .iter()
            .find(|(_, body)| notation::replies_to(body, doubt.room, doubt.message));
        match found {
            Some((id, _)) => Seen::Found(id.clone()),
            None if self.reaches_back_to(doubt.intended_at) => Seen::Absent,
            None => Seen::Unclear,
        }
    }

    fn reaches_back_to(&self, intended_at: Timestamp) -> bool {
        let intended_at = intended_at.as_second().saturating_add(self.ahead.as_secs());
        self.whole_room
            || self
                .oldest
                .is_some_and(|oldest| oldest.saturating_add(CLOCKS) <= intended_at)
    }
}

#[cfg(test)]
mod tests {
    use chickwork_clients::chatwork::RoomMessage;

    use super::*;

    const BOT: AccountId = AccountId(7);
    const ROOM: RoomId = RoomId(2);

    fn id(id: &str) -> MessageId {
        MessageId::new(id).expect("a message id")
    }

    fn message(number: &str, author: AccountId, body: &str, send_time: i64) -> RoomMessage {
        RoomMessage {
            message_id: id(number),
            account_id: author,
            body: body.to_owned(),
            send_time,
        }
    }

    fn tell(messages: Vec<RoomMessage>, whole_room: bool, ahead: i64, intended_at: i64) -> Seen {
        let newest = Newest {
            messages,
            whole_room,
        };
        let read = Read::new(
            Instant::now(),
            newest,
            BOT,
            SignedDuration::from_secs(ahead),
        );
        read.tell(&Doubt {
            room: ROOM,
            message: &id("11"),
            intended_at: Timestamp::from_second(intended_at).expect("a time"),
            look_at: Instant::now(),
        })
    }

    fn ours(answered: &str) -> String {
        notation::reply(AccountId(1), ROOM, &id(answered), "chip")
    }

    #[test]
    fn a_reply_that_is_there_is_found() {
        let messages = vec![message("20", BOT, &ours("11"), 1000)];
        assert!(matches!(tell(messages, false, 0, 990), Seen::Found(found) if found == id("20")));
    }

    #[test]
    fn somebody_elses_message_with_the_same_tag_is_not_our_reply() {
        let messages = vec![message("20", AccountId(1), &ours("11"), 1000)];
        assert!(matches!(tell(messages, true, 0, 990), Seen::Absent));
    }

    #[test]
    fn a_reply_to_another_message_is_not_it() {
        let messages = vec![message("20", BOT, &ours("12"), 1000)];
        assert!(matches!(tell(messages, true, 0, 990), Seen::Absent));
    }

    #[test]
    fn a_list_that_reaches_back_far_enough_shows_that_it_is_not_there() {
        let oldest = |send_time| vec![message("19", AccountId(1), "hi", send_time)];
        assert!(matches!(tell(oldest(900), false, 0, 960), Seen::Absent));
        assert!(matches!(tell(oldest(901), false, 0, 960), Seen::Unclear));
    }

    #[test]
    fn chatworks_clock_is_what_counts() {
        let oldest = |send_time| vec![message("19", AccountId(1), "hi", send_time)];
        assert!(matches!(tell(oldest(1000), false, 100, 960), Seen::Absent));
        assert!(matches!(tell(oldest(800), false, -200, 960), Seen::Unclear));
    }

    #[test]
    fn a_list_that_hides_messages_tells_nothing() {
        assert!(matches!(tell(Vec::new(), false, 0, 960), Seen::Unclear));
        assert!(matches!(tell(Vec::new(), true, 0, 960), Seen::Absent));
    }
}
