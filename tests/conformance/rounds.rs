//! How an event came in, and how a message is answered in rounds: the first one, and one more whenever
//! a person asks for another answer. What belongs to a round says so, wherever it lies.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chickwork_queue::audit::PutBack;
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::job::{Attempt, Cause, Reply, Settlement, Work};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Claims, Location, Queue, Stored};
use chickwork_tests::stage::{
    Stage, a_reply, an_event, dead_letters, next, put_back, retry, settle, soon,
};
use jiff::Timestamp;

const LIMIT: u16 = 16;
/// What is asked for again and again: best-effort records are announced by nobody.
const AGAIN: Duration = Duration::from_millis(100);

/// The first moment of a round.
fn a_moment() -> anyhow::Result<Timestamp> {
    Ok(Timestamp::from_millisecond(
        Timestamp::now().as_millisecond(),
    )?)
}

async fn begin(queue: &Queue, event: &Event, again: Timestamp) -> anyhow::Result<()> {
    let put_back = PutBack {
        again: Some(again),
        ..put_back(0, "once more")
    };
    Ok(queue.put_back(event.clone(), put_back).await?)
}

async fn event_of(claims: &mut Claims) -> anyhow::Result<Event> {
    let claim = next(claims).await?;
    let Work::Ask(event) = claim.job().work.clone() else {
        bail!("a reply: {:?}", claim.job())
    };
    settle(claim, Settlement::Done).await?;
    Ok(event)
}

/// What is told of an event, once there is so much.
async fn told(queue: &Queue, id: EventId, count: usize) -> anyhow::Result<Vec<Outcome>> {
    let told = async {
        loop {
            let mut read = queue.outcomes().read(Timestamp::UNIX_EPOCH);
            let mut told = Vec::new();
            while let Some(outcome) = read.next().await? {
                if outcome.id == id {
                    told.push(outcome);
                }
            }
            if told.len() >= count {
                return anyhow::Ok(told);
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    soon("all is told", told).await?
}

pub(crate) async fn the_outcomes_tell_how_each_event_was_received(
    stage: Stage,
) -> anyhow::Result<()> {
    let usual = match stage.settings()?.location {
        Location::Sqlite(_) => Stored::Embedded,
        Location::Amqp(_) => Stored::Broker,
    };
    let queue = stage.queue().await?;
    let [known, malformed, unknown, recovered] = [1, 2, 3, 4].map(an_event);
    let publisher = queue.publisher();
    ensure!(publisher.publish(&known).await? == usual);
    ensure!(publisher.bury(&malformed, "no JSON").await? == usual);
    ensure!(publisher.archive(&unknown, "unknown_type").await? == usual);
    publisher.recover(&recovered).await?;
    for (event, stored, lines) in [
        (&known, usual, 1),
        (&malformed, usual, 2),
        (&unknown, usual, 2),
        (&recovered, Stored::Recovered, 1),
    ] {
        let told = told(&queue, event.id, lines).await?;
        let received = What::Received {
            stored,
            forwarded_at: None,
        };
        let received = told.iter().find(|outcome| outcome.what == received);
        let received = received.with_context(|| format!("not received: {told:?}"))?;
        ensure!(received.at == event.received_at, "{received:?}");
        let (room_id, message_id) = (event.room_id, &event.message_id);
        ensure!((received.room_id, &received.message_id) == (room_id, message_id));
    }
    Ok(())
}

pub(crate) async fn a_round_goes_with_its_event_through_every_step(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    let again = a_moment()?;
    begin(&queue, &event, again).await?;
    let mut asks = queue.claim_asks(LIMIT);
    let claim = next(&mut asks).await?;
    settle(claim, Settlement::Later(Duration::ZERO, Attempt::Counted)).await?;
    let claim = next(&mut asks).await?;
    let Work::Ask(claimed) = claim.job().work.clone() else {
        bail!("a reply: {:?}", claim.job())
    };
    ensure!((claimed.id, claimed.again, claimed.replay) == (event.id, Some(again), 1));
    let reply = Reply {
        again: claimed.again,
        ..a_reply(&claimed)
    };
    settle(claim, Settlement::Next(reply.clone())).await?;

    let mut posts = stage.queue().await?.claim_posts(&BotName::default(), LIMIT);
    let claim = next(&mut posts).await?;
    settle(claim, Settlement::GiveBack).await?;
    let claim = next(&mut posts).await?;
    ensure!(
        claim.job().work == Work::Post(reply.clone()),
        "{:?}",
        claim.job()
    );
    settle(claim, Settlement::Done).await?;
    ensure!(reply.answer_key() != a_reply(&event).answer_key());
    // What was put back as it is belongs to no round.
    queue.put_back(event, put_back(1, "as it is")).await?;
    ensure!(event_of(&mut asks).await?.again.is_none());
    Ok(())
}

pub(crate) async fn a_round_that_was_given_up_is_taken_up_again_as_the_same(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    let again = a_moment()?;
    begin(&queue, &event, again).await?;
    let mut asks = queue.claim_asks(LIMIT);
    let bury = || Settlement::Bury {
        cause: Cause::Exhausted,
        error: "it cannot be said".to_owned(),
    };
    let claim = next(&mut asks).await?;
    let Work::Ask(claimed) = claim.job().work.clone() else {
        bail!("a reply: {:?}", claim.job())
    };
    settle(claim, bury()).await?;
    retry(&queue, dead_letters(&queue).await?).await?;
    let claim = next(&mut asks).await?;
    ensure!(matches!(&claim.job().work, Work::Ask(event) if event.again == Some(again)));
    let reply = Reply {
        again: claimed.again,
        ..a_reply(&claimed)
    };
    settle(claim, Settlement::Next(reply)).await?;

    let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
    settle(next(&mut posts).await?, bury()).await?;
    retry(&queue, dead_letters(&queue).await?).await?;
    let claim = next(&mut posts).await?;
    ensure!(matches!(&claim.job().work, Work::Post(reply) if reply.again == Some(again)));
    settle(claim, Settlement::Done).await?;
    for outcome in told(&queue, event.id, 3).await? {
        let is_replayed = matches!(outcome.what, What::Replayed { .. });
        ensure!(is_replayed && outcome.again == Some(again), "{outcome:?}");
    }
    Ok(())
}

pub(crate) async fn that_an_event_is_back_is_known_before_it_is(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut asks = stage.queue().await?.claim_asks(LIMIT);
    for number in 0..20 {
        let (event, again) = (an_event(number), a_moment()?);
        begin(&queue, &event, again).await?;
        ensure!(event_of(&mut asks).await?.id == event.id);
        let mut read = queue.outcomes().read(Timestamp::UNIX_EPOCH);
        let mut is_known = false;
        while let Some(outcome) = read.next().await? {
            is_known |= outcome.id == event.id && outcome.again == Some(again);
        }
        ensure!(is_known, "event {number}");
    }
    Ok(())
}

pub(crate) async fn a_round_outlasts_a_crash_of_the_store(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let (event, again) = (an_event(1), a_moment()?);
    begin(&queue, &event, again).await?;
    drop(queue);
    stage.crash_store().await?;
    let queue = stage.queue().await?;
    let mut asks = queue.claim_asks(LIMIT);
    ensure!(event_of(&mut asks).await?.again == Some(again));
    let told = told(&queue, event.id, 1).await?;
    ensure!(told[0].again == Some(again), "{told:?}");
    Ok(())
}
