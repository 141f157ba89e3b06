//! A gate between one process and its broker, through which all that they say to each other passes:
//! at a moment that it was told of it kills the process, just before the words pass or just after.
//!
//! It reads AMQP 0.9.1 as far as it has to: what is published where and confirmed, what is delivered
//! from which queue and settled. Nothing is changed on the way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::disk::Side;
use crate::process::free_port;
use crate::rabbitmq::signal;
use crate::stage::{Stage, soon};

/// What a connection begins with, in bytes: a name and a version, in no frame.
const GREETING: usize = 8;
/// Type, channel and size of a frame, and the byte at its end.
const HEAD: usize = 7;
const END: usize = 1;
/// Larger frames than this nobody has agreed upon, in bytes.
const LARGEST_FRAME: usize = 1024 * 1024;

/// The types of frames that are looked into.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// A moment in the conversation. Names of objects are without the namespace, and mean those below
/// them as well: `delay` is every delay level, `post` every reply queue. Outcomes have their kind in
/// the name: `outcomes.intent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A message of this queue is delivered to the process.
    Delivered(&'static str),
    /// The process publishes to this exchange.
    Published(&'static str),
    /// The broker confirms what was published to this exchange.
    Confirmed(&'static str),
    /// The process acknowledges a message of this queue, or gives it back.
    Settled(&'static str),
    /// Anything is said, by either.
    Anything,
}

/// A gate.
#[derive(Debug)]
pub struct Gate {
    url: String,
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    broker: SocketAddr,
    namespace: String,
    order: Mutex<Option<Order>>,
    struck: Notify,
    /// What lies with the process, by connection: queue and number of messages.
    held: Mutex<HashMap<u64, BTreeMap<String, usize>>>,
    settled: Notify,
}

/// Whom to kill when.
#[derive(Debug)]
struct Order {
    victim: i32,
    moment: Moment,
    side: Side,
    /// How often it has to come yet.
    left: u32,
}

/// What passes, as far as it is a moment: the queue or the exchange, several where one word is about
/// several messages.
#[derive(Debug, Clone)]
enum Sight {
    Delivered(String),
    Published(String),
    Confirmed(Vec<String>),
    Settled(Vec<String>),
}

/// What a frame is the beginning of, and the end of: a message is several. Those that the process
/// publishes are kept back until they are whole.
#[derive(Debug, Default)]
struct Passing {
    begins: Option<Sight>,
    ends: Option<Sight>,
    is_kept: bool,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Process,
    Broker,
}

impl Gate {
    /// A gate between a process and the broker of this stage. The process is to use [`Gate::url`].
    pub async fn to(stage: &Stage) -> anyhow::Result<Self> {
        let location = stage.location();
        let (before, after) = location.split_once("127.0.0.1:").context("no broker")?;
        let (port, path) = after.split_once('/').context("an address has a path")?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let shared = Arc::new(Shared {
            broker: SocketAddr::from(([127, 0, 0, 1], port.parse()?)),
            namespace: format!("{}.", stage.namespace()),
            order: Mutex::default(),
            struck: Notify::new(),
            held: Mutex::default(),
            settled: Notify::new(),
        });
        let listener = TcpListener::bind(address).await?;
        let keeper = tokio::spawn(keep(listener, shared.clone()));
        Ok(Self {
            url: format!("{before}{address}/{path}"),
            shared,
            keeper,
        })
    }

    /// The value of `CHICKWORK_QUEUE`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process is to be killed when this moment comes for the `nth` time from now on.
    pub fn arm(&self, victim: i32, moment: Moment, side: Side, nth: u32) -> anyhow::Result<()> {
        let order = Order {
            victim,
            moment,
            side,
            left: nth,
        };
        ensure!(
            lock(&self.shared.order).replace(order).is_none(),
            "there is an order already"
        );
        Ok(())
    }

    /// Waits until the process has been killed.
    pub async fn struck(&self) -> anyhow::Result<()> {
        soon("the gate has killed the process", self.struck_ever()).await
    }

    /// The same, however long that takes.
    pub async fn struck_ever(&self) {
        self.shared.struck.notified().await;
    }

    /// Nobody is to be killed any more. Whether the moment had not come yet.
    pub fn disarm(&self) -> bool {
        lock(&self.shared.order).take().is_some()
    }

    /// Waits until the process holds no message of its queues: what was delivered is settled.
    pub async fn nothing_held(&self) -> anyhow::Result<()> {
        let nothing = async {
            loop {
                let settled = self.shared.settled.notified();
                if lock(&self.shared.held).values().all(BTreeMap::is_empty) {
                    return;
                }
                settled.await;
            }
        };
        soon("everything delivered is settled", nothing).await
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(listener: TcpListener, shared: Arc<Shared>) {
    let mut visits = JoinSet::new();
    let mut number = 0;
    while let Ok((process, _)) = listener.accept().await {
        number += 1;
        let shared = shared.clone();
        visits.spawn(async move {
            // However it ends, it is over.
            let _ = visit(process, number, &shared).await;
            lock(&shared.held).remove(&number);
            shared.settled.notify_one();
        });
        while visits.try_join_next().is_some() {}
    }
}

/// One connection. What a killed process had said still reaches the broker, as it would without a
/// gate: its end is passed on like everything else.
async fn visit(process: TcpStream, number: u64, shared: &Shared) -> io::Result<()> {
    let broker = TcpStream::connect(shared.broker).await?;
    process.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let conversation = Mutex::new(Conversation::new(&shared.namespace));
    let (from_process, to_process) = process.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let way = |speaker| Way {
        speaker,
        number,
        conversation: &conversation,
        shared,
    };
    let there = way(Speaker::Process).pass(from_process, to_broker);
    let back = way(Speaker::Broker).pass(from_broker, to_process);
    let (there, back) = tokio::join!(there, back);
    there.and(back)
}

/// One direction of a connection.
struct Way<'a> {
    speaker: Speaker,
    number: u64,
    conversation: &'a Mutex<Conversation>,
    shared: &'a Shared,
}

impl Way<'_> {
    /// Passes frames until the speaker ends or the process is killed. Then the listener is told that
    /// this is the end.
    async fn pass(self, from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut from = BufReader::new(from);
        if self.speaker == Speaker::Process {
            let mut greeting = [0; GREETING];
            from.read_exact(&mut greeting).await?;
            to.write_all(&greeting).await?;
        }
        let mut kept: HashMap<u16, Vec<u8>> = HashMap::new();
        while let Some(mut frame) = next(&mut from).await? {
            let passing = lock(self.conversation).see(self.speaker, &frame);
            let is_word = frame[0] != HEARTBEAT;
            if passing.is_kept {
                kept.entry(channel_of(&frame))
                    .or_default()
                    .append(&mut frame);
                continue;
            }
            if is_word && self.comes(Side::Before, passing.begins.as_ref()) {
                break;
            }
            if let Some(mut message) = kept.remove(&channel_of(&frame)) {
                message.append(&mut frame);
                frame = message;
            }
            to.write_all(&frame).await?;
            self.count(&passing);
            if is_word && self.comes(Side::After, passing.ends.as_ref()) {
                break;
            }
        }
        to.shutdown().await
    }

    /// Whether the moment is here; then the process is dead.
    fn comes(&self, side: Side, sight: Option<&Sight>) -> bool {
        let mut order = lock(&self.shared.order);
        let Some(waiting) = &mut *order else {
            return false;
        };
        if waiting.side != side || !waiting.moment.is(sight) {
            return false;
        }
        waiting.left -= 1;
        if waiting.left > 0 {
            return false;
        }
        signal(waiting.victim, libc::SIGKILL);
        *order = None;
        self.shared.struck.notify_one();
        true
    }

    /// Keeps count of what lies with the process.
    fn count(&self, passing: &Passing) {
        match &passing.ends {
            Some(Sight::Delivered(queue)) if is_job(queue) => {
                let mut held = lock(&self.shared.held);
                *held
                    .entry(self.number)
                    .or_default()
                    .entry(queue.clone())
                    .or_default() += 1;
            }
            Some(Sight::Settled(queues)) => {
                if let Some(held) = lock(&self.shared.held).get_mut(&self.number) {
                    for queue in queues {
                        if let Some(count) = held.get_mut(queue) {
                            *count = count.saturating_sub(1);
                        }
                    }
                    held.retain(|_, count| *count > 0);
                }
                self.shared.settled.notify_one();
            }
            _ => {}
        }
    }
}

/// Whether messages of this queue are jobs; streams are read for ever.
fn is_job(queue: &str) -> bool {
    queue == "ask" || queue.starts_with("post.")
}

impl Moment {
    fn is(self, sight: Option<&Sight>) -> bool {
        let named = |name: &str, seen: &String| {
            seen.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match (self, sight) {
            (Self::Anything, _) => true,
            (Self::Delivered(name), Some(Sight::Delivered(queue))) => named(name, queue),
            (Self::Published(name), Some(Sight::Published(exchange))) => named(name, exchange),
            (Self::Confirmed(name), Some(Sight::Confirmed(seen)))
            | (Self::Settled(name), Some(Sight::Settled(seen))) => {
                seen.iter().any(|seen| named(name, seen))
            }
            _ => false,
        }
    }
}

fn channel_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[1], frame[2]])
}

/// The next frame, whole; `None` at the end.
async fn next(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; HEAD];
    match from.read_exact(&mut frame).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        // A killed process may reset its connections.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    }
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    if size > LARGEST_FRAME {
        return Err(io::Error::other("this is not AMQP 0.9.1"));
    }
    frame.resize(HEAD + size + END, 0);
    from.read_exact(&mut frame[HEAD..]).await?;
    Ok(Some(frame))
}

