//! `chickwork replay`: events are put back in, from the archive, from the dead letters, or from an exported
//! file. What is answered is left alone, and what waits is, so the same replay can be run again and again.
//!
//! Read on in this order: what is chosen (`found`), what is decided (`plan`), and then the ways to go.

mod found;
mod into;
mod plan;
mod put_back;
mod shadow;

use std::collections::{BTreeSet, HashSet};
use std::process::ExitCode;

use anyhow::Context as _;
use chickwork_queue::event::EventId;
use chickwork_queue::events::Standing;
use chickwork_queue::{Location, Queue, Settings};
use clap::{Arg, ArgGroup, ArgMatches, Command};
use jiff::Timestamp;

use self::found::{Choosing, Found, Source};
use self::plan::Wish;
use super::audit;
use super::operator::on_queue;
use crate::choice;
use crate::command_line::{self, switch};
use crate::commands::{Call, Order};
use crate::consent::Consent;
use crate::filter;
use crate::pace::Pace;
use crate::reason;
use crate::settings::parse;
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{MAX_AGE, OperatorSettings, Role, ShadowSettings, WEBHOOK_TOKEN};
use crate::words;

const ROLES: &[Role] = &[Role::Operator, Role::Replay];
/// What stands in the outcomes unless a reason is given.
const USUAL_REASON: &str = "replay";

const NOTES: &str = "\
What becomes of an event depends on where it stands:
  answered     left alone; with --again answered once more
  waiting      left alone
  unexplained  put back, to be asked about; so is what is open, of which a broker
               cannot tell whether it waits: a message is answered once all the same.
               Where more was put back before than there are jobs, some of it is lost, and
               nobody can tell which: it is left alone without --state unexplained, and
               the command exits 1
  dead         its dead letter is put back where it was given up; what nobody understands
               is left alone unless its id is given
  dropped      left alone unless chosen by --state dropped or by its id
  ignored      left alone, as it would be ignored again; what was ignored for a while (flood,
               room_closed, nothing_to_say, ignored_account) is put back if chosen by
               --state ignored or by its id
What is older than CHICKWORK_MAX_AGE is left alone without --ignore-age. Of several events
about one message one is put back; the others are ended as duplicates, without asking
SimSimi, and so are those whose message has a reply already (their dead letters are
dropped). Where another answer was asked for and never came, an event is put back for
that. Every event keeps its id.

First you are told what will happen, then you are asked, unless --yes. The id of each
event is printed when it is back. Ctrl-C stops between two events; the same command goes
on from there, and run again it says nothing twice. Exits 0 when everything was put back
that was to be, else 1.

--again answers messages that have a reply already ONCE MORE, and posts uncertain replies
without looking for them. It begins a round, and tells its time before it puts anything
back: --again=TIME goes on with the round that was begun then. What was answered once more
within the last hour is left alone, unless a later time is named.

--from FILE takes a file of `chickwork events export`, or - for the standard input. Events
that are not known here are received anew, as far as they were not answered and did not
wait where they were exported (what waits or is open there goes with --state waiting).
They may have been answered there since: before anything is posted, a worker looks into
the room, and gives up as uncertain what it cannot tell. Of events that are known here,
archived or not, counts what is known here.

--into URL sends the original bytes of what is chosen, signed with CHATWORK_WEBHOOK_TOKEN,
to another ingress, whatever became of them. The queue is not changed. A refusal ends it.

--shadow asks SimSimi about each, whatever became of it, and prints what the bot would say (+)
beside what it said (-). Nothing is posted, queued or written down. SIMSIMI_API_KEY pays, and
CHATWORK_API_TOKEN tells whose part is played. SimSimi's refusal of the key (403) or for the
quota (429) ends it; other errors are printed. --json adds question, reply, reason (why nothing
would be said), error, before (the reply then) and reason_before. For the same without asking,
see `chickwork dev --from`.

--json prints, for each event that is put back (with --dry-run, for each chosen): id, bot,
type, room_id, message_id, received_at, state, why, plan (put_back, retry, again, take_in,
close or skip) and reason (why it is skipped).

Examples:
  chickwork replay --since 12h --dry-run
  chickwork replay --since 12h --ignore-age --reason 'SimSimi was down all night'
  chickwork replay --from dead --all --rate 2/1s --yes
  chickwork replay --room 123 --since 1h --into http://127.0.0.1:8080/webhook
  chickwork replay --since 1h --limit 20 --shadow
  chickwork replay --from events.jsonl --all";

