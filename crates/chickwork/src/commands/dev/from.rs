//! `chickwork dev --from`: exported events are played by today's worker, with the answers that SimSimi gave
//! then, and what it would say is held against what was said. No network, no account, no cost.

mod finding;
mod part;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::event::EventId;
use chickwork_worker::{End, Rehearsal, Rehearsed};
use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Serialize;
use tempfile::TempPath;

use self::finding::{Finding, Missing};
use self::part::Part;
use crate::command_line::switch;
use crate::comparison::Side;
use crate::export::{Exported, Reader, STDIN};
use crate::output;
use crate::progress::Progress;
use crate::recorded::{Before, NoAnswer, Recorded};
use crate::settings::{
    ACCOUNT_LIMIT, ADMIN_LISTEN, CONCURRENCY, DRAIN, LISTEN, MAX_AGE, PolicySettings, ROOM_LIMIT,
    SANDBOX_LISTEN, SENDER_LIMIT,
};
use crate::words;

/// Where `--help` lists the flags.
const HEADING: &str = "Trying it on exported events";

/// What `chickwork dev --help` ends with.
pub(super) const NOTES: &str = "\
--from plays events that `chickwork events export` has written, one by one, with the worker of
this binary and its settings: CHICKWORK_FALLBACK, CHICKWORK_IGNORE_ACCOUNTS, SIMSIMI_LANG.
SimSimi is not asked: its answers are those of then, as exported with each event. Nothing is
called, queued or posted. What differs is printed, - then and + now, and the sums at the end.

Where another question would be asked than then, SimSimi would be asked anew, and nobody knows
what it would say. Not played is what depends on the moment: the age of an event, a sender's
limit, closed rooms, other events about the same message.

Exits 0 when nothing differs that people in the room would notice; 1 when something does, when
nothing could be compared, or when the file cannot be read, which is said on stderr.

--json prints one object for each event: id, room_id, message_id, received_at, result (same,
differs, now_silent, now_answers, question_changed, other_reason, not_compared), missing (why
it is not compared), question_before, question, before, now (the replies, whole), reason_before,
reason; and at the end one with sums (true), events, and how many of each result. What is not
known or was not is null.

Examples:
  chickwork events export --since 1d > events.jsonl
  chickwork dev --from events.jsonl
  CHICKWORK_FALLBACK='Pardon?' chickwork dev --from events.jsonl --json";

/// What was asked for.
#[derive(Debug)]
pub(super) struct From {
    path: String,
    account: Option<AccountId>,
    name: Option<String>,
    json: bool,
}

impl From {
    /// The command with the flags that have to do with it.
    pub(super) fn flags(command: Command) -> Command {
        let meaningless = [
            &LISTEN.about,
            &ADMIN_LISTEN.about,
            &SANDBOX_LISTEN.about,
            &CONCURRENCY.about,
            &MAX_AGE.about,
            &DRAIN.about,
            &ACCOUNT_LIMIT.about,
            &ROOM_LIMIT.about,
            &SENDER_LIMIT.about,
        ];
        command
            .next_help_heading(HEADING)
            .arg(
                Arg::new("from")
                    .long("from")
                    .value_name("PATH")
                    .conflicts_with("once")
                    .conflicts_with_all(meaningless.map(|about| about.flag()))
                    .help("Plays the events of a file that `chickwork events export` has written, - for the standard input, and tells where the replies differ"),
            )
            .arg(
                Arg::new("bot-account")
                    .long("bot-account")
                    .value_name("ID")
                    .requires("from")
                    .value_parser(value_parser!(u64))
                    .help("The bot's account [default: the one that the mentions are of]"),
            )
            .arg(
                Arg::new("bot-name")
                    .long("bot-name")
                    .value_name("NAME")
                    .requires("from")
                    .allow_hyphen_values(true)
                    .help("The bot's name in Chatwork, which people's clients write behind its tag [default: what stands behind most of them]"),
            )
            .arg(
                switch("json", "Prints one JSON object a line").requires("from"),
            )
    }

    /// What the flags say; `None`: no exported events.
    pub(super) fn of(flags: &ArgMatches) -> Option<Self> {
        Some(Self {
            path: flags.get_one::<String>("from")?.clone(),
            account: flags.get_one("bot-account").copied().map(AccountId),
            name: flags.get_one::<String>("bot-name").cloned(),
            json: flags.get_flag("json"),
        })
    }

