//! Reading events and what became of them: which ones, in which order, where each stands, and the whole
//! story of one.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::dead::Verdict;
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::events::{Choice, Listed, Reach, Sought, Standing, Story, Whom};
use chickwork_queue::job::{Attempt, Cause, Settled, Settlement, Step, Work};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Claim, Declare, Location, Queue, Settings};
use chickwork_tests::stage::{
    SOON, Stage, an_event, dead_letters, next, outcome, put_back, retry, soon, take, until, within,
};
use jiff::{SignedDuration, Timestamp};

const ONE: u16 = 1;
/// Longer than what is written beside the main way takes.
const WRITTEN: Duration = Duration::from_secs(10);

/// A handle as a command has it that only looks.
async fn looking(stage: &Stage) -> anyhow::Result<Queue> {
    let settings = Settings {
        declare: Declare::Nothing,
        ..stage.settings()?
    };
    Ok(Queue::open_existing(settings).await?)
}

async fn list(queue: &Queue, choice: Choice, limit: Option<u64>) -> anyhow::Result<Vec<Listed>> {
    let reading = async {
        let mut events = queue.events(choice, limit);
        let mut listed = Vec::new();
        while let Some(event) = events.next().await? {
            listed.push(event);
        }
        anyhow::Ok(listed)
    };
    soon("the events are listed", reading).await?
}

fn ids(listed: &[Listed]) -> Vec<EventId> {
    listed.iter().map(|listed| listed.event.id).collect()
}

async fn stories(queue: &Queue, whom: &Whom) -> anyhow::Result<Vec<Story>> {
    let stories = soon("the stories are told", queue.stories(whom, Reach::Ended)).await??;
    let whole = soon("all is read", queue.stories(whom, Reach::End)).await??;
    ensure!(whole.iter().all(|story| story.read_until.is_none()));
    let told = |stories: &[Story]| {
        let told = stories.iter().map(|story| story.outcomes.clone());
        told.collect::<Vec<_>>()
    };
    ensure!(told(&stories) == told(&whole), "{stories:?}, {whole:?}");
    Ok(stories)
}

async fn story(queue: &Queue, id: EventId) -> anyhow::Result<Story> {
    let mut stories = stories(queue, &Whom::Event(id)).await?;
    ensure!(stories.len() == 1, "{stories:?}");
    stories.pop().context("there is one")
}

/// The story as it is looked at, and all of it.
async fn short_and_whole(queue: &Queue, id: EventId) -> anyhow::Result<(Story, Story)> {
    let whom = Whom::Event(id);
    let short = soon("it is told", queue.stories(&whom, Reach::Ended)).await??;
    let whole = soon("all is told", queue.stories(&whom, Reach::End)).await??;
    let only = |mut stories: Vec<Story>| stories.pop().context("there is one");
    Ok((only(short)?, only(whole)?))
}

/// A file has an index, and so is read to the end in any case.
fn is_file(stage: &Stage) -> anyhow::Result<bool> {
    Ok(matches!(stage.settings()?.location, Location::Sqlite(_)))
}

/// The id of a message that seems to have been sent so long ago.
fn sent(ago: SignedDuration) -> anyhow::Result<MessageId> {
    let at = (Timestamp::now() - ago).as_millisecond();
    let millis = u64::try_from(at - MessageId::SEEMS_TO_BEGIN)?;
    Ok(MessageId::new((millis << 22 | 5).to_string())?)
}

/// What the outcomes of a story are called, in their order.
fn told(story: &Story) -> Vec<&'static str> {
    let told = story.outcomes.iter().map(|outcome| outcome.what.name());
    // How it was received is best effort, and may come late.
    told.filter(|name| *name != "received").collect()
}

/// An event that was received so long ago, by its own word and its id's.
fn received(number: u32, ago: SignedDuration) -> anyhow::Result<Event> {
    let at = Timestamp::from_millisecond((Timestamp::now() - ago).as_millisecond())?;
    let time = uuid::Timestamp::from_unix(
        uuid::NoContext,
        at.as_second().unsigned_abs(),
        at.subsec_nanosecond().unsigned_abs(),
    );
    Ok(Event {
        id: EventId(uuid::Uuid::new_v7(time)),
        received_at: at,
        ..an_event(number)
    })
}

