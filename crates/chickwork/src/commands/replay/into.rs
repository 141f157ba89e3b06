//! `replay --into`: the original bytes go to another ingress, signed as Chatwork signs them. The queue is
//! read and not changed.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use actix_web::http::Uri;
use anyhow::Context as _;
use chickwork_chatwork::signature::Token;
use chickwork_queue::Queue;
use chickwork_sandbox::webhook::{Courier, Sent};
use serde::Serialize;

use super::code;
use super::found::{Bodies, Choosing, Found};
use crate::consent::Consent;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::shutdown::Shutdown;
use crate::{output, words};

/// How long the event at hand may take once the command is to stop: an answer is waited for no longer.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// So many in a row without any answer, and nobody is there.
const SILENCES: u32 = 3;

/// How events are sent.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) choosing: Choosing,
    pub(super) url: String,
    pub(super) token: Token,
    pub(super) limit: Option<u64>,
    pub(super) pace: Pace,
    pub(super) dry_run: bool,
    pub(super) consent: Consent,
    pub(super) json: bool,
}

/// An event that was sent. The JSON fields are a contract.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    found: &'a Found,
    #[serde(flatten)]
    sent: &'a Sent,
}

impl Errand {
    /// Sends them, or says what it would send.
    pub(super) async fn run(self, queue: Option<&Queue>) -> anyhow::Result<ExitCode> {
        let (found, all_found) = self
            .choosing
            .of_one_bot(queue, self.limit, "an address")
            .await?;
        if found.is_empty() {
            words::tell(format_args!(
                "Nothing to do: there are no events, or these flags choose none.{}",
                self.choosing.hint()
            ));
            return Ok(code(all_found));
        }
        let total = found.len() as u64;
        let (these, place) = (words::count(total, "event"), place(&self.url));
        words::tell(format_args!(
            "{these} to be sent to {place}, signed, whatever became of them. Whoever listens there answers them as if they had just been said."
        ));
        if is_readable_on_the_way(&self.url) {
            words::tell(
                "This is plain HTTP to another machine: whoever is on the way can read what people said.",
            );
        }
        if self.dry_run {
            return output::end(self.show(&found), code(all_found));
        }
        let question = format!("Send {these} to {place}?");
        if !self.consent.to(question).await? {
            words::tell("Nothing was sent.");
            return Ok(ExitCode::FAILURE);
        }
        let all_taken = self.send(queue, found, total).await?;
        Ok(code(all_found && all_taken))
    }

    fn show(&self, found: &[Found]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for event in found {
            if self.json {
                output::json(event, &mut out)?;
            } else {
                writeln!(out, "{}  {}", event.id, words::time(event.received_at))?;
            }
        }
        out.flush()
    }

