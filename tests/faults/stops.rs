//! Processes that are stopped, killed, frozen and started again while people talk: posting is handed
//! over, a rolling restart turns nobody away, and what cannot be finished is given back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::signature::Token;
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::job::{Settlement, Work};
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_sandbox::ledger::Ledger;
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, Sandbox, Say};
use chickwork_tests::bot::{Bot, Plan, a_hook, acknowledged, mentioning};
use chickwork_tests::door::Door;
use chickwork_tests::process::Server;
use chickwork_tests::stage::{
    self, Kind, Plant, SOON, Stage, an_event, next, settle, soon, until, within,
};
use chickwork_tests::storm::Audit;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use lapin::options::BasicGetOptions;
use lapin::types::AMQPValue;
use rusqlite::OptionalExtension as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long it takes at most until somebody else posts: 20 s are promised, 15 of which may be a lease or a
/// heartbeat, and some patience with the machine.
const HAND_OVER: Duration = Duration::from_secs(20 + 10);

/// Longer than it takes until everything is answered, doubts included.
const IN_THE_END: Duration = Duration::from_secs(120);

/// How long an audit may wait for what is under way.
const AUDIT_WAITS: Duration = Duration::from_secs(60);

/// Posts that a worker has on their way at most.
const IN_FLIGHT: usize = 4;

/// How often somebody says something: more often than one post is over, so that some are always in
/// flight.
const PACE: Duration = Duration::from_millis(80);

/// How long people go on talking after something has happened.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// Rooms in which people talk.
const ROOMS: u64 = 25;

/// Whether they are heard or not, people mention the bot while this happens.
async fn while_people_talk<T>(
    sandbox: &Sandbox,
    happens: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut happens = pin!(happens);
    let mut said = FuturesUnordered::new();
    let mut pace = tokio::time::interval(PACE);
    let mut number = 0;
    let happened = loop {
        tokio::select! {
            happened = &mut happens => break happened,
            Some(_) = said.next() => {}
            _ = pace.tick() => {
                number += 1;
                let room = RoomId(310_000_000 + number % ROOMS);
                let who = AccountId(2_100_000 + number % 7);
                said.push(sandbox.say(Say::new(room, who, mentioning(&format!("echo {number}")))));
            }
        }
    };
    while said.next().await.is_some() {}
    happened
}

/// Lets people talk on for a while.
async fn talk_on() {
    // It is time itself that is waited for: what should not happen would happen in it.
    tokio::time::sleep(AFTERWARDS).await;
}

/// A bot that asks and posts for some time, so that whatever happens finds some of both in flight.
fn busy(kind: Kind) -> anyhow::Result<Plan> {
    Ok(Plan::on(kind)?.unlimited().world(|world| {
        world.simsimi_takes = Duration::from_millis(200);
        world.chatwork_takes = Duration::from_millis(150);
    }))
}

/// Everything that was taken is answered once, and nothing twice: not even by what a process still
/// held, as all of them are stopped before that is counted. The messages that were taken.
async fn the_sums(bot: &mut Bot) -> anyhow::Result<Vec<MessageId>> {
    let heard = acknowledged(&bot.sandbox.ledger());
    bot.all_answered_once(IN_THE_END, &heard).await?;
    let audit = within(IN_THE_END, "all doubts are over", last_audit(bot)).await??;
    for server in bot.servers_mut() {
        server.terminate()?;
    }
    for server in bot.servers_mut() {
        ensure!(server.exit_code().await? == Some(0), "not a clean stop");
    }
    let mut answers: HashMap<MessageId, usize> = HashMap::new();
    for answered in bot.sandbox.ledger().posted {
        *answers
            .entry(answered.answers.context("it answers something")?)
            .or_default() += 1;
    }
    let twice: Vec<_> = answers.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(twice.is_empty(), "answered more than once: {twice:?}");
    ensure!(heard.iter().all(|message| answers.contains_key(message)));
    let answered = answers.len() as u64;
    ensure!(audit.clean, "{audit:?}");
    ensure!(
        (audit.received, audit.answered, audit.waiting) == (answered, answered, 0),
        "{answered} have a reply: {audit:?}"
    );
    Ok(heard)
}

