//! `chickwork events purge`: what is kept of a room or a message is forgotten before its time, where
//! that can be done. Where it cannot, the command says what remains, and until when.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::dead::{DeadLetter, Verdict};
use chickwork_queue::event::BotName;
use chickwork_queue::purge::{Kept, Purged, Whose};
use chickwork_queue::{Queue, QueueError};
use clap::{ArgGroup, ArgMatches, Command, value_parser};
use jiff::Timestamp;
use serde::Serialize;

use super::super::operator::{on_queue, settings};
use super::{reply, whom};
use crate::command_line::{self, switch};
use crate::commands::{Call, Order};
use crate::consent::Consent;
use crate::filter::{HEADING, bot};
use crate::progress::{Looking, Progress, Through};
use crate::settings::read::Mistakes;
use crate::shutdown::Shutdown;
use crate::{output, reason, words};

/// How long what is at hand may take once the command is to stop.
const FINISH_LIMIT: Duration = Duration::from_secs(30);
/// What stands in the outcomes of dead letters that are dropped, unless a reason is given.
const USUAL_REASON: &str = "events purge";
/// How long the file may be written anew while others use it: they wait for as long, and a little more,
/// before they give up (5 s).
const BESIDE_OTHERS: Duration = Duration::from_secs(3);
/// How long when nobody does.
const ALONE: Duration = Duration::from_secs(3600);

const NOTES: &str = "\
Forgotten are: the archived events, what outcomes quote of questions and answers,
and the dead letters. What became of each event stays known, without words, so
nothing is answered twice and `audit` can explain it. An event that came to no end
is said beforehand, and counts as dropped then: look at `audit --requeue` first.
What still waits to be answered is left: run this again once it was. A message and the
bot's replies to it are forgotten together, whichever of them is named. Only a reply whose
id Chatwork did not tell is not known by it: name what it answers, or the room.

On a file it is gone from the disk. For that the file is written anew at last, as older
releases left in it what they deleted: nobody else can write to it meanwhile, so it is
not tried for longer than 3 seconds, unless the bot is stopped and --stopped says so. It
takes room for two copies of what is kept, one of them where SQLITE_TMPDIR says.

A broker cannot forget single messages: there the dead letters are dropped, and you are
told what remains, until when, and what can be done. First you are told what will happen,
then you are asked, unless --yes. Exits 0 when nothing is left, else 1.

JSON has: room_id, message_id (the one that was answered), replies (the bot's to it), bot,
dry_run; what was forgotten, or would be: events, unexplained (those of them that had come
to no end), texts (outcomes with words), letters; rewritten (whether the file was written
anew; null on a broker); what was left: waiting (events that are yet to be answered; null on
a broker, which cannot tell), nobodys (outcomes that this release cannot read, of whomever
they are), remaining_events, remaining_texts, remaining_letters, and until (when a broker
has forgotten them, or null).

Examples:
  chickwork events purge --room 446240519 --dry-run
  chickwork events purge --message 446240519-1795508813713968449
  chickwork events purge --room 446240519 --reason 'asked for by its owner' --yes";

/// What the broker's log of dead letters means for whoever wants something forgotten.
const LETTERS_REMAIN: &str = "\
The log of dead letters may keep copies of dropped ones until 200 MB of younger ones have come.";
/// What a broker cannot tell.
const MAY_WAIT: &str = "\
What waits in the broker's queues will still be answered, and what is given up then is a dead letter: \
run this again once nothing waits.";
const STREAMS_REMAIN: &str = "\
If that is too late, delete the stream as a whole, which costs the memory of all rooms:
see \"Forgetting on request\" in docs/operations.md.";

pub(crate) fn command() -> Command {
    let flag = |name: &'static str, value: &'static str, help: &'static str| {
        command_line::value(name, value, help).help_heading(HEADING)
    };
    command_line::operators("purge", "Forgets what is kept of a room or a message")
        .arg(flag("room", "ID", "What was said in this room").value_parser(value_parser!(u64)))
        .arg(
            flag(
                "message",
                "ROOM-MESSAGE",
                "What has to do with this message and the bot's replies to it, as in the end of the link of any of them",
            )
            .value_parser(message),
        )
        .arg(flag("bot", "NAME", "Only what was sent to this bot").value_parser(bot))
        .group(
            ArgGroup::new("which")
                .args(["room", "message"])
                .required(true),
        )
        .arg(
            reason::flag(USUAL_REASON)
                .help("Why; kept in the outcomes of each dropped dead letter"),
        )
        .arg(switch(
            "stopped",
            "The bot is stopped: takes up to an hour to write the file anew",
        ))
        .arg(switch("dry-run", "Says what would happen, and ends"))
        .arg(Consent::flag())
        .arg(switch("json", "Prints what was done as JSON"))
        .after_help(NOTES)
}

