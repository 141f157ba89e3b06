//! `POST /webhook`: the body within its limits, the signature over its bytes, what it is, where it
//! is kept, the answer. Nothing is looked at before the signature has been checked.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use chickwork_chatwork::signature::{Tokens, Verified};
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::{Publisher, QueueError, Stored};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::receive::{Received, receive};
use crate::refusals::Refusals;
use crate::{LastWebhook, Readiness, Settings, presented};

/// The largest body that is taken. Chatwork's largest message has 65,535 characters; escaped as
/// JSON that is well below half a mebibyte.
const MAX_BODY: usize = 1024 * 1024;
/// Bodies up to this size are read from every connection at once, in bytes. Chatwork's are small.
const SMALL_BODY: usize = 64 * 1024;
/// Of those that are larger, so many at a time: nobody has shown a signature yet, and on all
/// connections together they would be gigabytes. The others wait, within [`BODY_LIMIT`].
const LARGE_BODIES: usize = 64;
/// How long a client may take to send a body.
const BODY_LIMIT: Duration = Duration::from_secs(15);
/// The same once the ingress is told to stop. Its successor cannot start before it is gone, and the
/// proxy in front holds webhooks for a few seconds only. So nobody may keep it waiting who sends a
/// body slowly, or not at all, for which no signature is needed. With the time to read the answer it
/// is less than the 2 s for which a stopping ingress goes on accepting: who began before costs nothing.
const LAST_BODY_LIMIT: Duration = Duration::from_secs(1);
/// How long storing may take. Chatwork waits 10 s; we answer within 5 s whatever happens. The queue
/// has a shorter limit of its own, so this one fires only if something hangs that should not.
const STORE_LIMIT: Duration = Duration::from_millis(4500);

/// What the handler works with, shared by all threads.
pub(crate) struct Intake {
    bots: Vec<BotName>,
    tokens: Tokens,
    publisher: Publisher,
    refusals: Mutex<Refusals>,
    pub(crate) readiness: Readiness,
    last_webhook: LastWebhook,
    large_bodies: Semaphore,
}

/// How a webhook was taken.
#[derive(Debug, Clone, Copy)]
enum Taken {
    /// It is safe; `result` says as what.
    Kept {
        result: &'static str,
        stored: Stored,
    },
    /// Not signed, or not by any of our tokens.
    Refused,
    /// Larger than [`MAX_BODY`].
    TooLarge,
    /// The body did not come within [`BODY_LIMIT`], or [`LAST_BODY_LIMIT`].
    TooSlow,
    /// The connection broke while the body was coming.
    Broken,
    /// Authentic, but it could not be made safe.
    Unavailable,
    /// There is no such bot.
    NoSuchBot,
}

/// Announces what is recorded here, and records zeros, so that a figure exists before its first event.
pub(crate) fn describe_figures() {
    metrics::describe_counter!(
        "chickwork_webhooks_total",
        "Webhooks received, by what became of them"
    );
    metrics::describe_counter!(
        "chickwork_acks_total",
        "Webhooks answered with 200, by where they were stored"
    );
    metrics::describe_histogram!(
        "chickwork_ack_seconds",
        "From a webhook's last byte to its answer"
    );
    metrics::describe_gauge!(
        "chickwork_last_webhook_seconds",
        "When the last authentic webhook came, Unix seconds; 0 before the first"
    );
    for result in [
        "stored",
        "malformed",
        "ignored",
        "refused",
        "too_large",
        "unavailable",
    ] {
        metrics::counter!("chickwork_webhooks_total", "result" => result).absolute(0);
    }
    for stored in Stored::ALL {
        metrics::counter!("chickwork_acks_total", "stored" => stored.as_str()).absolute(0);
    }
    metrics::gauge!("chickwork_last_webhook_seconds").set(0);
}

/// Handles a request that may be a webhook.
pub(crate) async fn take(
    intake: web::Data<Intake>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let taken = intake.take(&request, payload).await;
    if let Some(result) = taken.result() {
        metrics::counter!("chickwork_webhooks_total", "result" => result).increment(1);
    }
    if let Taken::Kept { stored, .. } = taken {
        metrics::counter!("chickwork_acks_total", "stored" => stored.as_str()).increment(1);
    }
    taken.answer()
}

impl Intake {
    pub(crate) fn new(
        settings: &Settings,
        publisher: Publisher,
        readiness: Readiness,
        last_webhook: LastWebhook,
    ) -> Self {
        Self {
            bots: settings.bots.clone(),
            tokens: settings.tokens.clone(),
            publisher,
            refusals: Mutex::default(),
            readiness,
            last_webhook,
            large_bodies: Semaphore::new(LARGE_BODIES),
        }
    }

    async fn take(&self, request: &HttpRequest, payload: web::Payload) -> Taken {
        let Some(bot) = self.bot(request) else {
            return Taken::NoSuchBot;
        };
        let (body, _large) = match self.read(request, payload).await {
            Ok(read) => read,
            Err(taken) => return taken,
        };
        let began = Instant::now();
        let taken = match self.verify(request, body) {
            Some(verified) => {
                let now = Timestamp::now();
                self.last_webhook.note(now);
                metrics::gauge!("chickwork_last_webhook_seconds").set(now.as_second() as f64);
                self.store(receive(&verified, bot, now, EventId::fresh()))
                    .await
            }
            None => Taken::Refused,
        };
        metrics::histogram!("chickwork_ack_seconds").record(began.elapsed());
        taken
    }

