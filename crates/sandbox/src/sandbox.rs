//! The sandbox as a whole: its settings, its start and stop, and what a program can do with it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::signature::Token;
use serde::Deserialize;
use tokio::sync::broadcast;

use crate::fault::{Fault, FaultId, Waiting};
use crate::ledger::{Ledger, Posted, Said};
use crate::state::State;
use crate::town::{self, Role};
use crate::webhook::{Courier, Kind};
use crate::{chatwork, connection, control, simsimi};

/// The webhook token of [`Settings::demo`]; obviously nobody's secret.
pub const DEMO_WEBHOOK_TOKEN: &str = "Y2hpY2t3b3JrLXNhbmRib3gtd2ViaG9vay10b2tlbiE=";
/// The Chatwork API token of [`Settings::demo`].
pub const DEMO_API_TOKEN: &str = "sandbox-chatwork-api-token";
/// The SimSimi key of [`Settings::demo`].
pub const DEMO_API_KEY: &str = "sandbox-simsimi-api-key";

/// Threads that serve; the sandbox must not be what a test waits for.
const SERVING_THREADS: usize = 2;

/// How long an idle connection stays open, as with the services' load balancers.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// The largest request, in bytes: the longest message, every character of it percent-encoded.
const REQUEST_BYTES: usize = 2 * 1024 * 1024;

/// What a sandbox is made of.
#[derive(Clone)]
pub struct Settings {
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where webhooks go; empty: nowhere.
    pub webhook_url: String,
    /// The token that webhooks are signed with.
    pub webhook_token: Token,
    /// The API token that Chatwork accepts.
    pub api_token: String,
    /// The key that SimSimi accepts.
    pub api_key: String,
    /// The account behind the API token.
    pub bot: AccountId,
    /// Its display name.
    pub bot_name: String,
    /// Calls of the account in a time.
    pub account_limit: (u32, Duration),
    /// Posts in one room in a time.
    pub room_limit: (u32, Duration),
    /// How long Chatwork takes to answer a call.
    pub chatwork_takes: Duration,
    /// How long SimSimi takes to answer.
    pub simsimi_takes: Duration,
}

impl Settings {
    /// On any free port of this machine, with the demo tokens, the documented limits, and webhooks
    /// to where the ingress listens by default.
    pub fn demo() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            webhook_url: "http://127.0.0.1:8080/webhook".to_owned(),
            webhook_token: Token::parse(DEMO_WEBHOOK_TOKEN).expect("the demo token is Base64"),
            api_token: DEMO_API_TOKEN.to_owned(),
            api_key: DEMO_API_KEY.to_owned(),
            bot: town::BOT,
            bot_name: "Chickwork".to_owned(),
            account_limit: (300, Duration::from_secs(5 * 60)),
            room_limit: (10, Duration::from_secs(10)),
            chatwork_takes: Duration::ZERO,
            simsimi_takes: Duration::ZERO,
        }
    }
}

/// Without the tokens.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("listen", &self.listen)
            .field("bot", &self.bot)
            .field("account_limit", &self.account_limit)
            .field("room_limit", &self.room_limit)
            .finish_non_exhaustive()
    }
}

/// The sandbox cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address in the settings.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// There is no HTTP client to send webhooks with.
    #[error("cannot send webhooks: {0}")]
    Courier(#[from] crate::webhook::NoCourier),
}

/// Somebody writes in a room.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Say {
    /// Where; a room that does not exist yet is opened, with the bot in it.
    pub room_id: RoomId,
    /// Who; strangers are let in.
    pub account_id: AccountId,
    /// The raw text with its notation.
    pub body: String,
    /// The type of the webhook. If absent: `mention_to_me` when a To or reply tag addresses the
    /// bot, else `message_created`.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// The message's id, to tell of the same message again or to edit one (`message_updated`). If
    /// absent: a new one.
    #[serde(default)]
    pub message_id: Option<MessageId>,
    /// When it was sent, Unix seconds. If absent: now.
    #[serde(default)]
    pub send_time: Option<i64>,
}