/// Stores an event that is not answered.
async fn archive(queue: &Queue, event: &Event) -> anyhow::Result<()> {
    queue.publisher().archive(event, "own").await?;
    Ok(())
}

/// Ends a claim, with what is said of it.
async fn end(claim: Claim, settlement: Settlement, whats: Vec<What>) -> anyhow::Result<()> {
    let id = match &claim.job().work {
        Work::Ask(event) => event.id,
        Work::Post(reply) => reply.id,
    };
    let outcomes = whats.into_iter().map(|what| outcome(id, what)).collect();
    Ok(claim
        .settle(Settled {
            settlement,
            outcomes,
        })
        .await?)
}

fn reason(text: &str) -> String {
    text.to_owned()
}

fn posted(reply: &str) -> anyhow::Result<What> {
    Ok(What::Posted {
        reply_message_id: Some(MessageId::new(reply)?),
        found: false,
    })
}

fn ignored() -> What {
    What::Ignored {
        reason: reason("flood"),
    }
}

fn dead() -> What {
    What::Dead {
        step: Step::Ask,
        cause: Cause::Refused,
        error: reason("no"),
        status: None,
    }
}

fn bury() -> Settlement {
    Settlement::Bury {
        cause: Cause::Refused,
        error: reason("no"),
    }
}

fn later(hours: u64) -> (Settlement, What) {
    let hour = Duration::from_secs(3600 * hours);
    let what = What::Later {
        step: Step::Ask,
        reason: reason("not now"),
        until: Timestamp::now() + hour,
    };
    (Settlement::Later(hour, Attempt::NotCounted), what)
}

pub(crate) async fn events_are_listed_newest_first_and_no_more_than_asked_for(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    ensure!(list(&looking, Choice::default(), None).await?.is_empty());
    let mut expected = Vec::new();
    for number in 0..40 {
        let ago = SignedDuration::from_secs(400 - i64::from(number));
        let event = received(number, ago)?;
        archive(&queue, &event).await?;
        expected.push(event);
    }
    expected.reverse();
    let listed = list(&looking, Choice::default(), None).await?;
    let events: Vec<_> = listed.iter().map(|listed| listed.event.clone()).collect();
    ensure!(events == expected, "{events:?}");
    let three = list(&looking, Choice::default(), Some(3)).await?;
    ensure!(ids(&three) == ids(&listed)[..3], "{three:?}");
    ensure!(list(&looking, Choice::default(), Some(0)).await?.is_empty());

    // What has a limit stops looking, and whoever waits is told how far it has got.
    let mut events = looking.events(Choice::default(), None);
    let looked_through = events.looked_through();
    ensure!(looked_through.so_far() == 0);
    while events.next().await?.is_some() {}
    ensure!(looked_through.so_far() == 40, "{looked_through:?}");
    Ok(())
}

