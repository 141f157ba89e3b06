//! The list. Each story is told on SQLite and on RabbitMQ.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chickwork_queue::Entry;
use chickwork_queue::dead::{DeadLetter, Held, Verdict};
use chickwork_queue::event::{BotName, EventId};
use chickwork_queue::job::{Attempt, Cause, Settled, Settlement, Step, Work};
use chickwork_queue::outcome::{By, Outcome, What};
use chickwork_queue::report::Depth;
use chickwork_queue::{Claim, Claims, Follow, Queue};
use chickwork_tests::stage::{
    Kind, Plant, SOON, Stage, a_reply, an_event, dead_letters, next, nothing, open, outcome, retry,
    settle, soon, take, until, within,
};
use jiff::Timestamp;

const LIMIT: u16 = 16;
/// A consumer that froze or was killed hands over within this time.
const HAND_OVER: Duration = Duration::from_secs(20);
const NO_ERROR: &str = "for no reason";

fn bot() -> BotName {
    BotName::default()
}

fn id_of(claim: &Claim) -> EventId {
    match &claim.job().work {
        Work::Ask(event) => event.id,
        Work::Post(reply) => reply.id,
    }
}

/// Publishes an event, claims it and stores a reply to it; returns the event's id.
async fn a_stored_reply(queue: &Queue, number: u32) -> anyhow::Result<EventId> {
    let event = an_event(number);
    queue.publisher().publish(&event).await?;
    let mut asks = queue.claim_asks(LIMIT);
    let claim = next(&mut asks).await?;
    ensure!(
        id_of(&claim) == event.id,
        "the event that was just published"
    );
    settle(claim, Settlement::Next(a_reply(&event))).await?;
    asks.stop().await;
    Ok(event.id)
}

async fn dead_of(queue: &Queue, id: EventId) -> anyhow::Result<DeadLetter> {
    until(SOON, "there is a dead letter", async || {
        let letters = dead_letters(queue).await?;
        Ok(letters.into_iter().find(|letter| letter.id == id))
    })
    .await
}

async fn read_until(
    follow: &mut Follow,
    last: impl Fn(&Entry) -> bool,
) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let read = async {
        loop {
            let entry = follow.next().await;
            let is_last = last(&entry);
            entries.push(entry);
            if is_last {
                return;
            }
        }
    };
    soon("everything is read", read).await?;
    Ok(entries)
}

pub(crate) async fn an_event_is_claimed_as_it_was_published(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let claim = next(&mut queue.claim_asks(LIMIT)).await?;
    ensure!(
        claim.job().work == Work::Ask(event),
        "every byte and every field"
    );
    ensure!(
        (claim.job().attempts, claim.job().deaths) == (0, 0),
        "and no past"
    );
    settle(claim, Settlement::Done).await
}

pub(crate) async fn an_event_survives_the_process_that_published_it(
    stage: Stage,
) -> anyhow::Result<()> {
    stage.queue().await?;
    let mut publisher = stage.process("publish", 3).await?;
    let mut published = HashSet::new();
    for _ in 0..3 {
        published.insert(publisher.line().await?.replace("published ", ""));
    }
    publisher.kill().await?;
    let mut claims = stage.queue().await?.claim_asks(LIMIT);
    for _ in 0..3 {
        let claim = next(&mut claims).await?;
        ensure!(
            published.remove(&id_of(&claim).to_string()),
            "one of the three, once"
        );
        settle(claim, Settlement::Done).await?;
    }
    Ok(())
}

pub(crate) async fn a_hundred_jobs_go_to_two_processes_once_each(
    stage: Stage,
) -> anyhow::Result<()> {
    let (one, other) = (stage.queue().await?, stage.queue().await?);
    let mut expected = HashSet::new();
    for number in 0..100 {
        let event = an_event(number);
        one.publisher().publish(&event).await?;
        expected.insert(event.id);
    }
    let (mut here, mut there) = (one.claim_asks(4), other.claim_asks(4));
    for _ in 0..100 {
        let claim = soon("there is a job for one of them", async {
            tokio::select! {
                claim = here.next() => claim,
                claim = there.next() => claim,
            }
        })
        .await?;
        ensure!(
            expected.remove(&id_of(&claim)),
            "claimed twice: {}",
            id_of(&claim)
        );
        settle(claim, Settlement::Done).await?;
    }
    nothing(&mut here).await?;
    nothing(&mut there).await
}

pub(crate) async fn a_settled_claim_is_gone(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    queue.publisher().publish(&an_event(1)).await?;
    let mut claims = queue.claim_asks(LIMIT);
    settle(next(&mut claims).await?, Settlement::Done).await?;
    nothing(&mut claims).await?;
    claims.stop().await;
    nothing(&mut stage.queue().await?.claim_asks(LIMIT)).await
}

pub(crate) async fn an_unsettled_claim_comes_back(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let mut claims = queue.claim_asks(LIMIT);
    drop(next(&mut claims).await?);
    let claim = next(&mut claims).await?;
    ensure!(id_of(&claim) == event.id);
    ensure!(claim.job().deaths == 1, "and that counts as a death");
    settle(claim, Settlement::Done).await
}

