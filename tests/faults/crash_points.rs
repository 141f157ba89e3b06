//! A process dies at each point at which it can: at every effect by its name, at every word between a
//! process and its broker, at every commit of the embedded queue and of the spool. Each time it is started again, and
//! the sums hold: what was acknowledged is replied to once, and asked at most once more than without.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chickwork_chatwork::id::RoomId;
use chickwork_queue::job::Cause;
use chickwork_sandbox::Say;
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_sandbox::ledger::{Ledger, Said};
use chickwork_tests::bot::{Bot, Plan, SOMEBODY, acknowledged, mentioning};
use chickwork_tests::disk::{Disk, Side};
use chickwork_tests::door::Door;
use chickwork_tests::gate::{Gate, Moment};
use chickwork_tests::process::Server;
use chickwork_tests::stage::{Kind, soon, within};
use chickwork_tests::storm::Audit;
use futures_util::future::try_join_all;
use rusqlite::config::DbConfig;

/// Longer than it takes to find out what became of a post of a process that is gone.
const DOUBT: Duration = Duration::from_secs(90);
/// How long an audit looks again for what is under way: by now everything has come to its end.
const AUDIT_WAITS: Duration = Duration::from_secs(20);
/// Bots that are killed beside each other: who is in doubt waits, mostly.
const BOTS: usize = 5;
/// Rooms of these stories: each message has one of its own.
const ROOMS: u64 = 300_100_000;
/// How many events wait in the spool.
const WAITING: &str = "chickwork_spool_events";

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ingress,
    Worker,
}

/// What is said, and what has to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plot {
    /// A mention: replied to once.
    Mention,
    /// A mention that SimSimi fails to answer at first: replied to once.
    TriedAgain,
    /// A mention in a room that may not be posted to: given up as refused.
    Refused,
    /// Nobody's business: ignored.
    Chatter,
}

/// When somebody dies.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// At this word between the process and its broker.
    Word(Moment, Side),
    /// While a service has this call: before the call has taken effect, or after.
    Call(Call, When),
    /// When the webhook has been answered.
    Answered,
}

/// A point in an event's life.
#[derive(Debug, Clone, Copy)]
struct Point {
    who: Who,
    plot: Plot,
    strike: Strike,
}

const fn point(who: Who, plot: Plot, strike: Strike) -> Point {
    Point { who, plot, strike }
}

