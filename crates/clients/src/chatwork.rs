//! The calls of Chatwork's API v2 that a bot needs: who am I, what was said lately, say this; and
//! those of a person who checks on it: which rooms is it in, who waits to be its contact.
//!
//! A post has no idempotency key, so its failures are told apart with care: certainly not sent
//! ([`CallError::NotSent`]), answered with another status ([`CallError::Refused`]), or unknown
//! ([`CallError::InDoubt`]). Source of the rules: Chatwork API Documentation.

use std::fmt;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::{self, BadClient, BodyError, Connections, Patience};

/// The largest `/me` that is read, in bytes.
const ME_BYTES: usize = 64 * 1024;

/// The largest list of a room's newest messages that is read, in bytes: a hundred very long
/// messages fit.
const NEWEST_BYTES: usize = 16 * 1024 * 1024;

/// The largest list of rooms that is read, in bytes: some two thousand with the longest names, ten
/// thousand with usual ones.
const ROOMS_BYTES: usize = 4 * 1024 * 1024;

/// The largest list of contact requests that is read, in bytes: a hundred at most, each with a few
/// words.
const REQUESTS_BYTES: usize = 1024 * 1024;

/// The largest explanation of an error that is read, in bytes.
const ERROR_BYTES: usize = 16 * 1024;

/// The largest answer to a post that is read, in bytes; it has only an id to tell.
const POSTED_BYTES: usize = 4 * 1024;

/// As many messages as Chatwork gives at once ("maximum 100").
const NEWEST: usize = 100;

/// Present and `true` when the plan hides older messages of the room.
const LIMITATION: &str = "chatwork-message-limitation";

/// A rate limit above this is not believed, in calls.
const HIGHEST_LIMIT: u32 = 1_000_000;

/// Times outside of these are not believed, Unix seconds: Chatwork's beginnings and the year 2100.
const BELIEVED: std::ops::Range<i64> = 1_276_473_600..4_102_444_800;

/// What a Chatwork client needs to know.
#[derive(Clone)]
pub struct Settings {
    /// The base address, for instance `https://api.chatwork.com/v2`.
    pub url: String,
    /// The account's API token.
    pub api_token: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// Chatwork, as seen by one account.
#[derive(Clone)]
pub struct Chatwork {
    reading: Client,
    posting: Client,
    base: Url,
    token: HeaderValue,
    api_token: String,
}

impl fmt::Debug for Chatwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chatwork").finish_non_exhaustive()
    }
}

/// The account behind the token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Account {
    /// Its id.
    pub account_id: AccountId,
    /// Its own "my chat" room.
    pub room_id: RoomId,
    /// Its display name.
    pub name: String,
}

/// A room that the account is in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Room {
    /// Its id.
    pub room_id: RoomId,
    /// Its name; a direct chat has that of the other person.
    pub name: String,
    /// What kind of room.
    #[serde(rename = "type")]
    pub kind: RoomKind,
    /// What the account may do there.
    pub role: Role,
}

/// What kind of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoomKind {
    /// The account's own "my chat".
    My,
    /// A chat with one other person.
    Direct,
    /// A group.
    Group,
    /// A kind that was not known when this was written.
    #[serde(other)]
    Other,
}

/// What an account may do in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Read and write.
    Member,
    /// Read; a post is refused with 403.
    Readonly,
    /// A role that was not known when this was written.
    #[serde(other)]
    Other,
}

/// Somebody who wants to be the account's contact. Until that is accepted there is no direct chat.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ContactRequest {
    /// The request's id.
    pub request_id: u64,
    /// Who asks.
    pub account_id: AccountId,
    /// Their display name.
    pub name: String,
}

/// A message as read from a room.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawMessage")]
pub struct RoomMessage {
    /// Its id.
    pub message_id: MessageId,
    /// Who wrote it.
    pub account_id: AccountId,
    /// The raw text with its notation.
    pub body: String,
    /// When it was sent, Unix seconds.
    pub send_time: i64,
    /// When it was last edited, Unix seconds; 0 if never.
    pub update_time: i64,
}

