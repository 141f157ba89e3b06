//! Reading Chatwork: who the bot is, which rooms it is in, and what was said there lately. Within the
//! allowance, and with a little patience for a service that does not answer at once.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_chatwork::id::RoomId;
use chickwork_clients::chatwork::{Answered, CallError, Chatwork, Newest, Role, Room, RoomKind};
use chickwork_worker::Me;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::allowance::Allowance;
use crate::words;

/// A call is tried so often, unless Chatwork says clearly that it is of no use.
const TRIES: u32 = 3;
/// Before the second try; it doubles.
const BEFORE_NEXT_TRY: Duration = Duration::from_secs(1);
/// Whoever waits longer than this is told why.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest name of a room that is shown, in characters.
const LONGEST_NAME: usize = 40;

/// Chatwork, as it is read here.
#[derive(Debug)]
pub(super) struct Reader {
    chatwork: Chatwork,
    allowance: Allowance,
}

/// A room that is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) room: RoomId,
    /// Where Chatwork told it.
    pub(super) name: Option<String>,
}

/// How far the reading has come; also for whoever interrupts it.
#[derive(Debug, Default)]
pub(super) struct Headway {
    pub(super) done: Cell<usize>,
    pub(super) all: Cell<usize>,
}

impl Reader {
    pub(super) fn new(chatwork: Chatwork, allowance: Allowance) -> Self {
        Self {
            chatwork,
            allowance,
        }
    }

    /// Who the bot is.
    pub(super) async fn me(&mut self) -> anyhow::Result<Me> {
        let chatwork = self.chatwork.clone();
        let account = self.call("", || chatwork.me()).await;
        let account = account.context("Chatwork does not say whose the API token is")?;
        Ok(Me {
            account: account.account_id,
            name: account.name,
        })
    }

    /// The rooms in which somebody may have mentioned the bot and it may answer; and how many it may
    /// only read.
    pub(super) async fn places(&mut self) -> anyhow::Result<(Vec<Place>, u64)> {
        let chatwork = self.chatwork.clone();
        let rooms = self.call("", || chatwork.rooms()).await;
        Ok(to_read(
            rooms.context("Chatwork does not say which rooms there are")?,
        ))
    }

    /// The newest messages of a room.
    pub(super) async fn newest(
        &mut self,
        place: &Place,
        headway: &Headway,
    ) -> Result<Newest, CallError> {
        let chatwork = self.chatwork.clone();
        let so_far = format!("{} of {} read; ", headway.done.get(), count(headway));
        self.call(&so_far, || chatwork.newest(place.room)).await
    }

    /// How long it takes to read so many rooms, and what that comes from.
    pub(super) fn time_for(&mut self, rooms: usize) -> (Duration, u64, Duration) {
        let time = self.allowance.time_for(rooms, Instant::now());
        let (calls, per) = self.allowance.rate();
        (time, calls, per)
    }

    /// Calls, when that is allowed, and once more if it came to nothing.
    async fn call<T, Calling>(
        &mut self,
        so_far: &str,
        call: impl Fn() -> Calling,
    ) -> Result<T, CallError>
    where
        Calling: Future<Output = Result<Answered<T>, CallError>>,
    {
        let mut before_next = BEFORE_NEXT_TRY;
        for tries_left in (0..TRIES).rev() {
            self.wait(so_far).await;
            let answer = call().await;
            let (now, clock) = (Instant::now(), Timestamp::now());
            let error = match answer {
                Ok(Answered { value, limits }) => {
                    self.allowance.called(&limits, clock, now);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let is_final = match &error {
                CallError::Refused {
                    status: 429,
                    limits,
                    ..
                } => {
                    self.allowance.refused(limits, clock, now);
                    false
                }
                CallError::Refused { status, limits, .. } => {
                    self.allowance.called(limits, clock, now);
                    *status < 500
                }
                CallError::NotSent(_) | CallError::InDoubt(_) | CallError::Nonsense(_) => {
                    // It may have been counted.
                    let nothing_told = chickwork_clients::chatwork::Limits::default();
                    self.allowance.called(&nothing_told, clock, now);
                    false
                }
            };
            if is_final || tries_left == 0 {
                return Err(error);
            }
            sleep(before_next).await;
            before_next *= 2;
        }
        unreachable!("the last try returns")
    }

    /// Waits until the next call is allowed, which takes no longer than the limit's window.
    async fn wait(&mut self, so_far: &str) {
        let wait = self.allowance.wait(Instant::now());
        if wait >= PATIENCE {
            let length = words::length(wait);
            words::tell(format_args!(
                "{so_far}the rate limit allows the next call in {length}."
            ));
        }
        sleep(wait).await;
    }
}

impl Place {
    /// One that was named on the command line.
    pub(super) fn named(room: RoomId) -> Self {
        Self { room, name: None }
    }

    /// For a line.
    pub(super) fn shown(&self) -> String {
        match &self.name {
            Some(name) => format!("{} {}", self.room, words::line(name, LONGEST_NAME)),
            None => self.room.to_string(),
        }
    }
}

fn count(headway: &Headway) -> String {
    words::count(headway.all.get() as u64, "room")
}

/// Nobody else is in the bot's own chat, and where it may only read it cannot answer.
fn to_read(rooms: Vec<Room>) -> (Vec<Place>, u64) {
    let mut silent = 0;
    let mut places = Vec::new();
    for room in rooms {
        match (room.kind, room.role) {
            (RoomKind::My, _) => {}
            (_, Role::Readonly) => silent += 1,
            _ => places.push(Place {
                room: room.room_id,
                name: Some(room.name),
            }),
        }
    }
    (places, silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_cannot_answer_it_need_not_look() {
        let room = |id, kind, role| Room {
            room_id: RoomId(id),
            name: format!("room\n{id}"),
            kind,
            role,
        };
        let (places, silent) = to_read(vec![
            room(1, RoomKind::My, Role::Member),
            room(2, RoomKind::Group, Role::Member),
            room(3, RoomKind::Direct, Role::Admin),
            room(4, RoomKind::Group, Role::Readonly),
            room(5, RoomKind::Other, Role::Other),
        ]);
        let shown: Vec<String> = places.iter().map(Place::shown).collect();
        assert_eq!(shown, ["2 room\\n2", "3 room\\n3", "5 room\\n5"]);
        assert_eq!(silent, 1);
    }
}