pub(crate) async fn the_claims_of_a_killed_process_come_back(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut published = HashSet::new();
    for number in 0..3 {
        let event = an_event(number);
        queue.publisher().publish(&event).await?;
        published.insert(event.id);
    }
    let mut holder = stage.process("ask", 3).await?;
    for _ in 0..3 {
        holder.line().await?;
    }
    holder.kill().await?;
    let mut claims = queue.claim_asks(LIMIT);
    for _ in 0..3 {
        let claim = within(HAND_OVER, "a claim of the dead is ours", claims.next()).await?;
        ensure!(published.remove(&id_of(&claim)));
        ensure!(claim.job().deaths == 1);
        settle(claim, Settlement::Done).await?;
    }
    Ok(())
}

pub(crate) async fn later_is_not_before_its_time(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut claims = queue.claim_asks(LIMIT);
    // All are claimed before the first is put off: it may be back before another event is stored.
    let mut held = Vec::new();
    for number in 0..3 {
        queue.publisher().publish(&an_event(number)).await?;
        held.push(next(&mut claims).await?);
    }
    let mut waiting = Vec::new();
    for (claim, delay) in held.into_iter().zip([1, 3, 6].map(Duration::from_secs)) {
        let (id, put_off) = (id_of(&claim), Instant::now());
        settle(claim, Settlement::Later(delay, Attempt::NotCounted)).await?;
        waiting.push((id, put_off, delay));
    }
    for (id, put_off, delay) in waiting {
        let claim = next(&mut claims).await?;
        ensure!(id_of(&claim) == id, "the shortest delay ends first");
        ensure!(
            put_off.elapsed() >= delay,
            "{:?} is before its time, {delay:?}",
            put_off.elapsed()
        );
        settle(claim, Settlement::Done).await?;
    }
    Ok(())
}

pub(crate) async fn what_is_put_off_holds_nobody_up(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut claims = queue.claim_asks(1);
    queue.publisher().publish(&an_event(1)).await?;
    let claim = next(&mut claims).await?;
    settle(
        claim,
        Settlement::Later(Settlement::LONGEST_DELAY, Attempt::NotCounted),
    )
    .await?;
    let event = an_event(2);
    queue.publisher().publish(&event).await?;
    let claim = next(&mut claims).await?;
    ensure!(
        id_of(&claim) == event.id,
        "not the one that waits for an hour"
    );
    settle(claim, Settlement::Done).await?;
    nothing(&mut claims).await
}

pub(crate) async fn a_failed_try_is_counted_and_a_pause_is_not(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    queue.publisher().publish(&an_event(1)).await?;
    let mut claims = queue.claim_asks(LIMIT);
    for (attempt, attempts_after) in [
        (Attempt::Counted, 1),
        (Attempt::NotCounted, 1),
        (Attempt::Counted, 2),
    ] {
        let claim = next(&mut claims).await?;
        settle(claim, Settlement::Later(Duration::ZERO, attempt)).await?;
        let claim = next(&mut claims).await?;
        ensure!(claim.job().attempts == attempts_after);
        ensure!(claim.job().deaths == 0);
        settle(claim, Settlement::GiveBack).await?;
    }
    Ok(())
}

pub(crate) async fn a_job_given_back_is_there_at_once_and_nothing_is_counted(
    stage: Stage,
) -> anyhow::Result<()> {
    let (one, other) = (stage.queue().await?, stage.queue().await?);
    let event = an_event(1);
    one.publisher().publish(&event).await?;
    for _ in 0..5 {
        let mut claims = one.claim_asks(LIMIT);
        let claim = next(&mut claims).await?;
        claims.stop().await;
        settle(claim, Settlement::GiveBack).await?;
    }
    let claim = next(&mut other.claim_asks(LIMIT)).await?;
    ensure!(claim.job().work == Work::Ask(event), "unchanged");
    ensure!(
        (claim.job().attempts, claim.job().deaths) == (0, 0),
        "nothing counted"
    );
    settle(claim, Settlement::Done).await
}

pub(crate) async fn the_next_step_is_stored_and_the_event_is_gone(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let mut asks = queue.claim_asks(LIMIT);
    let reply = a_reply(&event);
    settle(next(&mut asks).await?, Settlement::Next(reply.clone())).await?;
    nothing(&mut asks).await?;
    let claim = next(&mut stage.queue().await?.claim_posts(&bot(), LIMIT)).await?;
    ensure!(claim.job().work == Work::Post(reply), "every field");
    settle(claim, Settlement::Done).await
}

pub(crate) async fn a_job_that_comes_back_a_third_time_is_put_off(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    queue.publisher().publish(&an_event(1)).await?;
    let mut claims = queue.claim_asks(LIMIT);
    for deaths in 0..3 {
        let claim = next(&mut claims).await?;
        ensure!(claim.job().deaths == deaths);
        drop(claim);
    }
    let third_return = Instant::now();
    let claim = within(
        Duration::from_secs(35),
        "the suspect is back",
        claims.next(),
    )
    .await?;
    ensure!(
        third_return.elapsed() > Duration::from_millis(900),
        "it was put off"
    );
    ensure!(claim.job().deaths == 3, "and its deaths are remembered");
    settle(claim, Settlement::Done).await
}

