//! A disk that is full, or broken: what cannot be made safe is not acknowledged, nobody crashes, and
//! when there is room again everything goes on and the sums match.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_sandbox::ledger::Ledger;
use chickwork_sandbox::{Sandbox, Say};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, acknowledged, mentioning};
use chickwork_tests::disk::Disk;
use chickwork_tests::door::Door;
use chickwork_tests::stage::{Kind, until};
use tokio::sync::watch;

use super::crash_points::all_is_explained;

/// Longer than it takes until everything that was held up is answered: leases, looks, back-offs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than a lease.
const PAST_A_LEASE: Duration = Duration::from_secs(18);
/// Messages by which is told how it goes.
const SOME: usize = 20;
/// The most that a message may cost: it was asked about, its claim was lost with the disk, and once
/// more for those that were given up while they waited for the disk.
const QUESTIONS: usize = 3;

/// The disk fills up while people talk.
pub(super) async fn on_a_full_disk_nothing_is_acknowledged_and_later_all_goes_on()
-> anyhow::Result<()> {
    a_disk_fails(Disk::fill).await
}

/// The disk takes everything and keeps nothing.
pub(super) async fn on_a_broken_disk_nothing_is_acknowledged_and_later_all_goes_on()
-> anyhow::Result<()> {
    a_disk_fails(Disk::break_down).await
}

async fn a_disk_fails(fails: impl Fn(&Disk) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Sqlite)?.unlimited().prepare().await?;
    let disk = Disk::under(&mut bot.front)?;
    bot.front.start()?;
    bot.ready().await?;
    let (silence, listening) = watch::channel(());
    let Bot { sandbox, front, .. } = &mut bot;
    let story = async {
        answered(sandbox, 200, SOME).await?;
        fails(&disk)?;
        answered(sandbox, 503, SOME).await?;
        front.not_ready("could not be stored").await?;
        front.still_runs()?;
        disk.heal()?;
        front.ready().await?;
        let so_far = with_status(&sandbox.ledger(), 200);
        answered(sandbox, 200, so_far + SOME).await?;
        drop(silence);
        anyhow::Ok(())
    };
    let (told, ()) = tokio::join!(story, talk(sandbox, listening));
    told?;
    let loud = bot
        .front
        .log()
        .lines()
        .filter(|line| line.contains("ERROR"))
        .count();
    ensure!(loud > 0, "nobody was told");
    the_sums_match(&bot).await?;
    bot.end().await
}

/// A worker alone has no room, as when it may use only so much: what it held is neither posted twice
/// nor lost, and the ingress goes on.
pub(super) async fn a_worker_without_room_says_nothing_twice_and_loses_nothing()
-> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Sqlite)?
        .workers(1)
        .unlimited()
        // So that there is always something under way, in either step.
        .world(|world| {
            world.simsimi_takes = Duration::from_millis(500);
            world.chatwork_takes = Duration::from_millis(500);
        })
        .prepare()
        .await?;
    let disk = Disk::under(bot.worker())?;
    for server in bot.servers_mut() {
        server.start()?;
    }
    bot.ready().await?;
    let (silence, listening) = watch::channel(());
    let (sandbox, worker) = (&bot.sandbox, &mut bot.workers[0]);
    let story = async {
        let posted = |ledger: &Ledger| ledger.posted.len() >= SOME;
        ensure!(sandbox.until(PATIENCE, posted).await, "nothing is posted");
        disk.fill()?;
        worker.not_ready("full").await?;
        // What it holds is to be anybody's meanwhile, by the clock.
        tokio::time::sleep(PAST_A_LEASE).await;
        worker.still_runs()?;
        disk.heal()?;
        worker.ready().await?;
        let so_far = sandbox.ledger().posted.len();
        let goes_on = |ledger: &Ledger| ledger.posted.len() > so_far;
        ensure!(sandbox.until(PATIENCE, goes_on).await, "it does not go on");
        drop(silence);
        anyhow::Ok(())
    };
    let (told, ()) = tokio::join!(story, talk(sandbox, listening));
    told?;
    let ledger = bot.sandbox.ledger();
    ensure!(
        with_status(&ledger, 200) == ledger.said.len(),
        "the ingress has refused something"
    );
    the_sums_match(&bot).await?;
    bot.end().await
}

