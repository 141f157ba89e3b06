//! The stage of a conformance story: an empty queue of one kind, handles on it as several
//! processes would have them, and real processes to be killed.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::audit::PutBack;
use chickwork_queue::dead::{DeadLetter, Verdict};
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::job::{Reply, Settled, Settlement, Work};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Claim, Claims, Declare, Location, Queue, Settings};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::rabbitmq::Node;

/// How long anything may take that should happen at once. Many processes share two cores; and where a disk
/// or a broker takes its time over an intent, that is a doubt, which is looked into 15 s later.
pub const SOON: Duration = Duration::from_secs(60);
/// How long to wait until it is looked again whether something is there.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long to watch that nothing happens.
pub const A_WHILE: Duration = Duration::from_millis(1500);

/// Which back end a story is told on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The embedded queue.
    Sqlite,
    /// A RabbitMQ node.
    Rabbitmq,
}

/// Where the store is.
#[derive(Debug)]
enum Store {
    File(TempDir),
    /// The node that all stories share, each in a namespace of its own.
    SharedNode(&'static Mutex<Node>),
    /// A node of this story's own, to be killed.
    OwnNode(Box<Mutex<Node>>),
}

/// An empty queue, and what a story needs around it.
#[derive(Debug)]
pub struct Stage {
    store: Store,
    namespace: String,
}

impl Stage {
    /// A stage on a store that other stories may share.
    pub fn new(kind: Kind) -> anyhow::Result<Self> {
        static SHARED: OnceLock<Mutex<Node>> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        let store = match kind {
            Kind::Sqlite => Store::File(tempfile::tempdir()?),
            Kind::Rabbitmq => {
                let _one_at_a_time = STARTING
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                if SHARED.get().is_none() {
                    let _ = SHARED.set(Mutex::new(Node::start()?));
                }
                Store::SharedNode(SHARED.get().context("the node was just set")?)
            }
        };
        Ok(Self::on(store))
    }

    /// A stage on a store of its own, which may be restarted.
    pub fn alone(kind: Kind) -> anyhow::Result<Self> {
        Ok(Self::on(match kind {
            Kind::Sqlite => Store::File(tempfile::tempdir()?),
            Kind::Rabbitmq => Store::OwnNode(Box::new(Mutex::new(Node::start()?))),
        }))
    }

    /// A stage on a node of its own that begins with these definitions, which are for this namespace.
    pub fn defined(namespace: &str, definitions: &str) -> anyhow::Result<Self> {
        let node = Node::start_defined(definitions)?;
        Ok(Self {
            store: Store::OwnNode(Box::new(Mutex::new(node))),
            namespace: namespace.to_owned(),
        })
    }

    fn on(store: Store) -> Self {
        Self {
            store,
            namespace: a_namespace(),
        }
    }

    /// The value of `CHICKWORK_QUEUE`.
    pub fn location(&self) -> String {
        match &self.store {
            Store::File(folder) => format!("sqlite:{}", folder.path().join("queue.db").display()),
            Store::SharedNode(node) => lock(node).url(),
            Store::OwnNode(node) => lock(node).url(),
        }
    }

    /// The value of `CHICKWORK_NAMESPACE`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Settings for this stage.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        settings(&self.location(), &self.namespace)
    }

    /// A connection as an operator's tool would have it, to do things to the broker.
    pub async fn operator(&self) -> anyhow::Result<lapin::Connection> {
        let properties = lapin::ConnectionProperties::default();
        Ok(lapin::Connection::connect(&self.location(), properties).await?)
    }

    /// A handle as one more process would have it.
    pub async fn queue(&self) -> anyhow::Result<Queue> {
        open(&self.location(), &self.namespace).await
    }

    /// One more process.
    pub async fn process(&self, what: &str, count: u16) -> anyhow::Result<Process> {
        Process::start(&[&self.location(), &self.namespace, what, &count.to_string()])
    }

    /// The node's own, where it has one.
    pub fn node(&self) -> anyhow::Result<MutexGuard<'_, Node>> {
        match &self.store {
            Store::OwnNode(node) => Ok(lock(node)),
            Store::File(_) | Store::SharedNode(_) => bail!("this stage has no node of its own"),
        }
    }

    /// Kills the store as a power cut would and starts it again. A file has no process: it is
    /// enough that its handles are gone.
    pub async fn crash_store(&self) -> anyhow::Result<()> {
        if let Store::OwnNode(node) = &self.store {
            // A quorum queue that is younger than about a second does not survive a kill of its
            // only node, whoever wrote to it. This waits for the broker's own clock.
            tokio::time::sleep(Duration::from_secs(3)).await;
            tokio::task::block_in_place(|| {
                let mut node = lock(node);
                node.kill()?;
                node.start_again()
            })?;
        }
        Ok(())
    }

    /// Writes a job as some other release or program might have.
    pub async fn plant(&self, plant: Plant) -> anyhow::Result<()> {
        match &self.store {
            Store::File(folder) => plant.into_file(&folder.path().join("queue.db")),
            Store::SharedNode(_) | Store::OwnNode(_) => {
                plant.into_broker(&self.location(), &self.namespace).await
            }
        }
    }
}