    /// True when all were taken.
    async fn send(
        &self,
        queue: Option<&Queue>,
        found: Vec<Found>,
        total: u64,
    ) -> anyhow::Result<bool> {
        // From here on: a prompt is better interrupted in the usual way.
        let (_trigger, shutdown) =
            Shutdown::on_signals(FINISH_LIMIT).context("cannot wait for signals")?;
        let courier = Courier::new()?;
        let mut pace = self.pace.ticks();
        let mut bodies = Bodies::of(queue, found);
        let mut progress = Progress::of(total);
        let (mut answers, mut silences) = (BTreeMap::<String, u64>::new(), 0);
        let end = loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => break End::Stopped,
                _ = pace.tick() => {}
            }
            let next = tokio::select! {
                biased;
                () = shutdown.requested() => break End::Stopped,
                next = bodies.next() => next?,
            };
            let Some((found, event)) = next else {
                break End::Reached;
            };
            let sent = tokio::select! {
                sent = courier.deliver(&self.url, &self.token, event.body.to_vec()) => sent,
                () = shutdown.deadline() => break End::Stopped,
            };
            progress.step();
            let answer = match sent.status {
                Some(status) => status.to_string(),
                None => "no answer".to_owned(),
            };
            *answers.entry(answer).or_default() += 1;
            silences = match sent.status {
                Some(_) => 0,
                None => silences + 1,
            };
            if self.print(&found, &sent).is_err() {
                break End::Unread;
            }
            match sent.status {
                Some(status) if status != 503 && !(200..300).contains(&status) => {
                    break End::Refused(status);
                }
                None if silences >= SILENCES => {
                    let error = sent.error.unwrap_or_default();
                    break End::Silent(error);
                }
                _ => {}
            }
        };
        let done = progress.done();
        drop(progress);
        let told: Vec<_> = answers
            .iter()
            .map(|(answer, count)| format!("{count} × {answer}"))
            .collect();
        let left = total - done;
        let rest = match &end {
            _ if left == 0 => String::new(),
            End::Reached => format!("; {left} are not to be had any more"),
            End::Unread => format!("; nobody reads on, so stopped, {left} left"),
            End::Stopped | End::Refused(_) | End::Silent(_) => format!("; stopped, {left} left"),
        };
        let told = match told.is_empty() {
            true => String::new(),
            false => format!(" ({})", told.join(", ")),
        };
        words::tell(format_args!("{done} of {total} sent{told}{rest}."));
        match end {
            End::Refused(status) => words::tell(advice(status)),
            End::Silent(error) => words::tell(words::sentence(&format!(
                "Nobody answers at {}: {}",
                place(&self.url),
                words::line(&error, LONGEST_ERROR)
            ))),
            End::Reached | End::Stopped | End::Unread => {}
        }
        Ok(left == 0 && answers.keys().all(|answer| answer == "200"))
    }

    fn print(&self, found: &Found, sent: &Sent) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            return output::json(&Line { found, sent }, &mut out);
        }
        match sent.status {
            Some(status) => writeln!(out, "{}  {status} in {} ms", found.id, sent.millis),
            None => writeln!(out, "{}  no answer after {} ms", found.id, sent.millis),
        }
    }
}

/// An error is told up to this length, in characters.
const LONGEST_ERROR: usize = 200;

/// How it ended.
#[derive(Debug)]
enum End {
    /// Nothing is left.
    Reached,
    /// A signal came.
    Stopped,
    /// Whoever read the results has gone.
    Unread,
    /// It was not taken, and the next one would not be either.
    Refused(u16),
    /// Nobody is there.
    Silent(String),
}

/// What to do about a refusal.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            "It does not know this signature: CHATWORK_WEBHOOK_TOKEN has to be one of the tokens of the ingress that it is sent to."
        }
        404 | 405 => {
            "There is no webhook at this address: that of an ingress ends in /webhook, or in /webhook/ and the name of a bot."
        }
        413 => "The ingress does not take webhooks as large as this one.",
        _ => {
            "It was not taken, and the next one would hardly be: look into the log of the ingress."
        }
    }
}

/// The address without what may be secret in it.
fn place(url: &str) -> String {
    let Ok(uri) = url.parse::<Uri>() else {
        return "that address".to_owned();
    };
    let port = uri.port().map(|port| format!(":{port}"));
    let (scheme, host) = (uri.scheme_str(), uri.host());
    let place = format!(
        "{}://{}{}{}",
        scheme.unwrap_or_default(),
        host.unwrap_or_default(),
        port.unwrap_or_default(),
        uri.path()
    );
    words::line(&place, LONGEST_ERROR)
}

/// Whether others can read it on its way.
fn is_readable_on_the_way(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    uri.scheme_str() == Some("http") && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_to_another_machine_can_be_read_on_the_way() {
        for (url, expected) in [
            ("http://127.0.0.1:8080/webhook", false),
            ("http://[::1]:8080/webhook", false),
            ("http://localhost/webhook", false),
            ("https://staging.example/webhook", false),
            ("http://staging.example/webhook", true),
            ("http://192.168.1.2:8080/webhook", true),
        ] {
            assert_eq!(is_readable_on_the_way(url), expected, "{url}");
        }
    }

    #[test]
    fn an_address_is_told_without_its_secrets() {
        let told = place("https://user:secret@staging.example:8443/webhook/bot?key=secret");
        assert_eq!(told, "https://staging.example:8443/webhook/bot");
    }
}
