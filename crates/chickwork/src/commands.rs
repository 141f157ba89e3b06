//! The commands, one file each. A command is read whole (flags, settings, every mistake in them) before
//! anything of it is done.

mod audit;
mod dead;
mod dev;
mod doctor;
pub(crate) mod events;
mod healthcheck;
mod ingress;
mod operator;
mod recover;
mod replay;
mod sandbox;
mod send;
mod serve;
mod status;
mod topology;
mod worker;

use std::pin::Pin;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use jiff::Timestamp;

use crate::settings::LoggingSettings;
use crate::settings::read::{Given, Mistakes};
use crate::{choice, command_line, filter};

/// A command that was understood and is not begun.
pub(crate) struct Order {
    pub(crate) logging: LoggingSettings,
    pub(crate) work: Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>>>>,
}

/// What came in from the command line and the environment.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its name, `dead list` for one of several.
    pub(crate) command: String,
    /// The command's own flags.
    pub(crate) flags: ArgMatches,
    /// What has to do with settings.
    pub(crate) given: Given,
}

/// The commands in the order of `--help`.
pub(crate) fn all() -> Vec<Command> {
    vec![
        dev::command(),
        serve::command(),
        ingress::command(),
        worker::command(),
        sandbox::command(),
        send::command(),
        doctor::command(),
        status::command(),
        topology::command(),
        events::command(),
        replay::command(),
        dead::command(),
        audit::command(),
        recover::command(),
        healthcheck::command(),
    ]
}

impl Call {
    /// What was said on the command line. Does not return if that was wrong, or asked for help.
    pub(crate) fn from_process() -> Self {
        let matches = command_line::program().get_matches();
        let mut flags = &matches;
        let mut names = Vec::new();
        while let Some((name, its_flags)) = flags.subcommand() {
            names.push(name);
            flags = its_flags;
        }
        let command = names.join(" ");
        let contradiction = filter::contradiction(flags, Timestamp::now())
            .or_else(|| choice::contradiction(flags))
            .or_else(|| replay::contradiction(flags));
        if let Some(says) = contradiction {
            command_line::wrong_usage(&command, says);
        }
        Self {
            command,
            flags: flags.clone(),
            given: Given {
                flags: command_line::flags(flags),
                environment: Given::relevant(std::env::vars_os()),
            },
        }
    }

    /// Understands it.
    pub(crate) fn order(&self) -> Result<Order, Mistakes> {
        match self.command.as_str() {
            "dev" => dev::order(self),
            "serve" => serve::order(self),
            "ingress" => ingress::order(self),
            "worker" => worker::order(self),
            "sandbox" => sandbox::order(self),
            "send" => send::order(self),
            "doctor" => doctor::order(self),
            "status" => status::order(self),
            "topology" => topology::order(self),
            "events list" => events::list::order(self),
            "events show" => events::show::order(self),
            "events export" => events::export::order(self),
            "events purge" => events::purge::order(self),
            "dead list" => dead::list::order(self),
            "dead show" => dead::show::order(self),
            "dead retry" => dead::take::order(self, dead::take::Deed::Retry),
            "dead drop" => dead::take::order(self, dead::take::Deed::Drop),
            "audit" => audit::order(self),
            "replay" => replay::order(self),
            "recover" => recover::order(self),
            "healthcheck" => healthcheck::order(self),
            other => unreachable!("{other} is not a command of `all`"),
        }
    }
}