pub(crate) async fn events_are_chosen_by_each_thing_that_is_known_of_them(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let of = |number: u32, minutes: i64| received(number, SignedDuration::from_mins(minutes));
    let said = |event: Event, author: u64, text: &str| {
        let body = String::from_utf8_lossy(&event.body).into_owned();
        let body = body
            .replace(
                "\"from_account_id\":1,",
                &format!("\"from_account_id\":{author},"),
            )
            .replace("chào", text);
        Event {
            body: Bytes::from(body),
            ..event
        }
    };
    let plain = of(1, 50)?;
    let elsewhere = Event {
        room_id: Some(RoomId(77)),
        ..of(2, 40)?
    };
    let others = Event {
        bot: BotName::new("other")?,
        ..of(3, 30)?
    };
    let no_event = Event {
        event_type: Event::OTHER,
        room_id: None,
        message_id: None,
        body: Bytes::from_static(b"{\"wheel\":\"barrow\xff\""),
        ..of(4, 20)?
    };
    let spoken = said(of(5, 10)?, 99, "XIN Chào ĐẠI ca");
    let all = [&spoken, &no_event, &others, &elsewhere, &plain];
    for event in all.iter().rev() {
        archive(&queue, event).await?;
    }
    let minutes = |minutes: i64| Some(Timestamp::now() - SignedDuration::from_mins(minutes));
    let text = |text: &str| Some(Sought::new(text));
    let none = Choice::default;
    let table: Vec<(Choice, Vec<&Event>)> = vec![
        (none(), all.to_vec()),
        (
            Choice {
                since: minutes(35),
                ..none()
            },
            all[..3].to_vec(),
        ),
        (
            Choice {
                until: minutes(35),
                ..none()
            },
            all[3..].to_vec(),
        ),
        (
            Choice {
                since: minutes(45),
                until: minutes(15),
                ..none()
            },
            all[1..4].to_vec(),
        ),
        (
            Choice {
                since: Some(plain.received_at),
                until: Some(plain.received_at),
                ..none()
            },
            vec![&plain],
        ),
        (
            Choice {
                room: Some(RoomId(77)),
                ..none()
            },
            vec![&elsewhere],
        ),
        (
            Choice {
                message: others.message_id.clone(),
                ..none()
            },
            vec![&others],
        ),
        (
            Choice {
                event_type: Some("other".to_owned()),
                ..none()
            },
            vec![&no_event],
        ),
        (
            Choice {
                bot: Some(others.bot.clone()),
                ..none()
            },
            vec![&others],
        ),
        (
            Choice {
                sender: Some(AccountId(99)),
                ..none()
            },
            vec![&spoken],
        ),
        (
            Choice {
                text: text("xin chào đại"),
                ..none()
            },
            vec![&spoken],
        ),
        (
            Choice {
                text: text("barrow"),
                ..none()
            },
            vec![&no_event],
        ),
        // The message is searched, and not what it is wrapped in.
        (
            Choice {
                text: text("mention_to_me"),
                ..none()
            },
            vec![],
        ),
        (
            Choice {
                ids: vec![plain.id, others.id],
                ..none()
            },
            vec![&others, &plain],
        ),
        (
            Choice {
                ids: vec![plain.id, EventId::fresh()],
                ..none()
            },
            vec![&plain],
        ),
        (
            Choice {
                room: Some(RoomId(77)),
                bot: Some(others.bot.clone()),
                ..none()
            },
            vec![],
        ),
    ];
    for (choice, expected) in table {
        let listed = list(&looking, choice.clone(), None).await?;
        let expected: Vec<_> = expected.iter().map(|event| event.id).collect();
        ensure!(ids(&listed) == expected, "{choice:?}: {listed:?}");
    }
    // More ids than are looked for one by one.
    let mut many: Vec<_> = (0..60).map(|_| EventId::fresh()).collect();
    many.extend([plain.id, spoken.id]);
    let listed = list(
        &looking,
        Choice {
            ids: many,
            ..none()
        },
        None,
    )
    .await?;
    ensure!(ids(&listed) == [spoken.id, plain.id], "{listed:?}");
    Ok(())
}

