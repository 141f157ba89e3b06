//! Looking at the queue: reports, depths, what is unfinished, and what `chickwork doctor` is told about
//! queues that are as they have to be and about those that are not.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chickwork_queue::audit::Sums;
use chickwork_queue::dead::Verdict;
use chickwork_queue::event::Event;
use chickwork_queue::examine::{Finding, Grade, Needs};
use chickwork_queue::job::{Attempt, Cause, Settled, Settlement, Step, Work};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::report::{Depth, Report, SpoolReport};
use chickwork_queue::{Claim, Declare, Entry, Location, Queue, Settings};
use chickwork_tests::stage::{
    Kind, SOON, Stage, a_reply, an_event, dead_letters, next, outcome, put_back, retry, settle,
    soon, take, until,
};
use jiff::{SignedDuration, Timestamp};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use rusqlite::Connection;
use uuid::Uuid;

use super::tell;

const ONE: u16 = 1;
/// How long best-effort records may take to be written.
const FLUSH: Duration = Duration::from_secs(10);

fn a_report(process: Uuid, at: Timestamp) -> Report {
    Report {
        v: Report::VERSION,
        at,
        process,
        host: "chick-1".to_owned(),
        pid: 7,
        release: "0.1.0".to_owned(),
        since: at,
        roles: vec!["worker".to_owned()],
        not_ready: None,
        stopping: false,
        last_webhook: None,
        account_limit: None,
        pauses: Vec::new(),
        posting: false,
        spool: None,
        spool_trouble: None,
        holds: None,
    }
}

fn an_hour_ago() -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(1)
}

/// Waits until looking shows this.
async fn seen<T: std::fmt::Debug>(
    what: &str,
    look: impl AsyncFn() -> anyhow::Result<T>,
    is_it: impl Fn(&T) -> bool,
) -> anyhow::Result<()> {
    until(SOON, what, async || {
        let looked = look().await?;
        let is_there = is_it(&looked);
        if !is_there {
            log::info!("not yet {what}: {looked:?}");
        }
        Ok(is_there.then_some(()))
    })
    .await
}

pub(crate) async fn a_process_is_known_by_its_newest_report_and_forgotten_when_it_sends_none(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, stage.queue().await?);
    let (busy, gone) = (Uuid::now_v7(), Uuid::now_v7());
    let now = Timestamp::now();
    queue.report(&a_report(busy, now - SignedDuration::from_secs(5)));
    queue.report(&a_report(gone, now - 2 * Report::FRESH));
    let newest = Report {
        not_ready: Some("it does not know its name yet".to_owned()),
        ..a_report(busy, now)
    };
    queue.report(&newest);
    seen(
        "there is one process",
        async || Ok(looking.reports().await?),
        |reports| *reports == [newest.clone()],
    )
    .await?;
    // Reports travel among the outcomes, where nobody takes them for one.
    let mut outcomes = looking.outcomes().read(an_hour_ago());
    ensure!(outcomes.next().await?.is_none());
    Ok(())
}

/// The counts of all queues.
async fn counts(queue: &Queue) -> anyhow::Result<Vec<(String, u64)>> {
    let depths = queue.depths().await?;
    Ok(depths
        .into_iter()
        .map(|Depth { queue, jobs, .. }| (queue, jobs))
        .collect())
}

async fn counted(queue: &Queue, expected: [u64; 4]) -> anyhow::Result<()> {
    let names = ["ask", "post.bot", "later", "dead"].map(str::to_owned);
    let expected: Vec<_> = names.into_iter().zip(expected).collect();
    let what = format!("{expected:?}");
    seen(
        &what,
        async || counts(queue).await,
        |counts| *counts == expected,
    )
    .await
}

pub(crate) async fn what_waits_is_counted_where_it_waits(stage: Stage) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let looking = Queue::open(Settings {
        declare: Declare::Nothing,
        ..stage.settings()?
    })
    .await?;
    counted(&looking, [0, 0, 0, 0]).await?;
    for number in 0..4 {
        queue.publisher().publish(&an_event(number)).await?;
    }
    counted(&looking, [4, 0, 0, 0]).await?;
    let mut asks = queue.claim_asks(ONE);
    let claim = next(&mut asks).await?;
    counted(&looking, [3, 0, 0, 0]).await?;
    let hour = Settlement::Later(Duration::from_secs(3600), Attempt::NotCounted);
    settle(claim, hour).await?;
    let claim = next(&mut asks).await?;
    settle(claim, Settlement::Next(a_reply(&an_event(9)))).await?;
    let claim = next(&mut asks).await?;
    let error = "for no reason".to_owned();
    settle(
        claim,
        Settlement::Bury {
            cause: Cause::Refused,
            error,
        },
    )
    .await?;
    let claim = next(&mut asks).await?;
    counted(&looking, [0, 1, 1, 1]).await?;
    settle(claim, Settlement::Done).await
}

