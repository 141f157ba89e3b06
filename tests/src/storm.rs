//! A storm: a real bot under continuous traffic while things fail, and sums that must match when
//! it is over. Everything random comes from one seed, which is told and may be given again.
//!
//! `traffic` is what people do, `trouble` what fails, `sums` what must be true in the end.

mod sums;
mod traffic;
mod trouble;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use chickwork_chatwork::id::RoomId;
use chickwork_sandbox::town::Role;

pub use self::sums::{Audit, Sums};
pub use self::traffic::{Sort, Told};
use self::traffic::{Talk, Traffic};
pub use self::trouble::Mood;
use crate::bot::{Bot, Plan};
use crate::door::Door;
use crate::process::Server;

/// Gives the seed of a storm that is to be repeated.
const SEED: &str = "CHICKWORK_TEST_SEED";

/// Webhooks a second, unless a story says otherwise: two cores are shared by six stories.
const PACE: f64 = 15.0;

/// How long the last event may take to come to its end when everything is well again: looks wait for
/// 15 s, back-offs and pauses have grown meanwhile.
const PATIENCE: Duration = Duration::from_secs(150);

/// A bot in a storm.
#[derive(Debug)]
pub struct Storm {
    /// The bot.
    pub bot: Bot,
    /// The door to Chatwork.
    pub chatwork: Door,
    /// The door to SimSimi.
    pub simsimi: Door,
    /// All chance comes from here.
    pub random: fastrand::Rng,
    seed: u64,
    begun: Instant,
    pace: f64,
    patience: Duration,
    sorts: Vec<Sort>,
    told: Arc<Mutex<Vec<Told>>>,
    waves: u64,
    traffic: Option<Traffic>,
    struck: BTreeMap<&'static str, u64>,
    forgiven: Vec<&'static str>,
    /// 200s by where the event was stored, as far as they were read from processes that are gone.
    acks: BTreeMap<String, u64>,
    /// Whether an ingress was killed or told to stop: then webhooks may fail.
    front_died: bool,
    /// Whether an ingress stood still, or what it stores in was held by somebody who did: then webhooks
    /// may fail, and be answered late.
    front_froze: bool,
    /// Whether events were taken away that only the archive knows.
    robbed: bool,
    /// Whether somebody has put back what the audit could not explain. Such an event is aged anew.
    put_back: bool,
}

impl Storm {
    /// Starts a bot for a storm, and waits until it is ready. Limits are as in the plan; with those of
    /// Chatwork a storm is mostly waiting.
    pub async fn start(plan: Plan, seed: u64) -> anyhow::Result<Self> {
        let mut storm = Self::prepare(plan, seed).await?;
        for server in storm.bot.servers_mut() {
            server.start()?;
        }
        storm.bot.ready().await?;
        Ok(storm)
    }

    /// Prepares it: the world is there, and no process of the bot yet.
    pub async fn prepare(plan: Plan, seed: u64) -> anyhow::Result<Self> {
        let sandbox = plan.sandbox_address();
        let (chatwork, simsimi) = (Door::to(sandbox).await?, Door::to(sandbox).await?);
        let through = |door: &Door, path: &str| format!("http://{}/{path}", door.address());
        let plan = plan
            .with("CHATWORK_API_URL", through(&chatwork, "v2"))
            .with("SIMSIMI_API_URL", through(&simsimi, "190410"));
        let bot = plan.prepare().await?;
        for room in traffic::rooms() {
            bot.sandbox.set_role(room, Role::Member);
        }
        say(format_args!(
            "storm: seed {seed}; {SEED}={seed} tells the story again, as far as chance is ours"
        ));
        Ok(Self {
            chatwork,
            simsimi,
            random: fastrand::Rng::with_seed(seed),
            seed,
            begun: Instant::now(),
            pace: PACE,
            patience: PATIENCE,
            sorts: Sort::EVERYDAY.to_vec(),
            told: Arc::default(),
            waves: 0,
            traffic: None,
            struck: BTreeMap::new(),
            forgiven: Vec::new(),
            acks: BTreeMap::new(),
            front_died: false,
            front_froze: false,
            robbed: false,
            put_back: false,
            bot,
        })
    }