/// What the audit says when nothing is under way any more: a reply that is in its room may still be in
/// doubt.
async fn last_audit(bot: &Bot) -> anyhow::Result<Audit> {
    loop {
        let audit = Audit::of(bot, AUDIT_WAITS, &[]).await?;
        if !audit.clean || audit.waiting == 0 {
            return Ok(audit);
        }
        // Somebody else's queue has nothing to be told by.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The one whose turn to post began last, by the logs.
fn newest_turn(workers: &[Server]) -> Option<usize> {
    // A line begins with its time, and the later time is the greater text.
    let begun = |worker: &Server| {
        let log = worker.log();
        let mut lines = log.lines().rev();
        let line = lines.find(|line| line.contains("this process posts now"))?;
        Some(line.split(' ').next()?.to_owned())
    };
    let turns = workers.iter().enumerate();
    let turns = turns.filter_map(|(number, worker)| Some((begun(worker)?, number)));
    turns.max().map(|(_, number)| number)
}

/// Who posts now. Asked right before something happens to them: where a broker is slow to confirm an
/// intent, posting goes to somebody else by itself.
async fn who_posts(workers: &[Server]) -> anyhow::Result<usize> {
    let posts = async || Ok(newest_turn(workers));
    until(HAND_OVER, "somebody posts", posts).await
}

/// Waits until another one posts than the one that has ended, or stands still; which is seen in the rooms.
async fn handed_over(sandbox: &Sandbox, workers: &[Server], ended: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let last = sandbox.ledger().totals.last;
    until(HAND_OVER, "somebody else posts", async || {
        let is_another = newest_turn(workers).is_some_and(|posts| posts != ended);
        Ok(is_another.then_some(()))
    })
    .await?;
    // More than its predecessor could have on their way.
    let goes_on = |ledger: &Ledger| ledger.since(last).posted.len() > IN_FLIGHT;
    let left = HAND_OVER.saturating_sub(begun.elapsed());
    ensure!(
        sandbox.until(left, goes_on).await,
        "nobody posted for {HAND_OVER:?}"
    );
    Ok(())
}

/// The one that posts is killed with posts in flight, and its successor too.
pub(super) async fn posting_goes_on_when_the_one_that_posts_is_killed(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = busy(kind)?.workers(3).start().await?;
    let (sandbox, workers) = (&bot.sandbox, &mut bot.workers);
    while_people_talk(sandbox, async {
        for _ in 0..2 {
            talk_on().await;
            let posts = who_posts(workers).await?;
            workers[posts].kill().await?;
            handed_over(sandbox, workers, posts).await?;
            workers[posts].start()?;
        }
        Ok(())
    })
    .await?;
    bot.ready().await?;
    the_sums(&mut bot).await?;
    bot.end().await
}

/// The one that posts is stopped as an operator does it: it finishes its posts, and the next one
/// goes on at once.
pub(super) async fn posting_goes_on_when_the_one_that_posts_is_stopped(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = busy(kind)?.workers(3).start().await?;
    let (sandbox, workers) = (&bot.sandbox, &mut bot.workers);
    while_people_talk(sandbox, async {
        for _ in 0..3 {
            talk_on().await;
            let posts = who_posts(workers).await?;
            workers[posts].terminate()?;
            ensure!(workers[posts].exit_code().await? == Some(0));
            handed_over(sandbox, workers, posts).await?;
            workers[posts].start()?;
        }
        Ok(())
    })
    .await?;
    bot.ready().await?;
    let heard = the_sums(&mut bot).await?;
    cost_one_question_and_one_post_each(&bot, heard.len()).await?;
    bot.end().await
}

/// The one that posts is frozen with posts in flight until somebody else posts, and thawed: what it
/// held is not posted behind its successor's back.
pub(super) async fn posting_goes_on_when_the_one_that_posts_freezes_and_thaws(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = busy(kind)?.workers(3).start().await?;
    let (sandbox, workers) = (&bot.sandbox, &mut bot.workers);
    while_people_talk(sandbox, async {
        talk_on().await;
        let posts = who_posts(workers).await?;
        workers[posts].freeze_between_writes().await?;
        handed_over(sandbox, workers, posts).await?;
        workers[posts].thaw()?;
        talk_on().await;
        Ok(())
    })
    .await?;
    the_sums(&mut bot).await?;
    bot.end().await
}

/// Sees that so many messages cost one question and one post each, as nothing was interrupted. Only
/// what went to the spool may have been asked about twice: where a broker is too slow to say that it
/// has an event, it has it all the same.
async fn cost_one_question_and_one_post_each(bot: &Bot, messages: usize) -> anyhow::Result<()> {
    let spooled: usize = bot.servers().map(|server| spooled(&server.log())).sum();
    let asked = bot.asked().len();
    ensure!(
        (messages..=messages + spooled).contains(&asked),
        "{messages} messages, {asked} questions, {spooled} in the spool"
    );
    // Not by intents: one that a busy broker was slow to store is followed by another one, unsent.
    let ledger = bot.sandbox.ledger();
    let posts = ledger
        .calls
        .iter()
        .filter(|call| call.call == Some(Call::Post));
    let posts = posts.count();
    ensure!(posts == messages, "{messages} messages, {posts} posts");
    Ok(())
}

/// How many events have gone through the spool, by the log of their ingress.
fn spooled(log: &str) -> usize {
    let runs = log.split("all that waited in the spool: ").skip(1);
    runs.filter_map(|run| run.split(' ').next()?.parse::<usize>().ok())
        .sum()
}

/// Stops a process as an operator does, and starts it again.
async fn restart(server: &mut Server) -> anyhow::Result<()> {
    server.terminate()?;
    ensure!(server.exit_code().await? == Some(0), "not a clean stop");
    server.start()?;
    server.ready().await
}

/// Two ingresses behind a balancer and three workers are restarted one after the other, as for a new
/// release, and at last all workers at once: every webhook is taken, and what was taken costs one
/// question and one post each, as if nothing had happened.
pub(super) async fn a_rolling_restart_is_noticed_by_nobody(kind: Kind) -> anyhow::Result<()> {
    let mut bot = busy(kind)?.fronts(2).workers(3).start().await?;
    let balancer = bot.balancer.as_ref().context("there are two fronts")?;
    let fronts = std::iter::once(&mut bot.front).chain(&mut bot.more_fronts);
    let workers = &mut bot.workers;
    while_people_talk(&bot.sandbox, async {
        for front in fronts {
            restart(front).await?;
            balancer.all_ready().await?;
        }
        for worker in workers.iter_mut() {
            restart(worker).await?;
        }
        for worker in workers.iter_mut() {
            worker.terminate()?;
        }
        for worker in workers.iter_mut() {
            ensure!(worker.exit_code().await? == Some(0), "not a clean stop");
            worker.start()?;
        }
        // Who has just been started may not know yet that it can be told to stop.
        for worker in workers.iter_mut() {
            worker.ready().await?;
        }
        talk_on().await;
        Ok(())
    })
    .await?;
    let ledger = bot.sandbox.ledger();
    let turned_away: Vec<_> = ledger
        .said
        .iter()
        .filter(|said| said.webhook_status != Some(200))
        .collect();
    assert!(turned_away.is_empty(), "{turned_away:?}");
    let heard = the_sums(&mut bot).await?;
    cost_one_question_and_one_post_each(&bot, heard.len()).await?;
    for worker in &bot.workers {
        assert!(!worker.log().contains("came back unsettled"));
    }
    bot.end().await
}

/// Everything is stopped in one moment, in the middle of it all, and started again.
pub(super) async fn everything_stops_at_once_and_goes_on_as_if_nothing_had_been(
    kind: Kind,
) -> anyhow::Result<()> {
    let plan = busy(kind)?;
    let plan = match kind {
        Kind::Sqlite => plan,
        Kind::Rabbitmq => plan.workers(3),
    };
    let mut bot = plan.start().await?;
    let (sandbox, front, workers) = (&bot.sandbox, &mut bot.front, &mut bot.workers);
    let mut all: Vec<&mut Server> = std::iter::once(front).chain(workers).collect();
    while_people_talk(sandbox, async {
        for _ in 0..2 {
            talk_on().await;
            for server in &mut all {
                server.terminate()?;
            }
            for server in &mut all {
                ensure!(server.exit_code().await? == Some(0), "not a clean stop");
            }
            for server in &mut all {
                server.start()?;
            }
            for server in &mut all {
                server.ready().await?;
            }
        }
        Ok(())
    })
    .await?;
    let heard = the_sums(&mut bot).await?;
    let ledger = bot.sandbox.ledger();
    assert_eq!(
        ledger.posted.len(),
        heard.len(),
        "what was refused is not there"
    );
    cost_one_question_and_one_post_each(&bot, heard.len()).await?;
    bot.end().await
}

/// A worker that is interrupted in its calls, by the second signal or at the end of
/// `CHICKWORK_DRAIN`, gives back what it holds: that is no crash, no failed try and no death, however
/// often it happens.
pub(super) async fn what_is_interrupted_is_given_back_and_nothing_is_counted(
    kind: Kind,
) -> anyhow::Result<()> {
    /// More often than a job may die.
    const INTERRUPTIONS: usize = 11;
    let mut bot = Plan::on(kind)?
        .workers(1)
        .with("CHICKWORK_DRAIN", Interruption::EndOfDrain.drain())
        .unlimited()
        .start()
        .await?;
    let silent = |service, call| Fault::hold(service, When::Before).on(call).always();
    bot.sandbox.break_down(silent(Service::Simsimi, Call::Talk));
    let mut messages = Vec::new();
    for number in 0..3 {
        let room = RoomId(310_000_000 + number);
        let text = format!("echo {number}");
        messages.push(bot.mention_in(room, AccountId(2_100_000), &text).await?);
    }
    for round in 1..=INTERRUPTIONS {
        let by = match round % 2 {
            0 => Interruption::SecondSignal,
            _ => Interruption::EndOfDrain,
        };
        if round > 1 {
            start_to_be_interrupted(&mut bot.workers[0], by)?;
        }
        let asked = |ledger: &Ledger| ledger.asked.len() >= round * messages.len();
        ensure!(
            bot.sandbox.until(IN_THE_END, asked).await,
            "not asked about in round {round}"
        );
        interrupt(&mut bot.workers[0], by).await?;
    }
    let queue = bot.queue().await?;
    let mut asks = queue.claim_asks(3);
    for _ in &messages {
        let claim = next(&mut asks).await?;
        ensure!((claim.job().attempts, claim.job().deaths) == (0, 0));
        settle(claim, Settlement::GiveBack).await?;
    }
    asks.stop().await;

    // The other step: a post that is under way is a doubt, and no more than that.
    bot.sandbox.heal();
    bot.sandbox
        .break_down(silent(Service::Chatwork, Call::Post));
    start_to_be_interrupted(&mut bot.workers[0], Interruption::SecondSignal)?;
    let posting = |ledger: &Ledger| {
        let posts = ledger.calls.iter();
        posts.filter(|call| call.call == Some(Call::Post)).count() >= messages.len()
    };
    ensure!(
        bot.sandbox.until(IN_THE_END, posting).await,
        "nothing is being posted"
    );
    interrupt(&mut bot.workers[0], Interruption::SecondSignal).await?;
    let mut posts = queue.claim_posts(&BotName::default(), 3);
    for _ in &messages {
        let claim = next(&mut posts).await?;
        let job = claim.job();
        ensure!((job.attempts, job.deaths) == (0, 0), "{job:?}");
        settle(claim, Settlement::GiveBack).await?;
    }
    posts.stop().await;
    bot.sandbox.heal();
    bot.workers[0].start()?;
    bot.all_answered_once(IN_THE_END, &messages).await?;
    the_sums(&mut bot).await?;
    bot.end().await
}

/// What ends the patience with which a stopping process finishes what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    EndOfDrain,
    SecondSignal,
}

impl Interruption {
    /// `CHICKWORK_DRAIN`: over soon, or not before the second signal.
    fn drain(self) -> &'static str {
        match self {
            Self::EndOfDrain => "1s",
            Self::SecondSignal => "120s",
        }
    }
}