/// Waits until so many are unfinished.
async fn unfinished(queue: &Queue, since: Timestamp, count: u64) -> anyhow::Result<()> {
    let what = format!("{count} are unfinished");
    seen(
        &what,
        async || Ok(queue.unfinished(since).await?),
        |unfinished| unfinished.count == count && unfinished.oldest.is_some() == (count > 0),
    )
    .await
}

pub(crate) async fn an_event_is_unfinished_until_it_has_come_to_an_end(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, since) = (stage.queue().await?, an_hour_ago());
    unfinished(&queue, since, 0).await?;
    let events = [1, 2, 3, 4].map(an_event);
    for event in &events {
        queue.publisher().publish(event).await?;
    }
    unfinished(&queue, since, 4).await?;
    let [ignored, posted, dead, dropped] = events.map(|event| event.id);
    let outcomes = queue.outcomes();
    let reason = || "a test said so".to_owned();
    let died = || What::Dead {
        step: Step::Ask,
        cause: Cause::Exhausted,
        error: reason(),
        status: None,
    };
    outcomes.record(outcome(ignored, What::Ignored { reason: reason() }));
    unfinished(&queue, since, 3).await?;
    outcomes.record(outcome(posted, What::ReplyStored { text: reason() }));
    outcomes.record(outcome(
        posted,
        What::Posted {
            reply_message_id: None,
            found: false,
        },
    ));
    unfinished(&queue, since, 2).await?;
    outcomes.record(outcome(dead, died()));
    outcomes.record(outcome(dropped, died()));
    outcomes.record(outcome(dropped, What::Dropped { reason: reason() }));
    unfinished(&queue, since, 0).await?;
    outcomes.record(outcome(
        dead,
        What::Replayed {
            replay: 1,
            reason: reason(),
            by: None,
        },
    ));
    unfinished(&queue, since, 1).await?;
    outcomes.record(outcome(dead, died()));
    unfinished(&queue, since, 0).await
}

/// Ends a claim with what is said of it.
async fn end(claim: Claim, settlement: Settlement, what: Option<What>) -> anyhow::Result<()> {
    let (id, message_id) = match &claim.job().work {
        Work::Ask(event) => (event.id, event.message_id.clone()),
        Work::Post(reply) => (reply.id, Some(reply.message_id.clone())),
    };
    let outcomes = what.into_iter().map(|what| Outcome {
        message_id: message_id.clone(),
        ..outcome(id, what)
    });
    let settled = Settled {
        settlement,
        outcomes: outcomes.collect(),
    };
    Ok(claim.settle(settled).await?)
}

/// Whoever sees that an event is gone can read how it has ended.
pub(crate) async fn an_end_is_read_before_a_mark_that_is_set_after_it(
    stage: Stage,
) -> anyhow::Result<()> {
    /// Of each kind. One that is not waited for may be in time by chance.
    const MANY: u32 = 5;
    let (queue, other) = (stage.queue().await?, stage.queue().await?);
    let mut follow = other.outcomes().follow(an_hour_ago());
    let mut asks = queue.claim_asks(ONE);
    let why = || "a test said so".to_owned();
    for number in 0..4 * MANY {
        let event = an_event(number);
        match number % 4 {
            0 => drop(queue.publisher().archive(&event, "unknown_type").await?),
            1 => drop(queue.publisher().bury(&event, "no JSON").await?),
            kind => {
                queue.publisher().publish(&event).await?;
                let claim = next(&mut asks).await?;
                let (settlement, what) = if kind == 2 {
                    (Settlement::Done, What::Ignored { reason: why() })
                } else {
                    let (step, cause) = (Step::Ask, Cause::Refused);
                    let dead = What::Dead {
                        step,
                        cause,
                        error: why(),
                        status: None,
                    };
                    let error = why();
                    (Settlement::Bury { cause, error }, dead)
                };
                end(claim, settlement, Some(what)).await?;
            }
        }
        let mark = other.outcomes().mark().await?;
        let mut has_ended = false;
        let reading = async {
            loop {
                match follow.next().await {
                    Entry::Outcome(outcome) => {
                        has_ended |= outcome.id == event.id && outcome.what.is_end();
                    }
                    Entry::Mark(read) if read == mark => return,
                    Entry::Mark(_) => {}
                }
            }
        };
        soon("the mark is read", reading).await?;
        ensure!(
            has_ended,
            "the {number}th event was gone before its end was stored"
        );
    }
    Ok(())
}

