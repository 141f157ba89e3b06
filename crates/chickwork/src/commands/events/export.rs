//! `chickwork events export`: events with what became of them, to be read elsewhere or later, by `replay`,
//! by `dev --from`, or by other programs.

use std::fs::{self, File};
use std::io::{
    self, BufRead as _, BufReader, BufWriter, IsTerminal as _, Seek as _, SeekFrom, Write,
};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::Queue;
use chickwork_queue::event::EventId;
use chickwork_queue::events::Choice;
use clap::{Arg, ArgMatches, Command, value_parser};
use jiff::Timestamp;
use tempfile::{NamedTempFile, SpooledTempFile};

use crate::command_line::switch;
use crate::commands::operator::{on_queue, settings};
use crate::commands::{Call, Order};
use crate::export::Exported;
use crate::progress::{Looking, Through};
use crate::settings::read::Mistakes;
use crate::shutdown::Shutdown;
use crate::{choice, command_line, words};

/// So many bytes are collected in memory, and more in a file without a name.
const IN_MEMORY: usize = 8 * 1024 * 1024;
/// How long what is at hand may take once the command is to stop.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

const NOTES: &str = "\
One JSON object a line for each event, oldest first, with the webhook byte for byte: v, id,
bot, type, room_id, message_id, received_at, replay, state, why, body (or body_base64, if it is
no text) and outcomes, what became of it in its order. `chickwork replay --from FILE` and
`chickwork dev --from FILE` read such files. They hold what people said: keep them as such.

A file is written whole or not at all, readable to its owner alone, and only where none is,
unless --force. Until then the disk takes what is found, if it is more than a few megabytes.
Looking changes nothing. Ctrl-C leaves nothing. Exits 0, also when there is nothing to export,
or 1 when an event that was named is not there.";

const EXAMPLES: &str = "\
Examples:
  chickwork events export --since 1d --output yesterday.jsonl
  chickwork events export --state dead | chickwork dev --from -
  chickwork events export --room 446240519 | jq -r '.body | fromjson | .webhook_event.body'";

pub(super) fn command() -> Command {
    command_line::operators(
        "export",
        "Exports events with what became of them, for replay, dev --from or other programs",
    )
    .args(choice::flags())
    .arg(
        Arg::new("output")
            .long("output")
            .short('o')
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Writes to this file instead of the standard output"),
    )
    .arg(switch("force", "Overwrites the file if there is one").requires("output"))
    .after_help(format!("{NOTES}\n\n{}\n\n{EXAMPLES}", choice::STATES_NOTES))
}

/// What was asked for.
#[derive(Debug)]
struct Errand {
    choice: Choice,
    limit: Option<u64>,
    target: Target,
}

/// Where it goes.
#[derive(Debug, Clone)]
enum Target {
    Stdout,
    File { path: PathBuf, overwrites: bool },
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let errand = Errand::of(&call.flags, Timestamp::now());
    let work = async move {
        // Before anything that takes long.
        errand.target.check()?;
        on_queue(settings.queue, async move |queue| errand.run(queue).await).await
    };
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

impl Errand {
    fn of(flags: &ArgMatches, now: Timestamp) -> Self {
        let target = match flags.get_one::<PathBuf>("output") {
            None => Target::Stdout,
            Some(path) => Target::File {
                path: path.clone(),
                overwrites: flags.get_flag("force"),
            },
        };
        Self {
            choice: choice::of(flags, now),
            limit: choice::limit(flags),
            target,
        }
    }