/// Every effect, in the order of an event's life.
const POINTS: &[Point] = {
    use Moment::{Confirmed, Delivered, Published, Settled};
    use Plot::{Chatter, Mention, Refused, TriedAgain};
    use Side::{After, Before};
    use Strike::{Answered, Call as During, Word};
    use Who::{Ingress, Worker};
    &[
        // 1. Received and not stored; stored and not known to be; stored and not acknowledged;
        // acknowledged.
        point(Ingress, Mention, Word(Published("in"), Before)),
        point(Ingress, Mention, Word(Published("in"), After)),
        point(Ingress, Mention, Word(Confirmed("in"), Before)),
        point(Ingress, Mention, Word(Confirmed("in"), After)),
        point(Ingress, Mention, Answered),
        // 2. Claimed.
        point(Worker, Mention, Word(Delivered("ask"), Before)),
        point(Worker, Mention, Word(Delivered("ask"), After)),
        // 3. Asked: SimSimi has the question. That it has answered is the next one.
        point(Worker, Mention, During(Call::Talk, When::Before)),
        // 4. The reply stored.
        point(Worker, Mention, Word(Published("post"), Before)),
        point(Worker, Mention, Word(Published("post"), After)),
        point(Worker, Mention, Word(Confirmed("post"), Before)),
        point(Worker, Mention, Word(Confirmed("post"), After)),
        // 5. The question settled.
        point(Worker, Mention, Word(Settled("ask"), Before)),
        point(Worker, Mention, Word(Settled("ask"), After)),
        // 6. The reply claimed.
        point(Worker, Mention, Word(Delivered("post"), Before)),
        point(Worker, Mention, Word(Delivered("post"), After)),
        // 7. The intent stored.
        point(Worker, Mention, Word(Published("outcomes.intent"), Before)),
        point(Worker, Mention, Word(Published("outcomes.intent"), After)),
        point(Worker, Mention, Word(Confirmed("outcomes.intent"), Before)),
        point(Worker, Mention, Word(Confirmed("outcomes.intent"), After)),
        // 8. Posted: Chatwork has the call; the reply is in the room.
        point(Worker, Mention, During(Call::Post, When::Before)),
        point(Worker, Mention, During(Call::Post, When::After)),
        // 9. The result stored.
        point(Worker, Mention, Word(Published("outcomes.posted"), Before)),
        point(Worker, Mention, Word(Published("outcomes.posted"), After)),
        point(Worker, Mention, Word(Confirmed("outcomes.posted"), Before)),
        point(Worker, Mention, Word(Confirmed("outcomes.posted"), After)),
        // 10. The reply settled.
        point(Worker, Mention, Word(Settled("post"), Before)),
        point(Worker, Mention, Word(Settled("post"), After)),
        // Beside the straight way: put off, given up, ignored.
        point(Worker, TriedAgain, Word(Published("delay"), Before)),
        point(Worker, TriedAgain, Word(Confirmed("delay"), Before)),
        point(Worker, TriedAgain, Word(Settled("ask"), Before)),
        point(
            Worker,
            Refused,
            Word(Published("outcomes.not_posted"), Before),
        ),
        point(
            Worker,
            Refused,
            Word(Confirmed("outcomes.not_posted"), Before),
        ),
        point(Worker, Refused, Word(Published("dead"), Before)),
        point(Worker, Refused, Word(Confirmed("dead"), Before)),
        point(Worker, Refused, Word(Settled("post"), Before)),
        point(Worker, Chatter, Word(Published("outcomes.ignored"), Before)),
        point(Worker, Chatter, Word(Confirmed("outcomes.ignored"), Before)),
        point(Worker, Chatter, Word(Settled("ask"), Before)),
    ]
};

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, plot, strike } = self;
        match strike {
            Strike::Word(moment, side) => write!(f, "{plot:?}, {who:?}, {side:?} {moment:?}"),
            Strike::Call(call, when) => {
                write!(f, "{plot:?}, {who:?}, {when:?} {call:?} took effect")
            }
            Strike::Answered => write!(f, "{plot:?}, {who:?}, when the webhook was answered"),
        }
    }
}

/// Each effect of an event's life is the last one of its process, once. Nothing is lost, and nothing
/// is said twice.
pub(super) async fn killed_at_each_effect_nothing_is_lost_or_said_twice() -> anyhow::Result<()> {
    let bots = (0..BOTS).map(|first| async move {
        // Dealt out like cards, since the doubtful ones, which take long, are neighbours.
        let points = POINTS.iter().enumerate().skip(first).step_by(BOTS);
        let mut victim = Victim::on(Kind::Rabbitmq).await?;
        for (number, point) in points {
            let struck = victim.strike(point, number as u64).await;
            struck.with_context(|| format!("killed at: {point}"))?;
        }
        all_is_explained(&victim.bot).await?;
        victim.bot.end().await
    });
    try_join_all(bots).await?;
    Ok(())
}

/// The same on the embedded queue, as far as the effects are calls; for all others see
/// [`killed_at_any_commit_nothing_is_lost_or_said_twice`].
pub(super) async fn killed_while_a_service_has_the_call_nothing_is_lost_or_said_twice()
-> anyhow::Result<()> {
    let calls = POINTS
        .iter()
        .enumerate()
        .filter(|(_, point)| matches!(point.strike, Strike::Call(..)));
    try_join_all(calls.map(|(number, point)| async move {
        let mut victim = Victim::on(Kind::Sqlite).await?;
        let struck = victim.strike(point, number as u64).await;
        struck.with_context(|| format!("killed at: {point}"))?;
        all_is_explained(&victim.bot).await?;
        victim.bot.end().await
    }))
    .await?;
    Ok(())
}

/// A bot whose processes are killed.
struct Victim {
    bot: Bot,
    /// Between the ingress and its broker, and between the worker and its broker.
    gates: Option<(Gate, Gate)>,
}

