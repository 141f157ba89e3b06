//! Before a command changes anything, whoever runs it agrees: by `--yes`, or by answering.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches};

/// An answer is read up to this many bytes.
const LONGEST_ANSWER: u64 = 1024;

/// How consent is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// It was given on the command line.
    Given,
    /// A person has to be asked.
    ToBeAsked,
}

impl Consent {
    /// `--yes`.
    pub(crate) fn flag() -> Arg {
        Arg::new("yes")
            .long("yes")
            .short('y')
            .action(ArgAction::SetTrue)
            .help("Does not ask")
    }

    /// What the flags say.
    pub(crate) fn of(flags: &ArgMatches) -> Self {
        if flags.get_flag("yes") {
            Self::Given
        } else {
            Self::ToBeAsked
        }
    }

    /// An error if nobody can be asked: before anything is done that takes long.
    pub(crate) fn check(self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self == Self::Given || io::stdin().is_terminal(),
            "nothing was changed: there is no terminal to ask on; add --yes if that is what you want"
        );
        Ok(())
    }

    /// Whether it is agreed to this. Asking takes as long as the person takes.
    pub(crate) async fn to(self, question: String) -> anyhow::Result<bool> {
        match self {
            Self::Given => Ok(true),
            Self::ToBeAsked if io::stdin().is_terminal() => {
                let answered = tokio::task::spawn_blocking(move || ask(&question));
                Ok(agrees(&answered.await.context("nobody could be asked")??))
            }
            Self::ToBeAsked => anyhow::bail!(
                "nothing was changed: there is no terminal to ask \"{question}\" on; add --yes if that is what you want"
            ),
        }
    }
}

fn ask(question: &str) -> io::Result<String> {
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .take(LONGEST_ANSWER)
        .read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        // The end of the input: the next words begin on a line of their own.
        writeln!(io::stderr())?;
    }
    Ok(answer)
}

/// Anything that is not a clear yes is a no.
fn agrees(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for yes in ["y\n", "Y\n", "yes", " Yes \n"] {
            assert!(agrees(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "no\n", "ye\n", "yes please\n", "j\n"] {
            assert!(!agrees(no), "{no:?}");
        }
    }
}