/// What has been said on one connection, as far as it is needed to understand what is said next.
#[derive(Debug)]
struct Conversation {
    namespace: String,
    channels: HashMap<u16, Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    confirming: bool,
    published: u64,
    /// Exchanges of what is not confirmed, by number.
    unconfirmed: BTreeMap<u64, String>,
    /// Queues that are to be consumed, in the order of the requests.
    consuming: VecDeque<String>,
    /// Queues by consumer.
    consumers: HashMap<String, String>,
    /// Queues of what is not settled, by number.
    unsettled: BTreeMap<u64, String>,
    /// Messages whose content is on its way, one for each speaker.
    contents: [Option<Content>; 2],
}

/// A message whose content is on its way.
#[derive(Debug)]
struct Content {
    sight: Sight,
    /// Its length in bytes; `None` as long as the header has not told.
    length: Option<u64>,
    body: Vec<u8>,
}

impl Conversation {
    fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            channels: HashMap::new(),
        }
    }

    fn see(&mut self, speaker: Speaker, frame: &[u8]) -> Passing {
        let number = channel_of(frame);
        let payload = &frame[HEAD..frame.len() - END];
        let channel = self.channels.entry(number).or_default();
        match frame[0] {
            METHOD => channel
                .method(&self.namespace, speaker, &mut Fields(payload))
                .unwrap_or_default(),
            HEADER | BODY => channel.content(speaker, frame[0], payload),
            _ => Passing::default(),
        }
    }
}

