//! Which messages are answered, and what of them is asked. Pure.

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::notation::{self, Address, Notation};
use chickwork_chatwork::webhook::{Happening, Message};
use chickwork_queue::outcome;

use crate::who::Me;

/// SimSimi takes so many characters at most ("utext": 100 characters).
const LONGEST_QUESTION: usize = 100;

/// Why nothing is said. The words stand in the outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The bot wrote it.
    Own,
    /// Somebody wrote it who is never answered.
    IgnoredAccount,
    /// Nobody wrote it: Chatwork reports an upload, a task, a new member.
    SystemText,
    /// It is not for the bot, or only to everybody, or only in a quotation.
    NotAddressed,
    /// Another event about this message was answered.
    Duplicate,
    /// Chatwork said lately that the bot may not post there.
    RoomClosed,
    /// Its sender has asked too much.
    Flood,
    /// There is no answer, and no fallback line.
    NothingToSay,
}

impl Reason {
    /// The word in the outcomes.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Own => outcome::Reason::OWN,
            Self::IgnoredAccount => outcome::Reason::IGNORED_ACCOUNT,
            Self::SystemText => outcome::Reason::SYSTEM_TEXT,
            Self::NotAddressed => outcome::Reason::NOT_ADDRESSED,
            Self::Duplicate => outcome::Reason::DUPLICATE,
            Self::RoomClosed => outcome::Reason::ROOM_CLOSED,
            Self::Flood => outcome::Reason::FLOOD,
            Self::NothingToSay => outcome::Reason::NOTHING_TO_SAY,
        }
    }
}

/// The message to answer, if the event is about one that is for us.
pub(crate) fn for_us<'a>(
    happening: &'a Happening,
    me: &Me,
    ignored: &[AccountId],
) -> Result<&'a Message, Reason> {
    let Some(message) = happening.message() else {
        return Err(Reason::NotAddressed);
    };
    if message.author == me.account {
        return Err(Reason::Own);
    }
    if ignored.contains(&message.author) {
        return Err(Reason::IgnoredAccount);
    }
    let notation = Notation::parse(&message.body);
    if notation.is_system_text_only() {
        return Err(Reason::SystemText);
    }
    match (notation.address_of(me.account), happening) {
        (Address::Direct, _) => Ok(message),
        // Chatwork says that we are meant, and the text does not say why we should not be.
        (Address::Nobody, Happening::MentionToMe(_)) => Ok(message),
        (Address::Nobody | Address::ToAll | Address::Quoted, _) => Err(Reason::NotAddressed),
    }
}

/// Whether what happened is about a message that is for the bot, by the judgement of its worker. A
/// message that was read in a room, and not told by a webhook, is taken for a `message_created`.
pub fn is_for_us(happening: &Happening, me: &Me, ignored: &[AccountId]) -> bool {
    for_us(happening, me, ignored).is_ok()
}

/// What to ask, or nothing if nothing is left of the message.
pub(crate) fn question(message: &Message, me: &Me) -> Option<String> {
    let said = notation::what_was_said(&message.body, &[me.name.as_str()]);
    let question = notation::cut(&said, LONGEST_QUESTION).trim();
    (!question.is_empty()).then(|| question.to_owned())
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::id::{MessageId, RoomId};

    use super::*;

    const BOT: AccountId = AccountId(7);
    const PERSON: AccountId = AccountId(1);
    const OTHER_BOT: AccountId = AccountId(9);

    fn me() -> Me {
        Me {
            account: BOT,
            name: "Chick".to_owned(),
        }
    }

    fn message(author: AccountId, body: &str) -> Message {
        Message {
            message_id: MessageId::new("1").expect("an id"),
            room_id: RoomId(2),
            author,
            addressee: None,
            body: body.to_owned(),
            send_time: 0,
            update_time: 0,
        }
    }

    #[test]
    fn which_messages_are_for_us() {
        use Happening::{MentionToMe, MessageCreated, MessageUpdated};
        let by = |body: &str| message(PERSON, body);
        let upload = "[info][title][dtext:file_uploaded][/title][preview id=1 ht=150][download:1]a (1 KB)[/download][/info]";
        let quoted = "[qt][qtmeta aid=1 time=5][To:7]Chick hi[/qt]see above";
        let table = [
            (MessageCreated(by("[To:7]Chick\nhello")), None),
            (MessageUpdated(by("[To:7]Chick\nhello")), None),
            (MentionToMe(by("[To:7]Chick\nhello")), None),
            (MessageCreated(by("[rp aid=7 to=2-3]Chick\nhello")), None),
            (MentionToMe(by("hello")), None),
            (MessageCreated(by("hello")), Some(Reason::NotAddressed)),
            (
                MessageCreated(by("[To:8]Hanako\nhello")),
                Some(Reason::NotAddressed),
            ),
            (
                MentionToMe(by("[toall]\nhello")),
                Some(Reason::NotAddressed),
            ),
            (MentionToMe(by(quoted)), Some(Reason::NotAddressed)),
            (MessageCreated(by(upload)), Some(Reason::SystemText)),
            (MessageCreated(message(BOT, "[To:7]me")), Some(Reason::Own)),
            (MentionToMe(message(BOT, "[To:7]me")), Some(Reason::Own)),
            (
                MentionToMe(message(OTHER_BOT, "[To:7]you")),
                Some(Reason::IgnoredAccount),
            ),
            (
                Happening::Other("task_created".to_owned()),
                Some(Reason::NotAddressed),
            ),
        ];
        for (happening, expected) in table {
            let reason = for_us(&happening, &me(), &[OTHER_BOT]).err();
            assert_eq!(reason, expected, "{happening:?}");
        }
    }

    #[test]
    fn a_question_is_cut_to_what_simsimi_takes() {
        let long = format!("[To:7]{}", "ă".repeat(300));
        let question = question(&message(PERSON, &long), &me()).expect("a question");
        assert_eq!(question.chars().count(), LONGEST_QUESTION);
    }

    #[test]
    fn nothing_is_left_of_a_bare_mention() {
        assert_eq!(question(&message(PERSON, "[To:7]Chick\n"), &me()), None);
    }
}
