//! `chickwork worker`: one role, any number of processes.

use std::process::ExitCode;

use clap::Command;

use crate::command_line;
use crate::commands::{Call, Order};
use crate::roles::{self, RolesSettings};
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{LoggingSettings, ProcessSettings, Role, WorkerSettings};

const ROLES: &[Role] = &[Role::Worker];

pub(crate) fn command() -> Command {
    command_line::command(
        "worker",
        "Asks SimSimi and posts the replies; any number of them may run against a broker",
        ROLES,
    )
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    let process = ProcessSettings::read(&mut reader);
    let worker = WorkerSettings::read(&mut reader);
    let settings = || {
        Some((
            logging?,
            RolesSettings {
                process: process?,
                ingress: None,
                worker: Some(worker?),
            },
        ))
    };
    let (logging, settings) = reader.finish(settings())?;
    let work = async { roles::run(settings).await.map(|()| ExitCode::SUCCESS) };
    Ok(Order {
        logging,
        work: Box::pin(work),
    })
}
