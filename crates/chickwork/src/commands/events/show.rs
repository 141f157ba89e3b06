//! `chickwork events show`: the whole story of an event, in time order, and what it comes to.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::events::{Standing, Story};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Queue, QueueError, Settings};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};
use jiff::Timestamp;
use serde::Serialize;

use super::message::Message;
use super::verdict::{received_at, verdict};
use super::whom::Named;
use crate::commands::dead::{on_queue, settings};
use crate::commands::{Call, Order};
use crate::filter::bot;
use crate::progress::Looking;
use crate::settings::read::Mistakes;
use crate::{command_line, output, telling, words};

/// A text of a message is shown up to this length, in characters.
const LONGEST_TEXT: usize = 4096;
/// Where the words of a step begin.
const STEP_INDENT: usize = 41;

const NOTES: &str = "\
WHAT is an event's id, a message's id, a room's and a message's id (as two words or as
ROOM-MESSAGE), a link to a message (in quotes, as shells have their own idea of #! and !),
or a reply tag. Several events may be about one message: all of them are shown. The story
is told with the durations between its steps, and shows what was asked, answered and said.
Looking changes nothing. Exits 1 when nothing is known of it.

JSON has one object a line for each event: id, bot, type, room_id, message_id, sender, text,
received_at, state, why, reply_message_id, replay, outcomes (as in the outcomes stream), and
letter (its dead letter as in `dead list --json`, or null).

Examples:
  chickwork events show 01a20caa-3f93-70fb-83f5-248e49a65e0a
  chickwork events show 'https://www.chatwork.com/#!rid446240519-1795508813713968449'
  chickwork events show 446240519 1795508813713968449 --json | jq .outcomes";

pub(super) fn command() -> Command {
    command_line::operators(
        "show",
        "Tells the whole story of an event: why did the bot (not) reply?",
    )
    .arg(
        Arg::new("what")
            .value_name("WHAT")
            .required(true)
            .num_args(1..=2)
            .help("The event or the message, in one of the forms below"),
    )
    .arg(
        Arg::new("bot")
            .long("bot")
            .value_name("NAME")
            .value_parser(bot)
            .help("Only what this bot has to do with the message"),
    )
    .arg(
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Prints one JSON object a line"),
    )
    .after_help(NOTES)
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let words = call.flags.get_many::<String>("what").into_iter().flatten();
    let words: Vec<&str> = words.map(String::as_str).collect();
    let named = Named::of(&words).unwrap_or_else(|error| {
        let error = format!("'{}' {error}", words.join(" "));
        command().error(ErrorKind::ValueValidation, error).exit()
    });
    let bot: Option<BotName> = call.flags.get_one("bot").cloned();
    let json = call.flags.get_flag("json");
    let kept = Kept::of(&settings.queue);
    let work = on_queue(settings.queue, async move |queue| {
        let whom = named.clone().whom(bot);
        let mut looking = Looking::through(Arc::default());
        let stories = looking.wait(queue.stories(&whom), || Ok(())).await??;
        drop(looking);
        if stories.is_empty() {
            return Err(nothing(queue, &named, &kept).await);
        }
        let mut out = BufWriter::new(io::stdout());
        if json {
            for story in &stories {
                output::json(&Shown::of(story), &mut out)?;
            }
        } else {
            tell(&stories, &named, Timestamp::now(), &mut out)?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    });
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

/// How long what is kept.
#[derive(Debug)]
struct Kept {
    events: std::time::Duration,
    outcomes: std::time::Duration,
}

impl Kept {
    fn of(settings: &Settings) -> Self {
        Self {
            events: settings.archive_keep,
            outcomes: settings.outcomes_keep(),
        }
    }
}

/// Says where it was looked for, and what else can be tried.
async fn nothing(queue: &Queue, named: &Named, kept: &Kept) -> anyhow::Error {
    let archive = if kept.events.is_zero() {
        "There is no archive (CHICKWORK_ARCHIVE_KEEP is 0)".to_owned()
    } else {
        match oldest(queue).await {
            Ok(Some(at)) => format!(
                "The archive goes back to {} (CHICKWORK_ARCHIVE_KEEP is {})",
                words::time(at),
                words::length(kept.events),
            ),
            Ok(None) => "The archive is empty".to_owned(),
            Err(error) => format!("The archive cannot be read ({error})"),
        }
    };
    let outcomes = words::length(kept.outcomes);
    let place = queue.describe();
    let hint = match named {
        Named::Event(_) => "Is it the right queue (--queue, --namespace)?",
        Named::Message(..) => {
            "Either no webhook about it was taken, or this is not its queue (--queue, --namespace). \
             An ingress may have it in its spool (--queue sqlite:spool.db). \
             `chickwork recover` finds mentions that no webhook told of."
        }
    };
    anyhow::anyhow!(
        "nothing is known of {named}: it is neither in the archive, nor among the outcomes, the jobs and the dead letters of {place}.\n{archive}; outcomes are kept for {outcomes}.\n{hint}"
    )
}

async fn oldest(queue: &Queue) -> Result<Option<Timestamp>, QueueError> {
    let first = queue.archive().read(Timestamp::MIN).next().await?;
    Ok(first.map(|event| event.received_at))
}

/// All that is known of an event; the fields are a contract.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: EventId,
    bot: Option<&'a BotName>,
    #[serde(rename = "type")]
    event_type: Option<&'a str>,
    room_id: Option<RoomId>,
    message_id: Option<&'a MessageId>,
    sender: Option<AccountId>,
    text: Option<String>,
    received_at: Option<Timestamp>,
    state: Standing,
    why: Option<&'a str>,
    reply_message_id: Option<&'a MessageId>,
    replay: u32,
    outcomes: &'a [Outcome],
    letter: Option<&'a chickwork_queue::dead::DeadLetter>,
}

impl<'a> Shown<'a> {
    fn of(story: &'a Story) -> Self {
        let about = About::of(story);
        let message = story.event.as_ref().and_then(Message::of);
        Self {
            id: story.id,
            bot: about.bot,
            event_type: about.event_type,
            room_id: about.room_id,
            message_id: about.message_id,
            sender: about.sender,
            text: message.map(|message| message.text),
            received_at: received_at(story),
            state: story.standing,
            why: story.why.as_deref(),
            reply_message_id: story.reply_message_id.as_ref(),
            replay: story.replay,
            outcomes: &story.outcomes,
            letter: story.letter.as_ref(),
        }
    }
}

/// What an event is about, from whatever is known of it.
#[derive(Debug)]
struct About<'a> {
    bot: Option<&'a BotName>,
    event_type: Option<&'a str>,
    room_id: Option<RoomId>,
    message_id: Option<&'a MessageId>,
    sender: Option<AccountId>,
}

impl<'a> About<'a> {
    fn of(story: &'a Story) -> Self {
        let event = story.event.as_ref();
        let letter = story.letter.as_ref();
        let outcome = story.outcomes.first();
        let sender = event.and_then(Message::of).map(|message| message.sender);
        Self {
            bot: event
                .map(|event| &event.bot)
                .or_else(|| letter.map(|letter| &letter.bot))
                .or_else(|| outcome.map(|outcome| &outcome.bot)),
            event_type: event
                .map(|event| event.event_type)
                .or_else(|| letter.map(|letter| letter.event_type.as_str())),
            room_id: event
                .and_then(|event| event.room_id)
                .or_else(|| letter.and_then(|letter| letter.room_id))
                .or_else(|| outcome.and_then(|outcome| outcome.room_id)),
            message_id: event
                .and_then(|event| event.message_id.as_ref())
                .or_else(|| letter.and_then(|letter| letter.message_id.as_ref()))
                .or_else(|| outcome.and_then(|outcome| outcome.message_id.as_ref())),
            sender: sender.or_else(|| {
                story
                    .outcomes
                    .iter()
                    .find_map(|outcome| match outcome.what {
                        What::Asked { sender, .. } => Some(sender),
                        _ => None,
                    })
            }),
        }
    }
}

fn tell(stories: &[Story], named: &Named, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    if stories.len() > 1 {
        let count = words::count(stories.len() as u64, "event");
        writeln!(out, "{count} came in about {named}, oldest first.")?;
        writeln!(out)?;
    }
    for (number, story) in stories.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        one(story, now, out)?;
    }
    Ok(())
}