impl Channel {
    /// Understands a method: class and method by the numbers of the specification, then its fields
    /// up to the last one that matters here.
    fn method(
        &mut self,
        namespace: &str,
        speaker: Speaker,
        fields: &mut Fields<'_>,
    ) -> Option<Passing> {
        let own = |name: String| {
            let name = name.strip_prefix(namespace).map(str::to_owned);
            name.unwrap_or_default()
        };
        let sight = match (speaker, fields.number16()?, fields.number16()?) {
            // channel.open
            (Speaker::Process, 20, 10) => {
                *self = Self::default();
                None
            }
            // confirm.select
            (Speaker::Process, 85, 10) => {
                self.confirming = true;
                None
            }
            // basic.consume, basic.consume-ok
            (Speaker::Process, 60, 20) => {
                fields.number16()?;
                self.consuming.push_back(own(fields.text()?));
                None
            }
            (Speaker::Broker, 60, 21) => {
                let queue = self.consuming.pop_front()?;
                self.consumers.insert(fields.text()?, queue);
                None
            }
            // basic.publish
            (Speaker::Process, 60, 40) => {
                fields.number16()?;
                Some(Sight::Published(own(fields.text()?)))
            }
            // basic.deliver
            (Speaker::Broker, 60, 60) => {
                let queue = self.consumers.get(&fields.text()?)?.clone();
                self.unsettled.insert(fields.number64()?, queue.clone());
                Some(Sight::Delivered(queue))
            }
            // basic.return: its content is none of ours.
            (Speaker::Broker, 60, 50) => Some(Sight::Delivered(String::new())),
            // basic.ack, basic.nack
            (_, 60, 80 | 120) => {
                let (number, several) = (fields.number64()?, fields.number8()? & 1 == 1);
                let sight = match speaker {
                    Speaker::Process => Sight::Settled(take(&mut self.unsettled, number, several)),
                    Speaker::Broker => {
                        Sight::Confirmed(take(&mut self.unconfirmed, number, several))
                    }
                };
                return Some(Passing {
                    begins: Some(sight.clone()),
                    ends: Some(sight),
                    is_kept: false,
                });
            }
            _ => None,
        };
        let begun = sight.clone().map(|sight| Content {
            sight,
            length: None,
            body: Vec::new(),
        });
        self.contents[speaker as usize] = begun;
        Some(Passing {
            is_kept: matches!(sight, Some(Sight::Published(_))),
            begins: sight,
            ends: None,
        })
    }

