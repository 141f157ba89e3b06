//! The command line: every command's flags come from the table of settings, so that `--help` lists
//! exactly what the command reads.

use std::collections::BTreeMap;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::commands;
use crate::settings::{ALL, About, Role};

/// What `chickwork --help` ends with.
const EPILOGUE: &str = "\
Try it without any account or broker: chickwork dev

Every setting is an environment variable and a flag; the flag wins. A secret may also be read
from a file (NAME_FILE or --…-file). `chickwork COMMAND --help` lists the settings that a
command reads.

Exit codes: 0 done, 1 failed or unhealthy, 2 wrong usage or settings.";

/// The whole command line.
pub(crate) fn program() -> Command {
    Command::new("chickwork")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Chatwork bot that answers mentions with SimSimi's words, through a durable queue")
        .after_help(EPILOGUE)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands(commands::all())
}

/// A command that reads the settings of these roles.
pub(crate) fn command(name: &'static str, about: &'static str, roles: &[Role]) -> Command {
    let settings = ALL.iter().filter(|about| about.concerns(roles));
    Command::new(name)
        .about(about)
        .next_help_heading("Settings")
        .args(settings.flat_map(|about| {
            let file = about.secret.then(|| file_flag(about));
            std::iter::once(flag(about, roles)).chain(file)
        }))
        .next_help_heading("Options")
}

/// A command that an operator points at a queue which is there.
pub(crate) fn operators(name: &'static str, about: &'static str) -> Command {
    command(name, about, &[Role::Operator])
}

/// A flag that is given or not.
pub(crate) fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// A flag with a value, which the help names so.
pub(crate) fn value(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// The command with another default in the help of a setting than the table's.
pub(crate) fn with_default(command: Command, (about, default): (&'static About, &str)) -> Command {
    command.mut_arg(about.flag(), |arg| arg.help(help(about, Some(default))))
}

fn flag(about: &'static About, roles: &[Role]) -> Arg {
    let flag = about.flag();
    Arg::new(flag.clone())
        .long(flag)
        .value_name(if about.secret { "SECRET" } else { "VALUE" })
        .allow_hyphen_values(true)
        .help(help(about, about.default_for(roles)))
}

fn help(about: &About, default: Option<&str>) -> String {
    let About { name, help, .. } = about;
    match default {
        Some(default) if !default.is_empty() => {
            format!("{help} [env: {name}] [default: {default}]")
        }
        _ => format!("{help} [env: {name}]"),
    }
}

fn file_flag(about: &'static About) -> Arg {
    let flag = about.file_flag();
    Arg::new(flag.clone())
        .long(flag)
        .value_name("PATH")
        .help(format!("A file with the same [env: {}]", about.file_name()))
}

/// Ends the process because this command was called wrongly, as for whatever clap itself finds wrong.
pub(crate) fn wrong_usage(command: &str, says: impl std::fmt::Display) -> ! {
    let mut program = program();
    // So that the usage has the whole command.
    program.build();
    let called = command.split(' ').fold(&mut program, |command, name| {
        command
            .find_subcommand_mut(name)
            .expect("it was called by this name")
    });
    called.error(ErrorKind::ValueValidation, says).exit()
}

/// The settings that were given as flags, by flag.
pub(crate) fn flags(matches: &ArgMatches) -> BTreeMap<String, String> {
    ALL.iter()
        .flat_map(|about| [about.flag(), about.file_flag()])
        .filter_map(|flag| {
            let value = matches.try_get_one::<String>(&flag).ok()??.clone();
            Some((flag, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        program().debug_assert();
    }

    #[test]
    fn help_lists_exactly_what_a_role_reads() {
        let mut ingress = command("ingress", "", &[Role::Ingress]);
        let help = ingress.render_long_help().to_string();
        for expected in [
            "--queue",
            "--chatwork-webhook-token-file",
            "[env: CHICKWORK_LISTEN] [default: 0.0.0.0:8080]",
            "--log ",
        ] {
            assert!(help.contains(expected), "{expected} in\n{help}");
        }
        for foreign in ["CHATWORK_API_TOKEN", "SIMSIMI", "--concurrency"] {
            assert!(!help.contains(foreign), "{foreign} in\n{help}");
        }
    }

    #[test]
    fn no_line_that_help_ends_with_is_broken_on_a_terminal_of_a_hundred_columns() {
        /// What is said after the flags of a command, and of those below it.
        fn check(command: &Command) {
            let notes = command.get_after_help().map(ToString::to_string);
            for line in notes.iter().flat_map(|notes| notes.lines()) {
                let name = command.get_name();
                assert!(line.chars().count() <= 96, "{name}: {line}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&program());
    }

    #[test]
    fn help_tells_the_default_of_the_role() {
        for (roles, default) in [
            (&[Role::Ingress, Role::Worker][..], "info"),
            (&[Role::Ingress, Role::Doctor], "error"),
            (&[Role::Operator], "warn"),
            (
                &[Role::Operator, Role::Status],
                "warn,chickwork_queue::amqp::connection=off",
            ),
        ] {
            let mut command = command("any", "", roles).term_width(0);
            let help = command.render_long_help().to_string();
            let told = format!("[env: RUST_LOG] [default: {default}]");
            assert!(help.contains(&told), "{told} in\n{help}");
        }
    }

    #[test]
    fn flags_are_named_after_their_variables() {
        let flags: Vec<String> = ALL.iter().map(|about| about.flag()).collect();
        for expected in [
            "queue",
            "admin-listen",
            "chatwork-api-token",
            "simsimi-lang",
            "log",
            "log-format",
            "max-age",
        ] {
            assert!(
                flags.iter().any(|flag| flag == expected),
                "{expected} in {flags:?}"
            );
        }
        let matches = program()
            .try_get_matches_from([
                "chickwork",
                "worker",
                "--fallback",
                "",
                "--simsimi-lang=ja",
                "--log",
                "debug",
            ])
            .expect("valid");
        let (_, matches) = matches.subcommand().expect("worker");
        let given = super::flags(matches);
        assert_eq!(given.get("fallback").map(String::as_str), Some(""));
        assert_eq!(given.get("simsimi-lang").map(String::as_str), Some("ja"));
        assert_eq!(given.len(), 3);
    }
}