/// Without the text, which belongs to people and not into logs.
impl fmt::Debug for RoomMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomMessage")
            .field("message_id", &self.message_id)
            .field("account_id", &self.account_id)
            .field("send_time", &self.send_time)
            .finish_non_exhaustive()
    }
}

/// A message in Chatwork's own shape: here, unlike in webhooks, the author is an object.
#[derive(Deserialize)]
struct RawMessage {
    message_id: MessageId,
    account: Author,
    body: String,
    send_time: i64,
    /// Nothing depends on it that would be worth to do without the list.
    #[serde(default)]
    update_time: i64,
}

#[derive(Deserialize)]
struct Author {
    account_id: AccountId,
}

impl From<RawMessage> for RoomMessage {
    fn from(raw: RawMessage) -> Self {
        Self {
            message_id: raw.message_id,
            account_id: raw.account.account_id,
            body: raw.body,
            send_time: raw.send_time,
            update_time: raw.update_time,
        }
    }
}

/// The newest messages of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// At most 100, in the order Chatwork gave them.
    pub messages: Vec<RoomMessage>,
    /// These are all that were ever written: fewer than 100, and none hidden by the plan.
    pub whole_room: bool,
}

/// What a call came to, with what Chatwork told about its rate limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<T> {
    /// The result.
    pub value: T,
    /// The account's rate limit after this call.
    pub limits: Limits,
}

/// The account's rate limit as told by the headers of an answer. What is missing or absurd is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Calls allowed per window (`x-ratelimit-limit`).
    pub limit: Option<u32>,
    /// Calls left in the window (`x-ratelimit-remaining`).
    pub remaining: Option<u32>,
    /// When the window ends, Unix seconds by Chatwork's clock (`x-ratelimit-reset`).
    pub reset: Option<i64>,
    /// Chatwork's clock (`date`).
    pub date: Option<jiff::Timestamp>,
}

/// Why a call did not come to a result. The texts are shortened and hold no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no connection: nothing was sent for certain.
    #[error("Chatwork is not reachable: {0}")]
    NotSent(String),
    /// The time ran out or the connection broke after sending: it may have taken effect.
    #[error("no answer from Chatwork: {0}")]
    InDoubt(String),
    /// Chatwork answered with a status other than 2xx; redirects are not followed.
    #[error("Chatwork answered {status}: {said}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Chatwork's words.
        said: String,
        /// The account's rate limit after this call.
        limits: Limits,
        /// A 429 about posts in one room, not about the account.
        room_limit: bool,
    },
    /// A 2xx with a body that cannot be used. Never from a post: that is done when accepted.
    #[error("Chatwork's answer makes no sense: {0}")]
    Nonsense(String),
}

impl Chatwork {
    /// A client with the usual patience.
    pub fn new(settings: Settings) -> Result<Self, BadClient> {
        Self::with_patience(settings, Patience::default())
    }

    /// A client with time limits of its own.
    pub fn with_patience(settings: Settings, patience: Patience) -> Result<Self, BadClient> {
        let base = http::base(&settings.url)?;
        Ok(Self {
            reading: http::client(&base, patience, Connections::Reused)?,
            posting: http::client(&base, patience, Connections::Fresh)?,
            base,
            token: http::secret(&settings.api_token)?,
            api_token: settings.api_token,
        })
    }

    /// Who the token belongs to: `GET /me`.
    pub async fn me(&self) -> Result<Answered<Account>, CallError> {
        let request = self.reading.get(http::at(&self.base, "/me"));
        let (mut response, limits) = self.call(request, "").await?;
        let value = json(&mut response, ME_BYTES).await?;
        Ok(Answered { value, limits })
    }