pub(crate) async fn where_an_event_stands_is_told(stage: Stage) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let (put_off, is_put_off) = later(1);
    let settlements = [
        (
            Settlement::Done,
            vec![posted("900")?],
            Standing::Answered,
            None,
        ),
        (
            Settlement::Done,
            vec![ignored()],
            Standing::Ignored,
            Some("flood"),
        ),
        (bury(), vec![dead()], Standing::Dead, Some("refused")),
        (
            bury(),
            vec![dead()],
            Standing::Dropped,
            Some("a test said so"),
        ),
        (
            put_off,
            vec![is_put_off],
            Standing::Waiting,
            Some("not now"),
        ),
        // Nobody has said what became of it.
        (Settlement::Done, vec![], Standing::Unexplained, None),
    ];
    let mut asks = queue.claim_asks(ONE);
    let mut expected = Vec::new();
    for (number, (settlement, whats, standing, why)) in (0..).zip(settlements) {
        let event = received(number, SignedDuration::from_secs(600 - i64::from(number)))?;
        queue.publisher().publish(&event).await?;
        end(next(&mut asks).await?, settlement, whats).await?;
        expected.push((event.id, standing, why.map(str::to_owned)));
    }
    let letters = dead_letters(&queue).await?;
    let dropped = letters
        .into_iter()
        .filter(|letter| letter.id == expected[3].0);
    let verdict = Verdict::Drop {
        reason: reason("a test said so"),
    };
    ensure!(take(&queue, dropped.collect(), verdict).await?.len() == 1);
    asks.stop().await;
    let waiting = received(20, SignedDuration::from_secs(60))?;
    let before_it = waiting.received_at - SignedDuration::from_secs(1);
    queue.publisher().publish(&waiting).await?;
    expected.push((waiting.id, Standing::Waiting, None));
    expected.reverse();
    queue.close(WRITTEN).await;

    let stands = |listed: &[Listed]| -> Vec<_> {
        let stands = listed.iter();
        stands
            .map(|listed| (listed.event.id, listed.standing, listed.why.clone()))
            .collect()
    };
    let listed = list(&looking, Choice::default(), None).await?;
    let is_broker = !stage.location().starts_with("sqlite:");
    for ((id, standing, why), listed) in expected.iter().zip(stands(&listed)) {
        // Two jobs wait, and three events have no end: a broker tells nobody which of them is lost.
        let standing = match standing {
            Standing::Waiting if why.is_some() => Standing::Waiting,
            Standing::Waiting | Standing::Unexplained if is_broker => Standing::Open,
            standing => *standing,
        };
        ensure!(
            listed == (*id, standing, why.clone()),
            "{listed:?} {standing:?} {why:?}"
        );
    }
    ensure!(listed.len() == expected.len());
    let answered = &listed[6];
    ensure!(
        answered.reply_message_id == Some(MessageId::new("900")?)
            && answered.last == Some("posted")
            && answered.last_at.is_some(),
        "{answered:?}"
    );
    let dead = &listed[4];
    let letter = dead.letter.as_ref().context("it has its letter")?;
    ensure!(letter.id == dead.event.id && listed[3].letter.is_none());

    // Chosen by where they stand, whatever else is younger.
    let chosen = async |standings: &[Standing]| {
        let choice = Choice {
            standings: standings.to_vec(),
            ..Choice::default()
        };
        anyhow::Ok(ids(&list(&looking, choice, None).await?))
    };
    let id = |place: usize| expected[place].0;
    ensure!(chosen(&[Standing::Answered]).await? == [id(6)]);
    ensure!(chosen(&[Standing::Ignored, Standing::Answered]).await? == [id(5), id(6)]);
    // What was dropped was dead.
    ensure!(chosen(&[Standing::Dead]).await? == [id(3), id(4)]);
    ensure!(chosen(&[Standing::Dropped]).await? == [id(3)]);
    let (waiting, unexplained) = if is_broker {
        // Open ones may be either.
        (vec![id(0), id(1), id(2)], vec![id(0), id(1)])
    } else {
        (vec![id(0), id(2)], vec![id(1)])
    };
    ensure!(chosen(&[Standing::Waiting]).await? == waiting);
    ensure!(chosen(&[Standing::Unexplained]).await? == unexplained);

    // Once nothing waits any more it is known of either kind of queue which event is lost.
    let queue = stage.queue().await?;
    let mut asks = queue.claim_asks(ONE);
    end(next(&mut asks).await?, Settlement::Done, vec![ignored()]).await?;
    asks.stop().await;
    queue.close(WRITTEN).await;
    let choice = Choice {
        until: Some(before_it),
        ..Choice::default()
    };
    let listed = list(&looking, choice, Some(2)).await?;
    let one_job = [(id(1), Standing::Open), (id(2), Standing::Waiting)];
    let by_id = [(id(1), Standing::Unexplained), (id(2), Standing::Waiting)];
    let stands: Vec<_> = listed
        .iter()
        .map(|listed| (listed.event.id, listed.standing))
        .collect();
    ensure!(
        stands == if is_broker { one_job } else { by_id },
        "{stands:?}"
    );
    Ok(())
}

pub(crate) async fn what_waits_nowhere_is_unexplained(stage: Stage) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let lost = received(1, SignedDuration::from_secs(120))?;
    queue.publisher().publish(&lost).await?;
    let mut asks = queue.claim_asks(ONE);
    end(next(&mut asks).await?, Settlement::Done, vec![]).await?;
    asks.stop().await;
    queue.close(WRITTEN).await;
    let listed = list(&looking, Choice::default(), None).await?;
    ensure!(
        listed.len() == 1 && listed[0].standing == Standing::Unexplained,
        "{listed:?}"
    );
    ensure!(story(&looking, lost.id).await?.standing == Standing::Unexplained);
    Ok(())
}