/// Every state that an event can be in, told from the others.
pub(crate) async fn an_audit_tells_where_every_event_has_got_to(
    stage: Stage,
) -> anyhow::Result<()> {
    /// Longer than a look takes; what is unexplained stays so.
    const WAIT: Duration = Duration::from_secs(2);
    let queue = stage.queue().await?;
    let looking = Queue::open(Settings {
        declare: Declare::Nothing,
        ..stage.settings()?
    })
    .await?;
    let nothing = looking.audit(an_hour_ago(), WAIT).await?;
    ensure!(
        nothing.is_clean() && nothing.sums == Sums::default(),
        "{nothing:?}"
    );

    let reason = |reason: &str| reason.to_owned();
    let bury = || Settlement::Bury {
        cause: Cause::Refused,
        error: reason("no"),
    };
    let dead = || What::Dead {
        step: Step::Ask,
        cause: Cause::Refused,
        error: reason("no"),
        status: None,
    };
    let hour = Duration::from_secs(3600);
    let later = || What::Later {
        step: Step::Ask,
        reason: reason("not now"),
        until: Timestamp::now() + hour,
    };
    let posted = || What::Posted {
        reply_message_id: None,
        found: false,
    };
    let ignored = |by| What::Ignored { reason: reason(by) };
    let reply = a_reply(&an_event(1));
    let settlements = [
        (Settlement::Done, Some(posted())),
        (Settlement::Done, Some(ignored("own"))),
        (Settlement::Done, Some(ignored("flood"))),
        (bury(), Some(dead())),
        // Its letter alone tells of it; then the word of who drops it.
        (bury(), None),
        (bury(), None),
        (Settlement::Later(hour, Attempt::NotCounted), Some(later())),
        // Nobody has said what became of it.
        (Settlement::Done, None),
    ];
    let mut asks = queue.claim_asks(ONE);
    let mut events = Vec::new();
    for (number, (settlement, what)) in (10..).zip(settlements) {
        let event = an_event(number);
        queue.publisher().publish(&event).await?;
        end(next(&mut asks).await?, settlement, what).await?;
        events.push(event);
    }
    let [.., dropped, put_off, lost] = &events[..] else {
        bail!("there are several");
    };
    let letters = dead_letters(&queue).await?;
    let letters = letters.into_iter().filter(|letter| letter.id == dropped.id);
    let verdict = Verdict::Drop {
        reason: reason("a test said so"),
    };
    ensure!(take(&queue, letters.collect(), verdict).await?.len() == 1);
    queue
        .publisher()
        .archive(&an_event(20), "unknown_type")
        .await?;
    queue.publisher().bury(&an_event(21), "no JSON").await?;
    let answered = Event {
        id: reply.id,
        ..an_event(1)
    };
    queue.publisher().publish(&answered).await?;
    end(next(&mut asks).await?, Settlement::Next(reply), None).await?;
    asks.stop().await;
    queue.publisher().publish(&an_event(22)).await?;

    let counts = |counts: &[(&str, u64)]| {
        counts
            .iter()
            .map(|(name, count)| (reason(name), *count))
            .collect()
    };
    let expected = Sums {
        received: 12,
        answered: 1,
        ignored: 3,
        dead: 4,
        waiting: 3,
        unexplained: 1,
        twice: 0,
        spooled: 0,
        ignored_by: counts(&[("flood", 1), ("own", 1), ("unknown_type", 1)]),
        dead_by: counts(&[("dropped", 1), ("malformed", 1), ("refused", 2)]),
    };
    let counted = seen(
        "everything is counted once",
        async || Ok(looking.audit(an_hour_ago(), WAIT).await?),
        |audit| audit.sums == expected && !audit.is_clean(),
    );
    Box::pin(counted).await?;

    // Once nothing waits but what says so, it can be told which one is lost, whatever the store.
    let mut asks = queue.claim_asks(ONE);
    end(
        next(&mut asks).await?,
        Settlement::Done,
        Some(ignored("own")),
    )
    .await?;
    asks.stop().await;
    let mut posts = queue.claim_posts(&lost.bot, ONE);
    end(next(&mut posts).await?, Settlement::Done, Some(posted())).await?;
    posts.stop().await;
    let audit = looking.audit(an_hour_ago(), WAIT).await?;
    ensure!(
        (audit.sums.waiting, audit.sums.unexplained) == (1, 1),
        "{audit:?}"
    );
    let [unexplained] = &audit.unexplained[..] else {
        bail!("{audit:?}");
    };
    ensure!(audit.told_apart && unexplained.id == lost.id, "{audit:?}");
    ensure!(
        unexplained.message_id == lost.message_id && unexplained.archived,
        "{audit:?}"
    );
    ensure!(
        unexplained.received_at == Some(lost.received_at),
        "{audit:?}"
    );

    // Put back, it is worked on again, aged from now.
    let before = Timestamp::now();
    queue
        .put_back(lost.clone(), put_back(unexplained.replay, "it was lost"))
        .await?;
    let audit = looking.audit(an_hour_ago(), WAIT).await?;
    ensure!(audit.is_clean() && audit.sums.waiting == 2, "{audit:?}");
    let mut asks = queue.claim_asks(ONE);
    let claim = next(&mut asks).await?;
    let Work::Ask(event) = claim.job().work.clone() else {
        bail!("it is no event");
    };
    ensure!((event.id, event.replay) == (lost.id, 1), "{event:?}");
    ensure!(event.body == lost.body && event.received_at == lost.received_at);
    // The store keeps milliseconds.
    let put_back = event.put_back_at.context("a time")?;
    ensure!(
        put_back.as_millisecond() >= before.as_millisecond(),
        "{put_back}"
    );
    end(claim, Settlement::Done, Some(posted())).await?;
    let audit = looking.audit(an_hour_ago(), WAIT).await?;
    ensure!(
        (audit.sums.answered, audit.sums.waiting) == (3, 1),
        "{audit:?}"
    );
    // What was received since then is another question.
    let later = put_off.received_at + SignedDuration::from_hours(1);
    let audit = looking.audit(later, WAIT).await?;
    ensure!(audit.sums == Sums::default(), "{audit:?}");

    // What waits in spools is told beside the sums; in front of a file there are none.
    let spool = Some(SpoolReport {
        events: 3,
        oldest: None,
        bytes: 12_288,
        max_bytes: 1_048_576,
    });
    queue.report(&Report {
        spool,
        ..a_report(Uuid::now_v7(), Timestamp::now())
    });
    let is_broker = !stage.location().starts_with("sqlite:");
    let expected = Sums {
        spooled: if is_broker { 3 } else { 0 },
        ..Sums::default()
    };
    let told = seen(
        "what is spooled is told",
        async || Ok(looking.audit(later, WAIT).await?),
        |audit| audit.sums == expected && audit.is_clean(),
    );
    Box::pin(told).await?;
    Ok(())
}

