//! `chickwork dead show`: everything about a dead letter, in plain words.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use chickwork_queue::Queue;
use chickwork_queue::dead::{DeadLetter, Held};
use chickwork_queue::event::EventId;
use clap::{Arg, Command};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Chosen, cause};
use crate::command_line::{self, switch};
use crate::commands::operator::{on_queue, settings};
use crate::commands::{Call, Order};
use crate::filter::{Filter, event_id};
use crate::settings::read::Mistakes;
use crate::{output, words};

/// Of what cannot be read so many bytes are shown.
const BYTES_SHOWN: usize = 256;
/// Of a text that is no JSON so many characters are shown.
const CHARACTERS_SHOWN: usize = 4096;

const NOTES: &str = "\
An event that was given up more than once may have several dead letters; all of
them are shown. JSON has the fields of `dead list --json`, and `held`:
  {\"event\": TEXT}     the webhook's body
  {\"reply\": TEXT}     the text that was to be posted
  {\"unreadable\": NUMBER, \"begins\": TEXT}
                      so many bytes that are no text, and the first of them
  null                somebody took it out at this moment

Example:
  chickwork dead show 01a20caa-3f93-70fb-83f5-248e49a65e0a";

pub(super) fn command() -> Command {
    command_line::operators(
        "show",
        "Shows everything about a dead letter, and what can be done about it",
    )
    .arg(
        Arg::new("id")
            .value_name("ID")
            .required(true)
            .value_parser(event_id)
            .help("The event, as `dead list` and the log name it"),
    )
    .arg(switch("json", "One JSON object a line"))
    .after_help(NOTES)
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let id: EventId = *call.flags.get_one("id").expect("it is required");
    let json = call.flags.get_flag("json");
    let work = on_queue(settings.queue, async move |queue| {
        let mut out = BufWriter::new(io::stdout());
        let count = show(queue, id, json, &mut out).await?;
        out.flush()?;
        if count == 0 {
            anyhow::bail!(
                "there is no dead letter of {id}; `chickwork dead list --each` names those that there are"
            );
        }
        Ok(ExitCode::SUCCESS)
    });
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

/// Writes all that there is about the event; returns how many dead letters that were.
async fn show(queue: &Queue, id: EventId, json: bool, out: &mut impl Write) -> anyhow::Result<u64> {
    let filter = Filter::only(id);
    let mut chosen = Chosen::of(queue, &filter).await?;
    let mut count = 0;
    while let Some(letter) = chosen.next().await? {
        let held = queue.dead_letters().held(&letter).await?;
        if json {
            let shown = Shown {
                letter: &letter,
                held: held.as_ref().map(as_json),
            };
            output::json(&shown, out)?;
        } else {
            if count > 0 {
                writeln!(out)?;
            }
            describe(&letter, Timestamp::now(), out)?;
            content(held.as_ref(), out)?;
        }
        count += 1;
    }
    Ok(count)
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    letter: &'a DeadLetter,
    held: Option<Value>,
}

fn as_json(held: &Held) -> Value {
    match held {
        Held::Event(event) => match std::str::from_utf8(&event.body) {
            Ok(text) => json!({ "event": text }),
            Err(_) => unreadable(&event.body),
        },
        Held::Reply(reply) => json!({ "reply": reply.text }),
        Held::Unreadable(bytes) => unreadable(bytes),
    }
}

fn unreadable(bytes: &[u8]) -> Value {
    json!({ "unreadable": bytes.len(), "begins": beginning(bytes) })
}

fn beginning(bytes: &[u8]) -> String {
    let end = bytes.len().min(BYTES_SHOWN);
    bytes[..end].escape_ascii().to_string()
}

fn describe(letter: &DeadLetter, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<10}{value}");
    let unknown = || "not known".to_owned();
    let time = |at| format!("{} ({})", words::time(at), words::ago(at, now));
    line("id", &letter.id.to_string())?;
    line("given up", &time(letter.buried_at))?;
    line("cause", letter.cause.as_str())?;
    let explained = cause::explained(letter.cause);
    line("", explained.means)?;
    line("", explained.cure)?;
    let doing = cause::step(letter.step, letter.cause);
    line("step", &format!("{} ({doing})", letter.step.as_str()))?;
    line("error", &words::line(&letter.error, usize::MAX))?;
    line("tries", &format!("{} failed", letter.attempts))?;
    line("received", &time(letter.received_at))?;
    line("bot", letter.bot.as_str())?;
    line("type", &words::line(&letter.event_type, usize::MAX))?;
    line(
        "room",
        &letter.room_id.map_or_else(unknown, |room| room.to_string()),
    )?;
    let message = letter.message_id.as_ref();
    line(
        "message",
        &message.map_or_else(unknown, |message| message.to_string()),
    )
}

fn content(held: Option<&Held>, out: &mut impl Write) -> io::Result<()> {
    match held {
        Some(Held::Event(event)) => {
            let size = words::count(event.body.len() as u64, "byte");
            writeln!(out, "It holds the event as it came, {size}:")?;
            match serde_json::from_slice::<Value>(&event.body) {
                Ok(body) => writeln!(out, "{}", words::lines(&format!("{body:#}"))),
                Err(_) => as_it_is(&event.body, out),
            }
        }
        Some(Held::Reply(reply)) => {
            writeln!(out, "It holds the reply that was to be posted:")?;
            writeln!(out, "{}", words::lines(&reply.text))
        }
        Some(Held::Unreadable(bytes)) => {
            let size = words::count(bytes.len() as u64, "byte");
            writeln!(out, "It holds {size} that this release cannot read:")?;
            as_it_is(bytes, out)
        }
        None => writeln!(out, "It was taken out at this moment."),
    }
}

/// Whatever it is, up to a limit.
fn as_it_is(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(text) => writeln!(out, "{}", words::line(text, CHARACTERS_SHOWN)),
        Err(_) => {
            let more = if bytes.len() > BYTES_SHOWN { "…" } else { "" };
            writeln!(out, "{}{more}", beginning(bytes))
        }
    }
}