pub(crate) async fn an_event_that_was_archived_twice_is_listed_once(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let event = received(1, SignedDuration::from_secs(60))?;
    let other = received(2, SignedDuration::from_secs(30))?;
    for event in [&event, &event, &other, &event] {
        archive(&queue, event).await?;
    }
    let listed = list(&looking, Choice::default(), None).await?;
    ensure!(ids(&listed) == [other.id, event.id], "{listed:?}");
    let story = story(&looking, event.id).await?;
    ensure!(story.event == Some(event) && story.standing == Standing::Ignored);
    Ok(())
}

pub(crate) async fn a_story_is_told_from_the_first_line_to_the_last(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let mut asks = queue.claim_asks(ONE);
    let event = received(1, SignedDuration::from_hours(30))?;
    queue.publisher().publish(&event).await?;
    end(next(&mut asks).await?, bury(), vec![dead()]).await?;
    // Others have a story, too.
    for number in 2..12 {
        let other = received(number, SignedDuration::from_hours(1))?;
        queue.publisher().publish(&other).await?;
        end(next(&mut asks).await?, Settlement::Done, vec![ignored()]).await?;
    }
    let letters = dead_letters(&queue).await?;
    ensure!(story(&looking, event.id).await?.letter == letters.first().cloned());
    ensure!(retry(&queue, letters).await?.len() == 1);
    let claim = next(&mut asks).await?;
    let asked = What::Asked {
        millis: 7,
        result: reason("answered"),
        sender: AccountId(1),
        question: None,
        answer: None,
    };
    // One that is best effort may be stored behind what came of it, and be dated before.
    let mut late = outcome(event.id, asked);
    late.at = Timestamp::now();
    let mut last = outcome(event.id, posted("901")?);
    last.at = late.at + Duration::from_millis(5);
    claim
        .settle(Settled {
            settlement: Settlement::Done,
            outcomes: vec![last],
        })
        .await?;
    queue.outcomes().record(late.clone());
    // A window that was not confirmed in time is written again.
    queue.outcomes().record(late);
    asks.stop().await;
    queue.close(WRITTEN).await;

    let found = story(&looking, event.id).await?;
    ensure!(
        told(&found) == ["dead", "replayed", "asked", "posted"],
        "{found:?}"
    );
    ensure!(found.standing == Standing::Answered && found.replay == 1 && found.letter.is_none());
    ensure!(found.reply_message_id == Some(MessageId::new("901")?));
    ensure!(found.event == Some(event.clone()));
    let listed = list(&looking, Choice::default(), None).await?;
    let listed = listed.iter().find(|listed| listed.event.id == event.id);
    let listed = listed.context("it is listed, too")?;
    ensure!(
        listed.standing == Standing::Answered && listed.replay == 1,
        "{listed:?}"
    );
    ensure!(
        stories(&looking, &Whom::Event(EventId::fresh()))
            .await?
            .is_empty()
    );
    Ok(())
}

/// When what follows would be much later, and very much was written in between.
async fn an_age_later(queue: &Queue) -> anyhow::Result<()> {
    /// More than is read without a look at the time.
    const LINES: u32 = 3_000;
    let other = EventId::fresh();
    let mut line = outcome(other, ignored());
    line.at = Timestamp::now() + Duration::from_secs(3600);
    for _ in 0..LINES {
        queue.outcomes().record(line.clone());
    }
    // What is written beside the main way is, in its order, behind them.
    queue.outcomes().mark().await?;
    let all = async {
        loop {
            let mut read = queue.outcomes().read(Timestamp::now());
            let mut lines = 0;
            while let Some(outcome) = read.next().await? {
                lines += u32::from(outcome.id == other);
            }
            if lines >= LINES {
                return anyhow::Ok(());
            }
        }
    };
    soon("they are written", all).await?
}

