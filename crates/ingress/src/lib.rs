//! The way in: an authentic webhook is verified, stored and answered with 200, in this order and
//! with nothing in between. It calls nobody and holds no API token.
//!
//! - [`receive`] decides what a verified webhook is (pure);
//! - `webhook` is the one HTTP handler: limit, signature, receive, store, answer;
//! - `presented` finds the signature in a request;
//! - `connection` cuts off clients that are too slow;
//! - `refusals` keeps the warning about refused signatures rare.

mod connection;
mod presented;
pub mod receive;
mod refusals;
mod webhook;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle, Service as _};
use actix_web::http::ConnectionType;
use actix_web::{App, HttpResponse, HttpServer, web};
use chickwork_chatwork::signature::Tokens;
use chickwork_queue::Publisher;
use chickwork_queue::event::BotName;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::connection::{Connection, HURRIED_LAST_WORDS, LAST_WORDS};
use crate::webhook::Intake;

/// How long a client may take to send the head of its first request. What bounds every later head
/// is [`connection::LONGEST_SILENCE`].
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may idle between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// How long a client may take to close a connection that we have ended.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Connections that are served at the same time; more of them wait in the kernel.
const MAX_CONNECTIONS: usize = 2048;
/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;
/// Threads that serve requests. Each does little, so a few are enough on any machine.
const MOST_WORKERS: usize = 4;
/// For how long a failure to store makes the ingress unready. It is not for good, as an ingress
/// that gets no webhooks could never show that it has recovered.
const UNREADY_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The header by which `/healthz` tells whoever asks what listens there; see [`WEBHOOKS`].
pub const LISTENS_FOR: &str = "x-chickwork";
/// What the ingress listens for.
pub const WEBHOOKS: &str = "webhooks";

/// What the ingress needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bots that webhooks may come for, at least one; `/webhook` is the first one's.
    pub bots: Vec<BotName>,
    /// The tokens of the webhook settings; any of them may have signed.
    pub tokens: Tokens,
    /// For how long a stopping ingress goes on accepting after `/healthz` has said so, that load
    /// balancers may take notice.
    pub linger: Duration,
    /// How long a stopping ingress may finish the requests it holds.
    pub drain: Duration,
}

/// A running ingress.
#[derive(Debug)]
pub struct Ingress {
    address: SocketAddr,
    readiness: Readiness,
    last_webhook: LastWebhook,
    linger: Duration,
    handle: ServerHandle,
    running: JoinHandle<io::Result<()>>,
}

impl Ingress {
    /// Listens and serves. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(settings: Settings, publisher: Publisher) -> io::Result<Self> {
        webhook::describe_figures();
        let readiness = Readiness::default();
        let last_webhook = LastWebhook::default();
        let linger = settings.linger;
        let intake = Intake::new(
            &settings,
            publisher,
            readiness.clone(),
            last_webhook.clone(),
        );
        let (address, server) = server(&settings, intake)?;
        Ok(Self {
            address,
            readiness,
            last_webhook,
            linger,
            handle: server.handle(),
            running: tokio::spawn(server),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that tells whether it can do its job.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// A handle that tells when the last authentic webhook came.
    pub fn last_webhook(&self) -> LastWebhook {
        self.last_webhook.clone()
    }

    /// Waits until the server has ended, which it does by itself only if something is broken.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.running)
            .await
            .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
    }

    /// Stops: unready first, with little patience for bodies from now on, then accepting no more, then
    /// done when the last request is answered. When `deadline` comes, whatever is still open is
    /// dropped; it was not answered with 200.
    pub async fn stop(self, deadline: impl Future<Output = ()>) {
        self.readiness.drain();
        let running = self.running;
        let gracefully = async {
            tokio::time::sleep(self.linger).await;
            // This also closes connections that are idle, or in the middle of a head.
            self.handle.stop(true).await;
        };
        tokio::select! {
            () = gracefully => {}
            // A server that is dropped forces its threads to end, also halfway through a graceful stop.
            () = deadline => running.abort(),
        }
        // It has been told to end; what it has to say now interests nobody.
        let _ = running.await;
    }
}

/// Tells whether the ingress can do its job; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    draining: watch::Sender<bool>,
    failed_to_store: Mutex<Option<Instant>>,
}

impl Readiness {
    /// Whether webhooks are welcome.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn check(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("the ingress is stopping".to_owned());
        }
        let failed_to_store = *self
            .0
            .failed_to_store
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match failed_to_store {
            Some(when) if when.elapsed() < UNREADY_AFTER_FAILURE => {
                Err("the last webhook could not be stored".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Waits until the ingress is told to stop.
    async fn drains(&self) {
        let mut draining = self.0.draining.subscribe();
        let told = draining.wait_for(|draining| *draining).await;
        told.expect("who waits has the sender too");
    }

    fn note_stored(&self, stored: bool) {
        let mut failed_to_store = self
            .0
            .failed_to_store
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *failed_to_store = (!stored).then(Instant::now);
    }
}

/// When the last authentic webhook came, in the life of this process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LastWebhook(Arc<Mutex<Option<Timestamp>>>);

impl LastWebhook {
    /// Nothing before the first one.
    pub fn at(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

fn server(settings: &Settings, intake: Intake) -> io::Result<(SocketAddr, Server)> {
    let intake = web::Data::new(intake);
    let workers = available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_WORKERS);
    let server = HttpServer::new(move || {
        let readiness = intake.readiness.clone();
        App::new()
            .app_data(intake.clone())
            .wrap_fn(move |request, service| {
                let connection = request.conn_data::<Connection>().cloned();
                let readiness = readiness.clone();
                let answer = service.call(request);
                async move {
                    connection.iter().for_each(Connection::touch);
                    let mut answer = answer.await;
                    let mut last_words = LAST_WORDS;
                    if readiness.is_draining() {
                        last_words = HURRIED_LAST_WORDS;
                        // Or its next webhook could cross with our closing of the connection.
                        if let Ok(answer) = &mut answer {
                            let head = answer.response_mut().head_mut();
                            head.set_connection_type(ConnectionType::Close);
                        }
                    }
                    connection.iter().for_each(|connection| match &answer {
                        Ok(answer) if answer.response().head().keep_alive() => connection.touch(),
                        _ => connection.wind_up(last_words),
                    });
                    answer
                }
            })
            .service(web::resource("/webhook").route(web::post().to(webhook::take)))
            .service(web::resource("/webhook/{bot}").route(web::post().to(webhook::take)))
            .service(
                web::resource("/healthz")
                    .route(web::get().to(health))
                    .route(web::head().to(health)),
            )
    })
    .on_connect(Connection::watch)
    .workers(workers)
    .max_connections(MAX_CONNECTIONS.div_ceil(workers))
    .backlog(BACKLOG)
    .client_request_timeout(HEAD_LIMIT)
    .client_disconnect_timeout(DISCONNECT_LIMIT)
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(settings.drain.as_secs().max(1))
    .disable_signals()
    .bind(settings.listen)?;
    let address = server
        .addrs()
        .first()
        .copied()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((address, server.run()))
}

async fn health(intake: web::Data<Intake>) -> HttpResponse {
    let (mut response, says) = match intake.readiness.check() {
        Ok(()) => (HttpResponse::Ok(), "ready".to_owned()),
        Err(reason) => (HttpResponse::ServiceUnavailable(), reason),
    };
    response
        .insert_header((LISTENS_FOR, WEBHOOKS))
        .body(says + "\n")
}