/// `ROOM-MESSAGE` on the command line, in whichever form somebody has it, but never without the room.
fn message(text: &str) -> Result<(RoomId, MessageId), String> {
    match whom::Named::of(&[text]) {
        Ok(whom::Named::Message(Some(room), message)) => Ok((room, message)),
        _ => Err(
            "names no room and message, such as 446240519-1795508813713968449 at the end of a link; `chickwork events show` tells both"
                .to_owned(),
        ),
    }
}

/// What was asked for.
#[derive(Debug)]
struct Errand {
    whose: Whose,
    reason: String,
    rewriting: Duration,
    dry_run: bool,
    consent: Consent,
    json: bool,
}

/// What was done, or would be; a contract.
#[derive(Debug, Serialize)]
struct Report<'a> {
    room_id: RoomId,
    message_id: Option<&'a MessageId>,
    /// The bot's replies to it, which are forgotten with it.
    replies: &'a [MessageId],
    bot: Option<&'a BotName>,
    dry_run: bool,
    /// What was forgotten, or would be.
    events: u64,
    /// Those of them that had come to no end.
    unexplained: u64,
    texts: u64,
    letters: u64,
    /// Whether the file was written anew; `None` on a broker.
    rewritten: Option<bool>,
    /// Events that wait to be answered, and were left; `None`: a broker cannot tell.
    waiting: Option<u64>,
    /// Outcomes that this release cannot read, of whomever they are, and that were left.
    nobodys: u64,
    /// What was not forgotten, and until when it stays at the latest.
    remaining_events: u64,
    remaining_texts: u64,
    remaining_letters: u64,
    until: Option<Timestamp>,
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let errand = Errand::of(&call.flags);
    let work = on_queue(settings.queue, async move |queue| errand.run(queue).await);
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

impl Errand {
    fn of(flags: &ArgMatches) -> Self {
        let bot = flags.get_one("bot").cloned();
        let whose = match flags.get_one::<(RoomId, MessageId)>("message").cloned() {
            Some((room, message)) => Whose {
                room,
                messages: vec![message],
                bot,
            },
            None => Whose {
                room: RoomId(*flags.get_one("room").expect("one of the group is required")),
                messages: Vec::new(),
                bot,
            },
        };
        Self {
            whose,
            reason: reason::of(flags),
            rewriting: if flags.get_flag("stopped") {
                ALONE
            } else {
                BESIDE_OTHERS
            },
            dry_run: flags.get_flag("dry-run"),
            consent: Consent::of(flags),
            json: flags.get_flag("json"),
        }
    }

