//! `chickwork dead`: what was given up is listed, shown, put back or dropped.

pub(super) mod list;
pub(super) mod show;
pub(super) mod take;

pub(super) mod cause;
mod groups;

use std::collections::HashSet;

use chickwork_queue::dead::{DeadLetter, DeadRead};
use chickwork_queue::event::EventId;
use chickwork_queue::{Queue, QueueError};
use clap::Command;

use crate::filter::Filter;
use crate::words;

/// An error is listed up to this length, in characters.
const LONGEST_ERROR: usize = 200;

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
