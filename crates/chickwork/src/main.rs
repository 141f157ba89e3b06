//! The bot: one binary with a command for everything. Read `main` first: it is the life of the process.

mod admin;
mod choice;
mod command_line;
mod commands;
mod comparison;
mod consent;
mod export;
mod figures;
mod filter;
mod logging;
mod open_files;
mod output;
mod pace;
mod progress;
mod reason;
mod recorded;
mod reporting;
mod roles;
mod run;
mod screen;
mod settings;
mod shutdown;
mod telling;
mod words;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::commands::{Call, Order};

/// The command line or the settings are wrong; clap uses the same code.
const WRONG_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    choose_crypto();
    let call = Call::from_process();
    let order = match call.order() {
        Ok(order) => order,
        Err(mistakes) => {
            complain(&format_args!(
                "{mistakes}\n\nchickwork {} --help lists the settings.",
                call.command
            ));
            return ExitCode::from(WRONG_SETTINGS);
        }
    };
    logging::start(&order.logging);
    call.given
        .unknown_variables()
        .iter()
        .for_each(|warning| log::warn!("{warning}"));
    open_files::allow_as_many_as_possible();
    match perform(order) {
        Ok(code) => code,
        // What was asked for is done as far as anybody wanted it.
        Err(error) if error.downcast_ref().is_some_and(output::is_closed) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Of the two TLS providers that may be linked in, this one; before anybody asks for one.
fn choose_crypto() {
    // Fails only if one is installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn perform(order: Order) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no threads to work with")?;
    let result = runtime.block_on(order.work);
    // A thread may be waiting for the terminal, which cannot be interrupted.
    runtime.shutdown_background();
    result
}

/// Tells a person what is wrong; logs may be filtered or go elsewhere.
fn complain(what: &dyn std::fmt::Display) {
    // If even this fails, the exit code has to do.
    let _ = writeln!(io::stderr(), "error: {what}");
}