pub(crate) async fn a_job_that_died_ten_times_is_buried_as_poison(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    stage
        .plant(Plant {
            work: Work::Ask(event.clone()),
            deaths: 10,
            body: None,
        })
        .await?;
    let neighbour = an_event(2);
    queue.publisher().publish(&neighbour).await?;
    let mut claims = queue.claim_asks(LIMIT);
    let claim = next(&mut claims).await?;
    ensure!(
        id_of(&claim) == neighbour.id,
        "an innocent neighbour is worked on"
    );
    settle(claim, Settlement::Done).await?;
    nothing(&mut claims).await?;
    let letter = dead_of(&queue, event.id).await?;
    ensure!((letter.cause, letter.step) == (Cause::Poison, Step::Ask));
    ensure!(letter.error.contains("10 times"), "{}", letter.error);
    Ok(())
}

pub(crate) async fn a_settled_job_is_no_suspect_any_more(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    queue.publisher().publish(&an_event(1)).await?;
    let mut claims = queue.claim_asks(LIMIT);
    for _ in 0..2 {
        drop(next(&mut claims).await?);
    }
    let claim = next(&mut claims).await?;
    ensure!(claim.job().deaths == 2);
    settle(claim, Settlement::Later(Duration::ZERO, Attempt::Counted)).await?;
    let claim = next(&mut claims).await?;
    ensure!(
        claim.job().deaths == 0,
        "it was settled, so it does not kill"
    );
    settle(claim, Settlement::Done).await
}

pub(crate) async fn being_put_off_without_a_try_forgets_no_deaths(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    queue.publisher().publish(&an_event(1)).await?;
    let mut claims = queue.claim_asks(LIMIT);
    drop(next(&mut claims).await?);
    let claim = next(&mut claims).await?;
    settle(
        claim,
        Settlement::Later(Duration::ZERO, Attempt::NotCounted),
    )
    .await?;
    let claim = next(&mut claims).await?;
    ensure!(
        claim.job().deaths == 1,
        "nothing was tried, so nothing is proved"
    );
    settle(claim, Settlement::Done).await
}

pub(crate) async fn many_publishes_at_once_on_a_fresh_handle_are_all_stored(
    stage: Stage,
) -> anyhow::Result<()> {
    stage.queue().await?;
    let fresh = Queue::open(stage.settings()?).await?;
    let publishes = (0..200).map(|number| {
        let publisher = fresh.publisher();
        async move { publisher.publish(&an_event(number)).await }
    });
    for stored in futures_util::future::join_all(publishes).await {
        stored?;
    }
    Ok(())
}

pub(crate) async fn a_buried_job_is_listed_with_its_cause_and_listing_changes_nothing(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let mut claims = queue.claim_asks(LIMIT);
    settle(
        next(&mut claims).await?,
        Settlement::Later(Duration::ZERO, Attempt::Counted),
    )
    .await?;
    let before = Timestamp::now();
    let error = "x".repeat(2 * Settlement::LONGEST_ERROR);
    settle(
        next(&mut claims).await?,
        Settlement::Bury {
            cause: Cause::Exhausted,
            error,
        },
    )
    .await?;
    nothing(&mut claims).await?;

    let letter = dead_of(&queue, event.id).await?;
    ensure!(letter.bot == event.bot && letter.event_type == event.event_type);
    ensure!(letter.room_id == event.room_id && letter.message_id == event.message_id);
    ensure!((letter.step, letter.cause, letter.attempts) == (Step::Ask, Cause::Exhausted, 1));
    ensure!(
        letter.error.len() == Settlement::LONGEST_ERROR,
        "errors in storage have a limit"
    );
    ensure!(letter.received_at == event.received_at);
    ensure!(letter.buried_at.as_second() >= before.as_second());
    for _ in 0..5 {
        let again = dead_of(&stage.queue().await?, event.id).await?;
        ensure!(again == letter, "listing changes nothing");
    }
    Ok(())
}

pub(crate) async fn a_retried_dead_letter_is_worked_on_again_and_aged_from_now(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let mut claims = queue.claim_asks(LIMIT);
    let claim = next(&mut claims).await?;
    settle(
        claim,
        Settlement::Bury {
            cause: Cause::Expired,
            error: NO_ERROR.to_owned(),
        },
    )
    .await?;
    let before = Timestamp::now();
    let letter = dead_of(&queue, event.id).await?;
    ensure!(retry(&queue, vec![letter.clone()]).await?.len() == 1);
    let claim = next(&mut claims).await?;
    let Work::Ask(again) = claim.job().work.clone() else {
        bail!("it was an event")
    };
    ensure!(
        again.id == event.id && again.body == event.body && again.received_at == event.received_at
    );
    ensure!(
        again
            .put_back_at
            .is_some_and(|at| at.as_second() >= before.as_second()),
        "aged from now"
    );
    ensure!(again.replay == 1);
    ensure!(
        (claim.job().attempts, claim.job().deaths) == (0, 0),
        "with a new start"
    );
    settle(claim, Settlement::Done).await?;
    ensure!(dead_letters(&queue).await?.is_empty());
    ensure!(
        retry(&queue, vec![letter]).await?.is_empty(),
        "it is not there any more"
    );
    Ok(())
}

pub(crate) async fn a_retried_reply_goes_back_to_be_posted(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let id = a_stored_reply(&queue, 1).await?;
    let mut posts = queue.claim_posts(&bot(), LIMIT);
    let claim = next(&mut posts).await?;
    let Work::Post(reply) = claim.job().work.clone() else {
        bail!("it was a reply")
    };
    settle(
        claim,
        Settlement::Bury {
            cause: Cause::Refused,
            error: NO_ERROR.to_owned(),
        },
    )
    .await?;
    let letter = dead_of(&queue, id).await?;
    ensure!((letter.step, letter.cause) == (Step::Post, Cause::Refused));
    ensure!(retry(&queue, vec![letter]).await?.len() == 1);
    let claim = next(&mut posts).await?;
    let Work::Post(again) = claim.job().work.clone() else {
        bail!("it was a reply")
    };
    ensure!(again.text == reply.text && again.replay == 1 && again.aged_from > reply.aged_from);
    settle(claim, Settlement::Done).await
}