    async fn run(mut self, queue: &Queue) -> anyhow::Result<ExitCode> {
        queue.refuse_spool().await?;
        let looked = Arc::<AtomicU64>::default();
        let reading = async {
            let look = || {
                looked.fetch_add(1, Ordering::Relaxed);
            };
            with_all_of_the_exchange(&mut self.whose, queue, look).await?;
            queue.kept_of(&self.whose, look).await
        };
        let kept = Looking::through(Through::Records(looked.clone()))
            .wait(reading, || Ok(()))
            .await??;
        let can = queue.forgets_single_messages();
        let nothing = kept.events + kept.texts == 0 && kept.letters.is_empty();
        let left = kept.waiting.unwrap_or(0) + kept.nobodys;
        if nothing && left == 0 {
            words::tell(format_args!("Nothing is kept of {}.", Named(&self.whose)));
            if !can {
                words::tell(LETTERS_REMAIN);
                words::tell(MAY_WAIT);
                return self.done(&kept, &Done::nothing(), ExitCode::SUCCESS);
            }
        } else {
            for sentence in preview(&self.whose, &kept, can) {
                words::tell(sentence);
            }
        }
        if self.dry_run {
            return self.done(&kept, &Done::all(&kept, can), ExitCode::SUCCESS);
        }
        if !can && kept.letters.is_empty() {
            words::tell("Nothing was changed.");
            return self.done(&kept, &Done::nothing(), ExitCode::FAILURE);
        }
        // What nobody can see any more may still be in the file: to remove that nobody has to be asked.
        if !nothing && !self.consent.to(question(&kept, can)).await? {
            words::tell("Nothing was changed.");
            return Ok(ExitCode::FAILURE);
        }
        let done = self.perform(queue, &kept.letters).await?;
        if !nothing {
            words::tell(format_args!(
                "Forgotten: {}.",
                things(done.purged.events, done.purged.texts, done.letters)
            ));
        }
        if let Some(reason) = &done.purged.not_rewritten {
            words::tell(format_args!(
                "The file was not written anew ({reason}), so it may still hold what an older release \
                 deleted and did not overwrite. Stop the bot and run this again with --stopped."
            ));
        }
        if can && !done.stopped && !done.purged.journal_emptied {
            words::tell(
                "Somebody keeps the file's journal from being emptied, which has copies. Run this again, \
                 or see to it that a worker or an ingress uses the file for a minute.",
            );
        }
        if done.stopped {
            words::tell("Stopped before the end: run this again for the rest.");
        }
        let is_left = done.stopped
            || left > 0
            || !can
            || done.purged.not_rewritten.is_some()
            || !done.purged.journal_emptied
            || done.letters < kept.letters.len() as u64;
        let code = if is_left {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
        self.done(&kept, &done, code)
    }

    /// Does it, or as much of it as there is time for.
    async fn perform(&self, queue: &Queue, letters: &[DeadLetter]) -> anyhow::Result<Done> {
        // From here on: a prompt is better interrupted in the usual way.
        let (_trigger, shutdown) =
            Shutdown::on_signals(FINISH_LIMIT).context("cannot wait for signals")?;
        let mut done = Done::nothing();
        let verdict = Verdict::Drop {
            reason: self.reason.clone(),
        };
        let mut progress = Progress::of(letters.len() as u64);
        let mut taking = queue.dead_letters().take(letters.to_vec(), verdict);
        // First the letters: their bytes are in the file until they are dropped.
        loop {
            if shutdown.is_requested() {
                done.stopped = true;
                return Ok(done);
            }
            let taken = tokio::select! {
                taken = taking.next() => taken.context("the dead letters cannot be dropped")?,
                () = shutdown.deadline() => None,
            };
            if taken.is_none() {
                break;
            }
            done.letters += 1;
            progress.step();
        }
        drop(progress);
        let reason = format!("purged ({})", self.reason);
        tokio::select! {
            purged = queue.purge(&self.whose, &reason, self.rewriting) => {
                let purged = purged.context("what is kept cannot be removed")?;
                done.rewritten = purged.as_ref().map(|purged| purged.not_rewritten.is_none());
                done.purged = purged.unwrap_or_default();
            }
            () = shutdown.deadline() => done.stopped = true,
        }
        Ok(done)
    }

    /// Prints what was done, if that is wanted.
    fn done(&self, kept: &Kept, done: &Done, code: ExitCode) -> anyhow::Result<ExitCode> {
        if !self.json {
            return Ok(code);
        }
        let report = self.report(kept, done);
        output::end(output::json(&report, &mut io::stdout().lock()), code)
    }

    fn report(&self, kept: &Kept, done: &Done) -> Report<'_> {
        let letters = kept.letters.len() as u64;
        let remaining_events = kept.events.saturating_sub(done.purged.events);
        let remaining_texts = kept.texts.saturating_sub(done.purged.texts);
        Report {
            room_id: self.whose.room,
            message_id: self.whose.messages.first(),
            replies: self.whose.messages.get(1..).unwrap_or_default(),
            bot: self.whose.bot.as_ref(),
            dry_run: self.dry_run,
            events: done.purged.events,
            unexplained: done.purged.unexplained,
            texts: done.purged.texts,
            letters: done.letters,
            rewritten: done.rewritten,
            waiting: kept.waiting,
            nobodys: kept.nobodys,
            remaining_events,
            remaining_texts,
            remaining_letters: letters.saturating_sub(done.letters),
            until: kept.until,
        }
    }
}

