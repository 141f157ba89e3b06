//! What people say to the bot of a stack, and by which way the webhook about it comes: from the
//! sandbox straight to the ingress, or signed by ourselves through a published port.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::signature::Token;
use chickwork_sandbox::webhook::{Hook, Kind, PATIENCE};
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, town};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::{Look, Stack, until};
use crate::bot::mentioning;
use crate::process::{choose_crypto, http};

/// The header with the signature.
const SIGNATURE: &str = "x-chatworkwebhooksignature";
/// The id of the first message that the sandbox has not given one; ids have 19 digits.
const FIRST_MESSAGE: u64 = 1_700_000_000_000_000_000;
/// Rooms in which people talk; the bot may write there even after the sandbox was started anew.
const ROOMS: [RoomId; 3] = [town::GROUP, town::SECOND_GROUP, town::DIRECT];
/// People who talk.
const PEOPLE: u64 = 12;
const FIRST_PERSON: u64 = 2_000_000;

/// How a webhook comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Somebody speaks in the sandbox, which sends the webhook inside the stack's network.
    Sandbox,
    /// From this machine to the published port.
    Port,
    /// From this machine by HTTPS through Caddy, as from the Internet.
    Caddy,
}

/// A mention, and what became of its webhook.
#[derive(Debug, Clone)]
pub struct Told {
    /// How it came.
    pub way: Way,
    /// Which message.
    pub message: MessageId,
    /// The status that the webhook was answered with, if it was.
    pub status: Option<u64>,
    /// How long that took.
    pub took: Duration,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// Everything that is said.
#[derive(Debug)]
pub struct Talk {
    http: reqwest::Client,
    /// Trusts Caddy's own authority, and nobody else.
    https: OnceLock<reqwest::Client>,
    token: Token,
    say: String,
    port: String,
    caddy: String,
    next: AtomicU64,
    told: Mutex<Vec<Told>>,
}

impl Talk {
    /// Nobody has said anything yet.
    pub fn new(stack: &Stack) -> anyhow::Result<Arc<Self>> {
        let ports = stack.ports();
        Ok(Arc::new(Self {
            http: http()?,
            https: OnceLock::new(),
            token: Token::parse(DEMO_WEBHOOK_TOKEN)?,
            say: Stack::local(ports.sandbox, "say"),
            port: Stack::local(ports.ingress, "webhook"),
            caddy: format!("https://localhost:{}", ports.https),
            next: AtomicU64::new(0),
            told: Mutex::default(),
        }))
    }

    /// From now on webhooks may come through Caddy: `authority`, the certificate of its own, is trusted.
    pub fn trust(&self, authority: &str) -> anyhow::Result<()> {
        choose_crypto();
        let authority = reqwest::Certificate::from_pem(authority.as_bytes())?;
        let https = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([authority])
            .build()?;
        self.https.get_or_init(|| https);
        Ok(())
    }

    /// Somebody mentions the bot, with words that nobody has used before.
    pub async fn mention(&self, way: Way) -> anyhow::Result<Told> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let body = mentioning(&format!("echo {number}"));
        let room = ROOMS[(number % ROOMS.len() as u64) as usize];
        let author = AccountId(FIRST_PERSON + number % PEOPLE);
        let told = match way {
            Way::Sandbox => self.say(room, author, &body).await?,
            Way::Port | Way::Caddy => {
                let message = MessageId::new((FIRST_MESSAGE + number).to_string())?;
                let now = Timestamp::now().as_second();
                let hook = Hook {
                    kind: Kind::MentionToMe,
                    setting_id: "1".to_owned(),
                    event_time: now,
                    room_id: room,
                    message_id: message.clone(),
                    author,
                    addressee: town::BOT,
                    body,
                    send_time: now,
                    update_time: 0,
                };
                let body = hook.json();
                let signature = self.token.sign(&body);
                let begun = Instant::now();
                let answer = self.knock(way, &signature, body).await;
                Told {
                    way,
                    message,
                    status: answer.as_ref().ok().copied(),
                    took: begun.elapsed(),
                    error: answer.err().map(|error| format!("{error:#}")),
                }
            }
        };
        lock(&self.told).push(told.clone());
        Ok(told)
    }