pub(crate) async fn a_dropped_dead_letter_is_gone(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let (one, other) = (an_event(1), an_event(2));
    for event in [&one, &other] {
        queue.publisher().bury(event, NO_ERROR).await?;
    }
    let letter = dead_of(&queue, one.id).await?;
    let verdict = Verdict::Drop {
        reason: NO_ERROR.to_owned(),
    };
    ensure!(
        take(&queue, vec![letter.clone()], verdict.clone())
            .await?
            .len()
            == 1
    );
    ensure!(take(&queue, vec![letter], verdict).await?.is_empty());
    let left = dead_letters(&queue).await?;
    ensure!(
        left.len() == 1 && left[0].id == other.id,
        "only the one that was named"
    );
    nothing(&mut queue.claim_asks(LIMIT)).await
}

/// Buries so many events as the ingress does; the letters, oldest first. They are more where a burial
/// took too long: it may be stored all the same.
pub(crate) async fn buried(queue: &Queue, count: u32) -> anyhow::Result<Vec<DeadLetter>> {
    let mut buried = HashSet::new();
    for number in 0..count {
        let id = until(SOON, "one is buried", async || {
            // Each time another one: the same would have two letters.
            let event = an_event(number);
            let buried = queue.publisher().bury(&event, NO_ERROR).await;
            let buried = buried.inspect_err(|error| log::info!("not yet: {error}"));
            Ok(buried.is_ok().then_some(event.id))
        });
        buried.insert(id.await?);
    }
    until(SOON, "all are listed", async || {
        let letters = dead_letters(queue).await?;
        let listed: HashSet<_> = letters.iter().map(|letter| letter.id).collect();
        Ok(buried.is_subset(&listed).then_some(letters))
    })
    .await
}

/// The outcomes of these events so far, in order.
async fn outcomes_of(
    queue: &Queue,
    letters: &[DeadLetter],
) -> anyhow::Result<Vec<(EventId, What)>> {
    let mark = queue.outcomes().mark().await?;
    let since = Timestamp::now() - Duration::from_secs(60);
    let entries = read_until(&mut queue.outcomes().follow(since), |entry| {
        *entry == Entry::Mark(mark)
    })
    .await?;
    let of_them = entries.into_iter().filter_map(|entry| match entry {
        Entry::Outcome(outcome) if letters.iter().any(|letter| letter.id == outcome.id) => {
            Some((outcome.id, outcome.what))
        }
        _ => None,
    });
    Ok(of_them.collect())
}

pub(crate) async fn what_was_said_is_done_with_the_dead_letters_that_were_named_and_with_no_others(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let letters = buried(&queue, 5).await?;
    let retried = [letters[1].clone(), letters[3].clone()];
    let dropped = [letters[0].clone(), letters[4].clone()];
    let verdict = Verdict::Retry {
        reason: "SimSimi is back".to_owned(),
        again: false,
        by: chickwork_queue::outcome::By::DEAD_RETRY,
    };
    ensure!(take(&queue, retried.to_vec(), verdict).await? == retried);
    let verdict = Verdict::Drop {
        reason: "nobody waits for it".to_owned(),
    };
    // Whoever asks for them, they come in the queue's order.
    let mut taken = take(&queue, dropped.to_vec(), verdict).await?;
    taken.sort_by_key(|letter| letter.buried_at);
    ensure!(taken == dropped);
    ensure!(
        dead_letters(&queue).await? == letters[2..3],
        "only those that were named"
    );
    let mut claims = queue.claim_asks(LIMIT);
    let mut back = Vec::new();
    for _ in &retried {
        let claim = next(&mut claims).await?;
        back.push(id_of(&claim));
        settle(claim, Settlement::Done).await?;
    }
    back.sort();
    ensure!(back == [letters[1].id, letters[3].id]);
    nothing(&mut claims).await?;
    let outcomes = outcomes_of(&queue, &letters).await?;
    for letter in &letters {
        // That it was received may be told late, and says nothing of how it has ended.
        let last = outcomes
            .iter()
            .rfind(|(id, what)| *id == letter.id && !matches!(what, What::Received { .. }));
        let expected = match last {
            Some((_, What::Replayed { replay, reason, by })) => {
                retried.contains(letter)
                    && (*replay, reason.as_str()) == (1, "SimSimi is back")
                    && by.as_deref() == Some(By::DEAD_RETRY)
            }
            Some((_, What::Dropped { reason })) => {
                dropped.contains(letter) && reason == "nobody waits for it"
            }
            Some((_, What::Dead { .. })) => *letter == letters[2],
            _ => false,
        };
        ensure!(expected, "the outcomes tell it: {last:?}");
    }
    Ok(())
}

