//! Which events: the flags by which `events list`, `events export` and `replay` choose among those that
//! are kept.

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::event::{Event, EventId};
use chickwork_queue::events::{Choice, Sought, Standing};
use chickwork_queue::{Queue, QueueError};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use jiff::Timestamp;

use crate::command_line;
use crate::commands::events::reply::answered_by;
use crate::commands::events::whom::Named;
use crate::filter::{HEADING, Moment, bot, event_id, moment};

/// The flags of [`flags`] that choose; `--limit` only bounds.
pub(crate) const CHOICES: [&str; 10] = [
    "id", "since", "until", "room", "message", "type", "sender", "text", "bot", "state",
];

/// What `--help` says about the states.
pub(crate) const STATES_NOTES: &str = "\
States (--state, and the field state):
  answered     a reply to its message is in the room, by way of this event
  waiting      to be worked on, at once or later, or in a worker's hands
  ignored      nothing was to be said; why is told
  dead         given up, with a cause; a dead letter waits for a person
  dropped      given up, and a person dropped the dead letter; chosen by dead, too
  unexplained  came to no end, and waits nowhere: a bug, or a queue was emptied by hand
  open         came to no end, and a broker cannot tell whether it waits or is lost;
               chosen by waiting and by unexplained, too";

/// The flags of a command about events.
pub(crate) fn flags() -> [Arg; 11] {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        command_line::value(name, value, help).help_heading(HEADING)
    };
    let types = PossibleValuesParser::new([
        "mention_to_me",
        "message_created",
        "message_updated",
        Event::OTHER,
    ]);
    let states = PossibleValuesParser::new(Standing::ALL.map(Standing::as_str)).map(|name| {
        let named = Standing::ALL
            .into_iter()
            .find(|state| state.as_str() == name);
        named.expect("it is one of the possible values")
    });
    [
        Arg::new("id")
            .value_name("ID")
            .num_args(0..)
            .help_heading(HEADING)
            .value_parser(id)
            .help("Only these events"),
        flag("since", "WHEN", "Only what was received since then: a time (2026-11-24T08:00:00Z), or so long ago (2h, 7d)")
            .value_parser(moment),
        flag("until", "WHEN", "Only what was received until then, written in the same way")
            .value_parser(moment),
        flag("room", "ID", "Only of this room").value_parser(value_parser!(u64)),
        flag("message", "MESSAGE", "Only about this message, in any form that `events show` takes (of a reply of the bot's: name what it answers); there may be several events about one")
            .value_parser(message),
        flag("type", "TYPE", "Only of this type").value_parser(types),
        flag("sender", "ID", "Only of messages that this account wrote")
            .value_parser(value_parser!(u64)),
        flag("text", "TEXT", "Only if the message contains this, as it was written or as `events list` shows it, in capitals or not")
            .allow_hyphen_values(true)
            .value_parser(text),
        flag("bot", "NAME", "Only of this bot").value_parser(bot),
        flag("state", "STATE", "Only if this is what became of it; may be repeated, or several with commas")
            .value_delimiter(',')
            .action(ArgAction::Append)
            .value_parser(states),
        flag("limit", "NUMBER", "At most so many, the newest ones")
            .value_parser(value_parser!(u64).range(1..)),
    ]
}

/// What the flags say, at this time.
pub(crate) fn of(flags: &ArgMatches, now: Timestamp) -> Choice {
    let moment = |name: &str| {
        let moment = flags.get_one::<Moment>(name).copied();
        moment.map(|moment| moment.at(now))
    };
    let (room, message) = flags.get_one::<Message>("message").cloned().unzip();
    Choice {
        ids: flags
            .get_many("id")
            .into_iter()
            .flatten()
            .copied()
            .collect(),
        since: moment("since"),
        until: moment("until"),
        room: flags
            .get_one("room")
            .copied()
            .map(RoomId)
            .or(room.flatten()),
        message,
        event_type: flags.get_one("type").cloned(),
        bot: flags.get_one("bot").cloned(),
        sender: flags.get_one("sender").copied().map(AccountId),
        text: flags.get_one("text").cloned(),
        standings: states(flags),
    }
}

/// The states that were named. [`Choice::takes_standing`] takes with each what may be meant as well.
pub(crate) fn states(flags: &ArgMatches) -> Vec<Standing> {
    let states = flags.get_many("state").into_iter().flatten().copied();
    states.collect()
}

/// How many are wanted at most, if that was said.
pub(crate) fn limit(flags: &ArgMatches) -> Option<u64> {
    flags.get_one("limit").copied()
}

/// A text to look for on the command line.
fn text(text: &str) -> Result<Sought, String> {
    let sought = Sought::new(text);
    if sought.is_empty() {
        return Err("has nothing in it to look for".to_owned());
    }
    Ok(sought)
}

/// A message on the command line, with its room where that was said.
type Message = (Option<RoomId>, MessageId);

fn message(text: &str) -> Result<Message, String> {
    match Named::of(&[text])? {
        Named::Message(room, message) => Ok((room, message)),
        Named::Event(_) => {
            Err("is an event's id, which stands alone, without --message".to_owned())
        }
    }
}

/// The id of an event, where its message can be named as well.
fn id(text: &str) -> Result<EventId, String> {
    event_id(text).map_err(|says| match Named::of(&[text]) {
        Ok(Named::Message(..)) => format!(
            "is a message's id and no event's: --message {text} chooses what came in about it, and `chickwork events show` tells what became of that"
        ),
        _ => says,
    })
}

