//! What tests begin with: a queue of their own in a folder that goes with it, services that are
//! away, and a mention of the bot.

use std::time::Duration;

use bytes::Bytes;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_clients::{chatwork, simsimi};
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::job::Reply;
use chickwork_queue::outcome::Outcome;
use chickwork_queue::{Declare, Entry, Location, Queue};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::desk::Desk;
use crate::who::{Known, Me};
use crate::{Limit, Settings};

/// How long a test waits for what is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A service that is away: nobody listens there.
const AWAY: &str = "127.0.0.1:1";

/// A queue that is there only for one test.
pub(crate) struct Scratch {
    pub(crate) queue: Queue,
    _folder: tempfile::TempDir,
}

impl Scratch {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let queue = open(Location::Sqlite(folder.path().join("queue.db"))).await;
        Self {
            queue,
            _folder: folder,
        }
    }

    pub(crate) fn desk(&self) -> Desk {
        let (simsimi, chatwork) = services();
        let me = Me {
            account: AccountId(7),
            name: "chick".to_owned(),
        };
        let (_, known): (_, watch::Receiver<Known>) = watch::channel(Ok(me));
        Desk::new(settings(), &self.queue, simsimi, chatwork, known)
    }

    /// All that was written into the outcomes so far.
    pub(crate) async fn story(&self) -> Vec<Outcome> {
        let outcomes = self.queue.outcomes();
        let end = outcomes.mark().await.expect("a mark");
        let mut follow = outcomes.follow(Timestamp::UNIX_EPOCH);
        let mut story = Vec::new();
        loop {
            match follow.next().await {
                Entry::Mark(mark) if mark == end => return story,
                Entry::Mark(_) => {}
                Entry::Outcome(outcome) => story.push(outcome),
            }
        }
    }
}

/// A queue whose broker is away.
pub(crate) async fn queue_away() -> Queue {
    open(Location::Amqp(vec![format!("amqp://{AWAY}")])).await
}

async fn open(location: Location) -> Queue {
    let settings = chickwork_queue::Settings {
        location,
        namespace: "scratch".to_owned(),
        bots: vec![BotName::default()],
        declare: Declare::Active,
        archive_keep: Duration::from_secs(3600),
    };
    Queue::open(settings).await.expect("a queue")
}

/// Both services, away.
pub(crate) fn services() -> (simsimi::SimSimi, chatwork::Chatwork) {
    // Only the first one of the process is taken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let simsimi = simsimi::SimSimi::new(simsimi::Settings {
        url: format!("http://{AWAY}"),
        api_key: "key".to_owned(),
        lang: "vn".to_owned(),
    });
    let chatwork = chatwork::Chatwork::new(chatwork::Settings {
        url: format!("http://{AWAY}"),
        api_token: "token".to_owned(),
    });
    (
        simsimi.expect("a client of SimSimi"),
        chatwork.expect("a client of Chatwork"),
    )
}

pub(crate) fn settings() -> Settings {
    let limit = Limit {
        calls: 300,
        per: Duration::from_secs(300),
    };
    Settings {
        bot: BotName::default(),
        concurrency: 1,
        max_age: Duration::from_secs(3600),
        account_limit: limit,
        room_limit: limit,
        sender_limit: limit,
        ignore_accounts: Vec::new(),
        fallback: None,
        drain: Duration::from_secs(1),
    }
}

/// Somebody mentions the bot.
pub(crate) fn mention() -> Event {
    let now = Timestamp::now();
    let body = format!(
        r#"{{
            "webhook_setting_id": "1",
            "webhook_event_type": "mention_to_me",
            "webhook_event_time": {seconds},
            "webhook_event": {{
                "from_account_id": 1, "to_account_id": 7, "room_id": 5, "message_id": "11",
                "body": "[To:7] hello", "send_time": {seconds}, "update_time": 0
            }}
        }}"#,
        seconds = now.as_second()
    );
    Event {
        id: EventId::fresh(),
        bot: BotName::default(),
        event_type: "mention_to_me",
        room_id: Some(RoomId(5)),
        message_id: Some(message()),
        received_at: now,
        put_back_at: None,
        replay: 0,
        again: None,
        body: Bytes::from(body),
    }
}

/// The bot's answer to it.
pub(crate) fn reply(event: &Event) -> Reply {
    Reply {
        id: event.id,
        bot: event.bot.clone(),
        event_type: event.event_type.to_owned(),
        room_id: RoomId(5),
        message_id: message(),
        account_id: AccountId(1),
        received_at: event.received_at,
        written_at: None,
        aged_from: event.received_at,
        replay: event.replay,
        again: event.again,
        text: "chip".to_owned(),
    }
}

fn message() -> MessageId {
    MessageId::new("11").expect("a message id")
}
