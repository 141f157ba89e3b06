//! A bot in its world: real processes of the binary, a queue of one kind, and a sandbox in the place
//! of Chatwork and SimSimi. Stories talk to it as people do and read what people would see.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::dead::DeadLetter;
use chickwork_queue::event::Event;
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Entry, Queue};
use chickwork_sandbox::ledger::{Ledger, Said};
use chickwork_sandbox::webhook::{Hook, Kind as HookKind, Sent};
use chickwork_sandbox::{DEMO_API_KEY, DEMO_API_TOKEN, DEMO_WEBHOOK_TOKEN, Sandbox, Say, town};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::balancer::Balancer;
use crate::process::{Environment, Server, choose_crypto, free_port};
use crate::stage::{self, Kind, SOON, Stage, soon, within};

/// Who writes, unless a story says otherwise.
pub const SOMEBODY: AccountId = town::AN;
/// Where, unless a story says otherwise.
pub const ROOM: RoomId = town::GROUP;
/// So many lines of each log are shown when a story fails.
const LINES_SHOWN: usize = 150;
/// How soon a store is looked at again: what is copied or buried there is announced by nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How a bot is to be set up.
#[derive(Debug)]
pub struct Plan {
    kind: Kind,
    own_store: bool,
    stage: Option<Stage>,
    /// `None`: one process does it all.
    workers: Option<usize>,
    /// Processes that take webhooks, with a balancer in front of them if they are several.
    fronts: usize,
    settings: Environment,
    world: chickwork_sandbox::Settings,
}

/// A bot at work.
#[derive(Debug)]
pub struct Bot {
    /// The outside world.
    pub sandbox: Sandbox,
    /// The process that takes webhooks; the only one if it works as well.
    pub front: Server,
    /// More of them, if the plan says so.
    pub more_fronts: Vec<Server>,
    /// In front of those that take webhooks, if they are several.
    pub balancer: Option<Balancer>,
    /// The others.
    pub workers: Vec<Server>,
    /// The stage with the store.
    pub stage: Stage,
    kind: Kind,
    webhook_address: SocketAddr,
    since: Timestamp,
    folder: TempDir,
    shows_logs: bool,
}

impl Plan {
    /// As a bot is run on such a queue: `serve` on SQLite, `ingress` and a `worker` on RabbitMQ.
    pub fn on(kind: Kind) -> anyhow::Result<Self> {
        choose_crypto();
        Ok(Self {
            kind,
            own_store: false,
            stage: None,
            workers: match kind {
                Kind::Sqlite => None,
                Kind::Rabbitmq => Some(1),
            },
            fronts: 1,
            settings: Environment::new(),
            world: chickwork_sandbox::Settings {
                listen: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
                webhook_url: String::new(),
                ..chickwork_sandbox::Settings::demo()
            },
        })
    }

    /// With a store of its own, which may be restarted.
    pub fn alone(mut self) -> Self {
        self.own_store = true;
        self
    }