/// A namespace that nobody else uses.
pub fn a_namespace() -> String {
    format!("t{:08x}", fastrand::u32(..))
}

fn lock(node: &Mutex<Node>) -> MutexGuard<'_, Node> {
    node.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Settings of a queue at this place.
pub fn settings(location: &str, namespace: &str) -> anyhow::Result<Settings> {
    let location = match location.strip_prefix("sqlite:") {
        Some(path) => Location::Sqlite(PathBuf::from(path)),
        None => Location::Amqp(location.split(',').map(str::to_owned).collect()),
    };
    Ok(Settings {
        location,
        namespace: namespace.to_owned(),
        bots: vec![BotName::default()],
        declare: Declare::Active,
        archive_keep: Duration::from_secs(7 * 24 * 3600),
    })
}

/// Opens a queue; waits until a broker that is up can be used.
pub async fn open(location: &str, namespace: &str) -> anyhow::Result<Queue> {
    // Errors here say that a logger or a provider is there already.
    let _ = env_logger::builder().is_test(true).try_init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let queue = Queue::open(settings(location, namespace)?).await?;
    let usable = async {
        while let Err(error) = queue.check().await {
            log::info!("not yet: {error}");
            // A broker tells nobody that it can be used.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the queue can be used", usable).await?;
    Ok(queue)
}

/// A job with a past, or in a form that this release does not write.
#[derive(Debug)]
pub struct Plant {
    /// What it carries.
    pub work: Work,
    /// How often it has come back unsettled.
    pub deaths: u32,
    /// Its bytes, if they are not those of the work.
    pub body: Option<Vec<u8>>,
}

impl Plant {
    fn parts(self) -> anyhow::Result<(Event, String, Vec<u8>)> {
        Ok(match self.work {
            Work::Ask(event) => {
                let body = self.body.unwrap_or_else(|| event.body.to_vec());
                (event, "ask".to_owned(), body)
            }
            Work::Post(reply) => {
                let mut written = serde_json::to_value(&reply)?;
                written["v"] = Reply::VERSION.into();
                let body = self.body.map_or_else(|| serde_json::to_vec(&written), Ok)?;
                let event = Event {
                    id: reply.id,
                    received_at: reply.received_at,
                    room_id: Some(reply.room_id),
                    message_id: Some(reply.message_id.clone()),
                    ..an_event(0)
                };
                (event, format!("post.{}", reply.bot), body)
            }
        })
    }

    fn into_file(self, path: &std::path::Path) -> anyhow::Result<()> {
        let deaths = self.deaths;
        let (event, queue, body) = self.parts()?;
        let file = rusqlite::Connection::open(path)?;
        file.busy_timeout(SOON)?;
        file.execute(
            "INSERT INTO jobs (queue, due, holder, deaths, id, bot, event_type, room_id, message_id, received_at, body)
             VALUES (?1, 0, ?2, ?3, ?4, 'bot', ?5, ?6, ?7, ?8, ?9)",
            rusqlite::params![
                queue,
                // Somebody held it and is gone: this is one more return.
                (deaths > 0).then_some("somebody who is gone"),
                deaths.saturating_sub(1),
                event.id.to_string(),
                event.event_type,
                event.room_id.map(|room| room.0.cast_signed()),
                event.message_id.as_ref().map(MessageId::as_str),
                event.received_at.as_millisecond(),
                body,
            ],
        )?;
        Ok(())
    }

    async fn into_broker(self, url: &str, namespace: &str) -> anyhow::Result<()> {
        use lapin::types::{AMQPValue, FieldTable};
        let deaths = self.deaths;
        let (event, queue, body) = self.parts()?;
        let connection =
            lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(lapin::options::ConfirmSelectOptions::default())
            .await?;
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("bot", "bot".to_owned()),
            ("event-type", event.event_type.to_owned()),
            ("received-at", event.received_at.to_string()),
            (
                "room-id",
                event
                    .room_id
                    .map(|room| room.to_string())
                    .unwrap_or_default(),
            ),
            (
                "message-id",
                event
                    .message_id
                    .map(|message| message.to_string())
                    .unwrap_or_default(),
            ),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        headers.insert("version".into(), AMQPValue::LongLongInt(1));
        headers.insert(
            "deaths".into(),
            AMQPValue::LongLongInt(deaths.saturating_sub(1).into()),
        );
        let properties = lapin::BasicProperties::default()
            .with_message_id(event.id.to_string().into())
            .with_timestamp(event.received_at.as_second().unsigned_abs())
            .with_delivery_mode(2)
            .with_headers(headers);
        // The default exchange leads to any queue by its name.
        let queue_name = format!("{namespace}.{queue}");
        let options = lapin::options::BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let confirmation = channel
            .basic_publish(
                "".into(),
                queue_name.as_str().into(),
                options,
                &body,
                properties,
            )
            .await?
            .await?;
        if confirmation.is_nack() || confirmation.take_message().is_some() {
            bail!("the planted job was not stored");
        }
        if deaths > 0 {
            // One return by the broker's own count.
            let got = channel
                .basic_get(
                    queue_name.as_str().into(),
                    lapin::options::BasicGetOptions::default(),
                )
                .await?;
            let message = got.context("the planted job is gone")?;
            message
                .delivery
                .nack(lapin::options::BasicNackOptions {
                    requeue: true,
                    ..Default::default()
                })
                .await?;
        }
        connection.close(200, "planted".into()).await?;
        Ok(())
    }
}

/// Freezes a process at a moment at which it keeps nobody from writing to this queue.
pub(crate) async fn freeze_between_writes(process: i32, queue: &str) -> anyhow::Result<()> {
    let frozen = async {
        loop {
            crate::rabbitmq::signal(process, libc::SIGSTOP);
            if can_be_written_to(queue).await? {
                return anyhow::Ok(());
            }
            crate::rabbitmq::signal(process, libc::SIGCONT);
        }
    };
    within(SOON, "it is frozen between two writes", frozen).await?
}

/// Whether nobody keeps others from writing to the queue at this address for long. A broker does not,
/// but who is frozen in the middle of a write to a file does, until it is thawed.
async fn can_be_written_to(queue: &str) -> anyhow::Result<bool> {
    /// No write that is under way takes this long.
    const WRITING: Duration = Duration::from_secs(1);
    let Some(path) = queue.strip_prefix("sqlite:").map(PathBuf::from) else {
        return Ok(true);
    };
    let begun = tokio::task::spawn_blocking(move || {
        let file = rusqlite::Connection::open(path)?;
        file.busy_timeout(WRITING)?;
        file.execute_batch("BEGIN IMMEDIATE; ROLLBACK")
    });
    match begun.await? {
        Ok(()) => Ok(true),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// A `claimant` process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
}

impl Process {
    fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(claimant()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("its output was asked for")?;
        let input = child.stdin.take().context("its input was asked for")?;
        Ok(Self {
            child,
            lines: BufReader::new(output).lines(),
            input,
        })
    }

    /// The next line that it says.
    pub async fn line(&mut self) -> anyhow::Result<String> {
        let line = soon("the process says something", self.lines.next_line()).await??;
        line.context("the process has ended")
    }

    /// Tells it something.
    pub async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Ends it without a word.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Freezes it at a moment at which it keeps nobody from writing to this queue.
    pub async fn freeze_between_writes(&self, queue: &str) -> anyhow::Result<()> {
        let id = self.child.id().context("the process has ended")?;
        freeze_between_writes(i32::try_from(id)?, queue).await
    }

    /// Lets it go on as if nothing had happened.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(libc::SIGCONT)
    }

    fn signal(&self, signal: i32) -> anyhow::Result<()> {
        let id = self.child.id().context("the process has ended")?;
        crate::rabbitmq::signal(i32::try_from(id)?, signal);
        Ok(())
    }
}

/// The claimant beside this test.
fn claimant() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .ancestors()
        .nth(2)
        .context("tests run in target/…/deps")?;
    let path = folder.join("claimant");
    if !path.exists() {
        bail!(
            "{} is missing: cargo builds it together with the tests",
            path.display()
        );
    }
    Ok(path)
}

/// Looks again and again until there is something, for so long; an error says what there was not. For what
/// nobody tells of: a broker, a file, a log and a command say how it is now, and not when that has changed.
pub async fn until<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            // For stories, the one place where such things are waited for.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within(limit, what, looking).await?
}