pub(crate) async fn an_event_of_an_ingress_whose_clock_is_wrong_has_its_story(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let mut asks = queue.claim_asks(ONE);
    for hours in [-1, 0, 30] {
        // Whoever wrote has another clock.
        let event = Event {
            message_id: Some(sent(SignedDuration::from_secs(2))?),
            ..received(1, SignedDuration::from_hours(hours))?
        };
        queue.publisher().publish(&event).await?;
        let told_of_it = Outcome {
            room_id: event.room_id,
            message_id: event.message_id.clone(),
            ..outcome(event.id, ignored())
        };
        let settled = Settled {
            settlement: Settlement::Done,
            outcomes: vec![told_of_it],
        };
        next(&mut asks).await?.settle(settled).await?;
        let found = until(SOON, "its story is there", async || {
            let found = story(&looking, event.id).await?;
            if found.event.is_some() && told(&found) == ["ignored"] {
                return Ok(Some(found));
            }
            Ok(None)
        })
        .await?;
        ensure!(found.standing == Standing::Ignored, "{found:?}");
        let by_message = Whom::Message {
            room: event.room_id,
            message: event.message_id.clone().context("it has one")?,
            bot: None,
        };
        let found = stories(&looking, &by_message).await?;
        ensure!(
            found.len() == 1 && told(&found[0]) == ["ignored"],
            "{found:?}"
        );
        let only = Choice {
            ids: vec![event.id],
            ..Choice::default()
        };
        let listed = list(&looking, only, None).await?;
        ensure!(ids(&listed) == [event.id] && listed[0].standing == Standing::Ignored);
    }
    Ok(())
}

pub(crate) async fn what_a_person_did_about_an_event_much_later_is_told(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let mut asks = queue.claim_asks(ONE);
    let mut events = Vec::new();
    for (number, (settlement, what)) in (1..).zip([
        (bury(), dead()),
        (bury(), dead()),
        (Settlement::Done, ignored()),
    ]) {
        let event = received(number, SignedDuration::from_secs(90))?;
        queue.publisher().publish(&event).await?;
        end(next(&mut asks).await?, settlement, vec![what]).await?;
        events.push(event);
    }
    let [retried, dropped, ignored] = &events[..] else {
        bail!("there are three");
    };
    an_age_later(&queue).await?;
    let letters = dead_letters(&queue).await?;
    let (retry_it, drop_it) = letters
        .into_iter()
        .partition(|letter| letter.id == retried.id);
    ensure!(retry(&queue, retry_it).await?.len() == 1);
    let verdict = Verdict::Drop {
        reason: reason("a test said so"),
    };
    ensure!(take(&queue, drop_it, verdict).await?.len() == 1);
    queue
        .put_back(ignored.clone(), put_back(0, "a test said so"))
        .await?;
    for _ in 0..2 {
        let claim = next(&mut asks).await?;
        end(claim, Settlement::Done, vec![posted("902")?]).await?;
    }
    an_age_later(&queue).await?;
    asks.stop().await;
    queue.close(WRITTEN).await;
    for (event, expected) in [
        (retried, ["dead", "replayed", "posted"].as_slice()),
        (dropped, &["dead", "dropped"]),
        (ignored, &["ignored", "replayed", "posted"]),
    ] {
        let found = story(&looking, event.id).await?;
        ensure!(told(&found) == expected, "{found:?}");
        let (short, _) = short_and_whole(&looking, event.id).await?;
        ensure!(short.read_until.is_some() != is_file(&stage)?, "{short:?}");
    }
    Ok(())
}

pub(crate) async fn a_story_is_read_to_its_end_and_little_further(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let mut asks = queue.claim_asks(ONE);
    let mut events = Vec::new();
    for (number, (settlement, whats)) in (1..).zip([
        (Settlement::Done, vec![]),
        (Settlement::Done, vec![dead()]),
        (bury(), vec![dead()]),
        (Settlement::Done, vec![ignored()]),
        (Settlement::Done, vec![posted("900")?]),
    ]) {
        let event = received(number, SignedDuration::from_secs(90))?;
        queue.publisher().publish(&event).await?;
        end(next(&mut asks).await?, settlement, whats).await?;
        events.push(event);
    }
    asks.stop().await;
    an_age_later(&queue).await?;
    // Of one nothing was heard, and nobody knows where the letter of the other is: more may have happened
    // to them than the log of dead letters has.
    let (unsure, ended) = events.split_at(2);
    let replayed = What::Replayed {
        replay: 1,
        reason: reason("a test said so"),
        by: None,
    };
    for event in &events {
        for what in [replayed.clone(), posted("901")?] {
            queue.outcomes().record(outcome(event.id, what));
        }
    }
    queue.close(WRITTEN).await;
    for event in unsure {
        let found = story(&looking, event.id).await?;
        ensure!(
            told(&found).ends_with(&["replayed", "posted"]) && found.standing == Standing::Answered,
            "{found:?}"
        );
    }
    for event in ended {
        let (short, whole) = short_and_whole(&looking, event.id).await?;
        ensure!(told(&whole).ends_with(&["replayed", "posted"]), "{whole:?}");
        if is_file(&stage)? {
            ensure!(short.outcomes == whole.outcomes && short.read_until.is_none());
        } else {
            ensure!(
                told(&short).len() == 1 && short.read_until.is_some(),
                "{short:?}"
            );
        }
    }
    // Whoever acts by it reads all.
    let choice = Choice {
        ids: events.iter().map(|event| event.id).collect(),
        ..Choice::default()
    };
    let listed = list(&looking, choice, None).await?;
    let are_answered = |listed: &Listed| listed.replay == 1 && listed.last == Some("posted");
    ensure!(
        listed.len() == events.len() && listed.iter().all(are_answered),
        "{listed:?}"
    );
    Ok(())
}