    /// With so many webhooks a second.
    pub fn pace(mut self, pace: f64) -> Self {
        self.pace = pace;
        self
    }

    /// With so much time for the last event to come to its end.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// With webhooks of these sorts; one that is named twice is twice as frequent.
    pub fn sorts(mut self, sorts: &[Sort]) -> Self {
        self.sorts = sorts.to_vec();
        self
    }

    /// In which a mention may also end as dead with one of these causes, or ignored with one of these
    /// reasons.
    pub fn forgives(mut self, ends: &[&'static str]) -> Self {
        self.forgiven.extend(ends);
        self
    }

    /// People begin to talk, and go on until [`Storm::calm`].
    pub fn traffic(&mut self) -> anyhow::Result<()> {
        let talks = (0..traffic::SENDERS)
            .map(|sender| {
                let first = (self.waves * traffic::SENDERS + sender) * traffic::MESSAGES_EACH;
                Talk::new(self.random.fork(), self.sorts.clone(), first)
            })
            .collect();
        if self.waves == 0 {
            self.begun = Instant::now();
        }
        self.waves += 1;
        let (address, told) = (self.bot.webhook_url(), Arc::clone(&self.told));
        self.traffic = Some(Traffic::start(talks, self.pace, &address, &told)?);
        Ok(())
    }

    /// Lets it go on for so long.
    pub async fn rage(&self, time: Duration) {
        // A storm is what happens in this time; there is nothing in it to wait for.
        tokio::time::sleep(time).await;
    }

    /// Waits until so many webhooks more have been answered with 200.
    pub async fn acked(&self, more: usize) -> anyhow::Result<()> {
        let acked = || lock(&self.told).iter().filter(|told| told.acked()).count();
        let enough = acked() + more;
        let waiting = async {
            while acked() < enough {
                // Those who send have nothing to tell it by.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let what = format!("{more} more webhooks are taken");
        crate::stage::within(Duration::from_secs(90), &what, waiting).await
    }

    /// The end of the storm: nobody talks any more, nothing fails any more, and all processes run.
    pub async fn calm(&mut self) -> anyhow::Result<()> {
        if let Some(traffic) = self.traffic.take() {
            traffic.stop().await?;
        }
        self.heal().await?;
        for server in self.bot.servers_mut() {
            match server.runs() {
                true => server.thaw()?,
                false => server.start()?,
            }
        }
        self.bot.ready().await
    }

    /// Nothing goes wrong any more with the two services.
    pub async fn heal(&mut self) -> anyhow::Result<()> {
        self.bot.sandbox.heal();
        self.chatwork.open().await?;
        self.simsimi.open().await
    }

    /// The story is over: see [`Bot::end`].
    pub async fn end(self) -> anyhow::Result<()> {
        self.bot.end().await
    }

    /// What was sent so far.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.told).clone()
    }

    /// Where a storm's traffic goes on.
    pub fn rooms() -> impl Iterator<Item = RoomId> {
        traffic::rooms()
    }

    /// A process by its number, in the order of [`Bot::servers`].
    fn server(&mut self, number: usize) -> anyhow::Result<&mut Server> {
        let server = self.bot.servers_mut().nth(number);
        server.with_context(|| format!("there is no process {number}"))
    }
}

/// The seed of a storm: the one that is given, or any.
pub fn seed() -> anyhow::Result<u64> {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED}={seed:?}")),
        Err(_) => Ok(fastrand::u64(..)),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the test runner shows it when the story fails"
)]
fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}

/// A panic elsewhere (a failed assertion) does not make what is inside wrong.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
