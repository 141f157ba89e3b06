//! SimSimi's SmallTalk API: one text in, one answer out, no memory in between.
//!
//! Only the text and the language are sent: more options exist, but not for every plan.
//! Source of the rules: the official description of `POST /190410/talk`, which leaves open how the
//! HTTP status and the `status` in the body go together. The body is believed first.

use std::fmt;

use chickwork_chatwork::notation::neutralise;
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use serde_json::{Map, Value, json};

use crate::http::{self, BadClient, BodyError, Connections, Patience};

/// The largest answer that is read, in bytes: 256 characters of answer, an echo of the question and
/// a lot of goodwill.
const ANSWER_BYTES: usize = 64 * 1024;

/// What a SimSimi client needs to know.
#[derive(Clone)]
pub struct Settings {
    /// The base address, for instance `https://wsapi.simsimi.com/190410`; `/talk` is appended.
    pub url: String,
    /// The project's key.
    pub api_key: String,
    /// One of SimSimi's own language codes, for instance `vn`.
    pub lang: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("lang", &self.lang)
            .finish_non_exhaustive()
    }
}

/// SimSimi, ready to be asked.
#[derive(Clone)]
pub struct SimSimi {
    client: Client,
    talk: Url,
    key: HeaderValue,
    api_key: String,
    lang: String,
}

impl fmt::Debug for SimSimi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSimi")
            .field("lang", &self.lang)
            .finish_non_exhaustive()
    }
}

/// What SimSimi answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These words, written by some user of SimSimi: not to be trusted with anything.
    Said(String),
    /// It did not understand (228), or its answer was blank.
    NothingToSay,
}

/// Why there is no answer. The texts are SimSimi's words, shortened, without the key and the question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The key is not accepted (403).
    #[error("SimSimi does not accept the key: {0}")]
    Unauthorized(String),
    /// The paid calls are used up (429).
    #[error("SimSimi's quota is used up: {0}")]
    QuotaUsedUp(String),
    /// It takes our request for a wrong one (227).
    #[error("SimSimi rejects the request: {0}")]
    Rejected(String),
    /// It failed (500), or said something that is no answer.
    #[error("SimSimi failed: {0}")]
    Failed(String),
    /// It took longer than [`Patience::call`].
    #[error("SimSimi did not answer in time")]
    TimedOut,
    /// No connection, or it broke before the answer was complete.
    #[error("SimSimi is not reachable: {0}")]
    Unreachable(String),
}

impl SimSimi {
    /// A client with the usual patience.
    pub fn new(settings: Settings) -> Result<Self, BadClient> {
        Self::with_patience(settings, Patience::default())
    }

    /// A client with time limits of its own.
    pub fn with_patience(settings: Settings, patience: Patience) -> Result<Self, BadClient> {
        let base = http::base(&settings.url)?;
        Ok(Self {
            client: http::client(&base, patience, Connections::Reused)?,
            talk: http::at(&base, "/talk"),
            key: http::secret(&settings.api_key)?,
            api_key: settings.api_key,
            lang: settings.lang,
        })
    }

    /// Asks once. The caller keeps `text` within SimSimi's limit of 100 characters.
    pub async fn ask(&self, text: &str) -> Result<Answer, AskError> {
        let mut response = self
            .client
            .post(self.talk.clone())
            .header("x-api-key", self.key.clone())
            .json(&json!({ "utext": text, "lang": self.lang }))
            .send()
            .await
            .map_err(not_answered)?;
        let body = match http::body(&mut response, ANSWER_BYTES).await {
            Ok(body) => body,
            Err(BodyError::Lost(error)) => return Err(not_answered(error)),
            Err(BodyError::TooLarge) => {
                return Err(AskError::Failed("the answer is too large".to_owned()));
            }
        };
        let hidden = [self.api_key.as_str(), text];
        understand(response.status().as_u16(), &body, &hidden)
    }
}

fn not_answered(error: reqwest::Error) -> AskError {
    if error.is_timeout() && !error.is_connect() {
        AskError::TimedOut
    } else {
        AskError::Unreachable(http::told(error))
    }
}

/// Decides what an HTTP answer means: by the `status` in its body if there is one, else (an error
/// page, or the gateway in front of SimSimi) by the HTTP status.
fn understand(http_status: u16, body: &[u8], hidden: &[&str]) -> Result<Answer, AskError> {
    let body: Map<String, Value> =
        serde_json::from_str(&String::from_utf8_lossy(body)).unwrap_or_default();
    let status = body.get("status").and_then(integer);
    let words = ["statusMessage", "message"]
        .iter()
        .find_map(|name| body.get(*name)?.as_str())
        .unwrap_or("no explanation");
    let words = match status {
        Some(status) => format!("{status} {}", http::brief(words, hidden)),
        None => format!("HTTP {http_status}, {}", http::brief(words, hidden)),
    };

    match (status, http_status) {
        (Some(200), _) => Ok(spoken(&body).unwrap_or(Answer::NothingToSay)),
        (Some(228), _) => Ok(Answer::NothingToSay),
        (Some(227), _) => Err(AskError::Rejected(words)),
        (Some(403), _) => Err(AskError::Unauthorized(words)),
        (Some(429), _) => Err(AskError::QuotaUsedUp(words)),
        (Some(_), _) => Err(AskError::Failed(words)),
        (None, 429) => Err(AskError::QuotaUsedUp(words)),
        (None, _) if words.to_lowercase().contains("limit exceeded") => {
            Err(AskError::QuotaUsedUp(words))
        }
        // 401 is not in SimSimi's list; from a gateway it can only be about the key.
        (None, 401 | 403) => Err(AskError::Unauthorized(words)),
        (None, 200) => spoken(&body).ok_or(AskError::Failed(words)),
        (None, _) => Err(AskError::Failed(words)),
    }
}