    /// On a stage that was set up before.
    pub fn staged(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// With an `ingress` and so many `worker` processes, whatever the queue.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// With `serve`, whatever the queue.
    pub fn serve(mut self) -> Self {
        self.workers = None;
        self
    }

    /// With so many `ingress` processes behind a balancer.
    pub fn fronts(mut self, count: usize) -> Self {
        self.fronts = count;
        self.workers = self.workers.or(Some(1));
        self
    }

    /// With a setting.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// In a world of this kind.
    pub fn world(mut self, shape: impl FnOnce(&mut chickwork_sandbox::Settings)) -> Self {
        shape(&mut self.world);
        self
    }

    /// With limits that nobody runs into, here and at Chatwork.
    pub fn unlimited(self) -> Self {
        self.with("CHATWORK_ACCOUNT_LIMIT", "100000/1m")
            .with("CHATWORK_ROOM_LIMIT", "10000/1s")
            .with("CHICKWORK_SENDER_LIMIT", "10000/1s")
            .world(|world| {
                world.account_limit = (100_000, Duration::from_secs(60));
                world.room_limit = (10_000, Duration::from_secs(1));
            })
    }

    /// Where the sandbox will be.
    pub fn sandbox_address(&self) -> SocketAddr {
        self.world.listen
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> anyhow::Result<Bot> {
        let mut bot = self.prepare().await?;
        for server in bot.servers_mut() {
            server.start()?;
        }
        bot.ready().await?;
        Ok(bot)
    }

    /// Starts the world, but no process of the bot yet.
    pub async fn prepare(self) -> anyhow::Result<Bot> {
        let stage = match self.stage {
            Some(stage) => stage,
            None => tokio::task::block_in_place(|| match self.own_store {
                true => Stage::alone(self.kind),
                false => Stage::new(self.kind),
            })?,
        };
        let sandbox = Sandbox::start(self.world).await?;
        let fronts: Vec<SocketAddr> = (0..self.fronts)
            .map(|_| Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?))))
            .collect::<anyhow::Result<_>>()?;
        let balancer = match fronts[..] {
            [_] => None,
            _ => Some(Balancer::to(fronts.clone()).await?),
        };
        let webhook_address = balancer.as_ref().map_or(fronts[0], Balancer::address);
        sandbox.set_webhook_url(format!("http://{webhook_address}/webhook"));
        let folder = tempfile::Builder::new()
            .prefix("chickwork-story-")
            .tempdir()?;

        let setting = |name: &str, value: String| (name.to_owned(), value);
        let both = [
            setting("CHICKWORK_QUEUE", stage.location()),
            setting("CHICKWORK_NAMESPACE", stage.namespace().to_owned()),
            setting("RUST_LOG", "info".to_owned()),
        ];
        let of_ingress = |listen: &SocketAddr| {
            // Each has a spool of its own.
            let spool = folder.path().join(format!("spool-{}.db", listen.port()));
            [
                setting("CHICKWORK_LISTEN", listen.to_string()),
                setting("CHICKWORK_SPOOL", spool.display().to_string()),
                setting("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN.to_owned()),
            ]
        };
        let of_worker = [
            setting("CHATWORK_API_TOKEN", DEMO_API_TOKEN.to_owned()),
            setting("CHATWORK_API_URL", sandbox.chatwork_url()),
            setting("SIMSIMI_API_KEY", DEMO_API_KEY.to_owned()),
            setting("SIMSIMI_API_URL", sandbox.simsimi_url()),
        ];
        let environment = |parts: &[&[(String, String)]]| -> Environment {
            // The story's own settings win.
            parts
                .concat()
                .into_iter()
                .chain(self.settings.clone())
                .collect()
        };

        let server = |role, parts: &[&[(String, String)]]| {
            Server::new(role, environment(parts), folder.path())
        };
        let (role, works_too, workers) = match self.workers {
            None => ("serve", &of_worker[..], 0),
            Some(count) => ("ingress", &[][..], count),
        };
        let mut fronts = fronts
            .iter()
            .map(|listen| server(role, &[&both, &of_ingress(listen), works_too]));
        let front = fronts.next().context("there is at least one")??;
        let more_fronts = fronts.collect::<Result<_, _>>()?;
        let workers = (0..workers)
            .map(|_| server("worker", &[&both, &of_worker]))
            .collect::<Result<_, _>>()?;
        Ok(Bot {
            sandbox,
            front,
            more_fronts,
            workers,
            stage,
            kind: self.kind,
            webhook_address,
            balancer,
            since: Timestamp::now(),
            folder,
            shows_logs: true,
        })
    }
}