fn start_to_be_interrupted(server: &mut Server, by: Interruption) -> anyhow::Result<()> {
    server.set("CHICKWORK_DRAIN", by.drain());
    server.start()
}

/// Stops a process that cannot finish what it holds.
async fn interrupt(server: &mut Server, by: Interruption) -> anyhow::Result<()> {
    server.terminate()?;
    if by == Interruption::SecondSignal {
        server.not_ready("stopping").await?;
        server.terminate()?;
    }
    ensure!(
        server.exit_code().await? == Some(0),
        "giving back is no crash"
    );
    ensure!(
        server.log().contains("has been given back"),
        "{}",
        server.log()
    );
    Ok(())
}

/// A newer release runs beside this one and stores a reply that this one cannot read. While people
/// talk the workers of this release leave it alone: nothing is counted, nobody is held up, and the
/// newer one finds it as it was.
pub(super) async fn what_a_newer_release_stored_is_left_to_it(kind: Kind) -> anyhow::Result<()> {
    let newer = br#"{"v":99,"of":"a newer release"}"#.to_vec();
    let mut bot = busy(kind)?.workers(2).start().await?;
    let reply = stage::a_reply(&an_event(1));
    while_people_talk(&bot.sandbox, async {
        talk_on().await;
        let plant = Plant {
            work: Work::Post(reply.clone()),
            deaths: 0,
            body: Some(newer.clone()),
        };
        bot.stage().plant(plant).await?;
        let taken = match kind {
            Kind::Sqlite => soon("it is put off", from_file(bot.stage(), reply.id)).await??,
            Kind::Rabbitmq => soon("it is put off", from_broker(bot.stage())).await??,
        };
        ensure!(taken.body == newer, "just as it was");
        ensure!((taken.attempts, taken.deaths) == (0, 0));
        talk_on().await;
        Ok(())
    })
    .await?;
    ensure!(bot.dead_letters().await?.is_empty());
    the_sums(&mut bot).await?;
    bot.end().await
}

