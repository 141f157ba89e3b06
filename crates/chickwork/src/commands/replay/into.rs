//! `replay --into`: the original bytes go to another ingress, signed as Chatwork signs them. The queue is
//! read and not changed.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use actix_web::http::Uri;
use anyhow::anyhow;
use chickwork_chatwork::signature::Token;
use chickwork_queue::Queue;
use chickwork_sandbox::webhook::{Courier, Sent};
use serde::Serialize;

use super::found::{Bodies, Found};
use super::{Terms, code};
use crate::run::{Halt, Run};
use crate::{output, words};

/// How long the event at hand may take once the command is to stop: an answer is waited for no longer.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// So many in a row without any answer, and nobody is there.
const SILENCES: u32 = 3;

/// How events are sent.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) terms: Terms,
    pub(super) url: String,
    pub(super) token: Token,
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
        let (found, all_found) = self.terms.of_one_bot(queue, "an address").await?;
        if found.is_empty() {
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
        if self.terms.dry_run {
            return output::end(self.show(&found), code(all_found));
        }
        let question = format!("Send {these} to {place}?");
        if !self.terms.consent.to(question).await? {
            words::tell("Nothing was sent.");
            return Ok(ExitCode::FAILURE);
        }
        let all_taken = self.send(queue, found, total).await?;
        Ok(code(all_found && all_taken))
    }

    fn show(&self, found: &[Found]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for event in found {
            if self.terms.json {
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
        let courier = Courier::new()?;
        let bodies = Bodies::of(queue, found);
        let mut run = Run::begin(total, self.terms.pace, FINISH_LIMIT)?;
        let mut answers = BTreeMap::new();
        let sent = self
            .send_all(&courier, bodies, &mut run, &mut answers)
            .await;
        let told: Vec<_> = answers
            .iter()
            .map(|(answer, count)| format!("{count} × {answer}"))
            .collect();
        let deed = match told.is_empty() {
            true => "sent".to_owned(),
            false => format!("sent ({})", told.join(", ")),
        };
        let left = run.end(sent, &deed, |left| {
            format!("{left} are not to be had any more")
        })?;
        Ok(left == 0 && answers.keys().all(|answer| answer == "200"))
    }

    /// One after the other, and counts the answers.
    async fn send_all(
        &self,
        courier: &Courier,
        mut bodies: Bodies<'_>,
        run: &mut Run,
        answers: &mut BTreeMap<String, u64>,
    ) -> Result<(), Halt> {
        let mut silences = 0;
        loop {
            run.turn().await?;
            let Some((found, event)) = run.prepare(bodies.next()).await?? else {
                return Ok(());
            };
            let body = event.body.to_vec();
            let sent = run.finish(courier.deliver(&self.url, &self.token, body));
            let sent = sent.await?;
            let answer = match sent.status {
                Some(status) => status.to_string(),
                None => "no answer".to_owned(),
            };
            *answers.entry(answer).or_default() += 1;
            run.step(self.print(&found, &sent))?;
            silences = match sent.status {
                Some(_) => 0,
                None => silences + 1,
            };
            match sent.status {
                Some(200..300 | 503) => {}
                Some(status) => return Err(Halt::Failed(anyhow!(advice(status)))),
                None if silences >= SILENCES => {
                    let error = sent.error.unwrap_or_default();
                    let error = words::line(&error, LONGEST_ERROR);
                    let place = place(&self.url);
                    return Err(Halt::Failed(anyhow!("nobody answers at {place}: {error}")));
                }
                None => {}
            }
        }
    }

    fn print(&self, found: &Found, sent: &Sent) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.terms.json {
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

/// What to do about a refusal.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            "the ingress does not know this signature: CHATWORK_WEBHOOK_TOKEN has to be one of its tokens"
        }
        404 | 405 => {
            "there is no webhook at this address: that of an ingress ends in /webhook, or in /webhook/ and the name of a bot"
        }
        413 => "the ingress does not take webhooks as large as this one",
        _ => "it was not taken, and the next one would hardly be: look into the log of the ingress",
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