    async fn run(self, queue: &Queue) -> anyhow::Result<ExitCode> {
        let (_trigger, shutdown) =
            Shutdown::on_signals(FINISH_LIMIT).context("cannot wait for signals")?;
        let mut pile = Pile::beside(&self.target)?;
        let mut missing: Vec<EventId> = self.choice.ids.clone();
        let mut events = queue.events(self.choice.clone(), self.limit);
        let mut looking = Looking::through(Through::Events(events.looked_through()));
        loop {
            let next = tokio::select! {
                next = looking.wait(events.next(), || Ok(())) => next?,
                () = shutdown.requested() => anyhow::bail!("stopped; nothing was exported"),
            };
            let Some(listed) = next? else { break };
            missing.retain(|id| *id != listed.event.id);
            pile.put(&Exported {
                event: listed.event,
                state: Some(listed.standing.as_str().to_owned()),
                why: listed.why,
                outcomes: listed.outcomes,
            })?;
        }
        drop(looking);
        let count = pile.len();
        // Blocking: a reader who is slow holds up nothing else.
        let target = self.target.clone();
        let written = tokio::task::spawn_blocking(move || pile.write_to(&target));
        tokio::select! {
            written = written => written.context("nothing could be written")??,
            () = shutdown.requested() => anyhow::bail!("stopped; not all of it was written"),
        }
        // Those beyond a limit were not looked for.
        missing.retain(|_| self.limit.is_none_or(|limit| count < limit));
        for id in &missing {
            words::tell(format_args!(
                "There is no such event, or these flags do not choose it: {id}."
            ));
        }
        match self.target {
            // Then that is said.
            _ if count == 0 && !missing.is_empty() => {}
            _ if count == 0 => {
                words::tell(
                    "Nothing was received that is still kept, or these flags choose none of it.",
                );
                if let Some(hint) = choice::hint_of_reply(queue, &self.choice).await? {
                    words::tell(hint);
                }
            }
            Target::Stdout if io::stdout().is_terminal() => {}
            Target::Stdout => {
                words::tell(format_args!("{} exported.", words::count(count, "event")))
            }
            Target::File { path, .. } => words::tell(format_args!(
                "{} exported to {}.",
                words::count(count, "event"),
                path.display()
            )),
        }
        Ok(match missing[..] {
            [] => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

impl Target {
    /// An error if it is certain that nothing can be written there.
    fn check(&self) -> anyhow::Result<()> {
        let Self::File { path, overwrites } = self else {
            return Ok(());
        };
        if path.is_dir() {
            anyhow::bail!("{} is a folder; name a file in it", path.display());
        }
        anyhow::ensure!(
            *overwrites || !fs::exists(path).unwrap_or(false),
            "{} exists already; --force overwrites it",
            path.display()
        );
        let folder = folder_of(path);
        anyhow::ensure!(
            folder.is_dir(),
            "there is no folder {} to write a file to",
            folder.display()
        );
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Lines that come newest first and go oldest first. A pile of a million has 8 bytes of memory for each.
struct Pile {
    lines: SpooledTempFile,
    /// Where each of them begins.
    begins: Vec<u64>,
    end: u64,
    line: Vec<u8>,
}

impl Pile {
    /// On the disk that the file will be on: there has to be room for it there anyway.
    fn beside(target: &Target) -> anyhow::Result<Self> {
        let lines = match target {
            Target::Stdout => tempfile::spooled_tempfile(IN_MEMORY),
            Target::File { path, .. } => tempfile::spooled_tempfile_in(IN_MEMORY, folder_of(path)),
        };
        Ok(Self {
            lines,
            begins: Vec::new(),
            end: 0,
            line: Vec::new(),
        })
    }

    fn put(&mut self, exported: &Exported) -> anyhow::Result<()> {
        self.line.clear();
        exported.write(&mut self.line)?;
        self.begins.push(self.end);
        self.end += self.line.len() as u64;
        self.lines
            .write_all(&self.line)
            .context("what was found cannot be kept on the disk until it is exported")
    }

    fn len(&self) -> u64 {
        self.begins.len() as u64
    }

    fn write_to(self, target: &Target) -> anyhow::Result<()> {
        let (path, overwrites) = match target {
            Target::Stdout => {
                let mut out = BufWriter::new(io::stdout().lock());
                self.unpile(&mut out)?;
                return Ok(out.flush()?);
            }
            Target::File { path, overwrites } => (path, *overwrites),
        };
        let cannot = || format!("{} cannot be written", path.display());
        let mut file = NamedTempFile::new_in(folder_of(path)).with_context(cannot)?;
        let written = self.into_file(&mut file);
        written.with_context(cannot)?;
        let persisted = if overwrites {
            file.persist(path)
        } else {
            // Somebody may have made one meanwhile.
            file.persist_noclobber(path)
        };
        persisted
            .map_err(|error| error.error)
            .with_context(cannot)?;
        Ok(())
    }

    fn into_file(self, file: &mut NamedTempFile) -> io::Result<()> {
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
        let mut out = BufWriter::new(file.as_file_mut());
        self.unpile(&mut out)?;
        let file: &mut File = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()
    }

    /// From the last to the first.
    fn unpile(self, out: &mut impl Write) -> io::Result<()> {
        let mut lines = BufReader::new(self.lines);
        let mut line = Vec::new();
        for begin in self.begins.into_iter().rev() {
            lines.seek(SeekFrom::Start(begin))?;
            line.clear();
            lines.read_until(b'\n', &mut line)?;
            out.write_all(&line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::events::list::tests::listed;

    fn exported(text: &str) -> Exported {
        let listed = listed(text);
        Exported {
            event: listed.event,
            state: None,
            why: None,
            outcomes: Vec::new(),
        }
    }

    fn file(path: &Path, overwrites: bool) -> Target {
        let path = path.to_owned();
        Target::File { path, overwrites }
    }

    #[test]
    fn what_was_found_last_is_written_first_however_much_it_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("events.jsonl");
        let target = file(&path, false);
        target.check().expect("it can be written");
        let mut pile = Pile::beside(&target).expect("a pile");
        let texts = [
            "third".to_owned(),
            "x".repeat(IN_MEMORY),
            "first".to_owned(),
        ];
        for text in &texts {
            pile.put(&exported(text)).expect("room for it");
        }
        assert_eq!(pile.len(), 3);
        pile.write_to(&target).expect("it is written");
        let written = fs::read_to_string(&path).expect("it is there");
        let expected: Vec<u8> = texts.iter().rev().fold(Vec::new(), |mut out, text| {
            exported(text).write(&mut out).expect("a vector takes it");
            out
        });
        assert!(written.as_bytes() == expected);
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
        assert_eq!(left.len(), 1, "nothing else is left: {left:?}");
    }

    #[test]
    fn a_file_that_is_there_is_overwritten_only_by_force() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("events.jsonl");
        let pile = |target| {
            let mut pile = Pile::beside(target).expect("a pile");
            pile.put(&exported("hi")).expect("room for it");
            pile
        };
        let (careful, forced) = (file(&path, false), file(&path, true));
        careful.check().expect("nothing is there");
        // Now somebody makes one.
        fs::write(&path, "precious").expect("it is written");
        assert!(careful.check().is_err());
        assert!(pile(&careful).write_to(&careful).is_err());
        assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
        forced.check().expect("it may be overwritten");
        pile(&forced).write_to(&forced).expect("it is written");
        assert!(
            fs::read_to_string(&path)
                .expect("a file")
                .starts_with("{\"v\":1")
        );
        let nowhere = file(&folder.path().join("nowhere/events.jsonl"), true);
        assert!(nowhere.check().is_err());
        assert!(file(folder.path(), true).check().is_err());
    }
}