    /// Does it.
    pub(super) async fn run(self, policy: PolicySettings) -> anyhow::Result<ExitCode> {
        let source = Source::of(&self.path).await?;
        let mut part = Part::default();
        let mut events = source.open().await?;
        while let Some(exported) = events.next().await? {
            part.look_at(&exported);
        }
        anyhow::ensure!(part.events > 0, "there is no event in {}", source.name());
        let (me, assumed) = part.play(self.account, self.name)?;
        assumed.iter().for_each(words::tell);
        let rehearsal = Rehearsal {
            me,
            ignore_accounts: policy.ignore_accounts,
            fallback: policy.fallback,
        };

        let mut sums = Sums::default();
        let mut progress = Progress::of(part.events);
        let mut out = BufWriter::new(io::stdout());
        // Whoever reads may go before the end; the exit code is a result as well.
        let mut written = Ok(());
        let mut events = source.open().await?;
        while let Some(exported) = events.next().await? {
            let compared = Compared::of(&rehearsal, &exported).await;
            sums.count(compared.finding);
            if written.is_ok() {
                written = match self.json {
                    true => output::json(&compared.line(), &mut out),
                    false => compared.tell(&mut out),
                };
            }
            progress.step();
        }
        drop(progress);
        let written = written
            .and_then(|()| match self.json {
                true => output::json(&sums.line(), &mut out),
                false => sums.tell(&mut out),
            })
            .and_then(|()| out.flush());
        if sums.compared() == 0 {
            words::tell("Nothing could be compared.");
        }
        output::end(written, sums.code())
    }
}

/// A file that can be read twice: the events tell whose part is played, and then are played.
#[derive(Debug)]
struct Source {
    /// As it was given.
    path: String,
    /// What came in by a pipe, kept for as long.
    copy: Option<TempPath>,
}

impl Source {
    async fn of(path: &str) -> anyhow::Result<Self> {
        let is_pipe = path == STDIN
            || tokio::fs::metadata(path)
                .await
                .is_ok_and(|about| !about.is_file() && !about.is_dir());
        let copy = match is_pipe {
            true => Some(Self::copy(path).await?),
            false => None,
        };
        Ok(Self {
            path: path.to_owned(),
            copy,
        })
    }

    async fn copy(path: &str) -> anyhow::Result<TempPath> {
        let (file, copy) = tempfile::Builder::new()
            .prefix("chickwork-dev-")
            .tempfile()
            .context("no temporary file for the events")?
            .into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let copied = match path {
            STDIN => tokio::io::copy(&mut tokio::io::stdin(), &mut file).await,
            path => match tokio::fs::File::open(path).await {
                Ok(mut pipe) => tokio::io::copy(&mut pipe, &mut file).await,
                Err(error) => Err(error),
            },
        };
        copied.with_context(|| format!("{} cannot be read", name(path)))?;
        Ok(copy)
    }

    async fn open(&self) -> anyhow::Result<Reader> {
        match &self.copy {
            None => Reader::open(&self.path).await,
            Some(copy) => {
                let file = tokio::fs::File::open(copy)
                    .await
                    .context("the temporary file with the events is gone")?;
                Ok(Reader::of(self.name(), Box::new(file)))
            }
        }
    }

    fn name(&self) -> &str {
        name(&self.path)
    }
}

fn name(path: &str) -> &str {
    match path {
        STDIN => "the standard input",
        path => path,
    }
}

/// An event as it was and as it would be.
struct Compared<'a> {
    exported: &'a Exported,
    recorded: Recorded,
    played: Rehearsed<NoAnswer>,
    finding: Finding,
}

impl<'a> Compared<'a> {
    async fn of(rehearsal: &Rehearsal, exported: &'a Exported) -> Self {
        let recorded = Recorded::of(&exported.outcomes);
        let played = rehearsal
            .play(&exported.event.body, async |question| {
                recorded.answer(question)
            })
            .await;
        Self {
            finding: Finding::of(&recorded, &played),
            exported,
            recorded,
            played,
        }
    }

