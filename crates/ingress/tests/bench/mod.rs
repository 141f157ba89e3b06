//! An ingress on a bench: in front of a queue of its own, spoken to in bytes.

use std::net::SocketAddr;
use std::time::Duration;

use chickwork_chatwork::signature::{Token, Tokens};
use chickwork_ingress::{Ingress, Settings};
use chickwork_queue::dead::DeadLetter;
use chickwork_queue::event::{BotName, Event};
use chickwork_queue::{Declare, Location, Queue};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// A mention as Chatwork sends one.
pub(crate) const MENTION: &str = r#"{"webhook_setting_id":"1","webhook_event_type":"mention_to_me","webhook_event_time":1700000003,"webhook_event":{"from_account_id":3,"to_account_id":4,"room_id":12,"message_id":"18","body":"[To:4]xin chào 😀","send_time":1700000000,"update_time":0}}"#;
/// Nothing here takes longer, unless it is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// For how long an ingress that is stopped goes on accepting, unless that is what matters.
pub(crate) const LINGER: Duration = Duration::from_millis(300);

pub(crate) struct Bench {
    pub(crate) ingress: Ingress,
    pub(crate) queue: Queue,
    _folder: TempDir,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::start_lingering(LINGER).await
    }

    /// One that goes on accepting for so long when it is stopped.
    pub(crate) async fn start_lingering(linger: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let location = Location::Sqlite(folder.path().join("queue.db"));
        Self::start_before(location, folder, linger).await
    }

    pub(crate) async fn start_before(
        location: Location,
        folder: TempDir,
        linger: Duration,
    ) -> Self {
        let bots = vec![BotName::default(), BotName::new("second").expect("a name")];
        let queue = Queue::open(chickwork_queue::Settings {
            location,
            namespace: "test".to_owned(),
            bots: bots.clone(),
            declare: Declare::Active,
            archive_keep: Duration::from_secs(3600),
        })
        .await
        .expect("a queue");
        let settings = Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            bots,
            tokens: Tokens::parse(TOKEN).expect("a token"),
            linger,
            // So long that whatever waits for its end is noticed.
            drain: LIMIT * 6,
        };
        let ingress = Ingress::start(settings, queue.publisher()).expect("a free port");
        Self {
            ingress,
            queue,
            _folder: folder,
        }
    }

    /// Sends a request as it is, and reads until the connection is closed.
    pub(crate) async fn raw(&self, request: &[u8]) -> Answer {
        raw(self.ingress.address(), request).await
    }

    pub(crate) async fn post(&self, target: &str, headers: &str, body: &[u8]) -> Answer {
        self.raw(&request("POST", target, headers, body)).await
    }

    /// What was given up, oldest first.
    pub(crate) async fn dead(&self) -> Vec<DeadLetter> {
        let read = self.queue.dead_letters().read().await;
        let mut read = read.expect("readable dead letters");
        let mut letters = Vec::new();
        while let Some(letter) = read.next().await.expect("a readable dead letter") {
            letters.push(letter);
        }
        letters
    }

    pub(crate) async fn archived(&self) -> Vec<Event> {
        let mut archive = self.queue.archive().read(Timestamp::UNIX_EPOCH);
        let mut events = Vec::new();
        while let Some(event) = archive.next().await.expect("a readable archive") {
            events.push(event);
        }
        events
    }
}

pub(crate) fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request =
        format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n")
            .into_bytes();
    request.extend_from_slice(body);
    request
}

pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        // The answer to a request that is too large comes before all of it is sent.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    };
    let answer = tokio::time::timeout(LIMIT, exchange)
        .await
        .expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    Answer {
        status,
        body: body.to_owned(),
    }
}

pub(crate) fn signature(body: &[u8]) -> String {
    Token::parse(TOKEN).expect("a token").sign(body)
}

pub(crate) fn signed(body: &[u8]) -> String {
    format!("X-ChatWorkWebhookSignature: {}\r\n", signature(body))
}

pub(crate) fn empty(status: u16) -> Answer {
    Answer {
        status,
        body: String::new(),
    }
}