    /// Follows a message's content to its end.
    fn content(&mut self, speaker: Speaker, kind: u8, payload: &[u8]) -> Passing {
        let coming = &mut self.contents[speaker as usize];
        let Some(content) = coming else {
            return Passing::default();
        };
        if kind == BODY {
            content.body.extend_from_slice(payload);
        } else {
            // After class and weight.
            content.length = Fields(payload.get(4..).unwrap_or_default()).number64();
        }
        let length = content.length.unwrap_or(0);
        if (content.body.len() as u64) < length {
            return Passing {
                is_kept: speaker == Speaker::Process,
                ..Passing::default()
            };
        }
        let Some(Content { sight, body, .. }) = coming.take() else {
            return Passing::default();
        };
        let Sight::Published(exchange) = sight else {
            return Passing {
                ends: Some(sight),
                ..Passing::default()
            };
        };
        let name = with_kind(exchange, &body);
        if self.confirming {
            self.published += 1;
            self.unconfirmed.insert(self.published, name.clone());
        }
        Passing {
            begins: Some(Sight::Published(name.clone())),
            ends: Some(Sight::Published(name)),
            is_kept: false,
        }
    }
}

/// The name of an exchange, and for outcomes which kind this one is of; a mark has none.
fn with_kind(exchange: String, body: &[u8]) -> String {
    let outcome: Option<serde_json::Value> = match exchange.as_str() {
        "outcomes" => serde_json::from_slice(body).ok(),
        _ => None,
    };
    match outcome
        .as_ref()
        .and_then(|outcome| outcome["what"].as_str())
    {
        Some(kind) => format!("{exchange}.{kind}"),
        None => exchange,
    }
}

/// Takes out what a word is about: one message, or all up to it.
fn take(waiting: &mut BTreeMap<u64, String>, number: u64, several: bool) -> Vec<String> {
    if !several {
        return waiting.remove(&number).into_iter().collect();
    }
    // Number 0 means all there are.
    let later = match number {
        0 => BTreeMap::new(),
        number => waiting.split_off(&(number + 1)),
    };
    std::mem::replace(waiting, later).into_values().collect()
}

/// The fields of a method that are still to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn number8(&mut self) -> Option<u8> {
        let (number, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*number)
    }

    fn number16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn number64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.number8()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}
