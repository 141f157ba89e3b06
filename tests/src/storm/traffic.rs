//! What people do in a storm, and what Chatwork tells of it: signed webhooks from several senders,
//! some about the same message, some for nobody, some that make no sense.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::signature::Token;
use chickwork_sandbox::webhook::{Courier, Hook, Kind};
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, town};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::lock;
use crate::bot::mentioning;
use crate::process::choose_crypto;

/// Who send at the same time.
pub(super) const SENDERS: u64 = 5;
/// More than one sender ever writes.
pub(super) const MESSAGES_EACH: u64 = 1_000_000;
/// The id of the first message; ids have 19 digits.
const FIRST_MESSAGE: u64 = 1_700_000_000_000_000_000;
/// Rooms in which people talk.
const ROOMS: u64 = 20;
/// People who talk.
const PEOPLE: u64 = 12;
/// How far from now the times of webhooks are that have a wrong one.
const FAR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a webhook is to the bot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// Somebody mentions the bot. One in five is told twice, as a mention and as a message, and one in
    /// ten is sent again as it was.
    Mention,
    /// A mention whose webhook has a time in the future.
    FromTheFuture,
    /// A mention whose webhook has a time long ago.
    LongAgo,
    /// Talk among people.
    Chatter,
    /// Signed, and not to be understood.
    Malformed,
    /// Signed, and of a type that nobody knows.
    Unknown,
}

impl Sort {
    /// What a bot sees every day, mostly mentions.
    pub const EVERYDAY: &[Self] = &[
        Self::Mention,
        Self::Mention,
        Self::Mention,
        Self::Mention,
        Self::Mention,
        Self::Mention,
        Self::Mention,
        Self::Chatter,
        Self::Malformed,
        Self::Unknown,
    ];

    /// Whether it is owed a reply.
    pub fn is_owed_a_reply(self) -> bool {
        matches!(self, Self::Mention | Self::FromTheFuture)
    }
}

/// A webhook that was sent, and what became of it.
#[derive(Debug, Clone)]
pub struct Told {
    /// What it is.
    pub sort: Sort,
    /// Which message it tells of, if it tells of one.
    pub message: Option<MessageId>,
    /// The status that it was answered with, if it was.
    pub status: Option<u16>,
    /// How long that took.
    pub took: Duration,
    /// Why there was no answer.
    pub error: Option<String>,
}

impl Told {
    /// Whether it was answered with 200.
    pub fn acked(&self) -> bool {
        self.status == Some(200)
    }
}

/// A webhook to be sent.
#[derive(Debug)]
struct Webhook {
    sort: Sort,
    message: Option<MessageId>,
    body: Vec<u8>,
}

/// What one sender says, thing after thing.
#[derive(Debug)]
pub(super) struct Talk {
    random: fastrand::Rng,
    sorts: Vec<Sort>,
    next: u64,
}

impl Talk {
    pub(super) fn new(random: fastrand::Rng, sorts: Vec<Sort>, first: u64) -> Self {
        Self {
            random,
            sorts,
            next: first,
        }
    }

    /// The webhooks about the next thing that is said.
    fn next(&mut self) -> Vec<Webhook> {
        let number = self.next;
        self.next += 1;
        let random = &mut self.random;
        let sort = random.choice(&self.sorts).copied().unwrap_or(Sort::Mention);
        let message = FIRST_MESSAGE + number;
        let body = match sort {
            Sort::Chatter => format!("chatter {number}"),
            _ => mentioning(&format!("echo {number}")),
        };
        let hook = |kind| a_hook(sort, kind, message, body.clone());
        let room = RoomId(room(random.u64(..ROOMS)));
        let author = AccountId(2_000_000 + random.u64(..PEOPLE));
        let webhook = |kind| {
            let hook = Hook {
                room_id: room,
                author,
                ..hook(kind)
            };
            Webhook {
                sort,
                message: Some(hook.message_id.clone()),
                body: hook.json(),
            }
        };
        match sort {
            Sort::Mention => {
                let mut told = vec![webhook(Kind::MentionToMe)];
                if random.u8(..5) == 0 {
                    told.push(webhook(Kind::MessageCreated));
                }
                if random.u8(..10) == 0 {
                    told.push(webhook(Kind::MentionToMe));
                }
                random.shuffle(&mut told);
                told
            }
            Sort::FromTheFuture | Sort::LongAgo => vec![webhook(Kind::MentionToMe)],
            Sort::Chatter => vec![webhook(Kind::MessageCreated)],
            Sort::Malformed => vec![nonsense(random, number)],
            Sort::Unknown => vec![Webhook {
                sort,
                message: None,
                body: json!({
                    "webhook_setting_id": "1",
                    "webhook_event_type": "room_painted",
                    "webhook_event_time": Timestamp::now().as_second(),
                    "webhook_event": { "colour": number },
                })
                .to_string()
                .into_bytes(),
            }],
        }
    }
}