impl Bot {
    /// Waits until every process is ready, and webhooks go to the broker if there is one.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        for server in self.servers_mut() {
            server.ready().await?;
        }
        if self.kind == Kind::Rabbitmq {
            // Where the broker was too slow at first, or was away, events go to the spool for some seconds.
            for front in std::iter::once(&self.front).chain(&self.more_fronts) {
                front
                    .until_figure("chickwork_broker_up", |up| up == 1.0)
                    .await?;
            }
        }
        match &self.balancer {
            Some(balancer) => balancer.all_ready().await,
            None => Ok(()),
        }
    }

    /// All processes: those that take webhooks, then the workers.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.front)
            .chain(&self.more_fronts)
            .chain(&self.workers)
    }

    /// The same, to do things to them.
    pub fn servers_mut(&mut self) -> impl Iterator<Item = &mut Server> {
        std::iter::once(&mut self.front)
            .chain(&mut self.more_fronts)
            .chain(&mut self.workers)
    }

    /// The process that asks and posts, if it is one.
    pub fn worker(&mut self) -> &mut Server {
        self.workers.first_mut().unwrap_or(&mut self.front)
    }

    /// Where it takes webhooks; a path may be appended.
    pub fn webhook_url(&self) -> String {
        format!("http://{}/webhook", self.webhook_address)
    }

    /// The same as an address.
    pub fn webhook_address(&self) -> SocketAddr {
        self.webhook_address
    }

    /// The queue, as one more process would use it.
    pub async fn queue(&self) -> anyhow::Result<Queue> {
        self.stage.queue().await
    }

    /// The kind of its queue.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stage with the store.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Somebody writes, and the webhook is taken.
    pub async fn hear(&self, say: Say) -> anyhow::Result<MessageId> {
        let said = self.sandbox.say(say).await;
        ensure!(
            said.webhook_status == Some(200),
            "the webhook was not taken: {said:?}"
        );
        Ok(said.message_id)
    }

    /// Somebody mentions the bot in [`ROOM`].
    pub async fn mention(&self, text: &str) -> anyhow::Result<MessageId> {
        self.mention_in(ROOM, SOMEBODY, text).await
    }

    /// Somebody mentions the bot in a room.
    pub async fn mention_in(
        &self,
        room: RoomId,
        who: AccountId,
        text: &str,
    ) -> anyhow::Result<MessageId> {
        self.hear(Say::new(room, who, mentioning(text))).await
    }

    /// Waits until the message has an answer; the words under its reply tag.
    pub async fn answer(&self, message: &MessageId) -> anyhow::Result<String> {
        self.answer_within(SOON, message).await
    }

    /// The same, with more patience.
    pub async fn answer_within(
        &self,
        limit: Duration,
        message: &MessageId,
    ) -> anyhow::Result<String> {
        let answered = |ledger: &Ledger| !ledger.answers_to(message).is_empty();
        ensure!(
            self.sandbox.until(limit, answered).await,
            "no answer to {message} within {limit:?}"
        );
        let ledger = self.sandbox.ledger();
        let [answer] = ledger.answers_to(message)[..] else {
            bail!("{message} was answered more than once");
        };
        let said = ledger.said.iter().find(|said| said.message_id == *message);
        // Somebody else may have told the bot of the message.
        let author = said.map_or(SOMEBODY, |said| said.account_id);
        let tag = format!("[rp aid={author} to={}-{message}]\n", answer.room_id);
        let words = answer.body.strip_prefix(&tag);
        Ok(words
            .with_context(|| format!("no reply tag {tag:?} in {:?}", answer.body))?
            .to_owned())
    }

    /// How often the message was answered so far.
    pub fn answers(&self, message: &MessageId) -> usize {
        self.sandbox.ledger().answers_to(message).len()
    }

    /// What SimSimi was asked so far.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.sandbox.ledger().asked;
        asked.into_iter().filter_map(|asked| asked.utext).collect()
    }

    /// Waits until something became of the message, by the outcomes; which also tells that the
    /// queue has it.
    pub async fn became<T>(
        &self,
        message: &MessageId,
        what: &str,
        expected: impl Fn(&What) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.became_within(SOON, message, what, expected).await
    }

    /// The same, with more patience.
    pub async fn became_within<T>(
        &self,
        limit: Duration,
        message: &MessageId,
        what: &str,
        expected: impl Fn(&What) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut so_far = Vec::new();
        let found = {
            let searching = async {
                let queue = self.queue().await?;
                let mut follow = queue.outcomes().follow(self.since);
                loop {
                    if let Entry::Outcome(outcome) = follow.next().await
                        && outcome.message_id.as_ref() == Some(message)
                    {
                        if let Some(found) = expected(&outcome.what) {
                            return anyhow::Ok(found);
                        }
                        so_far.push(outcome.what);
                    }
                }
            };
            within(limit, what, searching).await
        };
        found.with_context(|| format!("{message} became {so_far:?}"))?
    }

    /// Waits until the message is ignored; the reason.
    pub async fn ignored(&self, message: &MessageId) -> anyhow::Result<String> {
        self.became(message, "it is ignored", |what| match what {
            What::Ignored { reason } => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until the reply to the message is known to be posted; whether it was found by looking.
    pub async fn posted(&self, limit: Duration, message: &MessageId) -> anyhow::Result<bool> {
        self.became_within(limit, message, "it is posted", |what| match what {
            What::Posted { found, .. } => Some(*found),
            _ => None,
        })
        .await
    }

    /// All dead letters, oldest first.
    pub async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        stage::dead_letters(&self.queue().await?).await
    }

    /// Waits until the message's event is a dead letter.
    pub async fn buried(&self, limit: Duration, message: &MessageId) -> anyhow::Result<DeadLetter> {
        let queue = self.queue().await?;
        let buried = async {
            loop {
                let letters = stage::dead_letters(&queue).await?;
                let ours = |letter: &DeadLetter| letter.message_id.as_ref() == Some(message);
                if let Some(letter) = letters.into_iter().find(ours) {
                    return anyhow::Ok(letter);
                }
                // Somebody else's queue has nothing to be told by.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within(limit, &format!("{message} is buried"), buried).await?
    }

    /// Waits until the message is in the archive, which it is a moment after its webhook was taken; its
    /// event.
    pub async fn archived(&self, message: &MessageId) -> anyhow::Result<Event> {
        let queue = self.queue().await?;
        let an_hour_ago = Timestamp::now() - SignedDuration::from_hours(1);
        let found = async {
            loop {
                let mut archive = queue.archive().read(an_hour_ago);
                while let Some(event) = archive.next().await? {
                    if event.message_id.as_ref() == Some(message) {
                        return anyhow::Ok(event);
                    }
                }
                // Somebody else's queue has nothing to be told by.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        soon(&format!("{message} is archived"), found).await?
    }

    /// The outcomes so far.
    pub async fn outcomes(&self) -> anyhow::Result<Vec<Outcome>> {
        let queue = self.queue().await?;
        let outcomes = queue.outcomes();
        let mark = outcomes.mark().await?;
        let mut follow = outcomes.follow(self.since);
        let mut read = Vec::new();
        let reading = async {
            loop {
                match follow.next().await {
                    Entry::Outcome(outcome) => read.push(outcome),
                    Entry::Mark(seen) if seen == mark => return,
                    Entry::Mark(_) => {}
                }
            }
        };
        soon("all outcomes are read", reading).await?;
        Ok(read)
    }

    /// Waits until all these messages have an answer, then sees that each has one, that each was
    /// asked at most so often, and that nothing was buried.
    pub async fn all_answered_once(
        &self,
        limit: Duration,
        messages: &[MessageId],
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        let unanswered = |ledger: &Ledger| {
            let answered: std::collections::HashSet<_> = ledger
                .posted
                .iter()
                .filter_map(|posted| posted.answers.clone())
                .collect();
            messages
                .iter()
                .filter(|message| !answered.contains(message))
                .cloned()
                .collect::<Vec<_>>()
        };
        let all = |ledger: &Ledger| {
            ledger.posted.len() >= messages.len() && unanswered(ledger).is_empty()
        };
        let all_answered = self.sandbox.until(limit, all).await;
        let ledger = self.sandbox.ledger();
        let missing = unanswered(&ledger);
        let letters = self.dead_letters().await?;
        ensure!(
            all_answered,
            "{} of {} were not answered within {limit:?}: {missing:?}; buried: {letters:?}",
            missing.len(),
            messages.len()
        );
        for message in messages {
            // Known to be posted, they are not posted any more.
            let left = limit.saturating_sub(begun.elapsed()).max(SOON);
            if messages.len() <= 20 {
                self.posted(left, message).await?;
            }
            let answers = self.answers(message);
            ensure!(answers == 1, "{message} was answered {answers} times");
        }
        ensure!(letters.is_empty(), "buried: {letters:?}");
        Ok(())
    }

    /// Delivers a webhook made by hand, signed, as Chatwork would.
    pub async fn deliver(&self, hook: &Hook) -> anyhow::Result<Sent> {
        let token = chickwork_chatwork::signature::Token::parse(DEMO_WEBHOOK_TOKEN)?;
        Ok(chickwork_sandbox::webhook::send(&self.webhook_url(), &token, hook.json()).await?)
    }

    /// Leaves its logs and spools where they are, for somebody to look at; where that is.
    pub fn leave(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Its logs are not shown in the end.
    pub fn say_nothing_more(&mut self) {
        self.shows_logs = false;
    }

    /// The story is over: nothing has died by itself, and nothing is left behind.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for server in self.servers_mut() {
            server.still_runs()?;
            // Those that the story ended itself do not run.
            let _ = server.kill().await;
        }
        if self.kind == Kind::Rabbitmq {
            self.remove_broker_objects().await?;
        }
        Ok(())
    }

    async fn remove_broker_objects(&self) -> anyhow::Result<()> {
        let settings = stage::settings(&self.stage.location(), self.stage.namespace())?;
        let definitions = chickwork_queue::definitions(&settings, &[]);
        let connection = lapin::Connection::connect(
            &self.stage.location(),
            lapin::ConnectionProperties::default(),
        )
        .await?;
        let channel = connection.create_channel().await?;
        let names = |kind: &str| {
            let objects = definitions[kind].as_array().cloned().unwrap_or_default();
            objects
                .into_iter()
                .filter_map(|object| Some(object["name"].as_str()?.to_owned()))
        };
        for queue in names("queues") {
            channel
                .queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default())
                .await?;
        }
        for exchange in names("exchanges") {
            channel
                .exchange_delete(
                    exchange.into(),
                    lapin::options::ExchangeDeleteOptions::default(),
                )
                .await?;
        }
        connection.close(200, "the end".into()).await?;
        Ok(())
    }
}

/// Shows the logs. The test runner keeps them to itself unless the story fails.
impl Drop for Bot {
    fn drop(&mut self) {
        if !self.shows_logs {
            return;
        }
        for server in self.servers() {
            show(&server.admin_address(), &server.log());
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the test runner shows it when the story fails"
)]
fn show(name: &str, log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let skipped = lines.len().saturating_sub(LINES_SHOWN);
    eprintln!("--- log of the process at {name} (without {skipped} earlier lines)");
    for line in &lines[skipped..] {
        eprintln!("{line}");
    }
}

/// A message to the bot.
pub fn mentioning(text: &str) -> String {
    format!("[To:{}]Chickwork さん\n{text}", town::BOT)
}

/// A mention as a webhook, to be changed by the story.
pub fn a_hook(message: &str, text: &str) -> Hook {
    let now = Timestamp::now().as_second();
    Hook {
        kind: HookKind::MentionToMe,
        setting_id: "1".to_owned(),
        event_time: now,
        room_id: ROOM,
        message_id: MessageId::new(message).expect("stories use digits"),
        author: SOMEBODY,
        addressee: town::BOT,
        body: mentioning(text),
        send_time: now,
        update_time: 0,
    }
}

/// The messages of people, as the ledger has them, that were taken.
pub fn acknowledged(ledger: &Ledger) -> Vec<MessageId> {
    let taken = |said: &&Said| said.webhook_status == Some(200);
    ledger
        .said
        .iter()
        .filter(taken)
        .map(|said| said.message_id.clone())
        .collect()
}