pub(crate) async fn an_event_without_end_is_unfinished_from_its_own_time_on(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = an_event(1);
    queue.publisher().publish(&event).await?;
    let mut asks = queue.claim_asks(ONE);
    let claim = next(&mut asks).await?;
    let bury = Settlement::Bury {
        cause: Cause::Refused,
        error: "no".to_owned(),
    };
    settle(claim, bury).await?;
    unfinished(&queue, an_hour_ago(), 1).await?;
    let later = event.received_at + SignedDuration::from_secs(1);
    unfinished(&queue, later, 0).await?;
    // Put back by a person, it is as unfinished as before.
    soon("it is back", async {
        while retry(&queue, dead_letters(&queue).await?).await?.is_empty() {}
        anyhow::Ok(())
    })
    .await??;
    let looked = queue.unfinished(an_hour_ago()).await?;
    ensure!(looked.oldest == Some(event.received_at), "{looked:?}");
    Ok(())
}

pub(crate) async fn outcomes_are_read_to_the_end_and_not_beyond(
    stage: Stage,
) -> anyhow::Result<()> {
    /// More than a page.
    const MANY: u32 = 1_200;
    let (queue, since) = (stage.queue().await?, an_hour_ago());
    ensure!(
        queue.outcomes().read(since).next().await?.is_none(),
        "nothing has happened"
    );
    let id = an_event(1).id;
    let numbered = |replay| {
        outcome(
            id,
            What::Replayed {
                replay,
                reason: String::new(),
                by: None,
            },
        )
    };
    for number in 0..MANY {
        queue.outcomes().record(numbered(number));
    }
    queue.outcomes().mark().await?;
    let replay = |outcome: &Outcome| match outcome.what {
        What::Replayed { replay, .. } => replay,
        _ => u32::MAX,
    };
    seen(
        "the last one is stored",
        async || {
            let mut read = queue.outcomes().read(since);
            let mut last = None;
            while let Some(outcome) = read.next().await? {
                last = Some(replay(&outcome));
            }
            Ok(last)
        },
        |last| *last == Some(MANY - 1),
    )
    .await?;

    let mut read = queue.outcomes().read(since);
    let mut numbers = vec![replay(&read.next().await?.context("the first one")?)];
    queue.outcomes().record(numbered(MANY));
    queue.outcomes().mark().await?;
    while let Some(outcome) = read.next().await? {
        numbers.push(replay(&outcome));
    }
    numbers.dedup();
    ensure!(
        numbers == (0..MANY).collect::<Vec<_>>(),
        "each, in order, and no later one"
    );
    let future = Timestamp::now() + SignedDuration::from_hours(1);
    ensure!(queue.outcomes().read(future).next().await?.is_none());
    Ok(())
}