/// Waits for what should happen at once; an error says what did not.
pub fn soon<T>(
    what: &str,
    happens: impl Future<Output = T>,
) -> impl Future<Output = anyhow::Result<T>> {
    within(SOON, what, happens)
}

/// Waits for so long.
pub fn within<T>(
    limit: Duration,
    what: &str,
    happens: impl Future<Output = T>,
) -> impl Future<Output = anyhow::Result<T>> {
    // A story waits in many places, and would be as large as all of it together.
    let happens = Box::pin(happens);
    async move {
        tokio::time::timeout(limit, happens)
            .await
            .ok()
            .with_context(|| format!("waited {limit:?} in vain until {what}"))
    }
}

/// The next claim, soon.
pub async fn next(claims: &mut Claims) -> anyhow::Result<Claim> {
    soon("there is a job", claims.next()).await
}

/// Sees that nothing can be claimed for [`A_WHILE`].
pub async fn nothing(claims: &mut Claims) -> anyhow::Result<()> {
    match tokio::time::timeout(A_WHILE, claims.next()).await {
        Err(_) => Ok(()),
        Ok(claim) => bail!(
            "there should be nothing to claim, but there is {:?}",
            claim.job()
        ),
    }
}

/// Ends a claim without outcomes.
pub async fn settle(claim: Claim, settlement: Settlement) -> anyhow::Result<()> {
    Ok(claim
        .settle(Settled {
            settlement,
            outcomes: Vec::new(),
        })
        .await?)
}

