//! How people name an event: by its id, or by the message that it is about, in whichever form they have it
//! on the clipboard.

use std::fmt;

use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::events::Whom;

/// What was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// An event.
    Event(EventId),
    /// A message, and its room where that was said.
    Message(Option<RoomId>, MessageId),
}

impl Named {
    /// Understands one word, or two: room and message. An error is written to follow what was given.
    pub(crate) fn of(words: &[&str]) -> Result<Self, String> {
        match words {
            [one] => Self::in_one_word(one.trim()),
            [room, message] => pair(room.trim(), message.trim()).ok_or_else(|| {
                if is_number(room.trim()) && room.trim().len() > LONGEST_ROOM {
                    format!(
                        "does not begin with a room's id, which has at most {LONGEST_ROOM} digits; of several messages, name one at a time"
                    )
                } else {
                    "is not a room's id and a message's id".to_owned()
                }
            }),
            _ => Err("is more than a room's id and a message's id".to_owned()),
        }
    }

    fn in_one_word(word: &str) -> Result<Self, String> {
        // Some programs encode a link when it is copied.
        let decoded = word.replace("#%21rid", "#!rid");
        let word = decoded.as_str();
        // A message's id may be long, but it has no hyphen.
        if word.contains('-')
            && let Ok(id) = word.parse()
        {
            return Ok(Self::Event(id));
        }
        if let Some((_, pair)) = word.split_once("#!rid") {
            return in_link(pair);
        }
        if let Some((_, to)) = word.split_once("to=") {
            let to = to.split([']', ' ']).next().unwrap_or(to);
            return joined(to).ok_or_else(|| "names no room and message".to_owned());
        }
        if let Some(pair) = word.strip_prefix("rid") {
            return in_link(pair);
        }
        if let Some(named) = joined(word) {
            return Ok(named);
        }
        if is_beginning_of_an_id(word) {
            return Err(format!(
                "{BEGINNING}, which has {ID_LENGTH} characters and is needed whole"
            ));
        }
        MessageId::new(word)
            .map(|message| Self::Message(None, message))
            .map_err(|_| NOT_UNDERSTOOD.to_owned())
    }

    /// For the queue.
    pub(super) fn whom(self, bot: Option<BotName>) -> Whom {
        match self {
            Self::Event(id) => Whom::Event(id),
            Self::Message(room, message) => Whom::Message { room, message, bot },
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(id) => write!(f, "event {id}"),
            Self::Message(Some(room), message) => write!(f, "message {message} in room {room}"),
            Self::Message(None, message) => write!(f, "message {message}"),
        }
    }
}

/// Numbers of more digits than this are no rooms. Chatwork's rooms have nine, its messages nineteen.
pub(super) const LONGEST_ROOM: usize = 12;

const NOT_UNDERSTOOD: &str = "is neither an event's id (01a20caa-3f93-70fb-83f5-248e49a65e0a), a message's id (1795508813713968449), ROOM-MESSAGE, nor the link of a message";

/// How an error begins about less than an event's id.
pub(crate) const BEGINNING: &str = "looks like the beginning of an event's id";
/// An event's id has so many characters.
const ID_LENGTH: usize = 36;
/// In tables and logs ids are sometimes cut to so many, their first group.
const CUT_IDS_HAVE: usize = 8;

/// Ids of events begin with a zero for some thousand years yet; a message's id is a number, which never does.
fn is_beginning_of_an_id(word: &str) -> bool {
    let of_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    word.starts_with('0')
        && (CUT_IDS_HAVE..ID_LENGTH).contains(&word.len())
        && word.trim_end_matches('…').chars().all(of_id)
}

/// Behind `#!rid` of a link. What follows the message is of no interest.
fn in_link(pair: &str) -> Result<Named, String> {
    let end = pair.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let pair = &pair[..end.unwrap_or(pair.len())];
    match joined(pair) {
        Some(named) => Ok(named),
        None if is_number(pair) => Err(format!(
            "is the link of a room; what came from there: chickwork events list --room {pair}"
        )),
        None => Err(NOT_UNDERSTOOD.to_owned()),
    }
}

/// `ROOM-MESSAGE`.
fn joined(text: &str) -> Option<Named> {
    let (room, message) = text.split_once('-')?;
    pair(room, message)
}

fn pair(room: &str, message: &str) -> Option<Named> {
    let is_room = is_number(room) && room.len() <= LONGEST_ROOM;
    let room = is_room.then(|| room.parse().ok()).flatten()?;
    let message = MessageId::new(message).ok()?;
    Some(Named::Message(Some(RoomId(room)), message))
}

/// Not for `u64::from_str` to say, which takes `+1`.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(room: Option<u64>, message: &str) -> Named {
        let message = MessageId::new(message).expect("a message's id");
        Named::Message(room.map(RoomId), message)
    }

    #[test]
    fn whatever_is_on_the_clipboard_is_understood() {
        let id = "01a20caa-3f93-70fb-83f5-248e49a65e0a";
        let event = Named::Event(id.parse().expect("an id"));
        let both = message(Some(446_240_519), "1795508813713968449");
        let alone = message(None, "1795508813713968449");
        let table: [(&[&str], &Named); 15] = [
            (&[id], &event),
            (&[" 01A20CAA-3F93-70FB-83F5-248E49A65E0A\n"], &event),
            (&["1795508813713968449"], &alone),
            (&["446240519-1795508813713968449"], &both),
            (&["rid446240519-1795508813713968449"], &both),
            (&["#!rid446240519-1795508813713968449"], &both),
            (
                &["https://www.chatwork.com/#%21rid446240519-1795508813713968449"],
                &both,
            ),
            (&["446240519", "1795508813713968449"], &both),
            (
                &["https://www.chatwork.com/#!rid446240519-1795508813713968449"],
                &both,
            ),
            (
                &["https://kcw.kddi.ne.jp/#!rid446240519-1795508813713968449"],
                &both,
            ),
            (
                &["https://www.chatwork.com/?x=1#!rid446240519-1795508813713968449?tab=2"],
                &both,
            ),
            (&["to=446240519-1795508813713968449"], &both),
            (
                &["[rp aid=1484814 to=446240519-1795508813713968449]"],
                &both,
            ),
            (
                &["[rp aid=1484814 to=446240519-1795508813713968449] An"],
                &both,
            ),
            (&["to=446240519-1795508813713968449]"], &both),
        ];
        for (words, named) in table {
            assert_eq!(Named::of(words).as_ref(), Ok(named), "{words:?}");
        }
    }

    #[test]
    fn what_names_nothing_is_told_with_a_hint() {
        let table: [(&[&str], &str); 13] = [
            (
                &["1795508813713968449", "1795508813713968450"],
                "name one at a time",
            ),
            (&["1795508813713968449-1795508813713968450"], "ROOM-MESSAGE"),
            (&["01a22701"], "beginning of an event's id"),
            (&["01a20caa-3f93-70fb…"], "beginning of an event's id"),
            (&["rid446240519"], "--room 446240519"),
            (
                &["https://www.chatwork.com/#!rid446240519"],
                "--room 446240519",
            ),
            (&["https://www.chatwork.com/"], "the link of a message"),
            (
                &["https://www.chatwork.com/#!rid-5"],
                "the link of a message",
            ),
            (&["yesterday's"], "an event's id"),
            (&[""], "an event's id"),
            (&["to=5"], "no room"),
            (&["room", "5"], "not a room's id"),
            (&["+5", "5"], "not a room's id"),
        ];
        for (words, hint) in table {
            let error = Named::of(words).expect_err(hint);
            assert!(error.contains(hint), "{hint} in {error}");
        }
    }
}