    /// The rooms that the account is in: `GET /rooms`.
    pub async fn rooms(&self) -> Result<Answered<Vec<Room>>, CallError> {
        let request = self.reading.get(http::at(&self.base, "/rooms"));
        let (mut response, limits) = self.call(request, "").await?;
        let value = list(&mut response, ROOMS_BYTES).await?;
        Ok(Answered { value, limits })
    }

    /// Who waits to be accepted as a contact, at most 100: `GET /incoming_requests`.
    pub async fn incoming_requests(&self) -> Result<Answered<Vec<ContactRequest>>, CallError> {
        let request = self.reading.get(http::at(&self.base, "/incoming_requests"));
        let (mut response, limits) = self.call(request, "").await?;
        let value = list(&mut response, REQUESTS_BYTES).await?;
        Ok(Answered { value, limits })
    }

    /// The newest messages of a room, whatever was read before: `GET /rooms/{room}/messages?force=1`.
    pub async fn newest(&self, room: RoomId) -> Result<Answered<Newest>, CallError> {
        let request = self
            .reading
            .get(self.messages_of(room))
            .query(&[("force", "1")]);
        let (mut response, limits) = self.call(request, "").await?;
        let hidden = header(response.headers(), LIMITATION)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let messages: Vec<RoomMessage> = list(&mut response, NEWEST_BYTES).await?;
        let whole_room = messages.len() < NEWEST && !hidden;
        let value = Newest {
            messages,
            whole_room,
        };
        Ok(Answered { value, limits })
    }

    /// Says `text` in a room, once: `POST /rooms/{room}/messages`.
    ///
    /// With the status 2xx it is done, whatever the body looks like; then the message's id is `None`
    /// if it was not told in time or at all.
    pub async fn post(
        &self,
        room: RoomId,
        text: &str,
    ) -> Result<Answered<Option<MessageId>>, CallError> {
        let request = self
            .posting
            .post(self.messages_of(room))
            .form(&[("body", text)]);
        let (mut response, limits) = self.call(request, text).await?;
        let body = http::start_of_body(&mut response, POSTED_BYTES).await;
        let value = serde_json::from_slice::<Posted>(&body)
            .ok()
            .map(|posted| posted.message_id);
        Ok(Answered { value, limits })
    }

    fn messages_of(&self, room: RoomId) -> Url {
        http::at(&self.base, &format!("/rooms/{room}/messages"))
    }

    /// Sends a request; an answer comes back only if its status is 2xx. An error does not repeat
    /// `text`, which is what the bot wants to say: errors are logged.
    async fn call(
        &self,
        request: RequestBuilder,
        text: &str,
    ) -> Result<(Response, Limits), CallError> {
        let mut response = request
            .header("x-chatworktoken", self.token.clone())
            .send()
            .await
            .map_err(not_answered)?;
        let limits = limits(response.headers());
        let status = response.status();
        if status.is_success() {
            return Ok((response, limits));
        }
        if status.is_informational() {
            // Nobody asked for another protocol (101); it says nothing about the call.
            return Err(CallError::InDoubt(format!("{status} is no answer")));
        }
        let body = http::start_of_body(&mut response, ERROR_BYTES).await;
        let said = explanation(&body);
        let room_limit = is_room_limit(status, &said, limits);
        let hidden: Vec<&str> = [self.api_token.as_str(), text]
            .into_iter()
            .chain(text.lines())
            .collect();
        Err(CallError::Refused {
            status: status.as_u16(),
            said: http::brief(&said, &hidden),
            limits,
            room_limit,
        })
    }
}

#[derive(Deserialize)]
struct Posted {
    message_id: MessageId,
}

fn not_answered(error: reqwest::Error) -> CallError {
    if error.is_connect() || error.is_builder() {
        CallError::NotSent(http::told(error))
    } else {
        CallError::InDoubt(http::told(error))
    }
}

/// The answer's body as a list; "nothing" is a 204 without a body, not an empty list.
async fn list<T: DeserializeOwned>(
    response: &mut Response,
    cap: usize,
) -> Result<Vec<T>, CallError> {
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(Vec::new());
    }
    json(response, cap).await
}