impl Victim {
    async fn on(kind: Kind) -> anyhow::Result<Self> {
        let mut bot = Plan::on(kind)?.unlimited().prepare().await?;
        let gates = match kind {
            Kind::Sqlite => None,
            Kind::Rabbitmq => {
                let gates = (Gate::to(bot.stage()).await?, Gate::to(bot.stage()).await?);
                bot.front.set("CHICKWORK_QUEUE", gates.0.url());
                bot.worker().set("CHICKWORK_QUEUE", gates.1.url());
                Some(gates)
            }
        };
        for server in bot.servers_mut() {
            server.start()?;
        }
        bot.ready().await?;
        let mut victim = Self { bot, gates };
        victim.go_on(0).await?;
        Ok(victim)
    }

    fn server(&mut self, who: Who) -> &mut Server {
        match who {
            Who::Ingress => &mut self.bot.front,
            Who::Worker => self.bot.worker(),
        }
    }

    fn gate(&self, who: Who) -> anyhow::Result<&Gate> {
        let gates = self.gates.as_ref().context("there is no broker")?;
        Ok(match who {
            Who::Ingress => &gates.0,
            Who::Worker => &gates.1,
        })
    }

    /// One life with a kill in it, up to its end.
    async fn strike(&mut self, point: &Point, number: u64) -> anyhow::Result<()> {
        let begun = Instant::now();
        let room = RoomId(ROOMS + number);
        self.set_the_scene(point, room)?;
        if let Strike::Word(moment, side) = point.strike {
            let victim = self.server(point.who).id()?;
            self.gate(point.who)?.arm(victim, moment, side, 1)?;
        }
        let question = format!("echo {number}");
        let text = match point.plot {
            Plot::Chatter => question.clone(),
            _ => mentioning(&question),
        };
        let said = self.bot.sandbox.say(Say::new(room, SOMEBODY, text)).await;
        match point.strike {
            Strike::Word(..) => self.gate(point.who)?.struck().await?,
            Strike::Call(call, _) => self.called(call, room, &question).await?,
            Strike::Answered => {}
        }
        let server = self.server(point.who);
        server.kill().await?;
        server.start()?;
        server.ready().await?;
        self.see_the_end(point, &said, &question).await?;
        self.go_on(number).await?;
        note(&format!(
            "{point}: acknowledged {}, asked {}, said {}, {:.1} s",
            said.webhook_status == Some(200),
            self.asked(&question),
            self.bot.answers(&said.message_id),
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn set_the_scene(&self, point: &Point, room: RoomId) -> anyhow::Result<()> {
        let sandbox = &self.bot.sandbox;
        sandbox.heal();
        match point.plot {
            Plot::Mention | Plot::Chatter => {}
            Plot::TriedAgain => {
                sandbox.break_down(Fault::status(Service::Simsimi, 500));
            }
            Plot::Refused => {
                let refused = Fault::status(Service::Chatwork, 400);
                sandbox.break_down(refused.on(Call::Post).in_room(room).always());
            }
        }
        if let Strike::Call(call, when) = point.strike {
            let service = match call {
                Call::Talk => Service::Simsimi,
                _ => Service::Chatwork,
            };
            sandbox.break_down(Fault::hold(service, when).on(call));
        }
        Ok(())
    }

    /// Waits until the service has the call.
    async fn called(&self, call: Call, room: RoomId, question: &str) -> anyhow::Result<()> {
        let has_it = |ledger: &Ledger| match call {
            Call::Talk => asked(ledger, question) > 0,
            _ => ledger
                .calls
                .iter()
                .any(|called| called.call == Some(call) && called.room_id == Some(room)),
        };
        ensure!(
            self.bot.sandbox.until(DOUBT, has_it).await,
            "the service was not called"
        );
        Ok(())
    }

    async fn see_the_end(&self, point: &Point, said: &Said, question: &str) -> anyhow::Result<()> {
        let bot = &self.bot;
        let acknowledged = said.webhook_status == Some(200);
        let expected = match (point.plot, point.strike) {
            (Plot::Mention, Strike::Word(Moment::Published("in"), side)) => {
                ensure!(!acknowledged, "it was acknowledged before it was stored");
                // A broker that finds the connection gone may drop what it has not looked at yet.
                match side {
                    Side::Before => 0..=0,
                    Side::After => 0..=1,
                }
            }
            (Plot::Mention | Plot::TriedAgain, _) => {
                bot.posted(DOUBT, &said.message_id).await?;
                1..=1
            }
            (Plot::Refused, _) => {
                let letter = bot.buried(DOUBT, &said.message_id).await?;
                ensure!(letter.cause == Cause::Refused, "{letter:?}");
                0..=0
            }
            (Plot::Chatter, _) => {
                let reason = bot.ignored(&said.message_id).await?;
                ensure!(reason == "not_addressed", "{reason}");
                0..=0
            }
        };
        let answers = bot.answers(&said.message_id);
        ensure!(expected.contains(&answers), "it was said {answers} times");
        // The kill may cost one question, and the failure is one more.
        let allowed = match point.plot {
            Plot::Chatter => 0,
            Plot::Mention | Plot::Refused => 2,
            Plot::TriedAgain => 3,
        };
        let asked = self.asked(question);
        ensure!(asked <= allowed, "SimSimi was asked {asked} times");
        Ok(())
    }

    fn asked(&self, question: &str) -> usize {
        asked(&self.bot.sandbox.ledger(), question)
    }

    /// What comes afterwards is answered as ever; and once it is, nothing is left of what was before.
    async fn go_on(&mut self, number: u64) -> anyhow::Result<()> {
        let message = self.bot.mention(&format!("echo after {number}")).await?;
        self.bot.posted(DOUBT, &message).await?;
        ensure!(
            self.bot.answers(&message) == 1,
            "the next one was not answered once"
        );
        match &self.gates {
            Some((_, worker)) => {
                // What a broker was slow to confirm comes once more by way of the spool, and as long as
                // it waits there, so does the next one.
                let front = &self.bot.front;
                front
                    .until_figure(WAITING, |waiting| waiting == 0.0)
                    .await?;
                worker.nothing_held().await
            }
            None => Ok(()),
        }
    }
}

/// An operator who looks finds everything explained, but what nobody has said 200 to: an event that
/// was received and never stored may be in the archive.
pub(super) async fn all_is_explained(bot: &Bot) -> anyhow::Result<()> {
    let audit = Audit::of(bot, AUDIT_WAITS, &[]).await?;
    let acknowledged = acknowledged(&bot.sandbox.ledger());
    let promised = audit
        .lost
        .iter()
        .any(|message| acknowledged.contains(message));
    ensure!(
        audit.twice == 0
            && audit.waiting == 0
            && audit.unexplained == audit.lost.len() as u64
            && !promised,
        "{audit:?}"
    );
    Ok(())
}

fn asked(ledger: &Ledger, question: &str) -> usize {
    let asked = ledger.asked.iter();
    asked
        .filter(|asked| asked.utext.as_deref() == Some(question))
        .count()
}

/// The worker dies at the first word that it exchanges with its broker about a mention, the next
/// time at the second one, and so on, until one is answered before the word comes. So there is no
/// point between it and its broker at which it has not died.
pub(super) async fn killed_at_any_word_nothing_is_lost_or_said_twice() -> anyhow::Result<()> {
    let bots = (0..BOTS).map(|first| async move {
        let mut victim = Victim::on(Kind::Rabbitmq).await?;
        let mut number = first as u32 + 1;
        loop {
            let struck = victim.strike_at_word(number).await;
            if !struck.with_context(|| format!("killed at word {number}"))? {
                break;
            }
            number += BOTS as u32;
        }
        all_is_explained(&victim.bot).await?;
        victim.bot.end().await?;
        anyhow::Ok(number)
    });
    let words = try_join_all(bots).await?;
    note(&format!(
        "lives without a kill had fewer words than {words:?}"
    ));
    // Two jobs are delivered, a reply, an intent and a result published and confirmed, and two jobs
    // settled: the gate has seen at least that.
    ensure!(words.iter().all(|words| *words > 10), "only {words:?}");
    Ok(())
}

impl Victim {
    /// A life with a kill at this word; false if it came to its end before.
    async fn strike_at_word(&mut self, number: u32) -> anyhow::Result<bool> {
        let begun = Instant::now();
        let victim = self.bot.worker().id()?;
        let gate = self.gate(Who::Worker)?;
        gate.arm(victim, Moment::Anything, Side::Before, number)?;
        let question = format!("echo {number}");
        let message = self.bot.mention(&question).await?;
        let ended = async {
            self.bot.posted(DOUBT, &message).await?;
            gate.nothing_held().await
        };
        let killed = tokio::select! {
            () = gate.struck_ever() => true,
            ended = ended => {
                ended?;
                // The last word may come just now.
                !gate.disarm()
            }
        };
        if killed {
            let worker = self.bot.worker();
            worker.kill().await?;
            worker.start()?;
            worker.ready().await?;
        }
        self.bot.posted(DOUBT, &message).await?;
        ensure!(self.bot.answers(&message) == 1, "it was not said once");
        let asked = self.asked(&question);
        ensure!(asked <= 2, "SimSimi was asked {asked} times");
        self.go_on(number.into()).await?;
        note(&format!(
            "word {number}: killed {killed}, asked {asked}, {:.1} s",
            begun.elapsed().as_secs_f64()
        ));
        Ok(killed)
    }
}

/// `serve`, and then a worker that shares its file with an ingress, dies at its first commit after a
/// mention, the next time at the second one, and so on, before the commit and after it, until one is
/// answered before the commit comes.
pub(super) async fn killed_at_any_commit_nothing_is_lost_or_said_twice() -> anyhow::Result<()> {
    use Found::*;
    let all = BTreeSet::from([
        Nothing,
        Stored,
        Claimed,
        Asked,
        ReplyStored,
        ReplyClaimed,
        Intended,
        Posted,
        ResultStored,
    ]);
    // As long as somebody else has the file open, a commit that is on disk and has not been told to
    // them goes with its process. So there is no point right after a commit, only those before one.
    let before_commits = BTreeSet::from([Stored, Asked, ReplyStored, ReplyClaimed, Posted]);
    tokio::try_join!(sweeps(None, &all), sweeps(Some(1), &before_commits))?;
    Ok(())
}

/// What a dead process has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Stored,
    Claimed,
    Asked,
    ReplyStored,
    ReplyClaimed,
    Intended,
    Posted,
    ResultStored,
}

/// Commits that are tried at a time, on either side.
const AT_ONCE: u32 = 8;
/// Leases are renewed every few seconds, which is a commit as well: where one falls into a life, the
/// numbers after it mean other points than in the lives beside it, and one may be left out.
const MOST_SWEEPS: usize = 4;

/// Sweeps until somebody was found dead at each of these points.
async fn sweeps(workers: Option<usize>, points: &BTreeSet<Found>) -> anyhow::Result<()> {
    let mut found = BTreeSet::new();
    for _ in 0..MOST_SWEEPS {
        found.extend(sweep(workers).await?);
        if found.is_superset(points) {
            return Ok(());
        }
    }
    let missing: Vec<_> = points.difference(&found).collect();
    bail!("nobody died at {missing:?}")
}

async fn sweep(workers: Option<usize>) -> anyhow::Result<BTreeSet<Found>> {
    let mut found = BTreeSet::new();
    for first in (1..).step_by(AT_ONCE as usize) {
        let lives = (first..first + AT_ONCE)
            .flat_map(|number| [(number, Side::Before), (number, Side::After)])
            .map(|(number, side)| async move {
                let struck = strike_at_commit(workers, number, side).await;
                struck.with_context(|| format!("killed {side:?} commit {number}"))
            });
        let lives = try_join_all(lives).await?;
        found.extend(lives.iter().flatten());
        if lives.contains(&None) {
            break;
        }
    }
    Ok(found)
}

/// A life with a kill at this commit, and what was there then; `None` if it came to its end before.
async fn strike_at_commit(
    workers: Option<usize>,
    number: u32,
    side: Side,
) -> anyhow::Result<Option<Found>> {
    let plan = Plan::on(Kind::Sqlite)?.unlimited();
    let plan = match workers {
        Some(workers) => plan.workers(workers),
        None => plan,
    };
    let mut bot = plan.prepare().await?;
    let disk = Disk::under(bot.worker())?;
    for server in bot.servers_mut() {
        server.start()?;
    }
    bot.ready().await?;
    let file = PathBuf::from(bot.stage().location().replace("sqlite:", ""));
    disk.crash(number, side)?;
    let question = "echo just once";
    let say = Say::new(RoomId(ROOMS), SOMEBODY, mentioning(question));
    let said = bot.sandbox.say(say).await;
    let killed = within(DOUBT, "it is killed or done", async {
        loop {
            if bot.worker().still_runs().is_err() {
                return anyhow::Ok(true);
            }
            if look(&file, &bot.sandbox.ledger())? == Found::ResultStored {
                disk.heal()?;
                return Ok(false);
            }
            // Somebody else's file has nothing to be told by. Not too often, as all these lives look at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await??;
    let killed = killed || bot.worker().still_runs().is_err();
    let found = look(&file, &bot.sandbox.ledger())?;
    let acknowledged = said.webhook_status == Some(200);
    note(&format!(
        "{} {side:?} commit {number}: {}, acknowledged {acknowledged}, {found:?}",
        if workers.is_some() { "worker" } else { "serve" },
        if killed { "killed" } else { "not killed" },
    ));
    disk.heal()?;
    if killed {
        bot.worker().exit_code().await?;
        bot.worker().start()?;
        bot.ready().await?;
    }
    let expected = match found {
        Found::Nothing => {
            ensure!(!acknowledged, "it was acknowledged and never stored");
            0
        }
        _ => {
            bot.posted(DOUBT, &said.message_id).await?;
            1
        }
    };
    let answers = bot.answers(&said.message_id);
    ensure!(answers == expected, "it was said {answers} times");
    let asked = asked(&bot.sandbox.ledger(), question);
    ensure!(asked <= 2, "SimSimi was asked {asked} times");
    all_is_explained(&bot).await?;
    bot.end().await?;
    Ok(killed.then_some(found))
}

/// How far the only event of this file and this world has come.
fn look(file: &Path, ledger: &Ledger) -> anyhow::Result<Found> {
    let file = rusqlite::Connection::open(file)?;
    // What was left behind stays as it was left.
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    file.busy_timeout(Duration::from_secs(5))?;
    let there = |sql: &str| file.prepare(sql)?.exists([]);
    let outcome = |what: &str| {
        there(&format!(
            "SELECT 1 FROM outcomes WHERE outcome ->> 'what' = '{what}'"
        ))
    };
    let job = |queue: &str, and: &str| {
        there(&format!(
            "SELECT 1 FROM jobs WHERE queue = '{queue}' AND {and}"
        ))
    };
    let is_held = "holder IS NOT NULL";
    Ok(if outcome("posted")? {
        Found::ResultStored
    } else if outcome("intent")? && !ledger.posted.is_empty() {
        Found::Posted
    } else if outcome("intent")? {
        Found::Intended
    } else if job("post.bot", is_held)? {
        Found::ReplyClaimed
    } else if job("post.bot", "TRUE")? {
        Found::ReplyStored
    } else if job("ask", is_held)? && !ledger.asked.is_empty() {
        Found::Asked
    } else if job("ask", is_held)? {
        Found::Claimed
    } else if job("ask", "TRUE")? {
        Found::Stored
    } else {
        Found::Nothing
    })
}

/// What an ingress that died with an event in its spool has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    /// The event waits, and nobody has been told that it was taken.
    Stored,
    /// The broker has it, and the spool as well.
    Forwarded,
    Removed,
}

/// Which commit is which differs from life to life: whoever asks how the spool is makes it write as
/// well. So often the commits are gone through at most until all that can be left was.
const SWEEPS: usize = 5;

/// An ingress whose broker is away dies at the first commit of its spool after a mention, the next time
/// at the second one, and so on, before the commit and after it, until one is taken, forwarded and
/// removed before the commit comes. The broker is back as soon as the mention has been taken.
pub(super) async fn killed_at_any_commit_of_its_spool_nothing_is_lost_or_said_twice()
-> anyhow::Result<()> {
    use Left::{Forwarded, Nothing, Removed, Stored};
    let mut bot = Plan::on(Kind::Rabbitmq)?.unlimited().prepare().await?;
    let location = bot.stage().location();
    let (user, host) = location.rsplit_once('@').context("a user")?;
    let (address, path) = host.split_once('/').context("a virtual host")?;
    let mut door = Door::to(address.parse::<SocketAddr>()?).await?;
    let through_the_door = format!("{user}@{}/{path}", door.address());
    bot.front.set("CHICKWORK_QUEUE", through_the_door);
    let disk = Disk::under(&mut bot.front)?;
    for server in bot.servers_mut() {
        server.start()?;
    }
    bot.ready().await?;
    let all = BTreeSet::from([Nothing, Stored, Forwarded, Removed]);
    let mut found = BTreeSet::new();
    for _ in 0..SWEEPS {
        'commits: for number in 1.. {
            for side in [Side::Before, Side::After] {
                let struck = strike_at_spool(&mut bot, &mut door, &disk, number, side).await;
                match struck.with_context(|| format!("killed {side:?} commit {number}"))? {
                    Some(left) => found.insert(left),
                    None => break 'commits,
                };
            }
        }
        if found == all {
            break;
        }
    }
    ensure!(found == all, "somebody died with {found:?} left behind");
    all_is_explained(&bot).await?;
    bot.end().await
}

/// A life of the ingress with a kill at this commit, and what was left then; `None` if the mention came
/// through before.
async fn strike_at_spool(
    bot: &mut Bot,
    door: &mut Door,
    disk: &Disk,
    number: u32,
    side: Side,
) -> anyhow::Result<Option<Left>> {
    door.shut().await;
    disk.crash(number, side)?;
    let question = format!("echo {side:?} {number}");
    let say = Say::new(RoomId(ROOMS), SOMEBODY, mentioning(&question));
    let said = bot.sandbox.say(say).await;
    let acknowledged = said.webhook_status == Some(200);
    if acknowledged {
        door.open().await?;
    }
    let killed = soon("it is killed or done", async {
        loop {
            if bot.front.still_runs().is_err() {
                return true;
            }
            let is_gone = matches!(bot.front.figure(WAITING).await, Ok(0.0));
            if acknowledged && is_gone {
                return false;
            }
            // A process tells nobody that it was killed.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    disk.heal()?;
    let killed = killed || bot.front.still_runs().is_err();
    let mut left = None;
    if killed {
        bot.front.exit_code().await?;
        let file = PathBuf::from(&bot.front.environment()["CHICKWORK_SPOOL"]);
        left = Some(match (is_spooled(&file)?, acknowledged) {
            (false, false) => Left::Nothing,
            (true, false) => Left::Stored,
            (true, true) => Left::Forwarded,
            (false, true) => Left::Removed,
        });
        bot.front.start()?;
        bot.front.ready().await?;
        door.open().await?;
    }
    note(&format!(
        "spool {side:?} commit {number}: killed {killed}, acknowledged {acknowledged}, {left:?}"
    ));
    let answered = left != Some(Left::Nothing);
    if answered {
        bot.posted(DOUBT, &said.message_id).await?;
    }
    bot.front
        .until_figure(WAITING, |waiting| waiting == 0.0)
        .await?;
    let after = bot.mention("echo after").await?;
    bot.posted(DOUBT, &after).await?;
    let answers = bot.answers(&said.message_id);
    ensure!(
        answers == usize::from(answered),
        "it was said {answers} times"
    );
    let asked = asked(&bot.sandbox.ledger(), &question);
    ensure!(asked <= 2, "SimSimi was asked {asked} times");
    Ok(left)
}

/// Whether an event waits in the spool of a process that is gone.
fn is_spooled(file: &Path) -> anyhow::Result<bool> {
    let file = rusqlite::Connection::open(file)?;
    // What was left behind stays as it was left.
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(file.prepare("SELECT 1 FROM spooled")?.exists([])?)
}

#[expect(
    clippy::print_stderr,
    reason = "the test runner shows it when the story fails, and who wants to see the points asks for it"
)]
fn note(line: &str) {
    eprintln!("{line}");
}
