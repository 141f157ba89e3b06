//! The soak: storms on both kinds of queue at once, in which everything fails that can, round after
//! round for as many minutes as one likes. It stops at the first sum that does not match.
//!
//!     soak MINUTES [SEED]
//!
//! Each round has a seed of its own, which is told; as SEED it makes that round the first one.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chickwork_tests::bot::Plan;
use chickwork_tests::stage::Kind;
use chickwork_tests::storm::{Mood, Sort, Storm, Sums};
use tokio::task::JoinSet;

/// How long the storms of one round rage; settling comes on top.
const ROUND: Duration = Duration::from_secs(180);
/// A round that is not worth beginning.
const SHORTEST: Duration = Duration::from_secs(30);
/// How often it says how it is.
const PROGRESS: Duration = Duration::from_secs(60);
/// Pauses have grown to minutes when everything is well again.
const PATIENCE: Duration = Duration::from_secs(900);
/// Longer than heartbeats and leases live.
const LONG: Duration = Duration::from_secs(18);

/// What everybody hears, and clocks that are wrong.
const SORTS: &[Sort] = &[
    Sort::Mention,
    Sort::Mention,
    Sort::Mention,
    Sort::Mention,
    Sort::Mention,
    Sort::FromTheFuture,
    Sort::LongAgo,
    Sort::Chatter,
    Sort::Malformed,
    Sort::Unknown,
];

/// What can fail.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    BrokerKilled,
    BrokerRestarted,
    BrokerBlocked,
    BrokerFrozen,
    ConnectionsClosed,
    AskQueueDeleted,
    ProcessKilled,
    ProcessRestarted,
    ProcessFrozen,
    EverythingKilled,
    SimsimiSpoilt,
    SimsimiShut,
    ChatworkSpoilt,
    ChatworkShut,
}

impl Trouble {
    const ANYWHERE: [Self; 8] = [
        Self::ProcessKilled,
        Self::ProcessRestarted,
        Self::ProcessFrozen,
        Self::EverythingKilled,
        Self::SimsimiSpoilt,
        Self::SimsimiShut,
        Self::ChatworkSpoilt,
        Self::ChatworkShut,
    ];
    const OF_A_BROKER: [Self; 6] = [
        Self::BrokerKilled,
        Self::BrokerRestarted,
        Self::BrokerBlocked,
        Self::BrokerFrozen,
        Self::ConnectionsClosed,
        Self::AskQueueDeleted,
    ];

    fn any(kind: Kind, random: &mut fastrand::Rng) -> Self {
        let mut all = Self::ANYWHERE.to_vec();
        if kind == Kind::Rabbitmq {
            all.extend(Self::OF_A_BROKER);
        }
        all[random.usize(..all.len())]
    }

    async fn strike(self, storm: &mut Storm) -> anyhow::Result<()> {
        let time = LONG.mul_f64(storm.random.f64());
        let process = storm.random.usize(..storm.processes());
        let mood = storm.random.choice(Mood::ALL).context("there are some")?;
        match self {
            Self::BrokerKilled => storm.kill_the_broker(time).await,
            Self::BrokerRestarted => storm.restart_the_broker(),
            Self::BrokerBlocked => storm.block_the_broker(time).await,
            Self::BrokerFrozen => storm.freeze_the_broker(time).await,
            Self::ConnectionsClosed => storm.close_all_connections(),
            Self::AskQueueDeleted => storm.delete_the_ask_queue().await.map(drop),
            Self::ProcessKilled => storm.kill(process, time / 4).await,
            Self::ProcessRestarted => storm.restart(process).await,
            Self::ProcessFrozen => storm.freeze(process, time).await,
            Self::EverythingKilled => storm.kill_everything().await,
            Self::SimsimiSpoilt => {
                storm.spoil_simsimi(mood);
                Ok(())
            }
            Self::SimsimiShut => storm.shut_simsimi(time / 2).await,
            Self::ChatworkSpoilt => {
                storm.spoil_chatwork(mood);
                Ok(())
            }
            Self::ChatworkShut => storm.shut_chatwork(time / 2).await,
        }
    }
}

/// As such bots are run.
fn plan(kind: Kind, random: &mut fastrand::Rng) -> anyhow::Result<Plan> {
    let plan = Plan::on(kind)?
        .alone()
        .unlimited()
        .with("CHATWORK_ACCOUNT_LIMIT", "100000/5s");
    Ok(match kind {
        // Everything in one process, or several that share a file.
        Kind::Sqlite if random.bool() => plan,
        Kind::Sqlite => plan.workers(2),
        Kind::Rabbitmq => plan.workers(2).fronts(random.usize(1..=2)),
    })
}