pub(crate) async fn the_last_event_is_the_newest_of_the_archive(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    ensure!(queue.last_event().await?.is_none());
    for number in 0..3 {
        let event = an_event(number);
        queue.publisher().publish(&event).await?;
        let received_at = Some(event.received_at);
        seen(
            "the archive has it",
            async || Ok(queue.last_event().await?),
            |last| *last == received_at,
        )
        .await?;
    }
    // What a person puts in did not come in: not even if it is the last of all.
    let last = queue.last_event().await?;
    let now = Timestamp::now();
    let recovered = Event {
        received_at: now,
        put_back_at: Some(now),
        ..an_event(4)
    };
    queue.recover(&recovered).await?;
    let archived = async || {
        let mut archived = queue.archive().read(an_hour_ago());
        while let Some(event) = archived.next().await? {
            if event.id == recovered.id {
                return Ok(true);
            }
        }
        Ok(false)
    };
    seen("the archive has it", archived, |is_there| *is_there).await?;
    ensure!(queue.last_event().await? == last);
    Ok(())
}

pub(crate) async fn what_was_archived_late_hides_nothing_that_is_younger(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, since) = (stage.queue().await?, an_hour_ago());
    let young = an_event(1);
    queue.publisher().publish(&young).await?;
    unfinished(&queue, since, 1).await?;
    // It lay in a spool while the broker was away.
    let old = Event {
        received_at: since - SignedDuration::from_hours(1),
        ..an_event(2)
    };
    queue.publisher().publish(&old).await?;
    let everything = since - SignedDuration::from_hours(2);
    unfinished(&queue, everything, 2).await?;
    let mut archived = queue.archive().read(since);
    let first = archived.next().await?.context("the young one")?;
    ensure!(first.id == young.id && archived.next().await?.is_none());
    Ok(())
}

pub(crate) async fn what_is_written_all_the_time_is_read_to_an_end(
    stage: Stage,
) -> anyhow::Result<()> {
    /// Shorter than any pause that could be taken for the end.
    const BETWEEN: Duration = Duration::from_millis(20);
    let (queue, looking) = (stage.queue().await?, stage.queue().await?);
    let since = an_hour_ago();
    queue.report(&a_report(Uuid::now_v7(), Timestamp::now()));
    // A burial is told everywhere: to the archive, the outcomes and the dead letters.
    let writing = tokio::spawn(async move {
        for number in 0.. {
            let buried = queue.publisher().bury(&an_event(number), "none").await;
            if buried.is_err() {
                break;
            }
            // Not a wait: so often do the others write.
            tokio::time::sleep(BETWEEN).await;
        }
    });
    let read = async {
        while looking.reports().await?.is_empty() {}
        while looking.last_event().await?.is_none() {}
        while dead_letters(&looking).await?.is_empty() {}
        let mut outcomes = looking.outcomes().read(since);
        while outcomes.next().await?.is_some() {}
        let mut archived = looking.archive().read(since);
        while archived.next().await?.is_some() {}
        anyhow::Ok(())
    };
    soon("all is read", read).await??;
    ensure!(!writing.is_finished(), "and it was written all the time");
    writing.abort();
    Ok(())
}

fn worst(findings: &[Finding]) -> Option<Grade> {
    findings.iter().map(|finding| finding.grade).max()
}

/// Everything that there is at the queue's place.
async fn traces(stage: &Stage, settings: &Settings) -> anyhow::Result<Vec<String>> {
    match &settings.location {
        Location::Sqlite(path) => {
            let folder = path.parent().context("it lies in a folder")?;
            let mut traces = Vec::new();
            for entry in folder.read_dir()? {
                let entry = entry?;
                let bytes = entry.metadata()?.len();
                traces.push(format!("{:?} {bytes}", entry.file_name()));
            }
            traces.sort();
            Ok(traces)
        }
        Location::Amqp(_) => {
            let channel = stage.operator().await?.create_channel().await?;
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::durable()
            };
            let ask = format!("{}.ask", stage.namespace());
            let found = channel
                .queue_declare(ask.as_str().into(), passive, FieldTable::default())
                .await;
            Ok(found
                .map(|queue| format!("{} messages", queue.message_count()))
                .into_iter()
                .collect())
        }
    }
}