pub(crate) async fn a_letter_that_is_buried_again_meanwhile_is_not_taken_twice(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let letters = buried(&queue, 3).await?;
    let mut claims = queue.claim_asks(LIMIT);
    let verdict = Verdict::Retry {
        reason: NO_ERROR.to_owned(),
        again: false,
        by: chickwork_queue::outcome::By::DEAD_RETRY,
    };
    let mut taking = queue.dead_letters().take(letters.clone(), verdict);
    let mut taken = Vec::new();
    while let Some(letter) = taking.next().await? {
        taken.push(letter);
        // It fails again, while the others are still to be taken.
        let bury = Settlement::Bury {
            cause: Cause::Refused,
            error: NO_ERROR.to_owned(),
        };
        settle(next(&mut claims).await?, bury).await?;
    }
    ensure!(taken == letters, "each once");
    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    let again = until(SOON, "they are listed again", async || {
        let again = dead_letters(&queue).await?;
        // As many are listed as long as a broker's log of dead letters still has those that were taken.
        let is_taken = |letter: &DeadLetter| letters.iter().any(|old| old.letter == letter.letter);
        Ok((again.len() == ids.len() && !again.iter().any(is_taken)).then_some(again))
    });
    for letter in again.await? {
        ensure!(ids.contains(&letter.id) && !letters.contains(&letter));
        ensure!(letter.letter != letters[0].letter, "it is another letter");
    }
    Ok(())
}

pub(crate) async fn a_letter_that_somebody_else_took_does_not_come(
    stage: Stage,
) -> anyhow::Result<()> {
    let (one, other) = (stage.queue().await?, stage.queue().await?);
    let letters = buried(&one, 2).await?;
    let verdict = Verdict::Drop {
        reason: NO_ERROR.to_owned(),
    };
    take(&other, letters[..1].to_vec(), verdict).await?;
    ensure!(retry(&one, letters.clone()).await? == letters[1..]);
    let mut claims = one.claim_asks(LIMIT);
    settle(next(&mut claims).await?, Settlement::Done).await?;
    nothing(&mut claims).await
}

pub(crate) async fn a_taking_that_is_broken_off_loses_nothing(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let letters = buried(&queue, 30).await?;
    for millis in [10, 40, 80, 160, 320] {
        let (queue, letters) = (stage.queue().await?, letters.clone());
        let taking = tokio::spawn(async move { retry(&queue, letters).await });
        // As a person who loses patience: at no particular point.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        taking.abort();
    }
    retry(&queue, letters.clone()).await?;
    ensure!(dead_letters(&queue).await?.is_empty());
    let mut left: HashSet<_> = letters.iter().map(|letter| letter.id).collect();
    let mut claims = queue.claim_asks(LIMIT);
    while !left.is_empty() {
        // One may be back twice.
        let claim = next(&mut claims).await?;
        left.remove(&id_of(&claim));
        settle(claim, Settlement::Done).await?;
    }
    Ok(())
}

pub(crate) async fn that_a_reply_is_to_be_posted_again_is_known_before_it_is_back(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let id = a_stored_reply(&queue, 1).await?;
    let mut posts = queue.claim_posts(&bot(), LIMIT);
    let bury = Settlement::Bury {
        cause: Cause::Uncertain,
        error: NO_ERROR.to_owned(),
    };
    settle(next(&mut posts).await?, bury).await?;
    let letters = vec![dead_of(&queue, id).await?];
    let verdict = Verdict::Retry {
        reason: "I have looked".to_owned(),
        again: true,
        by: chickwork_queue::outcome::By::DEAD_RETRY,
    };
    take(&queue, letters.clone(), verdict).await?;
    settle(next(&mut posts).await?, Settlement::Done).await?;
    let outcomes = outcomes_of(&queue, &letters).await?;
    let outcomes: Vec<_> = outcomes.into_iter().map(|(_, what)| what).collect();
    let overruled = What::NotPosted {
        reason: "a person said to post again: I have looked".to_owned(),
        called: false,
        intended_at: None,
        overrules_until: Some(letters[0].buried_at),
    };
    let replayed = What::Replayed {
        replay: 1,
        reason: "I have looked".to_owned(),
        by: Some(By::DEAD_RETRY.to_owned()),
    };
    ensure!(outcomes.ends_with(&[overruled, replayed]), "{outcomes:?}");
    Ok(())
}

pub(crate) async fn a_dead_letter_shows_what_it_holds(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut posts = queue.claim_posts(&bot(), LIMIT);
    nothing(&mut posts).await?;
    let (event, garbage) = (an_event(1), a_reply(&an_event(2)));
    queue.publisher().bury(&event, NO_ERROR).await?;
    let garbage_id = garbage.id;
    stage
        .plant(Plant {
            work: Work::Post(garbage),
            deaths: 0,
            body: Some(b"no JSON".to_vec()),
        })
        .await?;
    let id = a_stored_reply(&queue, 3).await?;
    let claim = next(&mut posts).await?;
    let Work::Post(reply) = claim.job().work.clone() else {
        bail!("it was a reply")
    };
    let bury = Settlement::Bury {
        cause: Cause::Refused,
        error: NO_ERROR.to_owned(),
    };
    settle(claim, bury).await?;
    let letters = queue.dead_letters();
    let garbage = dead_of(&queue, garbage_id).await?;
    let letter = dead_of(&queue, event.id).await?;
    ensure!(letters.held(&letter).await? == Some(Held::Event(event)));
    let unreadable = Some(Held::Unreadable(b"no JSON".to_vec()));
    ensure!(letters.held(&garbage).await? == unreadable);
    let of_reply = dead_of(&queue, id).await?;
    ensure!(letters.held(&of_reply).await? == Some(Held::Reply(reply)));
    Ok(())
}