/// All dead letters, oldest first.
pub async fn dead_letters(queue: &Queue) -> anyhow::Result<Vec<DeadLetter>> {
    let mut read = queue.dead_letters().read().await?;
    let mut letters = Vec::new();
    while let Some(letter) = read.next().await? {
        letters.push(letter);
    }
    Ok(letters)
}

/// Takes these dead letters out; those that were there.
pub async fn take(
    queue: &Queue,
    letters: Vec<DeadLetter>,
    verdict: Verdict,
) -> anyhow::Result<Vec<DeadLetter>> {
    let mut taking = queue.dead_letters().take(letters, verdict);
    let mut taken = Vec::new();
    while let Some(letter) = taking.next().await? {
        taken.push(letter);
    }
    Ok(taken)
}

/// Retries these dead letters; those that were there.
pub async fn retry(queue: &Queue, letters: Vec<DeadLetter>) -> anyhow::Result<Vec<DeadLetter>> {
    let verdict = Verdict::Retry {
        reason: "a test said so".to_owned(),
        again: false,
        by: chickwork_queue::outcome::By::DEAD_RETRY,
    };
    take(queue, letters, verdict).await
}

/// A mention, the `number`th of its kind, received now.
pub fn an_event(number: u32) -> Event {
    let message_id = 1_800_000_000_000_000_000 + u64::from(number);
    let body = format!(
        "{{\"webhook_setting_id\":\"1\",\"webhook_event_type\":\"mention_to_me\",\"webhook_event_time\":{},\
         \"webhook_event\":{{\"from_account_id\":1,\"to_account_id\":2,\"room_id\":3,\"message_id\":\"{message_id}\",\
         \"body\":\"[To:2]chào 😀 {number}\",\"send_time\":1,\"update_time\":0}}}}",
        Timestamp::now().as_second(),
    );
    Event {
        id: EventId::fresh(),
        bot: BotName::default(),
        event_type: "mention_to_me",
        room_id: Some(RoomId(3)),
        message_id: Some(MessageId::new(message_id.to_string()).expect("digits are a message id")),
        // The store keeps milliseconds.
        received_at: Timestamp::from_millisecond(Timestamp::now().as_millisecond())
            .expect("now is a time"),
        put_back_at: None,
        replay: 0,
        again: None,
        body: Bytes::from(body),
    }
}

/// A reply to such a mention.
pub fn a_reply(event: &Event) -> Reply {
    Reply {
        id: event.id,
        bot: event.bot.clone(),
        event_type: event.event_type.to_owned(),
        room_id: event.room_id.unwrap_or(RoomId(3)),
        message_id: event
            .message_id
            .clone()
            .unwrap_or_else(|| MessageId::new("1").expect("a digit")),
        account_id: AccountId(1),
        received_at: event.received_at,
        written_at: Some(event.received_at),
        aged_from: event.received_at,
        replay: event.replay,
        again: event.again,
        text: "[rp aid=1 to=3-1]\nChíp chíp ［😀］!".to_owned(),
    }
}

/// Put back by a test, after it was put back so often; not to be answered again.
pub fn put_back(replay: u32, reason: &str) -> PutBack<'_> {
    PutBack {
        replay,
        reason,
        by: "a test",
        again: None,
    }
}

/// An outcome of this event, now.
pub fn outcome(id: EventId, what: What) -> Outcome {
    Outcome {
        v: Outcome::VERSION,
        at: Timestamp::now(),
        id,
        bot: BotName::default(),
        room_id: Some(RoomId(3)),
        message_id: None,
        again: None,
        what,
    }
}