/// Looks as for a process that does everything.
async fn examine(settings: &Settings) -> Vec<Finding> {
    chickwork_queue::examine(settings, Needs::WritingAndReading).await
}

pub(crate) async fn a_queue_is_examined_without_a_trace(stage: Stage) -> anyhow::Result<()> {
    let settings = stage.settings()?;
    let nothing = traces(&stage, &settings).await?;
    let findings = examine(&settings).await;
    ensure!(
        worst(&findings) == Some(Grade::Notice),
        "nothing is there yet: {findings:?}"
    );
    ensure!(
        traces(&stage, &settings).await? == nothing,
        "and nothing is after it"
    );

    let queue = stage.queue().await?;
    queue.publisher().publish(&an_event(1)).await?;
    let found = traces(&stage, &settings).await?;
    let findings = examine(&settings).await;
    ensure!(
        worst(&findings) == Some(Grade::Good),
        "in use: {findings:?}"
    );
    ensure!(traces(&stage, &settings).await? == found);
    queue.close(FLUSH).await;
    drop(queue);
    let findings = examine(&settings).await;
    ensure!(
        worst(&findings) == Some(Grade::Good),
        "at rest: {findings:?}"
    );
    ensure!(findings.len() <= 5, "said in a few lines: {findings:?}");
    Ok(())
}

/// A finding that is wrong and says this, with a cure that names that.
#[track_caller]
fn is_wrong(findings: &[Finding], says: &str, cure: &str) -> anyhow::Result<()> {
    let it_is = findings.iter().any(|finding| {
        let cured = finding
            .cure
            .as_ref()
            .is_some_and(|cured| cured.contains(cure));
        finding.grade == Grade::Wrong && finding.says.contains(says) && cured
    });
    ensure!(it_is, "{says}: {findings:#?}");
    ensure!(
        !format!("{findings:?}").contains("s3cret"),
        "no password is shown"
    );
    Ok(())
}

fn in_a_file<F: Future<Output = anyhow::Result<()>>>(
    story: impl FnOnce(Stage) -> F,
) -> anyhow::Result<()> {
    tell(Stage::new(Kind::Sqlite), story)
}

#[test]
fn a_file_that_cannot_be_the_queue_is_named_with_the_cure() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let Location::Sqlite(path) = stage.settings()?.location else {
            bail!("a file")
        };
        let folder = path.parent().context("it lies in a folder")?.to_owned();
        let looked = async |name: &str| {
            let location = Location::Sqlite(folder.join(name));
            let settings = Settings {
                location,
                ..stage.settings()?
            };
            anyhow::Ok(examine(&settings).await)
        };
        std::fs::write(folder.join("diary"), "Dear diary, ".repeat(1000))?;
        std::fs::write(folder.join("empty"), "")?;
        let file = |name: &str| Connection::open(folder.join(name));
        file("recipes")?.execute_batch("CREATE TABLE recipes (name TEXT)")?;
        for (name, sql) in [
            ("newer", "PRAGMA user_version = 99"),
            ("plucked", "DROP TABLE archive"),
        ] {
            let location = Location::Sqlite(folder.join(name));
            let settings = Settings {
                location,
                ..stage.settings()?
            };
            drop(Queue::open(settings).await?);
            file(name)?.execute_batch(sql)?;
        }
        // Cut off in the middle, as a copy that was interrupted.
        let queue = stage.queue().await?;
        let checkpoint = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        Connection::open(&path)?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], checkpoint)?;
        let whole = std::fs::read(&path)?;
        drop(queue);
        std::fs::write(folder.join("half"), &whole[..whole.len() / 2])?;

        for (name, says, cure) in [
            (".", "is no file", "Name a file"),
            ("diary", "not a Chickwork queue", "Move it away"),
            ("diary/queue.db", "cannot be there", "Create the folder"),
            ("nowhere/queue.db", "cannot be there", "Create the folder"),
            ("recipes", "not a Chickwork queue", "Move it away"),
            ("newer", "has version 99", "newer release"),
            ("plucked", "table archive is missing", ".recover"),
            ("half", "is damaged", ".recover"),
        ] {
            is_wrong(&looked(name).await?, says, cure).context(name)?;
        }
        let findings = looked("empty").await?;
        ensure!(
            worst(&findings) == Some(Grade::Notice),
            "an empty file will do: {findings:?}"
        );
        Ok(())
    })
}