pub(crate) async fn the_stories_of_a_message_are_those_of_every_event_about_it(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let about = |room: u64, bot: &str, message: &str, number: u32| {
        anyhow::Ok(Event {
            room_id: Some(RoomId(room)),
            message_id: Some(MessageId::new(message)?),
            bot: BotName::new(bot)?,
            // Some minutes after each other: a message may be edited, or a webhook wait in a spool.
            ..received(
                number,
                SignedDuration::from_mins(20 - 4 * i64::from(number)),
            )?
        })
    };
    // An id that tells the time at which it was sent, and one that tells nothing.
    let timed = sent(SignedDuration::from_secs(16 * 60 + 2))?;
    for message in [timed.as_str(), "77", "abc"] {
        let events = [
            about(3, "bot", message, 1)?,
            about(3, "bot", message, 2)?,
            about(4, "bot", message, 3)?,
            about(3, "other", message, 4)?,
            about(3, "bot", "78", 5)?,
        ];
        for event in &events {
            archive(&queue, event).await?;
        }
        let told = async |room: Option<u64>, bot: Option<&str>| {
            let whom = Whom::Message {
                room: room.map(RoomId),
                message: MessageId::new(message)?,
                bot: bot.map(BotName::new).transpose()?,
            };
            let stories = stories(&looking, &whom).await?;
            ensure!(
                stories.iter().all(|story| told(story) == ["ignored"]),
                "{stories:?}"
            );
            Ok(stories.iter().map(|story| story.id).collect::<Vec<_>>())
        };
        let id = |place: usize| events[place].id;
        ensure!(told(None, None).await? == [id(0), id(1), id(2), id(3)]);
        ensure!(told(Some(3), None).await? == [id(0), id(1), id(3)]);
        ensure!(told(Some(3), Some("bot")).await? == [id(0), id(1)]);
        ensure!(told(Some(5), None).await?.is_empty());
    }
    Ok(())
}

pub(crate) async fn the_stories_of_a_message_begin_with_its_first_event_whatever_the_clocks_say(
    stage: Stage,
) -> anyhow::Result<()> {
    /// Whoever sends is ahead of whoever stores, by so much.
    const AHEAD: Duration = Duration::from_secs(3);
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let message = sent(-SignedDuration::try_from(AHEAD)?)?;
    let about = |number: u32, late: SignedDuration| {
        anyhow::Ok(Event {
            message_id: Some(message.clone()),
            ..received(number, -late)?
        })
    };
    let first = about(1, SignedDuration::ZERO)?;
    archive(&queue, &first).await?;
    // The time at which it was sent has to come, by the clock of whoever stores.
    tokio::time::sleep(AHEAD + Duration::from_secs(1)).await;
    let second = about(2, SignedDuration::from_secs(60))?;
    archive(&queue, &second).await?;
    let whom = Whom::Message {
        room: first.room_id,
        message: message.clone(),
        bot: None,
    };
    let found = stories(&looking, &whom).await?;
    let found: Vec<_> = found.iter().map(|story| story.id).collect();
    ensure!(found == [first.id, second.id], "{found:?}");
    Ok(())
}