/// Where nothing is chosen because the message is a reply of the bot's: which one is meant, perhaps. It is
/// not taken instead, as something may be done to what is chosen.
pub(crate) async fn hint_of_reply(
    queue: &Queue,
    choice: &Choice,
) -> Result<Option<String>, QueueError> {
    let Some(reply) = &choice.message else {
        return Ok(None);
    };
    let answered = answered_by(queue, choice.room, reply, choice.bot.as_ref()).await?;
    Ok(match answered {
        Some(Named::Message(Some(room), answered)) => Some(format!(
            "Message {reply} is the bot's reply to message {answered}: --message {room}-{answered} chooses what came in about that."
        )),
        _ => None,
    })
}

/// Why nothing can be chosen by these flags, of whichever command.
pub(crate) fn contradiction(flags: &ArgMatches) -> Option<String> {
    let room = *flags.try_get_one::<u64>("room").ok()??;
    let (of_message, _) = flags.try_get_one::<Message>("message").ok()??;
    let of_message = (*of_message)?;
    (of_message != RoomId(room))
        .then(|| format!("--message names a message in room {of_message}, and --room {room}"))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn choice(words: &[&str]) -> Result<Choice, String> {
        let command = Command::new("list").no_binary_name(true).args(flags());
        let matches = command.try_get_matches_from(words);
        let matches = matches.map_err(|error| error.to_string())?;
        let now = Timestamp::from_second(2_000_000_000).expect("a time");
        Ok(of(&matches, now))
    }

    #[test]
    fn flags_say_which_events() {
        let none = choice(&[]).expect("no flag is needed");
        assert!(none.ids.is_empty() && none.standings.is_empty());
        assert_eq!((none.since, none.until, none.text), (None, None, None));

        let id = "01a20caa-3f93-70fb-83f5-248e49a65e0a";
        let all = choice(&[
            id,
            "--since",
            "1h",
            "--until",
            "2033-05-18T03:33:20Z",
            "--room",
            "3",
            "--message",
            "5",
            "--type",
            "other",
            "--sender",
            "7",
            "--text",
            "-CHÀO",
            "--bot",
            "bot",
            "--state",
            "answered,ignored",
            "--limit",
            "9",
        ])
        .expect("right usage");
        assert_eq!(all.ids, [id.parse().expect("an id")]);
        let at = |second| Timestamp::from_second(second).ok();
        assert_eq!(
            (all.since, all.until),
            (at(1_999_996_400), at(2_000_000_000))
        );
        assert_eq!(
            (all.room, all.sender),
            (Some(RoomId(3)), Some(AccountId(7)))
        );
        assert_eq!(all.message, MessageId::new("5").ok());
        assert_eq!(all.event_type.as_deref(), Some("other"));
        assert_eq!(all.bot.as_ref().map(|bot| bot.as_str()), Some("bot"));
        assert_eq!(all.text, Some(Sought::new("-chào")));
        assert_eq!(all.standings, [Standing::Answered, Standing::Ignored]);
    }

    #[test]
    fn a_message_is_named_as_events_show_takes_it() {
        let message = MessageId::new("1795508813713968449").ok();
        for (named, room) in [
            ("1795508813713968449", None),
            ("446240519-1795508813713968449", Some(RoomId(446_240_519))),
            (
                "https://www.chatwork.com/#!rid446240519-1795508813713968449",
                Some(RoomId(446_240_519)),
            ),
            (
                "[rp aid=1484814 to=446240519-1795508813713968449]",
                Some(RoomId(446_240_519)),
            ),
        ] {
            let choice = choice(&["--message", named]).expect("right usage");
            assert_eq!((choice.room, &choice.message), (room, &message), "{named}");
        }
    }

    #[test]
    fn what_contradicts_itself_chooses_nothing_and_is_told() {
        let now = Timestamp::from_second(2_000_000_000).expect("a time");
        let told = |words: &[&str]| {
            let command = Command::new("list").no_binary_name(true).args(flags());
            let flags = command.try_get_matches_from(words).expect("right usage");
            crate::filter::contradiction(&flags, now).or_else(|| contradiction(&flags))
        };
        let table: [(&[&str], Option<&str>); 6] = [
            (&["--since", "2h", "--until", "1h"], None),
            (&["--until", "2040-01-01T00:00:00Z"], None),
            (&["--message", "3-5", "--room", "3"], None),
            (
                &["--since", "1h", "--until", "2h"],
                Some("nothing is between"),
            ),
            (
                &["--since", "2040-01-01T00:00:00Z"],
                Some("in the future (2040"),
            ),
            (&["--message", "3-5", "--room", "4"], Some("in room 3")),
        ];
        for (words, expected) in table {
            let told = told(words);
            assert_eq!(told.is_some(), expected.is_some(), "{words:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(expected.unwrap_or("")));
        }
    }

    #[test]
    fn every_state_is_told_of() {
        for state in Standing::ALL {
            assert!(STATES_NOTES.contains(&format!("\n  {} ", state.as_str())));
        }
    }

    #[test]
    fn what_is_no_choice_is_wrong_usage_with_a_hint() {
        let table: [(&[&str], &str); 10] = [
            (&["1795508813713968449"], "--message 1795508813713968449"),
            (&["--state", "lost"], "unexplained"),
            (&["--type", "message"], "message_created"),
            (&["--message", "yesterday's"], "an event's id"),
            (
                &["--message", "01a20caa-3f93-70fb-83f5-248e49a65e0a"],
                "without --message",
            ),
            (&["01a20caa"], "beginning of an event's id"),
            (&["--room", "general"], "--room"),
            (&["--sender", "An"], "--sender"),
            (&["--since", "2"], "`2s`"),
            (&["--limit", "0"], "--limit"),
        ];
        for (flags, hint) in table {
            let error = choice(flags).expect_err(hint);
            assert!(error.contains(hint), "{hint} in {error}");
        }
    }
}