#[test]
fn a_file_of_a_release_without_reports_takes_them_all_the_same() -> anyhow::Result<()> {
    in_a_file(async |stage: Stage| {
        let Location::Sqlite(path) = stage.settings()?.location else {
            bail!("a file")
        };
        drop(stage.queue().await?);
        let file = Connection::open(&path)?;
        file.execute_batch("DROP TABLE reports")?;
        let findings = examine(&stage.settings()?).await;
        ensure!(worst(&findings) == Some(Grade::Good), "{findings:?}");
        let queue = stage.queue().await?;
        queue.report(&a_report(Uuid::now_v7(), Timestamp::now()));
        seen(
            "the report is there",
            async || Ok(queue.reports().await?),
            |reports| reports.len() == 1,
        )
        .await
    })
}

/// Declares a queue as somebody else might have.
async fn a_foreign_queue(
    stage: &Stage,
    name: &str,
    arguments: &[(&str, AMQPValue)],
) -> anyhow::Result<()> {
    let channel = stage.operator().await?.create_channel().await?;
    let mut table = FieldTable::default();
    for (argument, value) in arguments {
        table.insert((*argument).into(), value.clone());
    }
    let queue = format!("{}.{name}", stage.namespace());
    channel
        .queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), table)
        .await?;
    Ok(())
}

#[test]
fn objects_that_are_missing_or_different_are_named_with_the_cure() -> anyhow::Result<()> {
    tell(Stage::new(Kind::Rabbitmq), async |stage: Stage| {
        let active = stage.settings()?;
        let passive = Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        };
        is_wrong(
            &examine(&passive).await,
            "None of the",
            "chickwork topology",
        )?;
        stage.queue().await?;
        let findings = examine(&passive).await;
        ensure!(worst(&findings) == Some(Grade::Good), "{findings:?}");

        let channel = stage.operator().await?.create_channel().await?;
        for name in ["ask", "archive"] {
            let queue = format!("{}.{name}", stage.namespace());
            channel
                .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
                .await?;
        }
        let ask = format!("{}.ask", stage.namespace());
        is_wrong(&examine(&passive).await, &ask, "chickwork topology")?;
        let findings = examine(&active).await;
        ensure!(worst(&findings) == Some(Grade::Notice), "{findings:?}");

        let quorum = AMQPValue::LongString("quorum".into());
        let limit = AMQPValue::LongInt(5);
        a_foreign_queue(
            &stage,
            "ask",
            &[("x-queue-type", quorum), ("x-delivery-limit", limit)],
        )
        .await?;
        let stream = AMQPValue::LongString("stream".into());
        let day = AMQPValue::LongString("1D".into());
        a_foreign_queue(
            &stage,
            "archive",
            &[("x-queue-type", stream), ("x-max-age", day)],
        )
        .await?;
        let findings = examine(&active).await;
        is_wrong(
            &findings,
            "exists with other arguments",
            "CHICKWORK_NAMESPACE",
        )?;
        let archive = findings
            .iter()
            .find(|finding| finding.says.contains("archive"))
            .context("the archive is mentioned")?;
        ensure!(archive.grade == Grade::Notice, "{archive:?}");
        Ok(())
    })
}

#[test]
fn a_node_that_is_away_is_wrong_only_where_it_is_the_only_one() -> anyhow::Result<()> {
    tell(Stage::new(Kind::Rabbitmq), async |stage: Stage| {
        stage.queue().await?;
        let away = "amqp://guest:s3cret@127.0.0.1:1/%2f".to_owned();
        let at = |urls: Vec<String>| {
            let location = Location::Amqp(urls);
            anyhow::Ok(Settings {
                location,
                ..stage.settings()?
            })
        };
        is_wrong(
            &examine(&at(vec![away.clone()])?).await,
            "cannot be reached",
            "firewall",
        )?;
        let findings = examine(&at(vec![away, stage.location()])?).await;
        ensure!(worst(&findings) == Some(Grade::Notice), "{findings:?}");
        // Something listens there and says nothing.
        let mute = std::net::TcpListener::bind("127.0.0.1:0")?;
        let mute = format!("amqp://guest:s3cret@{}/%2f", mute.local_addr()?);
        is_wrong(
            &examine(&at(vec![mute])?).await,
            "cannot be reached",
            "firewall",
        )?;
        is_wrong(
            &examine(&at(vec!["amqp://guest:s3cret@:x".to_owned()])?).await,
            "not one of a broker",
            "amqp://user:password@host",
        )
    })
}