/// A job as the newer release finds it.
struct Taken {
    body: Vec<u8>,
    attempts: i64,
    deaths: i64,
}

/// Takes a job that was put off out of the file, as the newer release does when its time has come.
async fn from_file(stage: &Stage, id: EventId) -> anyhow::Result<Taken> {
    let path = stage.location();
    let file = rusqlite::Connection::open(path.trim_start_matches("sqlite:"))?;
    file.busy_timeout(stage::SOON)?;
    loop {
        let taken = file
            .prepare_cached(
                "DELETE FROM jobs WHERE id = ?1 AND holder IS NULL AND claims > 0
                 RETURNING body, attempts, deaths",
            )?
            .query_row([id.to_string()], |row| {
                Ok(Taken {
                    body: row.get(0)?,
                    attempts: row.get(1)?,
                    deaths: row.get(2)?,
                })
            })
            .optional()?;
        if let Some(taken) = taken {
            return Ok(taken);
        }
        // A file has nothing to be told by.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The same from the broker, where a minute begins in the level of 32 seconds.
async fn from_broker(stage: &Stage) -> anyhow::Result<Taken> {
    let connection = stage.operator().await?;
    let channel = connection.create_channel().await?;
    let level = format!("{}.delay.5", stage.namespace());
    let got = loop {
        let options = BasicGetOptions { no_ack: true };
        if let Some(got) = channel.basic_get(level.as_str().into(), options).await? {
            break got;
        }
        // Who gets one message at a time has nothing to be told by.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let headers = got.properties.headers().clone().unwrap_or_default();
    let count = |name| match headers.inner().get(name) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        _ => 0,
    };
    let taken = Taken {
        attempts: count("attempt"),
        deaths: count("deaths"),
        body: got.delivery.data,
    };
    connection.close(200, "taken".into()).await?;
    Ok(taken)
}

/// An ingress is stopped while clients are at all stages of a request: what has begun is answered,
/// what comes later is refused, and who only holds a connection open does not hold up the end.
pub(super) async fn a_stopping_ingress_answers_what_has_begun_and_refuses_the_rest(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = busy(kind)?
        .workers(1)
        .with("CHICKWORK_DRAIN", "8s")
        .start()
        .await?;
    let address: SocketAddr = bot.webhook_address();
    let mut kept_alive = TcpStream::connect(address).await?;
    kept_alive
        .write_all(&request("1800000000000000001")?)
        .await?;
    ensure!(status(&mut kept_alive).await? == 200);
    let mut halfway = Vec::new();
    for number in 2..12 {
        let request = request(&format!("18000000000000000{number:02}"))?;
        let (first, second) = request.split_at(request.len() - number);
        let mut client = TcpStream::connect(address).await?;
        client.write_all(first).await?;
        halfway.push((client, second.to_vec()));
    }
    let mut silent = TcpStream::connect(address).await?;
    silent.write_all(b"POST /webhook HT").await?;
    // Balancers are told, and until they have noticed everything is taken.
    let last = request("1800000000000000012")?;
    let taken = async {
        until_it_says_that_it_stops(address).await?;
        kept_alive.write_all(&last).await?;
        ensure!(status(&mut kept_alive).await? == 200);
        Ok(())
    };
    // Once it knows that it is to stop, it waits a second for the rest of a body, and a test may stand
    // still for longer. So the rest lies before it when it hears of its end.
    let stopped = async {
        bot.front.freeze_between_writes().await?;
        bot.front.terminate()?;
        for (client, rest) in &mut halfway {
            client.write_all(rest).await?;
        }
        bot.front.thaw()?;
        bot.front.not_ready("stopping").await
    };
    let begun = Instant::now();
    tokio::try_join!(taken, stopped)?;
    let mut rest = Vec::new();
    let ended = kept_alive.read_to_end(&mut rest);
    soon("a kept connection ends with its answer", ended).await??;
    // In the end nobody gets in any more.
    until(SOON, "nobody gets in", async || {
        Ok(TcpStream::connect(address).await.is_err().then_some(()))
    })
    .await?;
    for (mut client, _) in halfway {
        ensure!(
            status(&mut client).await? == 200,
            "what has begun is finished"
        );
    }
    ensure!(bot.front.exit_code().await? == Some(0));
    ensure!(
        begun.elapsed() < Duration::from_secs(8 + 5),
        "{:?}",
        begun.elapsed()
    );
    for number in 1..=12 {
        let message = MessageId::new(format!("18000000000000000{number:02}"))?;
        bot.answer(&message).await?;
    }
    bot.front.start()?;
    bot.ready().await?;
    the_sums(&mut bot).await?;
    bot.end().await
}

/// How long a stop takes at most that nobody worth waiting for holds up: 2 s in which it still takes
/// webhooks, as much for who began a slow one in their last moment, and patience with the machine. Less
/// than a body may take otherwise, and less than half of the drain.
const HELD_UP_BY_NOBODY: Duration = Duration::from_secs(13);

/// An ingress is stopped while some clients have sent half a body, half a head, or nothing more, and
/// never will. Those need no signature; if they could delay the end, its successor would come too late
/// for the webhooks that wait for it.
pub(super) async fn who_never_finishes_a_request_does_not_hold_up_a_stop(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = busy(kind)?
        .workers(1)
        .with("CHICKWORK_DRAIN", "30s")
        .start()
        .await?;
    let address = bot.webhook_address();
    let half_a_body = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    let half_a_piece =
        b"POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{";
    let half_a_head = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Le";
    let mut endless = Vec::new();
    for begins in [&half_a_body[..], half_a_piece, half_a_head, b""] {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(begins).await?;
        endless.push(client);
    }
    let mut kept_alive = TcpStream::connect(address).await?;
    kept_alive
        .write_all(&request("1800000000000000001")?)
        .await?;
    ensure!(status(&mut kept_alive).await? == 200);

    let webhooks: Vec<_> = (2..12)
        .map(|number| request(&format!("18000000000000000{number:02}")))
        .collect::<Result<_, _>>()?;
    let begun = Instant::now();
    bot.front.terminate()?;
    until_it_says_that_it_stops(address).await?;
    let mut late = TcpStream::connect(address).await?;
    late.write_all(half_a_body).await?;
    // All at once: it takes them for 2 s, and each costs a write to the disk.
    let taken = webhooks.iter().map(|webhook| says(address, webhook));
    for taken in try_join_all(taken).await? {
        ensure!(taken == 200, "it still takes them");
    }
    ensure!(bot.front.exit_code().await? == Some(0));
    ensure!(begun.elapsed() < HELD_UP_BY_NOBODY, "{:?}", begun.elapsed());
    let mut answers = Vec::new();
    for mut client in endless.into_iter().chain([late, kept_alive]) {
        let mut answer = String::new();
        let ended = client.read_to_string(&mut answer);
        soon("the connection has ended", ended).await??;
        answers.push(answer.split(' ').nth(1).map(str::to_owned));
    }
    let too_slow = || Some("408".to_owned());
    ensure!(
        answers == [too_slow(), too_slow(), None, None, too_slow(), None],
        "{answers:?}"
    );
    bot.front.start()?;
    bot.ready().await?;
    for number in 1..12 {
        let message = MessageId::new(format!("18000000000000000{number:02}"))?;
        bot.answer(&message).await?;
    }
    the_sums(&mut bot).await?;
    bot.end().await
}

/// A webhook, signed, as bytes.
fn request(message: &str) -> anyhow::Result<Vec<u8>> {
    let body = a_hook(message, "echo in time").json();
    let signature = Token::parse(DEMO_WEBHOOK_TOKEN)?.sign(&body);
    let mut request = format!(
        "POST /webhook HTTP/1.1\r\nHost: x\r\nX-ChatWorkWebhookSignature: {signature}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    Ok(request)
}

/// Waits until `/healthz` says that no more webhooks are welcome. From then on the ingress accepts for
/// almost 2 s, which nothing here can make longer.
async fn until_it_says_that_it_stops(address: SocketAddr) -> anyhow::Result<()> {
    let health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    until(SOON, "the ingress says that it stops", async || {
        Ok((says(address, health).await? == 503).then_some(()))
    })
    .await
}

/// Says this on a connection of its own; the status of the answer.
async fn says(address: SocketAddr, words: &[u8]) -> anyhow::Result<u16> {
    let mut client = TcpStream::connect(address).await?;
    client.write_all(words).await?;
    status(&mut client).await
}

/// The status of the next answer, which has no body or a short one.
async fn status(client: &mut TcpStream) -> anyhow::Result<u16> {
    let mut answer = vec![0; 1000];
    let length = soon("there is an answer", client.read(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..length]);
    let status = answer.split(' ').nth(1).context("no answer")?;
    Ok(status.parse()?)
}

/// How long a process takes at most to end without its broker: `CHICKWORK_DRAIN`, giving back,
/// closing, and some patience with the machine.
const ENDS: Duration = Duration::from_secs(3 + 5 + 3 + 10);

/// A bot that finds its broker here, and has some of everything in flight for most of the time.
fn slow_on_rabbitmq() -> anyhow::Result<Plan> {
    let plan = busy(Kind::Rabbitmq)?.with("CHICKWORK_DRAIN", "3s");
    Ok(plan.world(|world| world.simsimi_takes = Duration::from_secs(2)))
}

/// Lets both talk on without their broker, and tells them to stop.
async fn stop_without_broker(front: &mut Server, worker: &mut Server) -> anyhow::Result<()> {
    talk_on().await;
    // A silent broker is waited for at first.
    front
        .until_figure("chickwork_acks_total{stored=\"spool\"}", |acks| acks > 0.0)
        .await?;
    let begun = Instant::now();
    front.terminate()?;
    worker.terminate()?;
    for server in [front, worker] {
        ensure!(server.exit_code().await? == Some(0), "this is no crash");
    }
    ensure!(begun.elapsed() < ENDS, "{:?}", begun.elapsed());
    Ok(())
}

/// Told to stop while the broker is out of reach: both end all the same, and what they held is done
/// by those that come after.
pub(super) async fn who_is_stopped_without_a_broker_ends_and_loses_nothing() -> anyhow::Result<()> {
    let stage = Stage::new(Kind::Rabbitmq)?;
    let location = stage.location();
    let port: u16 = location
        .rsplit_once(':')
        .and_then(|(_, rest)| rest.split('/').next())
        .context("the location has a port")?
        .parse()?;
    let mut door = Door::to(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    let through = format!(":{}/", door.address().port());
    let mut bot = slow_on_rabbitmq()?
        .with(
            "CHICKWORK_QUEUE",
            location.replace(&format!(":{port}/"), &through),
        )
        .start()
        .await?;
    let (sandbox, front, worker) = (&bot.sandbox, &mut bot.front, &mut bot.workers[0]);
    while_people_talk(sandbox, async {
        let first = |ledger: &Ledger| !ledger.posted.is_empty();
        ensure!(sandbox.until(stage::SOON, first).await, "nothing is posted");
        door.shut().await;
        stop_without_broker(front, worker).await?;
        door.open().await?;
        restarted(front, worker).await
    })
    .await?;
    the_sums(&mut bot).await?;
    bot.end().await
}

/// The same beside a broker that takes connections and says nothing.
pub(super) async fn who_is_stopped_beside_a_silent_broker_ends_and_loses_nothing()
-> anyhow::Result<()> {
    let mut bot = slow_on_rabbitmq()?.alone().start().await?;
    let (sandbox, stage) = (&bot.sandbox, &bot.stage);
    let (front, worker) = (&mut bot.front, &mut bot.workers[0]);
    while_people_talk(sandbox, async {
        let first = |ledger: &Ledger| !ledger.posted.is_empty();
        ensure!(sandbox.until(stage::SOON, first).await, "nothing is posted");
        stage.node()?.freeze()?;
        stop_without_broker(front, worker).await?;
        stage.node()?.thaw()?;
        restarted(front, worker).await
    })
    .await?;
    the_sums(&mut bot).await?;
    bot.end().await
}

/// Starts both again, and lets them work for a while.
async fn restarted(front: &mut Server, worker: &mut Server) -> anyhow::Result<()> {
    front.start()?;
    worker.start()?;
    front.ready().await?;
    worker.ready().await?;
    talk_on().await;
    Ok(())
}