/// One storm, from its start to its sums.
async fn storm(kind: Kind, seed: u64, length: Duration) -> anyhow::Result<Sums> {
    let mut random = fastrand::Rng::with_seed(seed);
    let storm = Storm::start(plan(kind, &mut random)?, seed).await?;
    let mut storm = storm.sorts(SORTS).patience(PATIENCE);
    let settled = rage(&mut storm, kind, length).await;
    match settled {
        Ok(sums) => {
            storm.bot.say_nothing_more();
            storm.end().await?;
            Ok(sums)
        }
        Err(error) => {
            let left = storm.bot.leave();
            Err(error.context(format!("{kind:?}: logs are left in {}", left.display())))
        }
    }
}

async fn rage(storm: &mut Storm, kind: Kind, length: Duration) -> anyhow::Result<Sums> {
    storm.traffic()?;
    let begun = Instant::now();
    while begun.elapsed() < length {
        let trouble = Trouble::any(kind, &mut storm.random);
        let what = format!("{trouble:?}");
        Box::pin(trouble.strike(storm)).await.context(what)?;
        let quiet = Duration::from_secs(5).mul_f64(storm.random.f64());
        storm.rage(quiet).await;
        if storm.random.u8(..4) == 0 {
            storm.heal().await?;
        }
    }
    storm.settle_the_sums().await
}

/// What all rounds come to.
#[derive(Debug, Default)]
struct Totals {
    rounds: u64,
    sent: usize,
    acked: usize,
    answered: usize,
    slowest: Duration,
    struck: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, sums: &Sums) {
        self.sent += sums.sent;
        self.acked += sums.acked;
        self.answered += sums.answered;
        self.slowest = self.slowest.max(sums.slowest);
        for (trouble, count) in &sums.struck {
            *self.struck.entry(trouble).or_default() += count;
        }
    }
}

fn main() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("soak: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn begin() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (minutes, seed) = match &arguments[..] {
        [minutes] => (minutes, fastrand::u64(..)),
        [minutes, seed] => (minutes, seed.parse().context("SEED is a number")?),
        _ => bail!("usage: soak MINUTES [SEED]"),
    };
    let minutes: u64 = minutes.parse().context("MINUTES is a number")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(soak(Duration::from_secs(minutes * 60), seed))
}

async fn soak(time: Duration, mut seed: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut totals = Totals::default();
    loop {
        let rest = time.saturating_sub(begun.elapsed());
        if rest < SHORTEST && totals.rounds > 0 {
            break;
        }
        totals.rounds += 1;
        say(format_args!("round {}, seed {seed}", totals.rounds));
        round(seed, rest.min(ROUND), &mut totals)
            .await
            .with_context(|| format!("round {}, seed {seed}", totals.rounds))?;
        seed = fastrand::Rng::with_seed(seed).u64(..);
    }
    say(format_args!(
        "{} minutes, {} rounds: {} webhooks sent, {} acknowledged, {} messages answered; slowest answer {} ms; failures {:?}",
        begun.elapsed().as_secs() / 60,
        totals.rounds,
        totals.sent,
        totals.acked,
        totals.answered,
        totals.slowest.as_millis(),
        totals.struck,
    ));
    Ok(())
}

/// A storm on each kind of queue.
async fn round(seed: u64, length: Duration, totals: &mut Totals) -> anyhow::Result<()> {
    let mut storms = JoinSet::new();
    for kind in [Kind::Sqlite, Kind::Rabbitmq] {
        storms.spawn(storm(kind, seed, length));
    }
    let begun = Instant::now();
    let mut progress = tokio::time::interval(PROGRESS);
    // The first tick comes at once.
    progress.tick().await;
    loop {
        tokio::select! {
            ended = storms.join_next() => match ended {
                // An error drops the other storm, which shows its logs.
                Some(sums) => totals.add(&sums??),
                None => return Ok(()),
            },
            _ = progress.tick() => say(format_args!(
                "  {} minutes of this round, {} storms rage or settle",
                begun.elapsed().as_secs() / 60,
                storms.len(),
            )),
        }
    }
}

#[expect(clippy::print_stderr, reason = "this program is its report")]
fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}