#[test]
fn a_broker_that_does_not_let_us_do_our_work_is_named_with_the_cure() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        stage.queue().await?;
        let control =
            |arguments: &[&str]| tokio::task::block_in_place(|| stage.node()?.control(arguments));
        control(&["add_user", "chick", "s3cret"])?;
        let port = stage.location().rsplit(':').next().map(str::to_owned);
        let port = port.context("the address has a port")?;
        let port = port.trim_end_matches("/%2f");
        let as_user = |credentials: &str, vhost: &str, declare: Declare| {
            let url = format!("amqp://{credentials}@127.0.0.1:{port}/{vhost}");
            let location = Location::Amqp(vec![url]);
            anyhow::Ok(Settings {
                location,
                declare,
                ..stage.settings()?
            })
        };
        let chick = |declare| as_user("chick:s3cret", "%2f", declare);
        let wrong_password = as_user("chick:s3cret2", "%2f", Declare::Active)?;
        is_wrong(
            &examine(&wrong_password).await,
            "refuses the user",
            "CHICKWORK_QUEUE",
        )?;
        let nowhere = as_user("guest:guest", "nowhere", Declare::Active)?;
        is_wrong(&examine(&nowhere).await, "does not exist", "add_vhost")?;
        is_wrong(
            &examine(&chick(Declare::Active)?).await,
            "may not use the virtual host",
            "set_permissions",
        )?;

        let all = format!("^{}\\.", stage.namespace());
        let may = |configure: &str, write: &str, read: &str| {
            control(&["set_permissions", "chick", configure, write, read])
        };
        may("^$", &all, &all)?;
        let findings = examine(&chick(Declare::Passive)?).await;
        ensure!(worst(&findings) == Some(Grade::Good), "{findings:?}");
        is_wrong(
            &examine(&chick(Declare::Active)?).await,
            "may not configure",
            "CHICKWORK_DECLARE=passive",
        )?;
        may(&all, "^$", &all)?;
        is_wrong(
            &examine(&chick(Declare::Active)?).await,
            "may not write",
            "set_permissions",
        )?;
        may(&all, &all, "^$")?;
        is_wrong(
            &examine(&chick(Declare::Active)?).await,
            "may not read",
            "set_permissions",
        )?;
        // Who creates nothing, and only puts events in, needs no more than to write.
        may("^$", &all, "^$")?;
        let passive = chick(Declare::Passive)?;
        let findings = chickwork_queue::examine(&passive, Needs::Writing).await;
        ensure!(worst(&findings) == Some(Grade::Good), "{findings:?}");
        is_wrong(&examine(&passive).await, "may not read", "set_permissions")?;
        may(&all, &all, &all)?;
        let findings = examine(&chick(Declare::Active)?).await;
        ensure!(worst(&findings) == Some(Grade::Good), "{findings:?}");

        control(&["set_vm_memory_high_watermark", "absolute", "1MB"])?;
        seen_wrong(
            &chick(Declare::Active)?,
            "takes no messages",
            "rabbitmqctl status",
        )
        .await
    })
}

/// Waits until this is found to be wrong: what has just been set is not in force at once.
async fn seen_wrong(settings: &Settings, says: &str, cure: &str) -> anyhow::Result<()> {
    until(Duration::from_secs(60), says, async || {
        let wrong = is_wrong(&examine(settings).await, says, cure);
        Ok(wrong
            .inspect_err(|error| log::info!("not yet: {error}"))
            .ok())
    })
    .await
}

#[test]
fn a_queue_that_has_lost_its_leader_is_named_with_the_cure() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let quorum = AMQPValue::LongString("quorum".into());
        let limit = AMQPValue::LongLongInt(1_000_000_000);
        a_foreign_queue(
            &stage,
            "dead",
            &[("x-queue-type", quorum), ("x-delivery-limit", limit)],
        )
        .await?;
        // A node that is killed right after a queue was declared lists it, and knows nothing of it. When
        // it starts again it makes the queue anew, as it does here, and nobody leads it.
        let forget = format!(
            "{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{}.dead\">>)), \
             {{Name, _}} = Member = amqqueue:get_pid(Queue), \
             ok = ra:force_delete_server(quorum_queues, Member), ok = ra_leaderboard:clear(Name), \
             {{[_], []}} = rabbit_quorum_queue:recover(<<\"/\">>, [Queue]).",
            stage.namespace()
        );
        tokio::task::block_in_place(|| stage.node()?.control(&["eval", &forget]))?;
        stage.queue().await?;
        let findings = examine(&stage.settings()?).await;
        is_wrong(&findings, "may have no leader", "quorum_status")?;
        let wrong = findings
            .iter()
            .filter(|finding| finding.grade == Grade::Wrong);
        ensure!(wrong.count() == 1, "the others are well: {findings:#?}");
        Ok(())
    })
}