/// Of a message and the bot's replies to it one quotes the other: whichever was named, all of them are meant.
/// The one that was answered comes first.
async fn with_all_of_the_exchange(
    whose: &mut Whose,
    queue: &Queue,
    looked: impl FnMut(),
) -> Result<(), QueueError> {
    let Some(named) = whose.messages.first().cloned() else {
        return Ok(());
    };
    let exchange = reply::exchange(queue, whose.room, named.clone(), whose.bot.as_ref(), looked);
    let (answered, replies) = exchange.await?;
    if answered != named {
        words::tell(format_args!(
            "Message {named} is the bot's reply to message {answered}: what is kept of the two is forgotten together."
        ));
    }
    whose.messages = vec![answered];
    whose.messages.extend(replies);
    Ok(())
}

/// What was done.
#[derive(Debug)]
struct Done {
    letters: u64,
    purged: Purged,
    /// Whether the file was written anew; `None` on a broker.
    rewritten: Option<bool>,
    stopped: bool,
}

impl Done {
    fn nothing() -> Self {
        Self {
            letters: 0,
            purged: Purged::default(),
            rewritten: None,
            stopped: false,
        }
    }

    /// All that can be done.
    fn all(kept: &Kept, can: bool) -> Self {
        let purged = Purged {
            events: kept.events,
            unexplained: kept.unexplained,
            texts: kept.texts,
            journal_emptied: true,
            not_rewritten: None,
        };
        Self {
            letters: kept.letters.len() as u64,
            purged: if can { purged } else { Purged::default() },
            rewritten: can.then_some(true),
            stopped: false,
        }
    }
}

/// Whose it is, in words.
struct Named<'a>(&'a Whose);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Whose {
            room,
            messages,
            bot,
        } = self.0;
        match &messages[..] {
            [] => write!(f, "room {room}")?,
            [message] => write!(f, "message {message} of room {room}")?,
            [message, _] => write!(f, "message {message} of room {room} and the reply to it")?,
            [message, ..] => write!(f, "message {message} of room {room} and the replies to it")?,
        }
        match bot {
            Some(bot) => write!(f, ", sent to {bot}"),
            None => Ok(()),
        }
    }
}

fn things(events: u64, texts: u64, letters: u64) -> String {
    format!(
        "{}, {} with words, {}",
        words::count(events, "archived event"),
        words::count(texts, "outcome"),
        words::count(letters, "dead letter")
    )
}