pub(crate) async fn a_thousand_dead_letters_are_read_oldest_first_and_taken_in_one_go(
    stage: Stage,
) -> anyhow::Result<()> {
    /// More than two pages.
    const COUNT: u32 = 1_100;
    let queue = stage.queue().await?;
    let letters = buried(&queue, COUNT).await?;
    ensure!(letters.is_sorted_by_key(|letter| letter.buried_at));
    let ids: HashSet<_> = letters.iter().map(|letter| letter.id).collect();
    ensure!(ids.len() == letters.len(), "each once");
    let (dropped, kept): (Vec<_>, Vec<_>) = letters
        .into_iter()
        .partition(|letter| letter.received_at.as_millisecond() % 2 == 0);
    let verdict = Verdict::Drop {
        reason: NO_ERROR.to_owned(),
    };
    let mut taken = within(
        Duration::from_secs(60),
        "they are taken",
        take(&queue, dropped.clone(), verdict),
    )
    .await??;
    taken.sort_by_key(|letter| letter.buried_at);
    ensure!(taken == dropped);
    ensure!(dead_letters(&queue).await? == kept);
    Ok(())
}

pub(crate) async fn what_is_no_event_is_kept_as_a_dead_letter(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = chickwork_queue::event::Event {
        event_type: "other",
        room_id: None,
        message_id: None,
        body: bytes::Bytes::from_static(b"\xff\x00not JSON"),
        ..an_event(1)
    };
    queue.publisher().bury(&event, "not JSON").await?;
    nothing(&mut queue.claim_asks(LIMIT)).await?;
    let letter = dead_of(&queue, event.id).await?;
    ensure!((letter.step, letter.cause) == (Step::Receive, Cause::Malformed));
    ensure!(letter.error == "not JSON");
    Ok(())
}

async fn archived(
    queue: &Queue,
    since: Timestamp,
    count: usize,
) -> anyhow::Result<Vec<chickwork_queue::event::Event>> {
    let complete = async {
        loop {
            let mut read = queue.archive().read(since);
            let mut events = Vec::new();
            while let Some(event) = read.next().await? {
                events.push(event);
            }
            // The copy is not waited for by the publish.
            if events.len() >= count {
                return Ok(events);
            }
        }
    };
    soon("the archive holds everything", complete).await?
}

pub(crate) async fn the_archive_holds_every_event_byte_for_byte(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let since = Timestamp::now() - Duration::from_secs(1);
    let mut published = Vec::new();
    for number in 0..50 {
        let event = an_event(number);
        queue.publisher().publish(&event).await?;
        published.push(event);
    }
    ensure!(
        archived(&queue, since, 50).await? == published,
        "all, in order, every byte"
    );
    let reader = stage.queue().await?;
    ensure!(
        archived(&reader, since, 50).await? == published,
        "for every reader, again and again"
    );
    Ok(())
}

pub(crate) async fn an_event_that_is_not_answered_is_archived_with_its_reason(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let since = Timestamp::now() - Duration::from_secs(1);
    let event = chickwork_queue::event::Event {
        event_type: "other",
        message_id: None,
        ..an_event(1)
    };
    queue.publisher().archive(&event, "unknown_type").await?;
    nothing(&mut queue.claim_asks(LIMIT)).await?;
    ensure!(archived(&queue, since, 1).await? == std::slice::from_ref(&event));
    let is_it = |entry: &Entry| {
        matches!(entry, Entry::Outcome(Outcome { id, what: What::Ignored { reason }, .. })
        if *id == event.id && reason == "unknown_type")
    };
    read_until(&mut queue.outcomes().follow(since), is_it).await?;
    Ok(())
}

pub(crate) async fn outcomes_are_read_in_order_by_every_process(
    stage: Stage,
) -> anyhow::Result<()> {
    let (writer, reader) = (stage.queue().await?, stage.queue().await?);
    let since = Timestamp::now() - Duration::from_secs(1);
    let mut live = reader.outcomes().follow(since);
    let written: Vec<_> = (0..20)
        .map(|number| {
            outcome(
                EventId::fresh(),
                What::Ignored {
                    reason: format!("number {number}"),
                },
            )
        })
        .collect();
    for outcome in &written {
        writer.outcomes().record(outcome.clone());
    }
    let last = written.last().context("twenty were written")?.clone();
    let is_last = |entry: &Entry| *entry == Entry::Outcome(last.clone());
    let expected: Vec<_> = written.into_iter().map(Entry::Outcome).collect();
    ensure!(
        read_until(&mut live, is_last).await? == expected,
        "by whoever was reading"
    );
    let mut late = stage.queue().await?.outcomes().follow(since);
    ensure!(
        read_until(&mut late, is_last).await? == expected,
        "and by whoever comes late"
    );
    Ok(())
}