/// The answer's body as JSON. What does not parse is told by place only: it is people's text.
async fn json<T: DeserializeOwned>(response: &mut Response, cap: usize) -> Result<T, CallError> {
    let body = http::body(response, cap)
        .await
        .map_err(|error| match error {
            BodyError::Lost(error) => not_answered(error),
            BodyError::TooLarge => CallError::Nonsense(format!("more than {cap} bytes")),
        })?;
    serde_json::from_slice(&body).map_err(|error| {
        CallError::Nonsense(format!(
            "not the JSON that was expected (line {}, column {})",
            error.line(),
            error.column()
        ))
    })
}

/// Chatwork's words in an error: `{"errors": ["…", …]}`. Anything else (a proxy's HTML) explains
/// nothing.
fn explanation(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Explained {
        errors: Vec<String>,
    }
    match serde_json::from_slice::<Explained>(body) {
        Ok(explained) if !explained.errors.is_empty() => explained.errors.join("; "),
        _ => "no explanation".to_owned(),
    }
}

/// Chatwork has two limits and one status for both. The limit of a room says so in words; in case
/// the words change, calls that the account has left tell the same.
fn is_room_limit(status: StatusCode, said: &str, limits: Limits) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        && (said.to_lowercase().contains("per room") || limits.remaining.is_some_and(|n| n > 0))
}

fn limits(headers: &HeaderMap) -> Limits {
    let number = |name| header(headers, name)?.trim().parse::<i64>().ok();
    let count = |name| {
        number(name)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n <= HIGHEST_LIMIT)
    };
    Limits {
        limit: count("x-ratelimit-limit").filter(|n| *n > 0),
        remaining: count("x-ratelimit-remaining"),
        reset: number("x-ratelimit-reset").filter(|seconds| BELIEVED.contains(seconds)),
        date: header(headers, "date")
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .and_then(|date| jiff::Timestamp::try_from(date).ok())
            .filter(|date| BELIEVED.contains(&date.as_second())),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    reqwest::header::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn limits_are_read_leniently_and_absurd_ones_not_believed() {
        assert_eq!(
            limits(&headers(&[
                ("x-ratelimit-limit", "300"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "1700000300"),
                ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
            ])),
            Limits {
                limit: Some(300),
                remaining: Some(0),
                reset: Some(1_700_000_300),
                date: jiff::Timestamp::from_second(1_700_000_000).ok(),
            }
        );
        for (name, value) in [
            ("x-ratelimit-limit", "0"),
            ("x-ratelimit-limit", "many"),
            ("x-ratelimit-remaining", "-1"),
            ("x-ratelimit-remaining", "99999999999999999999"),
            ("x-ratelimit-reset", "17"),
            ("x-ratelimit-reset", "1700000300000"),
            ("date", "today"),
            ("date", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(
                limits(&headers(&[(name, value)])),
                Limits::default(),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn the_two_limits_are_told_apart_by_words_or_by_what_is_left() {
        let left = |remaining| Limits {
            remaining,
            ..Limits::default()
        };
        let room = "Rate limit for message posting per room exceeded.";
        for (status, said, remaining, expected) in [
            (429, room, None, true),
            (429, "RATE LIMIT PER ROOM", Some(0), true),
            (429, "Too many", Some(12), true),
            (429, "Too many", Some(0), false),
            (429, "Too many", None, false),
            (400, room, Some(12), false),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(
                is_room_limit(status, said, left(remaining)),
                expected,
                "{said}"
            );
        }
    }

    #[test]
    fn an_explanation_is_the_errors_joined() {
        assert_eq!(explanation(br#"{"errors":["a","b"]}"#), "a; b");
        for nothing in ["", "<html>", r#"{"errors":[]}"#, r#"{"errors":"a"}"#] {
            assert_eq!(
                explanation(nothing.as_bytes()),
                "no explanation",
                "{nothing}"
            );
        }
    }
}