pub(crate) fn command() -> Command {
    command_line::command(
        "replay",
        "Puts events back in, from the archive, the dead letters or a file; answers nothing twice",
        ROLES,
    )
    .args(choice::flags())
    .mut_arg("limit", |arg| {
        arg.help("Puts back at most so many, the oldest ones")
    })
    .arg(
        switch("all", "All there are")
            .help_heading(filter::HEADING)
            .conflicts_with_all(choice::CHOICES),
    )
    .group(
        ArgGroup::new("which")
            .args(choice::CHOICES)
            .arg("all")
            .multiple(true)
            .required(true),
    )
    .arg(
        command_line::value("from", "SOURCE", "Where the events are: archive, dead, or a file of `events export` (-: standard input)").default_value("archive").value_parser(source),
    )
    .arg(
        Arg::new("into")
            .long("into")
            .value_name("URL")
            .value_parser(parse::url)
            .conflicts_with_all(["again", "ignore-age"])
            .help("Sends them to another ingress instead of putting them back"),
    )
    .arg(
        switch(
            "shadow",
            "Asks SimSimi about them, at its price, and prints the replies instead of posting them",
        )
        .conflicts_with_all(["into", "again", "ignore-age"]),
    )
    .arg(
        Arg::new("again")
            .long("again")
            .value_name("TIME")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("now")
            .value_parser(round)
            .help("Answers once more what is answered; with a time, goes on with the round that was begun then"),
    )
    .arg(switch("ignore-age", "Puts back what is older than CHICKWORK_MAX_AGE, too"))
    .arg(reason::flag(USUAL_REASON))
    .arg(Pace::flag())
    .arg(switch("dry-run", "Says what would happen to each, and ends"))
    .arg(Consent::flag())
    .arg(switch("json", "Prints one JSON object a line"))
    .after_help(NOTES)
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let flags = &call.flags;
    let now = Timestamp::now();
    let mut reader = Reader::new(&call.given, ROLES);
    let settings = OperatorSettings::read(&mut reader);
    let max_age = reader.get(&MAX_AGE);
    // The token is needed only to send, and so missed only then.
    let sent = match flags.get_one::<String>("into") {
        Some(url) => reader
            .require(&WEBHOOK_TOKEN)
            .map(|tokens| Some((url.clone(), tokens))),
        None => Some(None),
    };
    // So are those that only a rehearsal needs.
    let shadow = match flags.get_flag("shadow") {
        true => ShadowSettings::read(&mut reader).map(Some),
        false => Some(None),
    };
    let read = settings.zip(max_age).zip(sent).zip(shadow);
    let (((OperatorSettings { logging, queue }, max_age), sent), shadow) = reader.finish(read)?;

    let terms = Terms::of(flags, &queue, now);
    let way = match (sent, shadow) {
        (Some((url, tokens)), _) => Way::Into(into::Errand {
            terms,
            url,
            token: tokens.first,
        }),
        (None, Some(settings)) => Way::Shadow(shadow::Errand { terms, settings }),
        (None, None) => Way::PutBack(put_back::Errand {
            terms,
            wish: wish(flags, max_age, now),
            reason: reason::of(flags),
        }),
    };
    Ok(Order {
        logging,
        work: Box::pin(way.go(queue)),
    })
}

/// What is said of every way to go.
#[derive(Debug)]
struct Terms {
    choosing: Choosing,
    limit: Option<u64>,
    pace: Pace,
    dry_run: bool,
    consent: Consent,
    json: bool,
}

impl Terms {
    fn of(flags: &ArgMatches, queue: &Settings, now: Timestamp) -> Self {
        Self {
            choosing: Choosing {
                source: flags
                    .get_one::<Source>("from")
                    .expect("it has a default")
                    .clone(),
                choice: choice::of(flags, now),
                on_broker: matches!(queue.location, Location::Amqp(_)),
                kept_since: audit::oldest_kept(queue, now),
                is_archived: !queue.archive_keep.is_zero(),
            },
            limit: choice::limit(flags),
            pace: Pace::of(flags),
            dry_run: flags.get_flag("dry-run"),
            consent: Consent::of(flags),
            json: flags.get_flag("json"),
        }
    }

    /// Those that are chosen, oldest first, at most so many, for something that is of one bot; and whether
    /// all that were named are there. That there are none is said.
    async fn of_one_bot(
        &self,
        queue: Option<&Queue>,
        what: &str,
    ) -> anyhow::Result<(Vec<Found>, bool)> {
        let mut found = self.choosing.find(queue).await?;
        let all_found = tell_of_missing(&self.choosing.choice.ids, &found);
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok());
        found.truncate(limit.unwrap_or(usize::MAX));
        let bots: BTreeSet<_> = found.iter().map(|event| event.bot.as_str()).collect();
        anyhow::ensure!(
            bots.len() <= 1,
            "these events were sent to several bots ({}), and {what} is that of one: choose with --bot",
            Vec::from_iter(bots).join(", ")
        );
        if found.is_empty() {
            words::tell(format_args!(
                "Nothing to do: {}.{}",
                self.choosing.none_is_chosen(),
                self.choosing.hint()
            ));
            if let Some(queue) = queue
                && let Some(hint) = choice::hint_of_reply(queue, &self.choosing.choice).await?
            {
                words::tell(hint);
            }
        }
        Ok((found, all_found))
    }
}