pub(crate) async fn an_intent_is_read_before_a_mark_that_is_set_after_it(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let id = a_stored_reply(&queue, 1).await?;
    let mut posts = queue.claim_posts(&bot(), LIMIT);
    let claim = next(&mut posts).await?;
    let intent = outcome(
        id,
        What::Intent {
            consumer: "one".to_owned(),
        },
    );
    claim.intend(&intent).await?;
    let other = stage.queue().await?;
    let mark = other.outcomes().mark().await?;
    let mut follow = other
        .outcomes()
        .follow(Timestamp::now() - Duration::from_secs(60));
    let entries = read_until(&mut follow, |entry| *entry == Entry::Mark(mark)).await?;
    ensure!(
        entries.contains(&Entry::Outcome(intent)),
        "whatever was stored before the mark"
    );
    let result = outcome(
        id,
        What::Posted {
            reply_message_id: None,
            found: false,
        },
    );
    claim
        .settle(Settled {
            settlement: Settlement::Done,
            outcomes: vec![result.clone()],
        })
        .await?;
    let mark = other.outcomes().mark().await?;
    let entries = read_until(&mut follow, |entry| *entry == Entry::Mark(mark)).await?;
    ensure!(
        entries.contains(&Entry::Outcome(result)),
        "and so is the result"
    );
    Ok(())
}

pub(crate) async fn one_process_at_a_time_claims_replies(stage: Stage) -> anyhow::Result<()> {
    let (one, other) = (stage.queue().await?, stage.queue().await?);
    for number in 0..6 {
        a_stored_reply(&one, number).await?;
    }
    let mut active = one.claim_posts(&bot(), 2);
    let first = next(&mut active).await?;
    let mut waiting = other.claim_posts(&bot(), 2);
    nothing(&mut waiting).await?;
    let second = next(&mut active).await?;
    ensure!(first.tenure() == second.tenure(), "one tenure");
    for claim in [first, second] {
        settle(claim, Settlement::Done).await?;
    }
    for _ in 0..4 {
        settle(next(&mut active).await?, Settlement::Done).await?;
        nothing_yet(&mut waiting).await?;
    }
    Ok(())
}

/// Waits until this has happened, and sees that nothing can be claimed meanwhile. What is put away when
/// it comes is put away by whoever claims.
pub(crate) async fn nothing_until<T>(
    claims: &mut Claims,
    happened: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        happened = happened => happened,
        claim = claims.next() => bail!("there should be nothing to claim, but there is {:?}", claim.job()),
    }
}

/// Looks whether there is anything right now.
async fn nothing_yet(claims: &mut Claims) -> anyhow::Result<()> {
    match tokio::time::timeout(Duration::from_millis(50), claims.next()).await {
        Err(_) => Ok(()),
        Ok(claim) => bail!("two processes claim replies: {:?}", claim.job()),
    }
}

pub(crate) async fn a_killed_consumer_hands_over(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let id = a_stored_reply(&queue, 1).await?;
    let mut active = stage.process("post", 1).await?;
    ensure!(active.line().await? == format!("claimed {id}"));
    let mut successor = queue.claim_posts(&bot(), LIMIT);
    nothing(&mut successor).await?;
    active.kill().await?;
    let claim = within(HAND_OVER, "the successor has the reply", successor.next()).await?;
    ensure!(id_of(&claim) == id);
    settle(claim, Settlement::Done).await
}

pub(crate) async fn a_frozen_consumer_hands_over_and_cannot_announce_a_post_when_it_wakes(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let id = a_stored_reply(&queue, 1).await?;
    let mut frozen = stage.process("post", 1).await?;
    ensure!(frozen.line().await? == format!("claimed {id}"));
    frozen.tell("intend").await?;
    ensure!(
        frozen.line().await? == "intended",
        "while it is the active one it may"
    );
    frozen.freeze_between_writes(&stage.location()).await?;
    let mut successor = queue.claim_posts(&bot(), LIMIT);
    let claim = within(HAND_OVER, "the successor has the reply", successor.next()).await?;
    ensure!(id_of(&claim) == id);
    frozen.thaw()?;
    frozen.tell("intend").await?;
    ensure!(
        frozen.line().await? == "refused",
        "it is not the active one any more"
    );
    settle(claim, Settlement::Done).await?;
    frozen.kill().await
}

pub(crate) async fn a_stopped_consumer_hands_over_at_once_and_announces_no_post(
    stage: Stage,
) -> anyhow::Result<()> {
    let (one, other) = (stage.queue().await?, stage.queue().await?);
    for number in 0..3 {
        a_stored_reply(&one, number).await?;
    }
    let mut active = one.claim_posts(&bot(), LIMIT);
    let held = next(&mut active).await?;
    let mut successor = other.claim_posts(&bot(), LIMIT);
    active.stop().await;
    for _ in 0..2 {
        let claim = next(&mut successor).await?;
        ensure!(
            id_of(&claim) != id_of(&held),
            "what is held is not given away"
        );
        ensure!(
            claim.job().deaths == 0,
            "what was fetched and untouched counts nothing"
        );
        settle(claim, Settlement::Done).await?;
    }
    let intent = outcome(
        id_of(&held),
        What::Intent {
            consumer: "one".to_owned(),
        },
    );
    ensure!(
        held.intend(&intent).await.is_err(),
        "somebody else posts by now"
    );
    settle(held, Settlement::GiveBack).await?;
    let claim = next(&mut successor).await?;
    settle(claim, Settlement::Done).await
}