/// What will happen, in sentences.
fn preview(whose: &Whose, kept: &Kept, can: bool) -> Vec<String> {
    let letters = kept.letters.len() as u64;
    let all = things(kept.events, kept.texts, letters);
    let mut said = vec![format!("Kept of {}: {all}.", Named(whose))];
    if kept.unexplained > 0 {
        said.push(format!(
            "Came to no end, and wait nowhere: {} of them. Nobody was answered. Afterwards they count as \
             dropped, and cannot be put back; `chickwork audit --requeue` has them answered.",
            words::count(kept.unexplained, "archived event")
        ));
    }
    match kept.waiting {
        Some(0) => {}
        Some(waiting) => said.push(format!(
            "Left, as they wait to be answered: {}, with all that belongs to them.",
            words::count(waiting, "event")
        )),
        None => said.push(MAY_WAIT.to_owned()),
    }
    if kept.nobodys > 0 {
        said.push(format!(
            "Left, as nobody can tell whether they are about it: {} that this release cannot read.",
            words::count(kept.nobodys, "outcome")
        ));
    }
    if can {
        said.push("What became of each event stays known, without words.".to_owned());
    } else {
        if let Some(until) = kept.until {
            said.push(format!(
                "A broker cannot forget single messages: the archived events and outcomes stay, until {} at \
                 the latest.",
                words::time(until)
            ));
            said.push(STREAMS_REMAIN.to_owned());
        }
        said.push(LETTERS_REMAIN.to_owned());
    }
    if letters > 0 {
        said.push("Who was not answered because of a dead letter never will be.".to_owned());
    }
    said
}

fn question(kept: &Kept, can: bool) -> String {
    let letters = kept.letters.len() as u64;
    if can {
        let all = things(kept.events, kept.texts, letters);
        format!("Forget {all} for good?")
    } else {
        let these = words::count(letters, "dead letter");
        format!("Drop {these} for good?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_its_room_and_its_id_or_by_its_link() {
        let named = (RoomId(42), MessageId::new("7").expect("a digit"));
        for text in ["42-7", "#!rid42-7", "https://www.chatwork.com/#!rid42-7"] {
            assert_eq!(message(text).as_ref(), Ok(&named), "{text}");
        }
        for text in [
            "",
            "42",
            "7",
            "42-",
            "-7",
            "x-7",
            "42-7-8",
            "https://x/42-7",
        ] {
            let error = message(text).expect_err(text);
            assert!(error.contains("446240519-"), "{error}");
        }
    }

    #[test]
    fn the_fields_in_json_are_a_contract() {
        let matches = command()
            .no_binary_name(true)
            .try_get_matches_from(["--message", "42-7", "--bot", "bot", "--yes", "--json"])
            .expect("right usage");
        let kept = Kept {
            events: 3,
            texts: 5,
            waiting: Some(1),
            nobodys: 2,
            until: Some("2026-12-24T08:00:00Z".parse().expect("a time")),
            ..Kept::default()
        };
        let mut done = Done::nothing();
        (done.purged.events, done.purged.texts) = (2, 1);
        let errand = Errand::of(&matches);
        let report = serde_json::to_string(&errand.report(&kept, &done)).expect("JSON");
        let expected = r#"{"room_id":42,"message_id":"7","replies":[],"bot":"bot","dry_run":false,"events":2,"unexplained":0,"texts":1,"letters":0,"rewritten":null,"waiting":1,"nobodys":2,"remaining_events":1,"remaining_texts":4,"remaining_letters":0,"until":"2026-12-24T08:00:00Z"}"#;
        assert_eq!(report, expected);
    }

    #[test]
    fn what_a_broker_keeps_is_said_with_its_date_and_what_can_be_done() {
        let whose = Whose {
            room: RoomId(42),
            messages: Vec::new(),
            bot: None,
        };
        let kept = Kept {
            events: 2,
            texts: 1,
            until: Some("2026-12-24T08:00:00Z".parse().expect("a time")),
            ..Kept::default()
        };
        let said = preview(&whose, &kept, false).join(" ");
        for part in [
            "2 archived events",
            "1 outcome with",
            "2026-12-24T08:00:00Z",
            "operations.md",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        let kept = Kept {
            waiting: Some(0),
            ..kept
        };
        let said = preview(&whose, &kept, true).join(" ");
        assert!(!said.contains("2026") && !said.contains("broker"), "{said}");
    }
}
