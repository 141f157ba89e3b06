//! What both clients have in common: how a client is set up, how a body is read without trusting
//! its length, and how a failure is told without telling secrets.

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Client, ClientBuilder, Response, Url};
use tokio::time::{Instant, timeout_at};

/// Who we say we are.
const USER_AGENT: &str = concat!("chickwork/", env!("CARGO_PKG_VERSION"));

/// How long an idle connection is kept for the next call. Shorter than what servers and load
/// balancers keep theirs (usually 60 s), so that we rarely write into one that is being closed.
const IDLE: Duration = Duration::from_secs(20);

/// How long an answer whose status is known is waited for to explain itself. The words are nice to
/// have; the next call is waiting.
const EXPLAINING: Duration = Duration::from_secs(2);

/// How much of what a service said is kept in an error, in characters.
const WORDS: usize = 200;

/// Text this short is not taken for somebody's message when it turns up in an error, in characters:
/// "a" is in every sentence.
const TOO_SHORT_TO_HIDE: usize = 4;

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until there is a connection: name look-up, TCP and TLS together.
    pub connect: Duration,
    /// The whole call, from looking up the name to the last byte of the answer.
    pub call: Duration,
}

impl Patience {
    /// Time limit for the connection.
    pub const CONNECT: Duration = Duration::from_secs(3);
    /// Time limit for the whole call.
    pub const CALL: Duration = Duration::from_secs(10);
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Self::CONNECT,
            call: Self::CALL,
        }
    }
}

/// The settings do not make a client.
#[derive(Debug, thiserror::Error)]
pub enum BadClient {
    /// The base address cannot be used.
    #[error(
        "the address must be an http or https URL without a query, like https://api.example/v2"
    )]
    Url,
    /// The key cannot be sent as a header; the key itself is not told.
    #[error("the key is empty or has characters that a key cannot have")]
    Key,
    /// TLS could not be set up.
    #[error("cannot set up HTTPS: {0}")]
    Tls(String),
}

/// Whether connections are kept for later calls.
pub(crate) enum Connections {
    /// Idle ones are used again.
    Reused,
    /// Each call makes its own. For calls that must not be in doubt: on a connection that the
    /// server is just closing, nobody can tell whether the request was still read.
    Fresh,
}

/// A client for a service at `base`.
pub(crate) fn client(
    base: &Url,
    patience: Patience,
    connections: Connections,
) -> Result<Client, BadClient> {
    let idle = match connections {
        Connections::Reused => usize::MAX,
        Connections::Fresh => 0,
    };
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(patience.connect)
        .timeout(patience.call)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle);
    builder = for_this_machine(base, builder);
    builder.build().map_err(|error| BadClient::Tls(told(error)))
}

/// A proxy from the environment is for the outside world, never for a service on this machine; and
/// plain HTTP needs no certificates, which a small container may not have.
fn for_this_machine(base: &Url, mut builder: ClientBuilder) -> ClientBuilder {
    if is_loopback(base) {
        builder = builder.no_proxy();
    }
    if base.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    }
    builder
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

/// The base address, to which paths are appended.
pub(crate) fn base(url: &str) -> Result<Url, BadClient> {
    let url = Url::parse(url.trim().trim_end_matches('/')).map_err(|_| BadClient::Url)?;
    let usable = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none();
    if usable { Ok(url) } else { Err(BadClient::Url) }
}

/// `base` with `path` (which begins with a slash) appended.
pub(crate) fn at(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

/// A key as a header that is never printed.
pub(crate) fn secret(key: &str) -> Result<HeaderValue, BadClient> {
    let mut value = HeaderValue::from_str(key).map_err(|_| BadClient::Key)?;
    if value.is_empty() {
        return Err(BadClient::Key);
    }
    value.set_sensitive(true);
    Ok(value)
}

/// Why a body could not be had.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is larger than it may be.
    TooLarge,
    /// The connection or the time ran out before its end.
    Lost(reqwest::Error),
}

/// The whole body, if it has at most `cap` bytes.
pub(crate) async fn body(response: &mut Response, cap: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Lost)? {
        if body.len() + chunk.len() > cap {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// As much of the body as comes within [`EXPLAINING`], at most `cap` bytes: for bodies that only
/// explain a status which is known already.
pub(crate) async fn start_of_body(response: &mut Response, cap: usize) -> Vec<u8> {
    let deadline = Instant::now() + EXPLAINING;
    let mut body = Vec::new();
    while body.len() < cap
        && let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await
    {
        let room = cap - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    body
}

/// A failure by its causes, without the address.
pub(crate) fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    brief(&in_short(error.to_string(), causes), &[])
}

/// Where an error has causes, what stands before them only says that there was a request.
fn in_short(error: String, mut causes: Vec<String>) -> String {
    if causes.len() > 1 {
        causes.retain(|cause| !cause.starts_with("client error ("));
    }
    if causes.is_empty() {
        error
    } else {
        causes.join(": ")
    }
}

/// What a service said, fit for an error: one line, at most [`WORDS`] characters, nothing of
/// `hidden` (keys, people's messages) in it.
pub(crate) fn brief(text: &str, hidden: &[&str]) -> String {
    let mut text = text.to_owned();
    for hidden in hidden {
        if hidden.chars().count() >= TOO_SHORT_TO_HIDE {
            text = text.replace(hidden, "…");
        }
    }
    let line: String = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| !c.is_control())
        .collect();
    let line = line.trim();
    if line.chars().count() <= WORDS {
        return line.to_owned();
    }
    let mut cut: String = line.chars().take(WORDS - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_said_is_one_short_line_without_secrets() {
        assert_eq!(brief(" a\r\nb\u{7}\u{1b}[31mc ", &[]), "a  b[31mc");
        assert_eq!(brief("key s3cret is bad", &["s3cret"]), "key … is bad");
        assert_eq!(brief("a bad idea", &["a"]), "a bad idea");
        let long = brief(&"ち".repeat(500), &[]);
        assert_eq!(long.chars().count(), WORDS);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn paths_are_appended_to_any_form_of_base_address() {
        for (given, whole) in [
            (
                "https://api.chatwork.com/v2",
                "https://api.chatwork.com/v2/me",
            ),
            (
                "https://api.chatwork.com/v2/",
                "https://api.chatwork.com/v2/me",
            ),
            (" http://127.0.0.1:8081 ", "http://127.0.0.1:8081/me"),
        ] {
            let base = base(given).expect("a base address");
            assert_eq!(at(&base, "/me").as_str(), whole);
        }
        for wrong in [
            "",
            "api.chatwork.com",
            "ftp://x/",
            "file:///x",
            "https://x/?a=1",
            "https://x/#y",
        ] {
            assert!(base(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_failure_is_told_by_what_caused_it() {
        let table: [(&[&str], &str); 4] = [
            (&[], "builder error"),
            (&["operation timed out"], "operation timed out"),
            (&["client error (Canceled)"], "client error (Canceled)"),
            (
                &["client error (Connect)", "tcp connect error", "refused"],
                "tcp connect error: refused",
            ),
        ];
        for (causes, told) in table {
            let causes = causes.iter().map(|cause| (*cause).to_owned()).collect();
            assert_eq!(in_short("builder error".to_owned(), causes), told);
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (url, loopback) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://sandbox:8081", false),
            ("https://api.chatwork.com", false),
        ] {
            assert_eq!(is_loopback(&base(url).expect("a URL")), loopback, "{url}");
        }
    }
}
