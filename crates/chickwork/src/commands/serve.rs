//! `chickwork serve`: both roles in one process, a real bot on a single machine.

use std::process::ExitCode;

use clap::Command;

use crate::command_line;
use crate::commands::{Call, Order};
use crate::roles::{self, RolesSettings};
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{IngressSettings, LoggingSettings, ProcessSettings, Role, WorkerSettings};

const ROLES: &[Role] = &[Role::Ingress, Role::Worker];

pub(crate) fn command() -> Command {
    command_line::command(
        "serve",
        "Takes webhooks, asks and posts in one process: a real bot on a single machine",
        ROLES,
    )
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    let process = ProcessSettings::read(&mut reader);
    let ingress = IngressSettings::read(&mut reader);
    let worker = WorkerSettings::read(&mut reader);
    let settings = || {
        let settings = RolesSettings {
            process: process?,
            ingress: Some(ingress?),
            worker: Some(worker?),
        };
        Some((logging?, settings))
    };
    let (logging, settings) = reader.finish(settings())?;
    let work = async { roles::run(settings).await.map(|()| ExitCode::SUCCESS) };
    Ok(Order {
        logging,
        work: Box::pin(work),
    })
}