pub(crate) async fn a_reply_of_a_newer_release_waits_and_in_the_end_is_buried_as_newer(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut posts = queue.claim_posts(&bot(), LIMIT);
    nothing(&mut posts).await?;
    let young = a_reply(&an_event(1));
    let old = chickwork_queue::job::Reply {
        received_at: young.received_at - Duration::from_secs(2 * 3600),
        ..a_reply(&an_event(2))
    };
    for reply in [&young, &old] {
        let body = Some(br#"{"v":99,"of":"a newer release"}"#.to_vec());
        stage
            .plant(Plant {
                work: Work::Post(reply.clone()),
                deaths: 0,
                body,
            })
            .await?;
    }
    let letter = nothing_until(&mut posts, async {
        let letter = dead_of(&queue, old.id).await?;
        until(SOON, "the young one is put off", async || {
            let depths = queue.depths().await?;
            let later = depths.iter().find(|depth| depth.queue == Depth::LATER);
            Ok(later.filter(|later| later.jobs > 0).map(drop))
        })
        .await?;
        Ok(letter)
    })
    .await?;
    ensure!((letter.cause, letter.step) == (Cause::Newer, Step::Post));
    let dead = dead_letters(&queue).await?;
    ensure!(
        dead.iter().all(|letter| letter.id != young.id),
        "the young one waits for a newer release"
    );
    Ok(())
}

pub(crate) async fn a_reply_that_cannot_be_read_is_buried_as_malformed(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut posts = queue.claim_posts(&bot(), LIMIT);
    nothing(&mut posts).await?;
    let reply = a_reply(&an_event(1));
    let body = Some(b"no JSON".to_vec());
    stage
        .plant(Plant {
            work: Work::Post(reply.clone()),
            deaths: 0,
            body,
        })
        .await?;
    let good = a_stored_reply(&queue, 2).await?;
    let claim = next(&mut posts).await?;
    ensure!(id_of(&claim) == good, "it holds nobody up");
    settle(claim, Settlement::Done).await?;
    let letter = until(SOON, "it is buried", async || {
        Ok(dead_letters(&queue).await?.pop())
    })
    .await?;
    ensure!((letter.cause, letter.step) == (Cause::Malformed, Step::Post));
    Ok(())
}

pub(crate) async fn two_namespaces_do_not_see_each_other(stage: Stage) -> anyhow::Result<()> {
    let ours = stage.queue().await?;
    // Two files are two namespaces by nature.
    let other = Stage::new(if stage.location().starts_with("sqlite:") {
        Kind::Sqlite
    } else {
        Kind::Rabbitmq
    })?;
    let theirs = open(&other.location(), other.namespace()).await?;
    ours.publisher().publish(&an_event(1)).await?;
    nothing(&mut theirs.claim_asks(LIMIT)).await?;
    settle(next(&mut ours.claim_asks(LIMIT)).await?, Settlement::Done).await
}

pub(crate) async fn everything_survives_a_crash_of_the_store(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let since = Timestamp::now() - Duration::from_secs(60);
    let (waiting, put_off, buried) = (an_event(1), an_event(2), an_event(3));
    let mut claims = queue.claim_asks(LIMIT);
    queue.publisher().publish(&put_off).await?;
    let delay = Duration::from_secs(8);
    let put_off_at = Instant::now();
    settle(
        next(&mut claims).await?,
        Settlement::Later(delay, Attempt::Counted),
    )
    .await?;
    queue.publisher().publish(&buried).await?;
    settle(
        next(&mut claims).await?,
        Settlement::Bury {
            cause: Cause::Refused,
            error: NO_ERROR.to_owned(),
        },
    )
    .await?;
    claims.stop().await;
    let reply = a_stored_reply(&queue, 4).await?;
    queue.publisher().publish(&waiting).await?;
    queue.close(Duration::from_secs(5)).await;
    drop(queue);

    stage.crash_store().await?;

    let queue = stage.queue().await?;
    let mut claims = queue.claim_asks(LIMIT);
    let claim = next(&mut claims).await?;
    ensure!(
        claim.job().work == Work::Ask(waiting.clone()),
        "what was published"
    );
    settle(claim, Settlement::Done).await?;
    let claim = within(Duration::from_secs(60), "the delay ends", claims.next()).await?;
    ensure!(
        id_of(&claim) == put_off.id && claim.job().attempts == 1,
        "what was put off"
    );
    ensure!(put_off_at.elapsed() >= delay, "not before its time");
    settle(claim, Settlement::Done).await?;
    dead_of(&queue, buried.id).await?;
    let claim = next(&mut queue.claim_posts(&bot(), LIMIT)).await?;
    ensure!(id_of(&claim) == reply, "the reply");
    settle(claim, Settlement::Done).await?;
    let ids: HashSet<_> = archived(&queue, since, 4)
        .await?
        .into_iter()
        .map(|event| event.id)
        .collect();
    ensure!(
        ids.len() == 4 && ids.contains(&waiting.id),
        "and the archive"
    );
    Ok(())
}

pub(crate) async fn claims_go_on_after_a_crash_of_the_store(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let mut claims = queue.claim_asks(LIMIT);
    queue.publisher().publish(&an_event(1)).await?;
    settle(next(&mut claims).await?, Settlement::Done).await?;
    stage.crash_store().await?;
    let event = an_event(2);
    until(SOON, "publishing works again", async || {
        Ok(queue.publisher().publish(&event).await.ok())
    })
    .await?;
    let claim = within(
        Duration::from_secs(30),
        "claims come again, by themselves",
        claims.next(),
    )
    .await?;
    ensure!(id_of(&claim) == event.id);
    settle(claim, Settlement::Done).await
}