fn a_hook(sort: Sort, kind: Kind, message: u64, body: String) -> Hook {
    let now = Timestamp::now().as_second();
    let far = i64::try_from(FAR.as_secs()).expect("a week is a small number");
    Hook {
        kind,
        setting_id: "1".to_owned(),
        event_time: match sort {
            Sort::FromTheFuture => now + far,
            Sort::LongAgo => now - far,
            _ => now,
        },
        room_id: RoomId(0),
        message_id: MessageId::new(message.to_string()).expect("digits are a message id"),
        author: AccountId(0),
        addressee: town::BOT,
        body,
        send_time: now,
        update_time: 0,
    }
}

/// What nobody can read: no JSON, or a type that we know in another shape.
fn nonsense(random: &mut fastrand::Rng, number: u64) -> Webhook {
    let body = match random.u8(..3) {
        0 => format!("<html>{number}"),
        1 => format!("{{\"webhook_setting_id\":\"{number}\""),
        _ => json!({ "webhook_event_type": "mention_to_me", "webhook_event": number }).to_string(),
    };
    Webhook {
        sort: Sort::Malformed,
        message: None,
        body: body.into_bytes(),
    }
}

/// The rooms in which people talk.
pub(super) fn rooms() -> impl Iterator<Item = RoomId> {
    (0..ROOMS).map(|number| RoomId(room(number)))
}

fn room(number: u64) -> u64 {
    300_000_000 + number
}

/// Traffic that goes on until it is stopped.
#[derive(Debug)]
pub(super) struct Traffic {
    stop: watch::Sender<bool>,
    senders: JoinSet<anyhow::Result<()>>,
}

impl Traffic {
    pub(super) fn start(
        talks: Vec<Talk>,
        pace: f64,
        address: &str,
        told: &Arc<Mutex<Vec<Told>>>,
    ) -> anyhow::Result<Self> {
        choose_crypto();
        let stop = watch::Sender::new(false);
        let mut senders = JoinSet::new();
        let gap = Duration::from_secs(talks.len() as u64).div_f64(pace);
        for talk in talks {
            senders.spawn(send(Sender {
                talk,
                gap,
                stopped: stop.subscribe(),
                post: Post {
                    courier: Courier::new()?,
                    token: Token::parse(DEMO_WEBHOOK_TOKEN)?,
                    address: address.to_owned(),
                    told: Arc::clone(told),
                },
            }));
        }
        Ok(Self { stop, senders })
    }

    /// Nobody says anything more; returns when all that was said is over.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.senders.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// One sender at work.
#[derive(Debug)]
struct Sender {
    talk: Talk,
    /// The mean time between two things that it says.
    gap: Duration,
    stopped: watch::Receiver<bool>,
    post: Post,
}

/// What it takes to send a webhook.
#[derive(Debug, Clone)]
struct Post {
    courier: Courier,
    token: Token,
    address: String,
    told: Arc<Mutex<Vec<Told>>>,
}

async fn send(mut sender: Sender) -> anyhow::Result<()> {
    let mut on_their_way = JoinSet::new();
    loop {
        for webhook in sender.talk.next() {
            // A slow answer keeps nobody from talking.
            on_their_way.spawn(sender.post.clone().deliver(webhook));
        }
        while let Some(delivered) = on_their_way.try_join_next() {
            delivered?;
        }
        let pause = sender.gap.mul_f64(2.0 * sender.talk.random.f64());
        tokio::select! {
            // People do not talk as fast as they can.
            () = tokio::time::sleep(pause) => {}
            _ = sender.stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    while let Some(delivered) = on_their_way.join_next().await {
        delivered?;
    }
    Ok(())
}

impl Post {
    async fn deliver(self, webhook: Webhook) {
        let sent = self
            .courier
            .deliver(&self.address, &self.token, webhook.body)
            .await;
        lock(&self.told).push(Told {
            sort: webhook.sort,
            message: webhook.message,
            status: sent.status,
            took: Duration::from_millis(sent.millis),
            error: sent.error,
        });
    }
}