pub(crate) async fn a_story_is_told_of_what_is_not_in_the_archive(
    stage: Stage,
) -> anyhow::Result<()> {
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let event = received(1, SignedDuration::from_secs(60))?;
    let message = event.message_id.clone().context("it has one")?;
    let mut line = outcome(event.id, ignored());
    line.message_id = Some(message.clone());
    queue.outcomes().record(line);
    queue.close(WRITTEN).await;
    let found = story(&looking, event.id).await?;
    ensure!(
        found.event.is_none() && found.standing == Standing::Ignored,
        "{found:?}"
    );
    let whom = Whom::Message {
        room: Some(RoomId(3)),
        message,
        bot: None,
    };
    let found = stories(&looking, &whom).await?;
    ensure!(found.len() == 1 && found[0].id == event.id, "{found:?}");
    ensure!(list(&looking, Choice::default(), None).await?.is_empty());
    Ok(())
}

pub(crate) async fn events_are_listed_to_an_end_while_others_write(
    stage: Stage,
) -> anyhow::Result<()> {
    /// Shorter than any pause that could be taken for the end.
    const BETWEEN: Duration = Duration::from_millis(20);
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let first = an_event(1);
    archive(&queue, &first).await?;
    let writing = tokio::spawn(async move {
        for number in 2.. {
            if archive(&queue, &an_event(number)).await.is_err() {
                break;
            }
            // Not a wait: so often do the others write.
            tokio::time::sleep(BETWEEN).await;
        }
    });
    for _ in 0..5 {
        let listed = list(&looking, Choice::default(), None).await?;
        ensure!(ids(&listed).last() == Some(&first.id), "{}", listed.len());
        // Each of them with its reason, which was stored before it.
        let all_known = listed
            .iter()
            .all(|listed| listed.standing == Standing::Ignored);
        ensure!(all_known, "{listed:?}");
        ensure!(story(&looking, first.id).await?.standing == Standing::Ignored);
    }
    ensure!(!writing.is_finished(), "and it was written all the time");
    writing.abort();
    Ok(())
}

pub(crate) async fn more_events_than_are_held_at_once_are_listed_in_order(
    stage: Stage,
) -> anyhow::Result<()> {
    /// More than any page, and than a broker's reader is sent at a time.
    const MANY: u32 = 12_000;
    const LIMIT: Duration = Duration::from_secs(120);
    let (queue, looking) = (stage.queue().await?, looking(&stage).await?);
    let mut numbers = 0..MANY;
    loop {
        let some: Vec<_> = numbers.by_ref().take(64).collect();
        if some.is_empty() {
            break;
        }
        let stored = some.into_iter().map(|number| {
            let (queue, event) = (&queue, an_event(number));
            async move {
                until(SOON, "it is archived", async || {
                    // One that took too long may be archived all the same, and is listed once.
                    let archived = archive(queue, &event).await;
                    Ok(archived
                        .inspect_err(|error| log::info!("not yet: {error}"))
                        .ok())
                })
                .await
            }
        });
        futures_util::future::try_join_all(stored).await?;
    }
    queue.close(WRITTEN).await;
    let mut events = looking.events(Choice::default(), None);
    let (mut count, mut last) = (0, None::<Listed>);
    let reading = async {
        while let Some(listed) = events.next().await? {
            if let Some(last) = &last
                && last.event.received_at < listed.event.received_at
                && last
                    .event
                    .received_at
                    .duration_until(listed.event.received_at)
                    > SignedDuration::from_secs(5)
            {
                bail!("{listed:?} came behind {last:?}");
            }
            ensure!(listed.standing == Standing::Ignored, "{listed:?}");
            count += 1;
            last = Some(listed);
        }
        anyhow::Ok(())
    };
    within(LIMIT, "all are listed", reading).await??;
    ensure!(count == MANY, "{count}");
    Ok(())
}

pub(crate) async fn events_and_stories_are_read_after_a_crash_of_the_store(
    stage: Stage,
) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    let event = received(1, SignedDuration::from_secs(60))?;
    archive(&queue, &event).await?;
    let looked = looking(&stage).await?;
    ensure!(list(&looked, Choice::default(), None).await?.len() == 1);
    queue.close(WRITTEN).await;
    drop(queue);
    stage.crash_store().await?;
    let again = stage.queue().await?;
    archive(&again, &received(2, SignedDuration::from_secs(30))?).await?;
    // With the handle from before it, too.
    for looking in [looked, looking(&stage).await?] {
        let listed = list(&looking, Choice::default(), None).await?;
        ensure!(
            listed.len() == 2 && listed[1].event.id == event.id,
            "{listed:?}"
        );
        ensure!(story(&looking, event.id).await?.standing == Standing::Ignored);
    }
    Ok(())
}
