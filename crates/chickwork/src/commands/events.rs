//! `chickwork events`: what came in and what became of it is listed, shown and exported.

pub(super) mod export;
pub(super) mod list;
pub(super) mod purge;
pub(super) mod show;
pub(crate) mod whom;

mod message;
pub(crate) mod reply;
mod verdict;

use clap::Command;

pub(crate) fn command() -> Command {
    Command::new("events")
        .about("Lists, shows, exports or forgets events: what came in, and what became of it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([
            list::command(),
            show::command(),
            export::command(),
            purge::command(),
        ])
}
