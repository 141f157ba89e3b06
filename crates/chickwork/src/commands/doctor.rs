//! `chickwork doctor`: looks at everything that a bot depends on, and says in sentences what is wrong
//! and what to do about it. It changes nothing, and one finding does not keep it from the next.

mod ports;
mod sense;
mod services;

use std::io::{self, Write as _};
use std::process::ExitCode;

use chickwork_queue::examine::{Finding, Grade, Needs};
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command};
use serde_json::{Value, json};

use self::sense::Readable;
use crate::command_line::{self, switch};
use crate::commands::{Call, Order};
use crate::settings::parse::LogFormat;
use crate::settings::read::{Given, Kind, Mistake, Mistakes, Reader};
use crate::settings::{
    API_TOKEN, LOG, LoggingSettings, QUEUE, Role, SIMSIMI_API_KEY, SIMSIMI_LANG, WEBHOOK_TOKEN,
};
use crate::{output, words};

const ROLES: &[Role] = &[Role::Ingress, Role::Worker, Role::Doctor];

const AFTER_HELP: &str = "\
Each finding is one of three: ok; note, which works, but somebody should know; WRONG. Under it
stands what to do. With --json each is one object on a line with the fields subject, grade, says
and cure; grade is ok, note or wrong, and cure may be null.

It asks Chatwork three questions, which count against the account's limit. It shows the names
of rooms and accounts, and never a token. SimSimi is asked only with --ask, as that may cost a
call.

Exits 0 when nothing is wrong, else 1. Wrong settings are findings here.";

pub(crate) fn command() -> Command {
    command_line::command(
        "doctor",
        "Checks settings, queue, spool, tokens and clock, and says what is wrong and what to do",
        ROLES,
    )
    .arg(
        Arg::new("role")
            .long("role")
            .value_name("ROLE")
            .value_parser(PossibleValuesParser::new(["serve", "ingress", "worker"]))
            .default_value("serve")
            .help("Checks what a process of this role needs, and nothing else"),
    )
    .arg(switch("ask", "Asks SimSimi one question"))
    .arg(switch(
        "strict",
        "Takes what somebody should know for wrong",
    ))
    .arg(switch("json", "Prints one JSON object a line"))
    .after_help(AFTER_HELP)
}

/// What is to be looked at, and how it is told.
#[derive(Debug)]
struct Visit {
    /// The command of the process that is to run.
    command: String,
    needs: Needs,
    settings: Readable,
    /// What the settings alone have told.
    findings: Vec<Finding>,
    asks: bool,
    strict: bool,
    json: bool,
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let command = call.flags.get_one::<String>("role");
    let command = command.expect("it has a default").clone();
    let (roles, needs): (&[Role], _) = match command.as_str() {
        "ingress" => (&[Role::Ingress, Role::Doctor], Needs::Writing),
        "worker" => (&[Role::Worker, Role::Doctor], Needs::WritingAndReading),
        _ => (ROLES, Needs::WritingAndReading),
    };
    let mut reader = Reader::new(&call.given, roles);
    let logging = LoggingSettings::read(&mut reader);
    let settings = Readable::read(&mut reader, &call.given, roles);
    let variable = |name: &str| std::env::var(name).ok();
    let findings = of_settings(reader.into_mistakes(), &call.given, &settings, &variable);
    let visit = Visit {
        command,
        needs,
        settings,
        findings,
        asks: call.flags.get_flag("ask"),
        strict: call.flags.get_flag("strict"),
        json: call.flags.get_flag("json"),
    };
    Ok(Order {
        // A mistake in these is a finding as any other.
        logging: logging.unwrap_or_else(|| LoggingSettings {
            filter: LOG.about.default_for(ROLES).unwrap_or_default().to_owned(),
            format: LogFormat::Text,
        }),
        work: Box::pin(run(visit)),
    })
}

async fn run(visit: Visit) -> anyhow::Result<ExitCode> {
    let Visit {
        command,
        needs,
        settings,
        findings,
        asks,
        strict,
        json,
    } = visit;
    let queue = async {
        match settings.queue() {
            Some(queue) => chickwork_queue::examine(&queue, needs).await,
            None => Vec::new(),
        }
    };
    let spool = async {
        match settings.spool() {
            Some(spool) => chickwork_queue::examine::examine_spool(&spool).await,
            None => Vec::new(),
        }
    };
    let simsimi = async {
        if asks {
            services::simsimi(&settings).await
        } else {
            Vec::new()
        }
    };
    let (ports, queue, spool, chatwork, simsimi) = tokio::join!(
        ports::examine(&settings, &command),
        queue,
        spool,
        services::chatwork(&settings),
        simsimi,
    );
    let findings = [findings, ports, queue, spool, chatwork, simsimi].concat();

    let written = if json {
        write_json(&findings)
    } else {
        write(&findings, !asks && settings.simsimi_key.is_some())
    };
    let tolerated = if strict { Grade::Good } else { Grade::Notice };
    let is_well = findings.iter().all(|finding| finding.grade <= tolerated);
    let code = if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    output::end(written, code)
}

fn write(findings: &[Finding], simsimi_was_not_asked: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for finding in findings {
        writeln!(out, "{}", lines(finding))?;
    }
    writeln!(out, "\n{}", summary(findings, simsimi_was_not_asked))
}

fn write_json(findings: &[Finding]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut findings = findings.iter().map(as_json);
    findings.try_for_each(|finding| output::json(&finding, &mut out))
}

