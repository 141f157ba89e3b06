//! `chickwork topology`: the broker objects as a definitions file, for whoever manages them instead of
//! us (`CHICKWORK_DECLARE=passive`).

use std::io::Write as _;
use std::process::ExitCode;

use chickwork_queue::event::BotName;
use chickwork_queue::{Declare, Location};
use clap::Command;

use crate::command_line;
use crate::commands::{Call, Order};
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{ARCHIVE_KEEP, LoggingSettings, NAMESPACE, Role};

const ROLES: &[Role] = &[Role::Topology];

pub(crate) fn command() -> Command {
    command_line::command(
        "topology",
        "Prints the broker objects that the bot needs, as a definitions file for RabbitMQ",
        ROLES,
    )
    .after_help("Import it with: rabbitmqctl import_definitions FILE")
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    let namespace = reader.get(&NAMESPACE);
    let archive_keep = reader.get(&ARCHIVE_KEEP);
    let settings = || {
        let settings = chickwork_queue::Settings {
            // The same objects wherever the broker is; nobody is going to be asked.
            location: Location::Amqp(Vec::new()),
            namespace: namespace?,
            bots: vec![BotName::default()],
            declare: Declare::Passive,
            archive_keep: archive_keep?,
        };
        Some((logging?, settings))
    };
    let (logging, settings) = reader.finish(settings())?;
    let work = async move {
        let definitions = chickwork_queue::definitions(&settings);
        writeln!(std::io::stdout(), "{definitions:#}")?;
        Ok(ExitCode::SUCCESS)
    };
    Ok(Order {
        logging,
        work: Box::pin(work),
    })
}