    /// The bot that the path names; the first one if it names none.
    fn bot(&self, request: &HttpRequest) -> Option<&BotName> {
        match request.match_info().get("bot") {
            Some(name) => self.bots.iter().find(|bot| bot.as_str() == name),
            None => self.bots.first(),
        }
    }

    /// Reads the body, within its limits of size and time; with it, the permit for a large one.
    async fn read(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Taken> {
        let announced = request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0_usize);
        if announced > MAX_BODY {
            return Err(Taken::TooLarge);
        }
        let stopping = async {
            self.readiness.drains().await;
            tokio::time::sleep(LAST_BODY_LIMIT).await;
        };
        tokio::select! {
            // A body that is there is taken, whatever the time.
            biased;
            read = collect(payload, announced, &self.large_bodies) => read,
            () = stopping => Err(Taken::TooSlow),
            () = tokio::time::sleep(BODY_LIMIT) => Err(Taken::TooSlow),
        }
    }

    fn verify(&self, request: &HttpRequest, body: Bytes) -> Option<Verified> {
        let verified = presented::signature(request.headers(), request.query_string())
            .and_then(|signature| self.tokens.verify(body, &signature).ok());
        if verified.is_none() {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = refusals.note(Instant::now()) {
                log::warn!(
                    count;
                    "refused requests without a valid signature: is CHATWORK_WEBHOOK_TOKEN the token of this webhook's edit screen?"
                );
            }
        }
        verified
    }

    /// Makes it safe. Goes on doing so if the client hangs up meanwhile: Chatwork does not send
    /// anything twice.
    async fn store(&self, received: Received) -> Taken {
        let (Received::Known(event) | Received::Unknown(event) | Received::Malformed { event, .. }) =
            &received;
        let event = event.clone();
        let result = match &received {
            Received::Known(_) => "stored",
            Received::Unknown(_) => "ignored",
            Received::Malformed { .. } => "malformed",
        };
        let storing = tokio::spawn(keep(self.publisher.clone(), received));
        let error = match tokio::time::timeout(STORE_LIMIT, storing).await {
            Ok(Ok(Ok(stored))) => {
                self.readiness.note_stored(true);
                log_kept(&event, result);
                return Taken::Kept { result, stored };
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(panicked)) => panicked.to_string(),
            Err(_elapsed) => format!("not stored within {STORE_LIMIT:?}"),
        };
        self.readiness.note_stored(false);
        let [id, room, message] = ids(&event);
        log::error!(id, room, message, error; "an authentic webhook could not be stored; it is lost unless the store shows it later");
        Taken::Unavailable
    }
}

async fn keep(publisher: Publisher, received: Received) -> Result<Stored, QueueError> {
    match received {
        Received::Known(event) => publisher.publish(&event).await,
        Received::Unknown(event) => publisher.archive(&event, "unknown_type").await,
        Received::Malformed { event, error } => publisher.bury(&event, &error).await,
    }
}

/// Event, room and message as they stand in a log line.
fn ids(event: &Event) -> [String; 3] {
    let none = || "-".to_owned();
    let room = event
        .room_id
        .map_or_else(none, |room_id| room_id.to_string());
    let message = event
        .message_id
        .as_ref()
        .map_or_else(none, ToString::to_string);
    [event.id.to_string(), room, message]
}

fn log_kept(event: &Event, result: &'static str) {
    // Malformed but authentic: Chatwork has changed its format, or somebody else knows the token.
    let level = if result == "malformed" {
        log::Level::Warn
    } else {
        log::Level::Debug
    };
    if log::log_enabled!(level) {
        let [id, room, message] = ids(event);
        log::log!(level, id, room, message, result; "webhook kept");
    }
}

async fn collect(
    mut payload: web::Payload,
    announced: usize,
    large_bodies: &Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Taken> {
    let mut body = BytesMut::new();
    let mut large = None;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Taken::Broken)?;
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Taken::TooLarge);
        }
        if body.len() + chunk.len() > SMALL_BODY && large.is_none() {
            let permit = large_bodies.acquire().await;
            large = Some(permit.expect("this semaphore is never closed"));
        }
        if body.is_empty() && chunk.len() >= announced.max(1) {
            // The usual case: it came in one piece, and need not be copied. A second piece of a
            // body without a length is put behind it.
            body = chunk.into();
        } else {
            body.extend_from_slice(&chunk);
        }
    }
    Ok((body.freeze(), large))
}

impl Taken {
    /// The label in `chickwork_webhooks_total`; what never was a webhook has none.
    fn result(self) -> Option<&'static str> {
        match self {
            Self::Kept { result, .. } => Some(result),
            Self::Refused => Some("refused"),
            Self::TooLarge => Some("too_large"),
            Self::Unavailable => Some("unavailable"),
            Self::TooSlow | Self::Broken | Self::NoSuchBot => None,
        }
    }

    fn answer(self) -> HttpResponse {
        match self {
            // Chatwork takes a long answer for an error; an empty one is safe.
            Self::Kept { .. } => HttpResponse::Ok().finish(),
            Self::Refused => HttpResponse::Unauthorized().body("signature missing or wrong\n"),
            Self::TooLarge => closing(StatusCode::PAYLOAD_TOO_LARGE),
            Self::TooSlow => closing(StatusCode::REQUEST_TIMEOUT),
            Self::Broken => closing(StatusCode::BAD_REQUEST),
            Self::Unavailable => HttpResponse::ServiceUnavailable().finish(),
            Self::NoSuchBot => HttpResponse::NotFound().finish(),
        }
    }
}

/// An answer after which the connection is of no more use: the rest of the body may still come.
fn closing(status: StatusCode) -> HttpResponse {
    HttpResponse::build(status).force_close().finish()
}