fn one(story: &Story, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    let verdict = verdict(story, now);
    writeln!(out, "{}", words::line(&verdict.answer, usize::MAX))?;
    for because in &verdict.because {
        writeln!(out, "{because}")?;
    }
    for next in &verdict.next {
        writeln!(out, "  {next}")?;
    }
    writeln!(out)?;
    head(story, now, out)?;
    writeln!(out)?;
    steps(story, out)
}

/// What it is about.
fn head(story: &Story, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<10}{value}");
    let about = About::of(story);
    line("event", &story.id.to_string())?;
    let (bot, kind) = (about.bot.map(BotName::as_str), about.event_type);
    line("bot", bot.unwrap_or("not known"))?;
    if let Some(kind) = kind {
        line("type", &words::line(kind, usize::MAX))?;
    }
    if let Some(room) = about.room_id {
        line("room", &room.to_string())?;
    }
    if let Some(message) = about.message_id {
        line("message", message.as_str())?;
    }
    if let Some(sender) = about.sender {
        line("sender", &sender.to_string())?;
    }
    let time = |at| format!("{} ({})", words::time(at), words::ago(at, now));
    let message = story.event.as_ref().and_then(Message::of);
    if let Some(sent_at) = message.as_ref().and_then(|message| message.sent_at) {
        line("sent", &time(sent_at))?;
    }
    if let Some(at) = received_at(story) {
        line("received", &time(at))?;
    }
    if story.replay > 0 {
        line("put back", &words::count(story.replay.into(), "time"))?;
    }
    let state = match &story.why {
        Some(why) => format!(
            "{}: {}",
            story.standing.as_str(),
            words::line(why, usize::MAX)
        ),
        None => story.standing.as_str().to_owned(),
    };
    line("state", &state)?;
    match (&story.event, message) {
        (_, Some(message)) => text("said", &message.text, 10, out),
        (Some(event), None) => {
            let size = words::size(event.body.len() as u64);
            writeln!(out, "{:<10}{size} that are no message", "holds")
        }
        (None, None) => writeln!(
            out,
            "{:<10}The event itself is not kept any more, only what became of it.",
            ""
        ),
    }
}

