//! `chickwork dead`: what was given up is listed, shown, put back or dropped.

pub(super) mod list;
pub(super) mod show;
pub(super) mod take;

pub(super) mod cause;
mod groups;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::dead::{DeadLetter, DeadRead};
use chickwork_queue::event::EventId;
use chickwork_queue::{Queue, QueueError, Settings};
use clap::Command;

use crate::commands::Call;
use crate::filter::Filter;
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{OperatorSettings, Role};
use crate::words;

/// An error is listed up to this length, in characters.
const LONGEST_ERROR: usize = 200;
/// How long the queue may take to write its last records.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn command() -> Command {
    Command::new("dead")
        .about("Lists, shows, retries or drops dead letters: the jobs that were given up")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([
            list::command(),
            show::command(),
            take::command(take::Deed::Retry),
            take::command(take::Deed::Drop),
        ])
}

pub(super) fn settings(call: &Call) -> Result<OperatorSettings, Mistakes> {
    let mut reader = Reader::new(&call.given, &[Role::Operator]);
    let settings = OperatorSettings::read(&mut reader);
    reader.finish(settings)
}

/// Does something with a queue that is there.
pub(super) async fn on_queue<T>(
    settings: Settings,
    work: impl AsyncFnOnce(&Queue) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let queue = Queue::open_existing(settings)
        .await
        .context("CHICKWORK_QUEUE cannot be used")?;
    let done = work(&queue).await;
    queue.close(CLOSE_LIMIT).await;
    done
}

/// Dead letters that a filter chooses, oldest first.
struct Chosen<'a> {
    filter: &'a Filter,
    read: DeadRead,
    left: u64,
    /// Whether one more is chosen than are wanted; known at the end.
    are_more: bool,
    /// Of the events that the filter names, those that have come.
    found: HashSet<EventId>,
}

impl<'a> Chosen<'a> {
    async fn of(queue: &Queue, filter: &'a Filter) -> Result<Self, QueueError> {
        Ok(Self {
            filter,
            read: queue.dead_letters().read().await?,
            left: filter.limit(),
            are_more: false,
            found: HashSet::new(),
        })
    }

    /// The next one; `None` at the end.
    async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if self.are_more {
            return Ok(None);
        }
        while let Some(letter) = self.read.next().await? {
            if self.filter.picks(&letter) {
                if self.left == 0 {
                    self.are_more = true;
                    return Ok(None);
                }
                self.left -= 1;
                if !self.filter.ids().is_empty() {
                    self.found.insert(letter.id);
                }
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    /// At the end: says which of the named events have no dead letter. True if there are none such, or
    /// if as many came as were wanted.
    fn tell_of_missing(&self) -> bool {
        let is_missing = |id: &&EventId| self.left > 0 && !self.found.contains(id);
        let missing: Vec<_> = self.filter.ids().iter().filter(is_missing).collect();
        for id in &missing {
            words::tell(format_args!("There is no such dead letter of {id}."));
        }
        missing.is_empty()
    }
}
