//! `chickwork dead retry` and `chickwork dead drop`: dead letters are put back or removed, after a
//! preview and with consent, one by one and not too fast.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use chickwork_queue::Queue;
use chickwork_queue::dead::{DeadLetter, Verdict};
use chickwork_queue::job::{Cause, Step};
use chickwork_queue::outcome::By;
use clap::{ArgGroup, ArgMatches, Command};
use jiff::Timestamp;

use super::Chosen;
use super::groups::Groups;
use crate::command_line::{self, switch};
use crate::commands::operator::{on_queue, settings};
use crate::commands::{Call, Order};
use crate::consent::Consent;
use crate::filter::{self, Filter};
use crate::pace::Pace;
use crate::reason;
use crate::run::{Halt, Run};
use crate::settings::read::Mistakes;
use crate::{output, words};

/// How long the letter at hand may take once the command is to stop.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// They are put back where they were given up, aged from now.
    Retry,
    /// They are removed for good.
    Drop,
}

impl Deed {
    fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }

    /// What stands in the outcomes unless a reason is given.
    fn usual_reason(self) -> &'static str {
        match self {
            Self::Retry => "dead retry",
            Self::Drop => "dead drop",
        }
    }

    /// What became of them.
    fn done(self) -> &'static str {
        match self {
            Self::Retry => "put back",
            Self::Drop => "dropped",
        }
    }
}

const RETRY_NOTES: &str = "\
Each letter goes back to the step that gave up, and its age counts from then on.
First you are told what will happen, then you are asked, unless --yes. The id of
each event is printed when its letter is back. Ctrl-C stops between two letters.
Exits 0 when everything chosen was done, else 1.

Examples:
  chickwork dead retry 01a20caa-3f93-70fb-83f5-248e49a65e0a
  chickwork dead retry --cause exhausted --since 2h --dry-run
  chickwork dead retry --cause exhausted --since 2h --rate 2/1s --yes
  chickwork dead retry --again 01a20caa-3f93-70fb-83f5-248e49a65e0a";

const DROP_NOTES: &str = "\
What is dropped is gone and will not be answered. First you are told what will
happen, then you are asked, unless --yes. The id of each event is printed when its
letter is gone. Ctrl-C stops between two letters. Exits 0 when everything chosen
was done, else 1.

Examples:
  chickwork dead drop 01a20caa-3f93-70fb-83f5-248e49a65e0a --reason 'told her myself'
  chickwork dead drop --cause malformed --until 7d
  chickwork dead drop --all --rate 1000/1s";

pub(super) fn command(deed: Deed) -> Command {
    let (about, notes) = match deed {
        Deed::Retry => (
            "Puts dead letters back where they were given up",
            RETRY_NOTES,
        ),
        Deed::Drop => ("Removes dead letters for good", DROP_NOTES),
    };
    let command = command_line::operators(deed.name(), about)
        .args(Filter::flags())
        .arg(
            switch("all", "All there are")
                .help_heading(filter::HEADING)
                .conflicts_with_all(Filter::CHOICES),
        )
        .group(
            ArgGroup::new("which")
                .args(Filter::CHOICES)
                .arg("all")
                .multiple(true)
                .required(true),
        )
        .arg(reason::flag(deed.usual_reason()))
        .arg(Pace::flag())
        .arg(switch("dry-run", "Says what would happen, and ends"))
        .arg(Consent::flag())
        .arg(switch(
            "json",
            "Prints the fields of `dead list --json` instead of the id",
        ))
        .after_help(notes);
    match deed {
        Deed::Retry => command.arg(switch(
            "again",
            "Posts uncertain replies without looking for them: somebody has seen that they are not in the room",
        )),
        Deed::Drop => command,
    }
}

/// What was asked for.
#[derive(Debug)]
struct Errand {
    deed: Deed,
    filter: Filter,
    /// Whether uncertain replies are posted without looking.
    again: bool,
    reason: String,
    pace: Pace,
    dry_run: bool,
    consent: Consent,
    json: bool,
}

pub(crate) fn order(call: &Call, deed: Deed) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let errand = Errand::of(&call.flags, deed, Timestamp::now());
    let work = on_queue(settings.queue, async move |queue| errand.run(queue).await);
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

impl Errand {
    fn of(flags: &ArgMatches, deed: Deed, now: Timestamp) -> Self {
        Self {
            deed,
            filter: Filter::of(flags, now),
            again: deed == Deed::Retry && flags.get_flag("again"),
            reason: reason::of(flags),
            pace: Pace::of(flags),
            dry_run: flags.get_flag("dry-run"),
            consent: Consent::of(flags),
            json: flags.get_flag("json"),
        }
    }

