//! Which ones: the flags by which commands choose among what a queue keeps.

use std::time::Duration;

use chickwork_chatwork::id::RoomId;
use chickwork_queue::dead::DeadLetter;
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::job::{Cause, Step};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use jiff::Timestamp;

use crate::command_line;
use crate::commands::events::whom::{self, Named};
use crate::settings::parse;
use crate::words;

/// Where `--help` lists them.
pub(crate) const HEADING: &str = "Which ones";

/// A choice; one that says nothing chooses everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    ids: Vec<EventId>,
    causes: Vec<Cause>,
    step: Option<Step>,
    room: Option<RoomId>,
    bot: Option<BotName>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// In lower case.
    error: Option<String>,
    limit: Option<u64>,
}

/// A moment as people give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Ago(Duration),
    At(Timestamp),
}

impl Filter {
    /// The flags of [`Filter::flags`] that choose; `--limit` only bounds.
    pub(crate) const CHOICES: [&str; 8] = [
        "id", "cause", "step", "room", "bot", "since", "until", "error",
    ];

    /// The flags of a command about dead letters.
    pub(crate) fn flags() -> [Arg; 9] {
        let flag = |name: &'static str, value: &'static str, help: &'static str| {
            command_line::value(name, value, help).help_heading(HEADING)
        };
        let causes = PossibleValuesParser::new(Cause::ALL.map(Cause::as_str))
            .map(|name| Cause::from_name(&name).expect("it is one of the possible values"));
        let steps =
            PossibleValuesParser::new([Step::Receive, Step::Ask, Step::Post].map(Step::as_str))
                .map(|name| Step::from_name(&name).expect("it is one of the possible values"));
        [
            Arg::new("id")
                .value_name("ID")
                .num_args(0..)
                .help_heading(HEADING)
                .value_parser(event_id)
                .help("Only the dead letters of these events"),
            flag("cause", "CAUSE", "Only for this cause; may be repeated, or several with commas")
                .value_delimiter(',')
                .action(ArgAction::Append)
                .value_parser(causes),
            flag("step", "STEP", "Only what was given up in this step").value_parser(steps),
            flag("room", "ID", "Only of this room").value_parser(value_parser!(u64)),
            flag("bot", "NAME", "Only of this bot").value_parser(bot),
            flag("since", "WHEN", "Only what was given up since then: a time (2026-11-24T08:00:00Z), or so long ago (2h, 7d)")
                .value_parser(moment),
            flag("until", "WHEN", "Only what was given up until then, written in the same way")
                .value_parser(moment),
            flag("error", "TEXT", "Only if the error contains this, in capitals or not")
                .allow_hyphen_values(true),
            flag("limit", "NUMBER", "At most so many, the oldest ones").value_parser(value_parser!(u64).range(1..)),
        ]
    }

    /// What the flags say, at this time.
    pub(crate) fn of(flags: &ArgMatches, now: Timestamp) -> Self {
        let all = |name: &str| {
            flags
                .get_many(name)
                .into_iter()
                .flatten()
                .copied()
                .collect()
        };
        let moment = |name: &str| {
            let moment = flags.get_one::<Moment>(name).copied();
            moment.map(|moment| moment.at(now))
        };
        let causes = flags.get_many("cause").into_iter().flatten().copied();
        Self {
            ids: all("id"),
            causes: causes.collect(),
            step: flags.get_one("step").copied(),
            room: flags.get_one("room").copied().map(RoomId),
            bot: flags.get_one("bot").cloned(),
            since: moment("since"),
            until: moment("until"),
            error: flags
                .get_one::<String>("error")
                .map(|error| error.to_lowercase()),
            limit: flags.get_one("limit").copied(),
        }
    }

    /// The one choice of a command about one event.
    pub(crate) fn only(id: EventId) -> Self {
        Self {
            ids: vec![id],
            ..Self::default()
        }
    }

    /// Whether it is chosen, however many there are.
    pub(crate) fn picks(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && (self.causes.is_empty() || self.causes.contains(&letter.cause))
            && self.step.is_none_or(|step| step == letter.step)
            && self.room.is_none_or(|room| Some(room) == letter.room_id)
            && self.bot.as_ref().is_none_or(|bot| *bot == letter.bot)
            && self.since.is_none_or(|since| letter.buried_at >= since)
            && self.until.is_none_or(|until| letter.buried_at <= until)
            && self
                .error
                .as_ref()
                .is_none_or(|part| letter.error.to_lowercase().contains(part))
    }

    /// How many are chosen at most.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.unwrap_or(u64::MAX)
    }

    /// The events that were named.
    pub(crate) fn ids(&self) -> &[EventId] {
        &self.ids
    }
}

impl Moment {
    /// When that is, at this time.
    pub(crate) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(time) => now.checked_sub(time).unwrap_or(Timestamp::MIN),
        }
    }
}

/// Why nothing can be chosen by the times in these flags, of whichever command.
pub(crate) fn contradiction(flags: &ArgMatches, now: Timestamp) -> Option<String> {
    let moment = |name: &str| {
        let moment = flags.try_get_one::<Moment>(name).ok()?.copied();
        moment.map(|moment| moment.at(now))
    };
    let since = moment("since")?;
    if since > now {
        let since = words::time(since);
        return Some(format!(
            "--since is in the future ({since}), so nothing can be chosen"
        ));
    }
    let until = moment("until")?;
    (until < since).then(|| {
        format!(
            "nothing is between --since ({}) and --until ({}), which is earlier",
            words::time(since),
            words::time(until)
        )
    })
}