/// A text of people or of SimSimi, in its lines.
fn text(name: &str, text: &str, indent: usize, out: &mut impl Write) -> io::Result<()> {
    let mut shown: String = text.chars().take(LONGEST_TEXT).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    let mut name = name;
    for line in words::lines(&shown).split('\n') {
        writeln!(out, "{name:<indent$}{line}")?;
        name = "";
    }
    Ok(())
}

/// The story itself.
fn steps(story: &Story, out: &mut impl Write) -> io::Result<()> {
    let is_received = |outcome: &Outcome| matches!(outcome.what, What::Received { .. });
    let mut before = received_at(story);
    let told_received = story.outcomes.iter().any(is_received);
    if let (Some(at), false) = (before, told_received) {
        step(at, None, "received", out)?;
    }
    let mut in_doubt = false;
    for outcome in &story.outcomes {
        let since = before.map(|before| telling::span(telling::between(before, outcome.at)));
        let since = since.filter(|_| !is_received(outcome));
        step(
            outcome.at,
            since.as_deref(),
            &words_of(outcome, in_doubt),
            out,
        )?;
        details(&outcome.what, out)?;
        match &outcome.what {
            What::Intent { .. } => in_doubt = true,
            What::NotPosted { .. } | What::Posted { .. } => in_doubt = false,
            What::Looked { result, .. } if result == "absent" => in_doubt = false,
            _ => {}
        }
        before = Some(outcome.at);
    }
    Ok(())
}

fn step(at: Timestamp, since: Option<&str>, what: &str, out: &mut impl Write) -> io::Result<()> {
    let since = since.map(|since| format!("+{since}")).unwrap_or_default();
    let at = words::time_of_step(at);
    writeln!(out, "{at} {since:>14}  {}", words::line(what, usize::MAX))
}

/// The outcome, with what is told of it only here.
fn words_of(outcome: &Outcome, in_doubt: bool) -> String {
    let words = telling::outcome(&outcome.what);
    match &outcome.what {
        What::Asked { millis, .. } => {
            let took = telling::span(std::time::Duration::from_millis(*millis));
            format!("asked for {took}: {words}")
        }
        What::Later { until, .. } => {
            let next = if in_doubt {
                "; the room will be looked at"
            } else {
                ""
            };
            let wait = telling::span(telling::between(outcome.at, *until));
            format!("{words}; for {wait}{next}")
        }
        What::Posted {
            reply_message_id: Some(message),
            ..
        }
        | What::Looked {
            reply_message_id: Some(message),
            ..
        } => format!("{words} (message {message})"),
        What::Looked {
            reaches_back_to: Some(at),
            ..
        } => format!(
            "{words} (seen was what was written since {})",
            crate::words::time(*at)
        ),
        What::Replayed { by: Some(by), .. } => match outcome.again {
            Some(_) => format!("{words} (by {by}, to be answered AGAIN)"),
            None => format!("{words} (by {by})"),
        },
        _ => words,
    }
}

/// The texts of a step, below it.
fn details(what: &What, out: &mut impl Write) -> io::Result<()> {
    let mut detail = |name: &str, what: &str| {
        write!(out, "{:STEP_INDENT$}", "")?;
        let mut lines = Vec::new();
        text(name, what, 10, &mut lines)?;
        let lines = String::from_utf8_lossy(&lines);
        let lines: Vec<&str> = lines.lines().collect();
        let gap = format!("\n{:STEP_INDENT$}", "");
        writeln!(out, "{}", lines.join(&gap))
    };
    match what {
        What::Asked {
            question, answer, ..
        } => {
            if let Some(question) = question {
                detail("question", question)?;
            }
            if let Some(answer) = answer {
                detail("answer", answer)?;
            }
            Ok(())
        }
        What::ReplyStored { text } => detail("reply", text),
        _ => Ok(()),
    }
}