    async fn run(self, queue: &Queue) -> anyhow::Result<ExitCode> {
        queue.refuse_spool().await?;
        let mut letters = Vec::new();
        let mut chosen = Chosen::of(queue, &self.filter).await?;
        while let Some(letter) = chosen.next().await? {
            letters.push(letter);
        }
        let all_found = chosen.tell_of_missing();
        let done = if letters.is_empty() {
            words::tell("Nothing to do: there are no dead letters, or these flags choose none.");
            true
        } else {
            // Whoever has closed stderr does without.
            let _ = self.preview(&letters);
            self.dry_run || self.agreed(&letters).await? && self.perform(queue, letters).await?
        };
        Ok(if all_found && done {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn preview(&self, letters: &[DeadLetter]) -> io::Result<()> {
        let mut out = io::stderr();
        Groups::of(letters).write(&mut out, Timestamp::now())?;
        for effect in effects(letters, self.deed, self.again) {
            writeln!(out, "{effect}")?;
        }
        if let Some(warning) = self.pace.warning(letters.len() as u64) {
            writeln!(out, "{warning}")?;
        }
        Ok(())
    }

    async fn agreed(&self, letters: &[DeadLetter]) -> anyhow::Result<bool> {
        let these = words::count(letters.len() as u64, "dead letter");
        let question = match self.deed {
            Deed::Retry => format!("Put {these} back?"),
            Deed::Drop => format!("Drop {these} for good?"),
        };
        let agreed = self.consent.to(question).await?;
        if !agreed {
            words::tell("Nothing was changed.");
        }
        Ok(agreed)
    }

    /// Does it. True when it was done to all.
    async fn perform(&self, queue: &Queue, letters: Vec<DeadLetter>) -> anyhow::Result<bool> {
        let mut run = Run::begin(letters.len() as u64, self.pace, FINISH_LIMIT)?;
        let taken = self.take(queue, letters, &mut run).await;
        let left = run.end(taken, self.deed.done(), |left| {
            format!("somebody else has taken {left} meanwhile")
        })?;
        Ok(left == 0)
    }

    /// Takes out one after the other and prints what was taken.
    async fn take(
        &self,
        queue: &Queue,
        letters: Vec<DeadLetter>,
        run: &mut Run,
    ) -> Result<(), Halt> {
        for (letters, verdict) in self.verdicts(letters) {
            let expected = letters.len();
            let taking = queue.dead_letters().take(letters, verdict);
            let print = |letter: &DeadLetter| self.print(letter);
            run.take(taking, expected, print).await?;
        }
        Ok(())
    }

    /// Who is treated how.
    fn verdicts(&self, letters: Vec<DeadLetter>) -> Vec<(Vec<DeadLetter>, Verdict)> {
        let reason = || self.reason.clone();
        let retry = |again| Verdict::Retry {
            reason: reason(),
            again,
            by: By::DEAD_RETRY,
        };
        match self.deed {
            Deed::Drop => vec![(letters, Verdict::Drop { reason: reason() })],
            Deed::Retry if self.again => {
                // To overrule the doubt about others would be to invite a second reply.
                let (doubtful, others): (Vec<_>, Vec<_>) =
                    letters.into_iter().partition(is_doubtful);
                let verdicts = [(doubtful, retry(true)), (others, retry(false))];
                let some = verdicts
                    .into_iter()
                    .filter(|(letters, _)| !letters.is_empty());
                some.collect()
            }
            Deed::Retry => vec![(letters, retry(false))],
        }
    }

    fn print(&self, letter: &DeadLetter) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            output::json(letter, &mut out)
        } else {
            writeln!(out, "{}", letter.id)
        }
    }
}

/// Whether the reply may be in the room, for all that anybody knows.
pub(crate) fn is_doubtful(letter: &DeadLetter) -> bool {
    letter.cause == Cause::Uncertain && letter.step == Step::Post
}

/// What will happen, in sentences.
fn effects(letters: &[DeadLetter], deed: Deed, again: bool) -> Vec<String> {
    if deed == Deed::Drop {
        let these = words::count(letters.len() as u64, "dead letter");
        return vec![format!(
            "{these} to be dropped: gone for good, and nobody is answered."
        )];
    }
    let number = |fits: &dyn Fn(&DeadLetter) -> bool| {
        letters.iter().filter(|letter| fits(letter)).count() as u64
    };
    let at = |step| {
        number(&|letter| {
            let other = matches!(letter.cause, Cause::Newer | Cause::Malformed);
            letter.step == step && !other && !is_doubtful(letter)
        })
    };
    let (ask, post) = (at(Step::Ask), at(Step::Post));
    // Once it was retried, it is the worker who does not understand it, before it asks.
    let malformed = at(Step::Receive) + number(&|letter| letter.cause == Cause::Malformed);
    let newer = number(&|letter| letter.cause == Cause::Newer);
    let doubtful = number(&is_doubtful);
    let asked = words::count(ask, "time");
    let effects = [
        (
            ask,
            format!("to be asked again; SimSimi may be asked {asked}."),
        ),
        (post, "to be posted; nothing is asked again.".to_owned()),
        (
            doubtful,
            if again {
                "to be posted WITHOUT LOOKING; a reply that is in its room already is said twice."
                    .to_owned()
            } else {
                "to be looked for in the room, and posted if certainly not there.".to_owned()
            },
        ),
        (
            malformed,
            "that could not be understood; given up again unless this release understands more."
                .to_owned(),
        ),
        (
            newer,
            "to be put back as written, for a worker of a newer release.".to_owned(),
        ),
    ];
    let mut sentences: Vec<String> = effects
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, effect)| format!("{number} {effect}"))
        .collect();
    if again && doubtful == 0 {
        sentences.push("--again changes nothing here: no uncertain reply is chosen.".to_owned());
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::a_letter;

    fn errand(deed: Deed, flags: &[&str]) -> Result<Errand, clap::Error> {
        let command = command(deed).no_binary_name(true);
        let matches = command.try_get_matches_from(flags)?;
        Ok(Errand::of(&matches, deed, Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn what_is_taken_has_to_be_said() {
        let wrong: [&[&str]; 8] = [
            &[],
            &["--yes"],
            &["--limit", "3"],
            &["--all", "--cause", "expired"],
            &["--all", "--rate", "10"],
            &["--all", "--reason", ""],
            &["--all", "--reason", "one\ntwo"],
            &["--all", "--reason", "\u{1b}[2J"],
        ];
        for flags in wrong {
            for deed in [Deed::Retry, Deed::Drop] {
                let error = errand(deed, flags).expect_err("wrong usage");
                assert_eq!(error.exit_code(), 2, "{flags:?}");
            }
        }
        let right: [&[&str]; 3] = [
            &["--all", "--limit", "3"],
            &["--cause", "expired", "--step", "ask"],
            &["01a20caa-3f93-70fb-83f5-248e49a65e0a", "--room", "3"],
        ];
        for flags in right {
            for deed in [Deed::Retry, Deed::Drop] {
                let errand = errand(deed, flags).expect("right usage");
                assert_eq!(errand.reason, deed.usual_reason());
                assert_eq!(errand.consent, Consent::ToBeAsked);
                assert_eq!(errand.pace.between(), Duration::from_millis(100));
            }
        }
        assert!(errand(Deed::Drop, &["--all", "--again"]).is_err());
    }

    async fn letters(kinds: &[(Step, Cause)]) -> Vec<DeadLetter> {
        let letter = a_letter().await;
        let letters = kinds.iter().map(|(step, cause)| DeadLetter {
            step: *step,
            cause: *cause,
            ..letter.clone()
        });
        letters.collect()
    }

    #[tokio::test]
    async fn the_doubt_about_uncertain_replies_alone_is_overruled() {
        let letters = letters(&[
            (Step::Post, Cause::Refused),
            (Step::Post, Cause::Uncertain),
            (Step::Ask, Cause::Exhausted),
        ])
        .await;
        let verdicts = |flags: &[&str]| -> Vec<(usize, bool)> {
            let errand = errand(Deed::Retry, flags).expect("right usage");
            let verdicts = errand.verdicts(letters.clone()).into_iter();
            verdicts
                .map(|(letters, verdict)| match verdict {
                    Verdict::Retry { again, .. } => (letters.len(), again),
                    Verdict::Drop { .. } => panic!("it is a retry"),
                })
                .collect()
        };
        assert_eq!(verdicts(&["--all"]), [(3, false)]);
        assert_eq!(verdicts(&["--all", "--again"]), [(1, true), (2, false)]);
    }

    #[tokio::test]
    async fn what_will_happen_is_said_before() {
        let all = letters(&[
            (Step::Receive, Cause::Malformed),
            (Step::Ask, Cause::Malformed),
            (Step::Ask, Cause::Exhausted),
            (Step::Ask, Cause::Poison),
            (Step::Post, Cause::Refused),
            (Step::Post, Cause::Uncertain),
            (Step::Post, Cause::Newer),
        ])
        .await;
        let said = effects(&all, Deed::Retry, false);
        let expected = [
            "2 to be asked again; SimSimi may be asked 2 times.",
            "1 to be posted; nothing is asked again.",
            "1 to be looked for in the room, and posted if certainly not there.",
            "2 that could not be understood; given up again unless this release understands more.",
            "1 to be put back as written, for a worker of a newer release.",
        ];
        assert_eq!(said, expected);
        let said = effects(&all, Deed::Retry, true);
        assert!(said[2].contains("WITHOUT LOOKING"), "{said:?}");
        let said = effects(&all[..1], Deed::Retry, true);
        assert!(said[1].contains("--again changes nothing"), "{said:?}");
        let said = effects(&all, Deed::Drop, false);
        assert!(
            said[0].starts_with("7 dead letters to be dropped"),
            "{said:?}"
        );
    }
}