    /// The sandbox tells the bot.
    async fn say(&self, room: RoomId, author: AccountId, body: &str) -> anyhow::Result<Told> {
        let said = json!({ "room_id": room, "account_id": author, "body": body });
        let answer = self.http.post(&self.say).json(&said).send().await;
        let answer = answer.context("the sandbox does not answer")?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status == 200, "the sandbox answers {status}: {text}");
        let said: Value = serde_json::from_str(&text)?;
        let message = said["message_id"].as_str().context("a message has an id")?;
        Ok(Told {
            way: Way::Sandbox,
            message: MessageId::new(message)?,
            status: said["webhook_status"].as_u64(),
            took: Duration::from_millis(said["webhook_millis"].as_u64().unwrap_or_default()),
            error: said["webhook_error"].as_str().map(str::to_owned),
        })
    }

    /// Delivers a webhook with a signature of one's choice; the status of the answer.
    pub async fn knock(&self, way: Way, signature: &str, body: Vec<u8>) -> anyhow::Result<u64> {
        let request = match way {
            Way::Caddy => self.https()?.post(format!("{}/webhook", self.caddy)),
            Way::Port | Way::Sandbox => self.http.post(&self.port),
        };
        let request = request
            .header("content-type", "application/json")
            .header(SIGNATURE, signature)
            .body(body);
        Ok(u64::from(request.send().await?.status().as_u16()))
    }

    /// The status of a page behind Caddy.
    pub async fn look_behind_caddy(&self, path: &str) -> anyhow::Result<u16> {
        let request = self.https()?.get(format!("{}/{path}", self.caddy));
        Ok(request.send().await?.status().as_u16())
    }

    fn https(&self) -> anyhow::Result<&reqwest::Client> {
        self.https.get().context("Caddy is not trusted yet")
    }

    /// From now on people talk, so many times a second, until [`Traffic::stop`].
    pub fn begin(self: &Arc<Self>, way: Way, pace: f64) -> Traffic {
        let (stop, stopped) = watch::channel(false);
        let talk = Arc::clone(self);
        let speakers = tokio::spawn(go_on(talk, way, pace, stopped));
        Traffic { stop, speakers }
    }

    /// All that was said.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.told).clone()
    }

    /// Waits until so many more webhooks have been answered with 200.
    pub async fn until_taken(&self, limit: Duration, more: usize) -> anyhow::Result<()> {
        let taken = || lock(&self.told).iter().filter(|told| told.taken()).count();
        let before = taken();
        until(
            limit,
            &format!("{more} more webhooks are taken"),
            async || {
                let found = taken() - before;
                Ok(match found >= more {
                    true => Look::There(()),
                    false => Look::NotYet(format!("{found} more")),
                })
            },
        )
        .await
    }
}

impl Told {
    /// Whether the webhook was answered with 200.
    pub fn taken(&self) -> bool {
        self.status == Some(200)
    }
}

/// People who talk.
#[derive(Debug)]
pub struct Traffic {
    stop: watch::Sender<bool>,
    speakers: JoinHandle<anyhow::Result<()>>,
}

impl Traffic {
    /// Nobody says anything more; returns when every webhook has its answer.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        self.speakers.await?
    }
}

async fn go_on(
    talk: Arc<Talk>,
    way: Way,
    pace: f64,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1).div_f64(pace));
    // A machine that was slow is not made to catch up.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut on_their_way = JoinSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let talk = Arc::clone(&talk);
                // A slow answer keeps nobody from talking.
                on_their_way.spawn(async move { talk.mention(way).await.map(drop) });
            }
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
        while let Some(over) = on_their_way.try_join_next() {
            over??;
        }
    }
    while let Some(over) = on_their_way.join_next().await {
        over??;
    }
    Ok(())
}

/// A panic elsewhere does not make what is inside wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