/// The broker is away, and the spool has no room: that is told, loudly, and nothing is acknowledged.
/// Either of the two is enough to go on.
pub(super) async fn without_broker_and_without_room_nothing_is_acknowledged() -> anyhow::Result<()>
{
    let mut bot = Plan::on(Kind::Rabbitmq)?.unlimited().prepare().await?;
    let location = bot.stage().location();
    let (before, after) = location.split_once("127.0.0.1:").context("no broker")?;
    let (port, path) = after.split_once('/').context("no path")?;
    let mut broker = Door::to(SocketAddr::from(([127, 0, 0, 1], port.parse()?))).await?;
    let by_the_door = format!("{before}{}/{path}", broker.address());
    bot.front.set("CHICKWORK_QUEUE", by_the_door);
    let disk = Disk::under(&mut bot.front)?;
    for server in bot.servers_mut() {
        server.start()?;
    }
    bot.ready().await?;
    let mention = bot.mention("echo at first").await?;
    bot.answer(&mention).await?;

    broker.shut().await;
    disk.fill()?;
    let mut refused = refused(&bot).await?;
    bot.front.not_ready("").await?;
    ensure!(
        bot.front.log().lines().any(|line| line.contains("ERROR")),
        "nobody was told"
    );

    broker.open().await?;
    bot.ready().await?;
    let by_broker = taken(&bot, "echo the broker is back", &mut refused).await?;
    assert_eq!(bot.answer(&by_broker).await?, "the broker is back");

    broker.shut().await;
    disk.heal()?;
    bot.front.ready().await?;
    let spooled = taken(&bot, "echo there is room", &mut refused).await?;
    let acks = bot.front.figure("chickwork_acks_total{stored=\"spool\"}");
    ensure!(acks.await? >= 1.0, "it was not stored in the spool");
    assert_eq!(bot.answers(&spooled), 0);
    broker.open().await?;
    assert_eq!(
        bot.answer_within(PATIENCE, &spooled).await?,
        "there is room"
    );

    for message in [&mention, &by_broker, &spooled] {
        bot.posted(PATIENCE, message).await?;
        assert_eq!(bot.answers(message), 1);
    }
    for message in &refused {
        ensure!(bot.answers(message) <= 1, "{message} was said twice");
    }
    all_is_explained(&bot).await?;
    bot.end().await
}

/// Mentions until one is refused with a 503: what is on its way while the door shuts may still pass.
/// Those that were refused.
async fn refused(bot: &Bot) -> anyhow::Result<Vec<MessageId>> {
    let mut refused = Vec::new();
    for number in 0..SOME as u64 {
        let text = mentioning(&format!("echo refused {number}"));
        let say = Say::new(RoomId(300_300_100 + number), SOMEBODY, text);
        let said = bot.sandbox.say(say).await;
        match said.webhook_status {
            Some(503) => refused.push(said.message_id),
            Some(200) => {}
            _ => bail!("neither taken nor refused: {said:?}"),
        }
        if refused.len() >= 2 {
            return Ok(refused);
        }
    }
    bail!("nothing was refused")
}

/// Mentions until one is taken: where one of broker and disk is away, the other one may be slow for a
/// moment. What is refused then is added to what was refused before.
async fn taken(bot: &Bot, text: &str, refused: &mut Vec<MessageId>) -> anyhow::Result<MessageId> {
    until(PATIENCE, "a webhook is taken", async || {
        let say = Say::new(ROOM, SOMEBODY, mentioning(text));
        let said = bot.sandbox.say(say).await;
        match said.webhook_status {
            Some(200) => return Ok(Some(said.message_id)),
            Some(503) => refused.push(said.message_id),
            _ => bail!("neither taken nor refused: {said:?}"),
        }
        Ok(None)
    })
    .await
}

/// Mentions in a room after the other, until there is silence.
async fn talk(sandbox: &Sandbox, mut listening: watch::Receiver<()>) {
    for number in 0_u64.. {
        let room = RoomId(300_300_000 + number % 50);
        let text = mentioning(&format!("echo number {number}."));
        sandbox.say(Say::new(room, SOMEBODY, text)).await;
        // People do not talk as fast as they can; an error says that it is time to be silent.
        let pause = tokio::time::timeout(Duration::from_millis(100), listening.changed());
        if pause.await.is_ok() {
            return;
        }
    }
}

fn with_status(ledger: &Ledger, status: u16) -> usize {
    let said = ledger.said.iter();
    said.filter(|said| said.webhook_status == Some(status))
        .count()
}

/// Waits until so many webhooks were answered with this status.
async fn answered(sandbox: &Sandbox, status: u16, count: usize) -> anyhow::Result<()> {
    let enough = |ledger: &Ledger| with_status(ledger, status) >= count;
    ensure!(
        sandbox.until(PATIENCE, enough).await,
        "{} webhooks were answered with {status}",
        with_status(&sandbox.ledger(), status)
    );
    Ok(())
}

/// Whatever was acknowledged is replied to once, whatever was not at most once, and nothing was
/// asked without end.
async fn the_sums_match(bot: &Bot) -> anyhow::Result<()> {
    let ledger = bot.sandbox.ledger();
    let acknowledged = acknowledged(&ledger);
    bot.all_answered_once(PATIENCE, &acknowledged).await?;
    // What was stored and not acknowledged is answered as well.
    let last = bot.mention("echo the last one").await?;
    bot.posted(PATIENCE, &last).await?;
    let ledger = bot.sandbox.ledger();
    for said in &ledger.said {
        let answers = ledger.answers_to(&said.message_id).len();
        ensure!(answers <= 1, "{} was said {answers} times", said.message_id);
        let (_, question) = said.body.split_once('\n').context("a mention has lines")?;
        let asked = ledger.asked.iter();
        let asked = asked
            .filter(|asked| asked.utext.as_deref() == Some(question))
            .count();
        ensure!(asked <= QUESTIONS, "{question:?} was asked {asked} times");
    }
    all_is_explained(bot).await
}
