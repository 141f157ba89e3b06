//! `chickwork dead list`: what was given up, grouped or one by one.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use chickwork_queue::dead::DeadLetter;
use clap::Command;
use jiff::Timestamp;

use super::groups::Groups;
use super::{Chosen, LONGEST_ERROR};
use crate::command_line::{self, switch};
use crate::commands::operator::{on_queue, settings};
use crate::commands::{Call, Order};
use crate::filter::Filter;
use crate::settings::read::Mistakes;
use crate::{output, words};

const NOTES: &str = "\
Listing changes nothing. Exits 0, or 1 when there is nothing of an ID that was given.
JSON has one object a line with the fields id, bot, type, room_id, message_id, step,
cause, error, attempts, received_at and buried_at (when it was given up). Times are
RFC 3339; what is not known is null.

Examples:
  chickwork dead list
  chickwork dead list --each --cause refused,uncertain --since 1d
  chickwork dead list --json --step ask | jq -r .id";

pub(super) fn command() -> Command {
    command_line::operators(
        "list",
        "Lists dead letters, grouped by cause, step and error",
    )
    .args(Filter::flags())
    .arg(
        switch("each", "One line for each, oldest first, instead of groups").conflicts_with("json"),
    )
    .arg(switch(
        "json",
        "One JSON object a line for each, oldest first",
    ))
    .after_help(NOTES)
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Groups,
    Each,
    Json,
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let settings = settings(call)?;
    let filter = Filter::of(&call.flags, Timestamp::now());
    let form = if call.flags.get_flag("json") {
        Form::Json
    } else if call.flags.get_flag("each") {
        Form::Each
    } else {
        Form::Groups
    };
    let work = on_queue(settings.queue, async move |queue| {
        let mut out = BufWriter::new(io::stdout());
        let mut chosen = Chosen::of(queue, &filter).await?;
        let count = list(&mut chosen, form, &mut out).await?;
        out.flush()?;
        if !chosen.tell_of_missing() {
            return Ok(ExitCode::FAILURE);
        }
        if count == 0 {
            words::tell("There are no dead letters, or these flags choose none.");
        } else if chosen.are_more {
            let these = match count {
                1 => "This is the oldest dead letter".to_owned(),
                many => format!("These are the oldest {many} dead letters"),
            };
            words::tell(format_args!(
                "{these}. There are younger ones: a higher --limit lists more of them."
            ));
        }
        Ok(ExitCode::SUCCESS)
    });
    Ok(Order {
        logging: settings.logging,
        work: Box::pin(work),
    })
}

/// Writes them; returns how many there were.
async fn list(chosen: &mut Chosen<'_>, form: Form, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut groups = Groups::default();
    let mut count = 0;
    while let Some(letter) = chosen.next().await? {
        match form {
            Form::Groups => groups.add(&letter),
            Form::Each => {
                if count == 0 {
                    headings(out)?;
                }
                row(&letter, out)?;
            }
            Form::Json => output::json(&letter, out)?,
        }
        count += 1;
    }
    if groups.total() > 0 {
        groups.write(out, Timestamp::now())?;
        writeln!(
            out,
            "{}{}. Next: chickwork dead list --each, dead show ID, dead retry or dead drop.",
            words::count(count, "dead letter"),
            if chosen.are_more { ", and more" } else { "" }
        )?;
    }
    Ok(count)
}

fn headings(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<36}  {:<20}  {:<9}  {:<7}  {:>5}  {:>10}  ERROR",
        "ID", "GIVEN UP", "CAUSE", "STEP", "TRIES", "ROOM"
    )
}

fn row(letter: &DeadLetter, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{}  {:<20}  {:<9}  {:<7}  {:>5}  {:>10}  {}",
        letter.id,
        words::time(letter.buried_at),
        letter.cause.as_str(),
        letter.step.as_str(),
        letter.attempts,
        letter
            .room_id
            .map_or_else(|| "-".to_owned(), |room| room.to_string()),
        words::line(&letter.error, LONGEST_ERROR),
    )
}