/// What can be told without asking anybody.
fn of_settings(
    mistakes: Vec<Mistake>,
    given: &Given,
    settings: &Readable,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let mistaken = mistakes.into_iter().map(|mistake| {
        let cure = cure(&mistake);
        Finding::wrong(mistake.setting, mistake.says, cure)
    });
    let unknown = given.unknown_variables().into_iter().map(|says| {
        let cure = "Correct its name, or remove it.";
        Finding::notice("environment", says).with_cure(cure)
    });
    let mut findings: Vec<Finding> = mistaken.chain(unknown).collect();
    findings.extend(sense::examine(settings, variable));
    if findings.is_empty() {
        findings.push(Finding::good(
            "settings",
            "They are complete, and none contradicts another.",
        ));
    }
    findings
}

/// What to do about a setting that is wrong.
fn cure(mistake: &Mistake) -> &'static str {
    match mistake.kind {
        Kind::Twice => "Unset one of the two.",
        Kind::File => "Write the value into that file and nothing else, and let this user read it.",
        Kind::Missing | Kind::Value => {
            let wants = |name| mistake.setting == name;
            if wants(WEBHOOK_TOKEN.about.name) {
                "Copy the token, whole, from the edit screen of the webhook in Chatwork."
            } else if wants(API_TOKEN.about.name) {
                "Log in to Chatwork as the bot and copy the API token from its service integration."
            } else if wants(SIMSIMI_API_KEY.about.name) {
                "Copy the key of your project in the SimSimi workshop."
            } else if wants(SIMSIMI_LANG.about.name) {
                "Take SimSimi's own code; Vietnamese is vn, not vi."
            } else if wants(QUEUE.about.name) {
                "Write sqlite:PATH, or amqp://USER:PASSWORD@HOST/VHOST."
            } else {
                "Correct it, or unset it for its default: see `chickwork doctor --help`."
            }
        }
    }
}

/// The word for a grade, in both forms of output.
fn word(grade: Grade) -> &'static str {
    match grade {
        Grade::Good => "ok",
        Grade::Notice => "note",
        Grade::Wrong => "wrong",
    }
}

fn as_json(finding: &Finding) -> Value {
    let Finding {
        subject,
        grade,
        says,
        cure,
    } = finding;
    json!({ "subject": subject, "grade": word(*grade), "says": words::sentence(says), "cure": cure })
}

/// A finding for people: what, and under it what to do.
fn lines(finding: &Finding) -> String {
    let mark = match finding.grade {
        Grade::Wrong => word(Grade::Wrong).to_uppercase(),
        grade => word(grade).to_owned(),
    };
    let Finding { subject, says, .. } = finding;
    let says = words::sentence(says);
    // What is said about a setting begins with it.
    let headline = if says.starts_with(subject.as_str()) {
        says
    } else {
        format!("{subject}: {says}")
    };
    match &finding.cure {
        Some(cure) => format!("{mark:<5} {headline}\n      {cure}"),
        None => format!("{mark:<5} {headline}"),
    }
}

fn summary(findings: &[Finding], simsimi_was_not_asked: bool) -> String {
    let count = |grade| findings.iter().filter(|found| found.grade == grade).count();
    let wrong = match count(Grade::Wrong) {
        0 => "Nothing is wrong".to_owned(),
        1 => "One thing is wrong".to_owned(),
        many => format!("{many} things are wrong"),
    };
    let notes = match count(Grade::Notice) {
        0 => ".".to_owned(),
        1 => "; there is one note.".to_owned(),
        many => format!("; there are {many} notes."),
    };
    let not_asked = if simsimi_was_not_asked {
        " SimSimi was not asked: --ask does, which may cost a call."
    } else {
        ""
    };
    format!("{wrong}{notes}{not_asked}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_cure_is_under_it() {
        assert_eq!(
            lines(&Finding::good("broker", "It is RabbitMQ 3.10.8.")),
            "ok    broker: It is RabbitMQ 3.10.8."
        );
        assert_eq!(
            lines(&Finding::wrong(
                "LANG",
                "LANG=vi: is not a code",
                "Take vn."
            )),
            "WRONG LANG=vi: is not a code.\n      Take vn."
        );
        // Only what begins with its subject needs no label.
        assert_eq!(
            lines(&Finding::notice("rooms", "The rooms are not known")),
            "note  rooms: The rooms are not known."
        );
    }

    #[test]
    fn the_last_line_sums_up() {
        let [ok, note, bad] = [
            Finding::good("a", "b"),
            Finding::notice("a", "b").with_cure("c"),
            Finding::wrong("a", "b", "c"),
        ];
        assert_eq!(
            summary(std::slice::from_ref(&ok), false),
            "Nothing is wrong."
        );
        assert_eq!(
            summary(&[ok, note.clone(), note.clone()], false),
            "Nothing is wrong; there are 2 notes."
        );
        assert_eq!(
            summary(&[note, bad], true),
            "One thing is wrong; there is one note. SimSimi was not asked: --ask does, which may cost a call."
        );
    }

    #[test]
    fn json_has_the_documented_fields() {
        let late = Finding::notice("clock", "late").with_cure("NTP");
        assert_eq!(
            as_json(&late).to_string(),
            r#"{"cure":"NTP","grade":"note","says":"late.","subject":"clock"}"#
        );
        assert!(as_json(&Finding::good("clock", "right"))["cure"].is_null());
    }
}
