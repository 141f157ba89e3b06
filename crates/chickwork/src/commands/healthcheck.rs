//! `chickwork healthcheck`: asks the process behind the admin port whether it is ready; for containers
//! without curl. A plain socket, as an HTTP client would be the larger part of its start.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Command;

use crate::command_line;
use crate::commands::{Call, Order};
use crate::output;
use crate::settings::parse::reachable;
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{ADMIN_LISTEN, LoggingSettings, Role};

const ROLES: &[Role] = &[Role::Healthcheck];
/// How long the answer may take: a moment more than the process gives its own check.
const LIMIT: Duration = Duration::from_secs(3);
/// An answer is read up to this many bytes.
const LONGEST_ANSWER: u64 = 4096;

pub(crate) fn command() -> Command {
    command_line::command(
        "healthcheck",
        "Exits 0 when the process behind the admin port is ready, else 1 with the reason",
        ROLES,
    )
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    let address = reader.get(&ADMIN_LISTEN);
    let (logging, address) = reader.finish(logging.zip(address))?;
    let work = async move {
        let (reason, code) = match ask(reachable(address), "/readyz") {
            Ok(Answer {
                status: 200,
                reason,
                ..
            }) => (reason, ExitCode::SUCCESS),
            Ok(Answer { reason, .. }) => (format!("not ready: {reason}"), ExitCode::FAILURE),
            Err(error) => (
                format!("not ready: no answer from {address}: {error}"),
                ExitCode::FAILURE,
            ),
        };
        output::end(writeln!(io::stdout(), "{reason}"), code)
    };
    Ok(Order {
        logging,
        work: Box::pin(work),
    })
}

/// What a process said that was asked for a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    /// What it listens there for, if it is one of ours.
    pub(crate) listens_for: Option<String>,
}

/// Asks the process that listens there for a page; each wait takes [`LIMIT`] at most.
pub(crate) fn ask(address: SocketAddr, page: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    understand(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP"))
}

fn understand(answer: &str) -> Option<Answer> {
    let status = answer
        .strip_prefix("HTTP/1.1 ")?
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let listens_for = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let it_is = name.eq_ignore_ascii_case(chickwork_ingress::LISTENS_FOR);
        it_is.then(|| value.trim().to_owned())
    });
    Some(Answer {
        status,
        reason: body.trim().to_owned(),
        listens_for,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_reason() {
        let ready = understand("HTTP/1.1 200 OK\r\nX-Chickwork: webhooks\r\n\r\nready\n");
        assert_eq!(
            ready,
            Some(Answer {
                status: 200,
                reason: "ready".to_owned(),
                listens_for: Some("webhooks".to_owned()),
            })
        );
        let away = understand("HTTP/1.1 503 Service Unavailable\r\n\r\nthe broker is away\n");
        assert_eq!(
            away,
            Some(Answer {
                status: 503,
                reason: "the broker is away".to_owned(),
                listens_for: None,
            })
        );
        assert_eq!(understand("SSH-2.0-OpenSSH_9.2"), None);
    }
}