/// The answer in the body, if anything of it can be seen.
fn spoken(body: &Map<String, Value>) -> Option<Answer> {
    let words = body.get("atext")?.as_str()?;
    let seen = neutralise(words);
    (!seen.trim().is_empty()).then(|| Answer::Said(words.to_owned()))
}

/// An integer, also when it comes as a string.
fn integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &str) -> Result<Answer, AskError> {
        Ok(Answer::Said(words.to_owned()))
    }

    #[test]
    fn the_status_in_the_body_decides_before_the_http_status() {
        let silence = Ok(Answer::NothingToSay);
        let cases = [
            (
                200,
                r#"{"status":200,"statusMessage":"Ok","atext":"Hi"}"#,
                said("Hi"),
            ),
            (500, r#"{"status":200,"atext":"Hi"}"#, said("Hi")),
            (200, r#"{"status":"200","atext":"Hi"}"#, said("Hi")),
            (200, r#"{"status":200}"#, silence.clone()),
            (200, r#"{"status":200,"atext":null}"#, silence.clone()),
            (200, r#"{"status":200,"atext":7}"#, silence.clone()),
            (
                200,
                r#"{"status":200,"atext":"\u0007\u200b"}"#,
                silence.clone(),
            ),
            (200, r#"{"status":200,"atext":" \n　"}"#, silence.clone()),
            (
                200,
                r#"{"status":228,"statusMessage":"Do Not Understand"}"#,
                silence.clone(),
            ),
            (
                200,
                r#"{"status":227,"statusMessage":"Parameter Required"}"#,
                Err(AskError::Rejected("227 Parameter Required".to_owned())),
            ),
            (
                200,
                r#"{"status":403,"statusMessage":"Unauthorized"}"#,
                Err(AskError::Unauthorized("403 Unauthorized".to_owned())),
            ),
            (
                200,
                r#"{"status":429,"statusMessage":"Limit Exceeded"}"#,
                Err(AskError::QuotaUsedUp("429 Limit Exceeded".to_owned())),
            ),
            (
                200,
                r#"{"status":500,"statusMessage":"Server error"}"#,
                Err(AskError::Failed("500 Server error".to_owned())),
            ),
            (
                200,
                r#"{"status":999}"#,
                Err(AskError::Failed("999 no explanation".to_owned())),
            ),
        ];
        for (http, body, expected) in cases {
            assert_eq!(
                understand(http, body.as_bytes(), &[]),
                expected,
                "{http} {body}"
            );
        }
    }

    #[test]
    fn without_a_status_in_the_body_the_http_status_decides() {
        let cases = [
            (
                403,
                r#"{"message":"Forbidden"}"#,
                Err(AskError::Unauthorized("HTTP 403, Forbidden".to_owned())),
            ),
            (
                429,
                r#"{"message":"Too Many Requests"}"#,
                Err(AskError::QuotaUsedUp(
                    "HTTP 429, Too Many Requests".to_owned(),
                )),
            ),
            (
                400,
                r#"{"message":"Limit Exceeded Exception"}"#,
                Err(AskError::QuotaUsedUp(
                    "HTTP 400, Limit Exceeded Exception".to_owned(),
                )),
            ),
            (
                500,
                "<html>oops</html>",
                Err(AskError::Failed("HTTP 500, no explanation".to_owned())),
            ),
            (
                302,
                "",
                Err(AskError::Failed("HTTP 302, no explanation".to_owned())),
            ),
            (
                200,
                "[1]",
                Err(AskError::Failed("HTTP 200, no explanation".to_owned())),
            ),
            (200, r#"{"atext":"Hi"}"#, said("Hi")),
        ];
        for (http, body, expected) in cases {
            assert_eq!(
                understand(http, body.as_bytes(), &[]),
                expected,
                "{http} {body}"
            );
        }
    }

    #[test]
    fn errors_tell_neither_the_key_nor_the_question() {
        let body = br#"{"status":500,"statusMessage":"key k3y-k3y failed on tell me a secret"}"#;
        let error = understand(200, body, &["k3y-k3y", "tell me a secret"]);
        assert_eq!(
            error,
            Err(AskError::Failed("500 key … failed on …".to_owned()))
        );
    }
}
