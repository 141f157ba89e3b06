//! How a fault happens to a call: when the effect comes, what is answered, or that nothing is.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde_json::{Value, json};

use super::{Fault, Service, Times, When, header, text};
use crate::connection;

/// How long a connection is held open without an answer. Longer than any caller waits, and yet not
/// for ever: callers that are gone are not noticed.
const HELD: Duration = Duration::from_secs(10 * 60);

/// Repeated bodies are sent in pieces of about this size, in bytes.
const PIECE: usize = 16 * 1024;

/// How a call ended under a fault, if there was one.
pub(crate) enum Ended {
    /// With the service's own answer.
    Served(HttpResponse),
    /// With the answer that the fault asked for.
    Broken(HttpResponse),
    /// Without an answer.
    Lost(Loss),
}

/// What the caller gets instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// A closed connection.
    Cut,
    /// Silence.
    Held,
}

impl Loss {
    /// Lets the caller have it. What is returned is for the server; it reaches nobody.
    pub(crate) async fn befall(self, request: &HttpRequest) -> HttpResponse {
        if self == Self::Held {
            tokio::time::sleep(HELD).await;
        }
        connection::cut(request);
        HttpResponse::InternalServerError().finish()
    }
}

/// Lets a call happen as the fault wants it. `serve` is the service's own answer, and its effect.
pub(crate) async fn under(fault: Option<Fault>, serve: impl FnOnce() -> HttpResponse) -> Ended {
    let Some(fault) = fault else {
        return Ended::Served(serve());
    };
    let delay = async || {
        if let Some(delay) = fault.delay_ms {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    };
    let lost = fault.loss();
    if let Some((loss, When::Before)) = lost {
        delay().await;
        return Ended::Lost(loss);
    }
    if fault.before {
        delay().await;
    }
    let ended = match fault.answer() {
        Some(answer) => {
            if fault.effect {
                drop(serve());
            }
            Ended::Broken(answer)
        }
        None => Ended::Served(with_headers(serve(), &fault)),
    };
    if !fault.before {
        delay().await;
    }
    match lost {
        Some((loss, When::After)) => Ended::Lost(loss),
        _ => ended,
    }
}

/// Headers alone are added to the service's own answer.
fn with_headers(mut response: HttpResponse, fault: &Fault) -> HttpResponse {
    for (name, value) in &fault.headers {
        if let Some((name, value)) = header(name, value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

impl Fault {
    fn loss(&self) -> Option<(Loss, When)> {
        let cut = self.drop.map(|when| (Loss::Cut, when));
        cut.or(self.hold.map(|when| (Loss::Held, when)))
    }

    fn answer(&self) -> Option<HttpResponse> {
        if self.status.is_none() && self.body.is_none() {
            return None;
        }
        let status = StatusCode::from_u16(self.status.unwrap_or(200)).ok()?;
        let mut response = HttpResponseBuilder::new(status);
        if self.plays_account_limit() {
            response.insert_header(("x-ratelimit-remaining", "0"));
        }
        let response = match (&self.body, self.repeat) {
            (Some(body), Some(times)) => response.body(Repeated::new(&text(body), times)),
            (Some(Value::String(body)), None) => response.body(body.clone()),
            (Some(body), None) => response.json(body),
            (None, _) if matches!(status.as_u16(), 204 | 304) => response.finish(),
            (None, _) => response.json(self.usual_error(status)),
        };
        Some(with_headers(response, self))
    }

    /// A 429 of Chatwork without words of its own is about the account, which then has nothing left;
    /// the limit of a room says so in words.
    fn plays_account_limit(&self) -> bool {
        self.service == Service::Chatwork && self.status == Some(429) && self.body.is_none()
    }

    /// How an error of the service looks; SimSimi's is that of the gateway in front of it.
    fn usual_error(&self, status: StatusCode) -> Value {
        let words = status.canonical_reason().unwrap_or("Failed");
        match self.service {
            Service::Simsimi => json!({ "message": words }),
            Service::Chatwork => json!({ "errors": [words] }),
        }
    }
}

/// A text over and over, made as it is sent: it may be larger than memory, or have no end.
struct Repeated {
    /// The text, so many times as makes a good piece.
    piece: Bytes,
    /// Bytes that are still to be sent; `None`: there is no end.
    left: Option<usize>,
}

impl Repeated {
    fn new(body: &str, times: Times) -> Self {
        let in_a_piece = (PIECE / body.len().max(1)).max(1);
        Self {
            piece: Bytes::from(body.repeat(in_a_piece)),
            left: match times {
                Times::Exactly(times) => Some(body.len().saturating_mul(times as usize)),
                Times::Always => None,
            },
        }
    }
}

impl MessageBody for Repeated {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        match self.left {
            Some(left) => BodySize::Sized(left as u64),
            None => BodySize::Stream,
        }
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let length = self.left.unwrap_or(usize::MAX).min(self.piece.len());
        if length == 0 {
            return Poll::Ready(None);
        }
        self.left = self.left.map(|left| left - length);
        Poll::Ready(Some(Ok(self.piece.slice(..length))))
    }
}