    fn line(&self) -> Line<'_> {
        let event = &self.exported.event;
        let (result, missing) = match self.finding {
            Finding::NotCompared(missing) => ("not_compared", Some(missing)),
            Finding::Same => ("same", None),
            Finding::Differs => ("differs", None),
            Finding::NowSilent => ("now_silent", None),
            Finding::NowAnswers => ("now_answers", None),
            Finding::QuestionChanged => ("question_changed", None),
            Finding::OtherReason => ("other_reason", None),
        };
        Line {
            id: event.id,
            room_id: event.room_id,
            message_id: event.message_id.as_ref(),
            received_at: event.received_at,
            result,
            missing,
            question_before: self.recorded.question(),
            question: self.played.question.as_deref(),
            before: match &self.recorded.before {
                Before::Said(text) => Some(text),
                _ => None,
            },
            now: match &self.played.end {
                End::Said(text) => Some(text),
                _ => None,
            },
            reason_before: match &self.recorded.before {
                Before::Ignored(reason) => Some(reason),
                Before::Dead(cause) => Some(cause),
                _ => None,
            },
            reason: match &self.played.end {
                End::Ignored(reason) => Some(reason),
                End::Malformed(_) => Some("malformed"),
                _ => None,
            },
        }
    }

    /// What differs, for people.
    fn tell(&self, out: &mut impl Write) -> io::Result<()> {
        if matches!(self.finding, Finding::Same | Finding::NotCompared(_)) {
            return Ok(());
        }
        let event = &self.exported.event;
        write!(out, "{} {}", event.id, words::time(event.received_at))?;
        if let (Some(room), Some(message)) = (event.room_id, &event.message_id) {
            write!(out, " #!rid{room}-{message}")?;
        }
        writeln!(out, "\n  {}", self.finding.says())?;
        let line = self.line();
        match (line.question_before, line.question) {
            (then, Some(now)) if then == Some(now) => told(out, "asked", now)?,
            (then, now) => {
                if let Some(then) = then {
                    told(out, "- asked", then)?;
                }
                if let Some(now) = now {
                    let sign = match then {
                        Some(_) => "+ asked",
                        None => "asks",
                    };
                    told(out, sign, now)?;
                }
            }
        }
        let then = Side::before(&self.recorded.before);
        let now = match &self.played.end {
            End::Said(text) => Side::Said(text),
            End::Ignored(reason) => Side::Silent(reason),
            End::Malformed(_) => Side::Silent("malformed"),
            End::Unanswered(_) => Side::Silent("what SimSimi would say"),
        };
        for line in Side::difference(&then, &now) {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)
    }
}

/// A question on a line.
fn told(out: &mut impl Write, sign: &str, question: &str) -> io::Result<()> {
    writeln!(out, "  {sign}: {}", words::line(question, usize::MAX))
}

/// An event in `--json`.
#[derive(Serialize)]
struct Line<'a> {
    id: EventId,
    room_id: Option<RoomId>,
    message_id: Option<&'a MessageId>,
    received_at: jiff::Timestamp,
    result: &'static str,
    missing: Option<Missing>,
    question_before: Option<&'a str>,
    question: Option<&'a str>,
    before: Option<&'a str>,
    now: Option<&'a str>,
    reason_before: Option<&'a str>,
    reason: Option<&'a str>,
}

/// How many of each.
#[derive(Debug, Default)]
struct Sums(BTreeMap<Finding, u64>);

/// The same in `--json`.
#[derive(Serialize)]
struct SumsLine {
    sums: bool,
    events: u64,
    same: u64,
    differs: u64,
    now_silent: u64,
    now_answers: u64,
    question_changed: u64,
    other_reason: u64,
    not_compared: u64,
}

impl Sums {
    fn count(&mut self, finding: Finding) {
        *self.0.entry(finding).or_default() += 1;
    }

    fn of(&self, is_it: impl Fn(Finding) -> bool) -> u64 {
        let counts = self.0.iter().filter(|(finding, _)| is_it(**finding));
        counts.map(|(_, count)| count).sum()
    }

    fn compared(&self) -> u64 {
        self.of(|finding| !matches!(finding, Finding::NotCompared(_)))
    }

    fn code(&self) -> ExitCode {
        if self.compared() == 0 || self.of(Finding::is_difference) > 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    fn line(&self) -> SumsLine {
        let of = |finding| self.of(|other| other == finding);
        SumsLine {
            sums: true,
            events: self.of(|_| true),
            same: of(Finding::Same),
            differs: of(Finding::Differs),
            now_silent: of(Finding::NowSilent),
            now_answers: of(Finding::NowAnswers),
            question_changed: of(Finding::QuestionChanged),
            other_reason: of(Finding::OtherReason),
            not_compared: self.of(|_| true) - self.compared(),
        }
    }

    fn tell(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}:", words::count(self.of(|_| true), "event"))?;
        for (finding, count) in &self.0 {
            let mark = match finding {
                Finding::NotCompared(_) => "not compared: ",
                _ => "",
            };
            writeln!(out, "{count:>8}  {mark}{}", finding.says())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fails_when_something_differs_or_nothing_was_compared() {
        let failure = format!("{:?}", ExitCode::FAILURE);
        let table = [
            (vec![Finding::Same, Finding::OtherReason], false),
            (
                vec![Finding::Same, Finding::NotCompared(Missing::GivenUp)],
                false,
            ),
            (vec![Finding::NotCompared(Missing::GivenUp)], true),
            (vec![Finding::Same, Finding::QuestionChanged], true),
            (vec![Finding::NowSilent], true),
        ];
        for (findings, fails) in table {
            let mut sums = Sums::default();
            findings.iter().for_each(|finding| sums.count(*finding));
            assert_eq!(
                format!("{:?}", sums.code()) == failure,
                fails,
                "{findings:?}"
            );
        }
    }
}