/// A moment on the command line.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = text.parse() {
        return Ok(Moment::At(at));
    }
    match parse::duration(text) {
        Ok(time) => Ok(Moment::Ago(time)),
        // A number alone: the error says which unit may be meant.
        Err(error) if text.parse::<u64>().is_ok() => Err(error),
        Err(_) => Err("is neither a time such as `2026-11-24T08:00:00Z` nor so long ago, such as `90m`, `2h` or `7d`".to_owned()),
    }
}

/// The id of an event on the command line.
pub(crate) fn event_id(text: &str) -> Result<EventId, String> {
    text.parse().map_err(|_| match Named::of(&[text]) {
        Ok(Named::Message(..)) => "is a message's id and no event's, which looks like 01a20caa-3f93-70fb-83f5-248e49a65e0a; `chickwork events show` tells of the events about a message".to_owned(),
        Err(says) if says.contains(whom::BEGINNING) => says,
        _ => "is no event's id, which looks like 01a20caa-3f93-70fb-83f5-248e49a65e0a".to_owned(),
    })
}

pub(crate) fn bot(text: &str) -> Result<BotName, String> {
    BotName::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use chickwork_chatwork::id::MessageId;
    use chickwork_queue::event::Event;
    use chickwork_queue::{Declare, Location, Queue, Settings};
    use clap::Command;

    use super::*;

    /// A dead letter, to be changed by the test.
    pub(crate) async fn a_letter() -> DeadLetter {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let queue = Queue::open(Settings {
            location: Location::Sqlite(folder.path().join("queue.db")),
            namespace: "test".to_owned(),
            bots: vec![BotName::default()],
            declare: Declare::Active,
            archive_keep: Duration::ZERO,
        })
        .await
        .expect("a queue");
        let event = Event {
            id: EventId::fresh(),
            bot: BotName::default(),
            event_type: Event::OTHER,
            room_id: Some(RoomId(3)),
            message_id: Some(MessageId::new("5").expect("a digit")),
            received_at: Timestamp::now(),
            put_back_at: None,
            replay: 0,
            again: None,
            body: b"no JSON".as_slice().into(),
        };
        let publisher = queue.publisher();
        let buried = publisher.bury(&event, "Expected value, line 1").await;
        buried.expect("room for a letter");
        let mut letters = queue.dead_letters().read().await.expect("dead letters");
        let letter = letters.next().await.expect("dead letters");
        letter.expect("it was just buried")
    }

    fn filter(flags: &[&str], now: Timestamp) -> Result<Filter, String> {
        let command = Command::new("dead").no_binary_name(true);
        let matches = command.args(Filter::flags()).try_get_matches_from(flags);
        let matches = matches.map_err(|error| error.to_string())?;
        Ok(Filter::of(&matches, now))
    }

    #[tokio::test]
    async fn a_filter_picks_exactly_what_it_says() {
        let letter = a_letter().await;
        let now = letter.buried_at + Duration::from_secs(3600);
        let own = letter.id.to_string();
        let other = EventId::fresh().to_string();
        let buried = letter.buried_at.to_string();
        let table: [(&[&str], bool); 27] = [
            (&[], true),
            (&[&own], true),
            (&[&other], false),
            (&[&other, &own], true),
            (&["--cause", "malformed"], true),
            (&["--cause", "poison"], false),
            (&["--cause", "poison", "--cause", "malformed"], true),
            (&["--cause", "poison,malformed"], true),
            (&["--step", "receive"], true),
            (&["--step", "post"], false),
            (&["--room", "3"], true),
            (&["--room", "33"], false),
            (&["--bot", "bot"], true),
            (&["--bot", "bott"], false),
            (&["--since", "2h"], true),
            (&["--since", "30m"], false),
            (&["--until", "30m"], true),
            (&["--until", "2h"], false),
            (&["--since", &buried, "--until", &buried], true),
            (&["--since", "2026-01-01T00:00:00+07:00"], true),
            (&["--until", "2026-01-01T00:00:00Z"], false),
            (&["--error", "expected VALUE"], true),
            (&["--error", "-1"], false),
            (&["--error", "unexpected"], false),
            (&["--limit", "1"], true),
            // All of it has to fit.
            (&["--room", "3", "--step", "ask"], false),
            (&[&own, "--since", "30m"], false),
        ];
        for (flags, expected) in table {
            let filter = filter(flags, now).expect("right usage");
            assert_eq!(filter.picks(&letter), expected, "{flags:?}");
        }
    }

    #[test]
    fn what_is_no_choice_is_wrong_usage_with_a_hint() {
        let table: [(&[&str], &str); 9] = [
            (&["1795508813713968449"], "looks like"),
            (&["--cause", "dead"], "exhausted"),
            (&["--step", "asking"], "ask"),
            (&["--room", "general"], "--room"),
            (&["--bot", "Bot"], "a-z"),
            (&["--since", "2"], "`2s`"),
            (&["--since", "yesterday"], "`2h`"),
            (&["--until", "2026-11-24"], "T08:00:00Z"),
            (&["--limit", "0"], "--limit"),
        ];
        for (flags, hint) in table {
            let error = filter(flags, Timestamp::UNIX_EPOCH).expect_err(hint);
            assert!(error.contains(hint), "{hint} in {error}");
        }
    }

    #[test]
    fn longer_ago_than_there_was_time_is_always() {
        let now = Timestamp::UNIX_EPOCH;
        let long_ago = Moment::Ago(Duration::MAX).at(now);
        assert!(long_ago <= now);
    }
}