impl Say {
    /// Words in a room, as a new message.
    pub fn new(room_id: RoomId, account_id: AccountId, body: impl Into<String>) -> Self {
        Self {
            room_id,
            account_id,
            body: body.into(),
            kind: None,
            message_id: None,
            send_time: None,
        }
    }
}

/// Both services, running.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    state: Arc<State>,
    server: ServerHandle,
}

impl Sandbox {
    /// Starts serving; when this returns, the address can be called.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let address = settings.listen;
        let state = Arc::new(State::new(settings, Courier::new()?));
        let data = web::Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .app_data(web::PayloadConfig::new(REQUEST_BYTES))
                .configure(chatwork::routes)
                .configure(simsimi::routes)
                .configure(control::routes)
        })
        .on_connect(connection::remember)
        .workers(SERVING_THREADS)
        .keep_alive(KEEP_ALIVE)
        .disable_signals()
        .bind(address)
        .map_err(|error| StartError::Listen { address, error })?;
        let address = server.addrs().first().copied().unwrap_or(address);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self {
            address,
            state,
            server: handle,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address of its Chatwork.
    pub fn chatwork_url(&self) -> String {
        format!("http://{}/v2", self.address)
    }

    /// The base address of its SimSimi.
    pub fn simsimi_url(&self) -> String {
        format!("http://{}/190410", self.address)
    }

    /// From now on webhooks go to this address; empty: nowhere.
    pub fn set_webhook_url(&self, url: impl Into<String>) {
        *self.state.webhook_url() = url.into();
    }

    /// Somebody writes in a room, and Chatwork tells the bot: once, waiting up to 10 seconds, and
    /// never again. Returns when the webhook is over, however it went.
    pub async fn say(&self, say: Say) -> Said {
        self.state.say(say).await
    }

    /// From now on the bot may do this in a room; one that does not exist yet is opened.
    pub fn set_role(&self, room: RoomId, role: Role) {
        self.state.town().set_role(room, role);
    }

    /// Somebody asks to be the bot's contact; until that is accepted there is no direct chat with
    /// them. The number of the request.
    pub fn request_contact(&self, account: AccountId) -> u64 {
        self.state.town().request_contact(account)
    }

    /// The bot's owner accepts all contact requests.
    pub fn accept_contacts(&self) {
        self.state.town().accept_contacts();
    }

    /// Breaks something for the calls that the fault fits.
    ///
    /// # Panics
    ///
    /// If the fault can never happen or contradicts itself: that is a mistake in the program.
    pub fn break_down(&self, fault: Fault) -> FaultId {
        match self.state.faults().accept(fault) {
            Ok(waiting) => waiting.id,
            Err(error) => panic!("this is not a fault: {error}"),
        }
    }

    /// What is still to go wrong, and how often it did.
    pub fn faults(&self) -> Vec<Waiting> {
        self.state.faults().list()
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.state.faults().clear();
    }

    /// What happened so far.
    pub fn ledger(&self) -> Ledger {
        self.state.ledger().clone()
    }

    /// Forgets what happened so far (but not the messages in the rooms).
    pub fn clear_ledger(&self) {
        self.state.ledger().clear();
    }

    /// Waits until the ledger looks as expected, at most for `limit`. Whether it did.
    ///
    /// `expected` looks at a locked ledger: it must not call the sandbox.
    pub async fn until(&self, limit: Duration, expected: impl Fn(&Ledger) -> bool) -> bool {
        let mut changes = self.state.changes();
        let waiting = async {
            while !expected(&self.state.ledger()) {
                if changes.changed().await.is_err() {
                    // Not as long as we hold the state that holds the sender.
                    return;
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }

    /// Every message the bot posts from now on.
    pub fn posts(&self) -> broadcast::Receiver<Posted> {
        self.state.posts()
    }

    /// Stops serving: closes the address and all connections.
    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The order is given by the call; waiting for it is for `stop`.
        drop(self.server.stop(false));
    }
}
