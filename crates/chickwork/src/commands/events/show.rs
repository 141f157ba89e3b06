//! `chickwork events show`: the whole story of an event, in time order, and what it comes to.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::events::{Reach, Standing, Story};
use chickwork_queue::job::Step;
use chickwork_queue::outcome::{Outcome, Reason, What};
use chickwork_queue::{Queue, QueueError, Settings};
use clap::{Arg, Command};
use jiff::Timestamp;
use serde::Serialize;

use super::message::Message;
use super::reply::answered_by;
use super::verdict::{Doubt, received_at, state, verdict};
use super::whom::{LONGEST_ROOM, Named};
use crate::command_line;
use crate::command_line::switch;
use crate::commands::operator::{on_queue, settings};
use crate::commands::{Call, Order};
use crate::filter::bot;
use crate::progress::{Looking, Through};
use crate::settings::read::Mistakes;
use crate::{output, telling, words};

/// A text of a message is shown up to this length, in characters.
const LONGEST_TEXT: usize = 4096;
/// Where the words of a step begin.
const STEP_INDENT: usize = 41;

const NOTES: &str = "\
WHAT is an event's id, a message's id, a room's and a message's id (as two words or as
ROOM-MESSAGE), a link to a message (in quotes, as shells have their own idea of #! and !),
or a reply tag. Of a reply of the bot's, the message that it answers is shown. Several events
may be about one message: all of them are shown. The story is told with the durations between
its steps, and shows what was asked, answered and said. Looking changes nothing. Exits 1 when
nothing is known of it.

A broker is read until the event has come to an end and nothing more is said of it for a
while, and on from whatever is noted of it later, as that people put it back. The last line
says up to when all was read. What has come to no end, or was given up and has no dead letter
now, is read to the end; so is everything with --to-the-end, which also finds events about a
message that came very much later.

JSON has one object a line for each event: id, bot, type, room_id, message_id, sender, text,
received_at, state, why, reply_message_id, replay, outcomes (as in the outcomes stream),
letter (its dead letter as in `dead list --json`, or null), and read_until (null: to the end).

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
        command_line::value(
            "bot",
            "NAME",
            "Only what this bot has to do with the message",
        )
        .value_parser(bot),
    )
    .arg(switch(
        "to-the-end",
        "Reads everything that a broker was told since, however much that is",
    ))
    .arg(switch("json", "Prints one JSON object a line"))
    .after_help(NOTES)
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let words = call.flags.get_many::<String>("what").into_iter().flatten();
    let words: Vec<&str> = words.map(String::as_str).collect();
    let named = Named::of(&words).unwrap_or_else(|error| {
        let says = format!("'{}' {error}", words.join(" "));
        command_line::wrong_usage(&call.command, says)
    });
    let bot: Option<BotName> = call.flags.get_one("bot").cloned();
    let json = call.flags.get_flag("json");
    let reach = if call.flags.get_flag("to-the-end") {
        Reach::End
    } else {
        Reach::Ended
    };
    let kept = Kept::of(&settings.queue);
    let work = on_queue(settings.queue, async move |queue| {
        let mut looking = Looking::through(Through::Uncounted);
        let finding = find(queue, named, bot.clone(), reach);
        let (stories, named, reply) = looking.wait(finding, || Ok(())).await??;
        if stories.is_empty() {
            let elsewhere = in_another_room(queue, &named, bot, reach);
            let hint = looking.wait(elsewhere, || Ok(())).await??;
            drop(looking);
            return Err(match hint {
                Some(hint) => anyhow::anyhow!("nothing is known of {named}.\n{hint}"),
                None => nothing(queue, &named, &kept).await,
            });
        }
        drop(looking);
        let mut out = BufWriter::new(io::stdout());
        if json {
            for story in &stories {
                output::json(&Shown::of(story), &mut out)?;
            }
        } else {
            if let Some(reply) = reply {
                writeln!(out, "Message {reply} is the bot's reply to {named}.")?;
                writeln!(out)?;
            }
            let view = View {
                now: Timestamp::now(),
                is_archived: !kept.events.is_zero(),
                // Nothing else is refused.
                is_spool: queue.refuse_spool().await.is_err(),
            };
            tell(&stories, &named, &view, &mut out)?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    });
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

/// From where and when it is looked.
#[derive(Debug)]
struct View {
    now: Timestamp,
    is_archived: bool,
    is_spool: bool,
}

/// What is known of it; of a reply of the bot's, what is known of the message that it answers, and that
/// it is one.
async fn find(
    queue: &Queue,
    named: Named,
    bot: Option<BotName>,
    reach: Reach,
) -> Result<(Vec<Story>, Named, Option<MessageId>), QueueError> {
    let stories = queue
        .stories(&named.clone().whom(bot.clone()), reach)
        .await?;
    // A webhook may have told of the bot's own words as well.
    let is_own = |story: &Story| story.why.as_deref() == Some(Reason::OWN);
    if let Named::Message(room, message) = &named
        && stories.iter().all(is_own)
        && let Some(answered) = answered_by(queue, *room, message, bot.as_ref()).await?
    {
        let of_answered = queue.stories(&answered.clone().whom(bot), reach).await?;
        if !of_answered.is_empty() {
            let reply = message.clone();
            return Ok((of_answered, answered, Some(reply)));
        }
    }
    Ok((stories, named, None))
}

/// Of a message about which nothing came in the room that was named: what to type if it is known in
/// another one.
async fn in_another_room(
    queue: &Queue,
    named: &Named,
    bot: Option<BotName>,
    reach: Reach,
) -> Result<Option<String>, QueueError> {
    let Named::Message(Some(_), message) = named else {
        return Ok(None);
    };
    let anywhere = Named::Message(None, message.clone());
    let (stories, _, _) = find(queue, anywhere, bot, reach).await?;
    let room = stories.iter().find_map(|story| About::of(story).room_id);
    Ok(room.map(|room| {
        format!("Message {message} is known in room {room}: chickwork events show {room}-{message}")
    }))
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
        Named::Event(_) => "Is it the right queue (--queue, --namespace)?".to_owned(),
        Named::Message(None, number)
            if number.as_str().len() <= LONGEST_ROOM
                && number.as_str().bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            format!(
                "That is a short number for a message. If it is a room: chickwork events list --room {number}"
            )
        }
        Named::Message(..) => {
            "Either no webhook about it was taken, or this is not its queue (--queue, --namespace). \
             An ingress may have it in its spool (--queue sqlite:spool.db). \
             `chickwork recover` finds mentions that no webhook told of."
                .to_owned()
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
    /// Up to when its outcomes were read without a gap; `None`: to the end.
    read_until: Option<Timestamp>,
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
            read_until: story.read_until,
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

fn tell(stories: &[Story], named: &Named, view: &View, out: &mut impl Write) -> io::Result<()> {
    if stories.len() > 1 {
        let count = words::count(stories.len() as u64, "event");
        writeln!(out, "{count} came in about {named}, oldest first.")?;
        writeln!(out)?;
    }
    for (number, story) in stories.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        one(story, view, out)?;
    }
    Ok(())
}

fn one(story: &Story, view: &View, out: &mut impl Write) -> io::Result<()> {
    let verdict = verdict(story, view.is_spool, view.now);
    writeln!(out, "{}", words::line(&verdict.answer, usize::MAX))?;
    for because in &verdict.because {
        writeln!(out, "{because}")?;
    }
    for next in &verdict.next {
        writeln!(out, "  {next}")?;
    }
    writeln!(out)?;
    head(story, view, out)?;
    writeln!(out)?;
    steps(story, out)?;
    if let Some(until) = story.read_until {
        writeln!(out)?;
        writeln!(
            out,
            "Read until {}, and on from what is noted of later: --to-the-end reads everything.",
            words::time(until)
        )?;
    }
    Ok(())
}

/// What it is about.
fn head(story: &Story, view: &View, out: &mut impl Write) -> io::Result<()> {
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
    let time = |at| format!("{} ({})", words::time(at), words::ago(at, view.now));
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
    let state = state(story.standing, story.why.as_deref());
    line("state", &words::line(&state, usize::MAX))?;
    match (&story.event, message) {
        (_, Some(message)) => text("said", &message.text, 10, out),
        (Some(event), None) => {
            let size = words::size(event.body.len() as u64);
            writeln!(out, "{:<10}{size} that are no message", "holds")
        }
        (None, None) if !view.is_archived => writeln!(
            out,
            "{:<10}There is no archive (CHICKWORK_ARCHIVE_KEEP is 0), so only what became of it is known.",
            ""
        ),
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
    let mut doubt = Doubt::default();
    for outcome in &story.outcomes {
        let since = before.map(|before| telling::span(telling::between(before, outcome.at)));
        let since = since.filter(|_| !is_received(outcome));
        step(
            outcome.at,
            since.as_deref(),
            &words_of(outcome, &doubt),
            out,
        )?;
        details(&outcome.what, out)?;
        doubt.hear(outcome);
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
fn words_of(outcome: &Outcome, doubt: &Doubt) -> String {
    let words = telling::outcome(&outcome.what);
    match &outcome.what {
        What::Asked { millis, .. } => {
            let took = telling::span(std::time::Duration::from_millis(*millis));
            format!("asked for {took}: {words}")
        }
        What::Later { step, until, .. } => {
            let next = match step {
                Step::Post if doubt.is_open() => "; the room will be looked at",
                _ => "",
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
        // `events purge` leaves no more of it.
        What::ReplyStored { text } if text.is_empty() => detail("reply", "(forgotten)"),
        What::ReplyStored { text } => detail("reply", text),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use chickwork_queue::events::Listed;

    use super::*;
    use crate::commands::events::list::tests::listed;

    /// Of an event from another deployment nobody knows what was said there: it is looked for, once there is
    /// something to post, and not in place of a question.
    #[test]
    fn an_event_from_another_deployment_is_told_as_one() {
        let Listed { event, .. } = listed("[To:7]chào");
        let head = r#"{"v":1,"at":"2026-09-21T14:13:22Z","id":"01a20caa-3f93-70fb-83f5-248e49a65e0a","bot":"bot","room_id":446240519,"message_id":"1795508813713968449","what":"#;
        let rest = [
            r#""intent","consumer":"elsewhere"}"#,
            r#""later","step":"ask","reason":"HTTP 500","until":"2026-09-21T14:13:23Z"}"#,
            r#""later","step":"post","reason":"in doubt","until":"2026-09-21T14:13:23Z"}"#,
        ];
        let outcomes = rest.map(|rest| {
            let line = format!("{head}{rest}");
            serde_json::from_str(&line).expect(&line)
        });
        let story = Story {
            id: event.id,
            event: Some(event),
            outcomes: outcomes.into(),
            letter: None,
            standing: Standing::Waiting,
            why: None,
            reply_message_id: None,
            replay: 1,
            open_round: None,
            read_until: None,
        };
        let mut out = Vec::new();
        steps(&story, &mut out).expect("a vector takes it");
        let out = String::from_utf8(out).expect("text");
        let steps: Vec<&str> = out.lines().map(|line| &line[STEP_INDENT..]).collect();
        assert_eq!(
            steps,
            [
                "received",
                "it came from another deployment; whether it was answered there is not known",
                "asking is put off: HTTP 500; for 1.0 s",
                "posting is put off: in doubt; for 1.0 s; the room will be looked at",
            ]
        );
    }

    #[test]
    fn the_fields_in_json_are_a_contract() {
        let Listed { event, .. } = listed("[To:7]chào");
        let outcome = r#"{"v":1,"at":"2026-09-21T14:13:22Z","id":"01a20caa-3f93-70fb-83f5-248e49a65e0a","bot":"bot","room_id":446240519,"message_id":"1795508813713968449","what":"ignored","reason":"flood"}"#;
        let story = Story {
            id: event.id,
            event: Some(event),
            outcomes: vec![serde_json::from_str(outcome).expect("an outcome")],
            letter: None,
            standing: Standing::Ignored,
            why: Some("flood".to_owned()),
            reply_message_id: None,
            replay: 0,
            open_round: None,
            read_until: None,
        };
        let shown = serde_json::to_string(&Shown::of(&story)).expect("JSON");
        let head = r#"{"id":"01a20caa-3f93-70fb-83f5-248e49a65e0a","bot":"bot","type":"mention_to_me","room_id":446240519,"message_id":"1795508813713968449","sender":1484814,"text":"[To:7]chào","received_at":"2026-09-21T14:13:21Z","state":"ignored","why":"flood","reply_message_id":null,"replay":0,"outcomes":["#;
        assert_eq!(
            shown,
            format!(r#"{head}{outcome}],"letter":null,"read_until":null}}"#)
        );
    }
}
