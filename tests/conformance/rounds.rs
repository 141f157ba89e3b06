//! How an event came in, and how a message is answered in rounds: the first one, and one more whenever
//! a person asks for another answer. What belongs to a round says so, wherever it lies.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chickwork_chatwork::id::MessageId;
use chickwork_queue::audit::{Duplicate, PutBack};
use chickwork_queue::dead::DeadLetter;
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::events::{Choice, Listed, Reach, Standing, Whom};
use chickwork_queue::job::{Attempt, Cause, Reply, Settled, Settlement, Step, Work};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Claims, Location, Queue, Stored};
use chickwork_tests::stage::{
    SOON, Stage, a_reply, an_event, dead_letters, next, outcome, put_back, retry, settle, until,
};
use jiff::Timestamp;

const LIMIT: u16 = 16;

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
    until(SOON, "all is told", async || {
        let mut read = queue.outcomes().read(Timestamp::UNIX_EPOCH);
        let mut told = Vec::new();
        while let Some(outcome) = read.next().await? {
            if outcome.id == id {
                told.push(outcome);
            }
        }
        if told.len() >= count {
            return Ok(Some(told));
        }
        Ok(None)
    })
    .await
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
    queue.recover(&recovered).await?;
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

/// The only letter, once it is the one that this step has buried: as long as a broker's log of dead letters
/// still has one that was taken, that one is listed.
async fn buried(queue: &Queue, step: Step) -> anyhow::Result<Vec<DeadLetter>> {
    until(SOON, "it is listed", async || {
        let letters = dead_letters(queue).await?;
        let is_it = letters.len() == 1 && letters[0].step == step;
        Ok(is_it.then_some(letters))
    })
    .await
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
    let letters = buried(&queue, Step::Ask).await?;
    ensure!(retry(&queue, letters).await?.len() == 1);
    let claim = next(&mut asks).await?;
    ensure!(matches!(&claim.job().work, Work::Ask(event) if event.again == Some(again)));
    let reply = Reply {
        again: claimed.again,
        ..a_reply(&claimed)
    };
    settle(claim, Settlement::Next(reply)).await?;

    let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
    settle(next(&mut posts).await?, bury()).await?;
    let letters = buried(&queue, Step::Post).await?;
    ensure!(retry(&queue, letters).await?.len() == 1);
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

/// Ends the next claim with this word, in this round.
async fn end(claims: &mut Claims, what: What, again: Option<Timestamp>) -> anyhow::Result<()> {
    let claim = next(claims).await?;
    let Work::Ask(event) = &claim.job().work else {
        bail!("a reply: {:?}", claim.job())
    };
    ensure!(event.again == again, "{event:?} is not of {again:?}");
    let outcome = Outcome {
        again,
        message_id: event.message_id.clone(),
        ..outcome(event.id, what)
    };
    let settled = Settled {
        settlement: Settlement::Done,
        outcomes: vec![outcome],
    };
    Ok(claim.settle(settled).await?)
}

/// Where the event stands, and its round without a reply; its story and the list agree.
async fn stands(queue: &Queue, event: &Event) -> anyhow::Result<(Standing, Option<Timestamp>)> {
    let stories = queue.stories(&Whom::Event(event.id), Reach::End).await?;
    let story = stories.first().context("no story")?;
    let choice = Choice {
        ids: vec![event.id],
        ..Choice::default()
    };
    let listed: Listed = until(SOON, "it is archived", async || {
        if let Some(listed) = queue.events(choice.clone(), None).next().await? {
            return Ok(Some(listed));
        }
        Ok(None)
    })
    .await?;
    ensure!(
        listed.open_round == story.open_round,
        "{listed:?} {story:?}"
    );
    Ok((story.standing, story.open_round))
}

pub(crate) async fn a_round_is_told_until_it_has_a_reply(stage: Stage) -> anyhow::Result<()> {
    let posted = |reply: &str| What::Posted {
        reply_message_id: MessageId::new(reply).ok(),
        found: false,
    };
    let ignored = || What::Ignored {
        reason: "room_closed".to_owned(),
    };
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let mut asks = queue.claim_asks(LIMIT);
    end(&mut asks, posted("91"), None).await?;
    ensure!(stands(&queue, &event).await? == (Standing::Answered, None));

    // Begun, and lost without a word.
    let again = a_moment()?;
    begin(&queue, &event, again).await?;
    settle(next(&mut asks).await?, Settlement::Done).await?;
    let (_, open_round) = stands(&queue, &event).await?;
    ensure!(open_round == Some(again), "{open_round:?}");
    let since = Timestamp::now() - Duration::from_secs(3600);
    let audit = queue.audit(since, Duration::ZERO).await?;
    let [lost] = &audit.unexplained[..] else {
        bail!("{audit:?}")
    };
    ensure!(
        (lost.id, lost.open_round) == (event.id, Some(again)),
        "{lost:?}"
    );

    // Put back in it, it comes to nothing for the moment; so that may be tried again.
    begin(&queue, &event, again).await?;
    end(&mut asks, ignored(), Some(again)).await?;
    ensure!(stands(&queue, &event).await? == (Standing::Ignored, Some(again)));
    // Who finds the old reply has not answered it.
    queue
        .put_back(event.clone(), put_back(2, "as it is"))
        .await?;
    end(&mut asks, posted("91"), None).await?;
    ensure!(stands(&queue, &event).await?.1 == Some(again));
    begin(&queue, &event, again).await?;
    end(&mut asks, posted("92"), Some(again)).await?;
    ensure!(stands(&queue, &event).await? == (Standing::Answered, None));

    // The next round, in the same second.
    let next_round = again + Duration::from_millis(1);
    begin(&queue, &event, next_round).await?;
    ensure!(stands(&queue, &event).await?.1 == Some(next_round));
    end(&mut asks, posted("93"), Some(next_round)).await?;
    ensure!(stands(&queue, &event).await? == (Standing::Answered, None));
    Ok(())
}

pub(crate) async fn what_comes_from_elsewhere_is_taken_in_with_a_doubt_about_its_reply(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let (event, later) = (an_event(1), an_event(2));
    let take_in = put_back(1, "elsewhere it was lost");
    queue.take_in(event.clone(), take_in).await?;
    let mut claims = queue.claim_asks(LIMIT);
    let taken = event_of(&mut claims).await?;
    ensure!((taken.id, taken.replay) == (event.id, 2), "{taken:?}");
    ensure!(taken.body == event.body && taken.received_at == event.received_at);
    let told_of_it = told(&queue, event.id, 2).await?;
    let intent = told_of_it.first().context("an intent")?;
    ensure!(
        matches!(&intent.what, What::Intent { consumer } if consumer == What::ELSEWHERE),
        "{told_of_it:?}"
    );
    ensure!(intent.at == event.received_at, "{told_of_it:?}");
    let replayed = told_of_it.iter().any(|outcome| {
        matches!(&outcome.what, What::Replayed { replay: 2, .. }) && outcome.again.is_none()
    });
    ensure!(replayed, "{told_of_it:?}");

    // A round that begins here is not in doubt.
    let take_in = PutBack {
        again: Some(a_moment()?),
        ..take_in
    };
    queue.take_in(later.clone(), take_in).await?;
    ensure!(event_of(&mut claims).await?.again == take_in.again);
    claims.stop().await;
    let told = told(&queue, later.id, 1).await?;
    ensure!(
        !told.iter().any(|outcome| outcome.what.name() == "intent"),
        "{told:?}"
    );

    let wanted = [&event, &later].map(|event| (event.id, None)).into();
    let since = Timestamp::now() - Duration::from_secs(600);
    let known = until(SOON, "both are archived", async || {
        let known = queue.known(&wanted, since).await?.events;
        if known
            .values()
            .filter(|known| known.archived.is_some())
            .count()
            == 2
        {
            return Ok(Some(known));
        }
        Ok(None)
    })
    .await?;
    ensure!(known[&event.id].archived == Some(2), "{known:?}");
    ensure!(known[&later.id].open_round == take_in.again, "{known:?}");
    Ok(())
}

pub(crate) async fn what_is_ended_as_a_duplicate_is_explained(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let mut claims = queue.claim_asks(LIMIT);
    event_of(&mut claims).await?;
    claims.stop().await;
    queue
        .end_as_duplicate(Duplicate {
            id: event.id,
            bot: &event.bot,
            room_id: event.room_id,
            message_id: event.message_id.as_ref(),
        })
        .await?;
    let since = Timestamp::now() - Duration::from_secs(600);
    let audit = queue.audit(since, Duration::from_secs(10)).await?;
    ensure!(audit.is_clean() && audit.sums.ignored == 1, "{audit:?}");
    Ok(())
}