/// What is done with them.
#[derive(Debug)]
enum Way {
    PutBack(put_back::Errand),
    Into(into::Errand),
    Shadow(shadow::Errand),
}

impl Way {
    /// Goes it.
    async fn go(self, queue: Settings) -> anyhow::Result<ExitCode> {
        if self.needs_no_queue() {
            return self.go_with(None).await;
        }
        on_queue(queue, async move |queue| self.go_with(Some(queue)).await).await
    }

    /// What only reads a file does without.
    fn needs_no_queue(&self) -> bool {
        match self {
            Self::PutBack(_) => false,
            Self::Into(into::Errand { terms, .. }) | Self::Shadow(shadow::Errand { terms, .. }) => {
                terms.choosing.is_of_file()
            }
        }
    }

    async fn go_with(self, queue: Option<&Queue>) -> anyhow::Result<ExitCode> {
        match self {
            Self::PutBack(errand) => {
                let queue = queue.context("there is no queue to put anything back into")?;
                errand.run(queue).await
            }
            Self::Into(errand) => errand.run(queue).await,
            Self::Shadow(errand) => errand.run(queue).await,
        }
    }
}

fn wish(flags: &ArgMatches, max_age: std::time::Duration, now: Timestamp) -> Wish {
    let again = flags.get_one::<Round>("again");
    Wish {
        again: again.map(|round| match round {
            Round::New => plan::new_round(now),
            Round::Begun(then) => *then,
        }),
        is_named_round: matches!(again, Some(Round::Begun(_))),
        ignore_age: flags.get_flag("ignore-age"),
        max_age,
        states: choice::states(flags),
        now,
    }
}

/// A round of answering once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Begun by this command.
    New,
    /// Begun then, and gone on with.
    Begun(Timestamp),
}

fn round(text: &str) -> Result<Round, String> {
    match text {
        "now" => Ok(Round::New),
        text => match text.parse::<Timestamp>() {
            Ok(then) if then > Timestamp::now() => Err("is in the future".to_owned()),
            // To the millisecond, as queues keep it: else it would be another round than the one that was begun.
            Ok(then) => Timestamp::from_millisecond(then.as_millisecond())
                .map(Round::Begun)
                .map_err(|error| error.to_string()),
            Err(_) => Err(
                "is no time such as `2026-11-24T08:00:00.123Z`, which the command that was stopped has told"
                    .to_owned(),
            ),
        },
    }
}

/// Anything but the two words is a path. A `Result`, as clap wants it.
fn source(text: &str) -> Result<Source, String> {
    Ok(match text {
        "archive" => Source::Archive,
        "dead" => Source::Dead,
        path => Source::File(path.to_owned()),
    })
}

/// Why nothing can be chosen from the dead letters by these flags, of whichever command.
pub(crate) fn contradiction(flags: &ArgMatches) -> Option<String> {
    let source: &Source = flags.try_get_one("from").ok()??;
    if *source != Source::Dead {
        return None;
    }
    let instead = "--state dead in place of --from dead looks in the archive, which does";
    for (flag, tells) in [
        ("sender", "who wrote the message"),
        ("text", "what the message said"),
    ] {
        if flags.contains_id(flag) {
            return Some(format!(
                "a dead letter does not tell {tells}, which --{flag} is about: {instead}"
            ));
        }
    }
    let mut states = choice::states(flags).into_iter();
    let other = states.find(|state| *state != Standing::Dead)?;
    Some(format!(
        "what is {} has no dead letter: leave out --from dead, or --state",
        other.as_str()
    ))
}

/// The exit code.
fn code(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Says which of the named events are not there. True if there are none such.
fn tell_of_missing(named: &[EventId], found: &[Found]) -> bool {
    let found: HashSet<EventId> = found.iter().map(|event| event.id).collect();
    let missing: Vec<_> = named.iter().filter(|id| !found.contains(id)).collect();
    for id in &missing {
        words::tell(format_args!(
            "There is no such event, or these flags do not choose it: {id}."
        ));
    }
    missing.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_letters_do_not_tell_chooses_none_of_them_and_is_told() {
        let told = |words: &[&str]| {
            let flags = command()
                .no_binary_name(true)
                .try_get_matches_from(words)
                .expect("right usage");
            contradiction(&flags)
        };
        let table: [(&[&str], Option<&str>); 7] = [
            (&["--all"], None),
            (&["--from", "dead", "--all"], None),
            (&["--from", "dead", "--state", "dead", "--room", "3"], None),
            (&["--from", "events.jsonl", "--text", "chip"], None),
            (
                &["--from", "dead", "--text", "chip"],
                Some("what the message said"),
            ),
            (&["--from", "dead", "--sender", "7"], Some("who wrote")),
            (
                &["--from", "dead", "--state", "dead,ignored"],
                Some("what is ignored has no dead letter"),
            ),
        ];
        for (words, expected) in table {
            let told = told(words);
            assert_eq!(told.is_some(), expected.is_some(), "{words:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(expected.unwrap_or("")));
        }
    }
}
