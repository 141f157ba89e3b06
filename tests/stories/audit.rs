//! `chickwork audit`, as an operator uses it: what was received is held against what became of it, and
//! against what the outside world saw.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chickwork_chatwork::id::MessageId;
use chickwork_chatwork::signature::Token;
use chickwork_queue::Queue;
use chickwork_queue::event::Event;
use chickwork_queue::job::Cause;
use chickwork_queue::outcome::What;
use chickwork_queue::spool::{Spool, SpoolSettings};
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, Say, town, webhook};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, a_hook};
use chickwork_tests::process::{chickwork, free_port};
use chickwork_tests::said::{Said, begin, run, stop, typed};
use chickwork_tests::stage::{self, Kind, SOON, Stage, an_event, outcome, put_back, settings};
use jiff::{SignedDuration, Timestamp};
use lapin::options::{QueueDeleteOptions, QueuePurgeOptions};
use serde_json::{Value, json};

/// How long it may take until an audit is as expected.
const LOOK: Duration = Duration::from_secs(60);

/// `chickwork audit …` on this stage.
async fn say(stage: &Stage, words: &[&str]) -> anyhow::Result<Said> {
    run(typed(stage, "audit", words)?).await
}

/// What an audit in JSON has said.
#[derive(Debug)]
struct Audited {
    code: Option<i32>,
    sums: Value,
    rest: Vec<Value>,
}

impl Audited {
    /// What nothing explains.
    fn unexplained(&self) -> Vec<&Value> {
        let is_it = |line: &&Value| line["unexplained"] == true;
        self.rest.iter().filter(is_it).collect()
    }
}

async fn audit(stage: &Stage, words: &[&str]) -> anyhow::Result<Audited> {
    let said = say(stage, &[&["--json"], words].concat()).await?;
    let mut lines = said.lines()?.into_iter();
    let sums = lines.next().with_context(|| format!("{said:?}"))?;
    let sum = ["answered", "ignored", "dead", "waiting", "unexplained"]
        .map(|part| sums[part].as_u64().unwrap_or(u64::MAX / 8));
    ensure!(sums["received"] == sum.iter().sum::<u64>(), "{sums}");
    Ok(Audited {
        code: said.code,
        sums,
        rest: lines.collect(),
    })
}

/// Waits until so much was received: copies for the archive are on their way for a moment.
async fn received(stage: &Stage, count: u64) -> anyhow::Result<()> {
    // To build the command, which its first use does, may take longer.
    chickwork("audit")?;
    stage::until(SOON, "it is received", async || {
        let audited = audit(stage, &["--wait", "0"]).await?;
        Ok((audited.sums["received"] == count).then_some(()))
    })
    .await
}

/// All ways of life there are, and what the outside world saw of them.
pub(super) async fn the_audit_adds_up_to_what_the_world_saw(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .workers(1)
        .with("CHICKWORK_SENDER_LIMIT", "2/10m")
        .start()
        .await?;
    // Two are answered, two are a flood, one is nobody's business.
    for number in 0..2 {
        let message = bot.mention(&format!("echo {number}")).await?;
        bot.answer(&message).await?;
    }
    for number in 2..4 {
        let message = bot.mention(&format!("echo {number}")).await?;
        assert_eq!(bot.ignored(&message).await?, "flood");
    }
    let aside = Say::new(ROOM, town::BEN, "nobody in particular");
    let message = bot.hear(aside).await?;
    assert_eq!(bot.ignored(&message).await?, "not_addressed");
    // One is refused, after which the room is closed.
    let refused = bot.mention_in(town::READONLY, SOMEBODY, "may I").await?;
    assert_eq!(bot.buried(SOON, &refused).await?.cause, Cause::Refused);
    let closed = bot.mention_in(town::READONLY, town::BEN, "and I").await?;
    assert_eq!(bot.ignored(&closed).await?, "room_closed");
    // Three come too late: one stays dead, one is dropped, one is retried and answered.
    let mut late = Vec::new();
    for (number, text) in ["stays", "is dropped", "echo is retried"]
        .iter()
        .enumerate()
    {
        let mut hook = a_hook(&format!("180000000000000070{number}"), text);
        hook.event_time -= 2 * 3600;
        ensure!(bot.deliver(&hook).await?.status == Some(200));
        late.push(bot.buried(SOON, &hook.message_id).await?);
    }
    for (deed, letter) in [("drop", &late[1]), ("retry", &late[2])] {
        let words = [deed, &letter.id.to_string(), "--yes"];
        let said = run(typed(bot.stage(), "dead", &words)?).await?;
        said.succeeded()?;
    }
    let retried = late[2].message_id.clone().context("it has a message")?;
    assert_eq!(bot.answer(&retried).await?, "is retried");
    // Two are none that anybody understands.
    let token = Token::parse(DEMO_WEBHOOK_TOKEN)?;
    for (body, became) in [("no JSON", "dead"), (UNKNOWN, "ignored")] {
        let sent = webhook::send(&bot.webhook_url(), &token, body.as_bytes().to_vec()).await?;
        ensure!(sent.status == Some(200), "{became}");
    }
    // Two wait for a worker.
    bot.posted(SOON, &retried).await?;
    bot.workers[0].kill().await?;
    for number in 0..2 {
        bot.mention_in(town::SECOND_GROUP, town::BEN, &format!("echo {number}"))
            .await?;
    }
    received(bot.stage(), 14).await?;

    let audited = audit(bot.stage(), &[]).await?;
    let posted = bot.sandbox.ledger().totals.posted;
    let expected = json!({
        "received": 14, "answered": 3, "ignored": 5, "dead": 4, "waiting": 2, "unexplained": 0, "twice": 0, "spooled": 0,
        "ignored_by": {"flood": 2, "not_addressed": 1, "room_closed": 1, "unknown_type": 1},
        "dead_by": {"dropped": 1, "expired": 1, "malformed": 1, "refused": 1},
    });
    assert_eq!(audited.sums, expected);
    assert_eq!(audited.sums["answered"], posted);
    assert_eq!((audited.code, audited.rest.len()), (Some(0), 0));
    let said = say(bot.stage(), &[]).await?;
    for words in [
        "14 received = 3 answered + 5 ignored + 4 dead + 2 waiting + 0 unexplained",
        "ignored: 2 flood, 1 ",
        "Everything is explained, and nothing was said twice.",
        "chickwork dead list",
    ] {
        assert!(said.out.contains(words), "{words} is not in {said:?}");
    }
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));

    // Nothing was received since a time to come, and what was since an hour ago is the same.
    let ahead = Timestamp::now() + SignedDuration::from_hours(1);
    let said = say(bot.stage(), &["--since", &ahead.to_string()]).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    let all = audit(bot.stage(), &["--since", "1h"]).await?;
    assert_eq!(all.sums, expected);

    // The worker comes back, and what waited is answered.
    bot.workers[0].start()?;
    let all_answered = |audited: &Audited| audited.sums["answered"] == 5;
    let audited = until(bot.stage(), all_answered).await?;
    assert_eq!(
        (audited.code, &audited.sums["waiting"]),
        (Some(0), &json!(0))
    );
    assert_eq!(bot.sandbox.ledger().totals.posted, 5);
    bot.end().await
}

/// Authentic, and of a type that nobody here knows.
const UNKNOWN: &str = r#"{"webhook_setting_id":"1","webhook_event_type":"room_renamed","webhook_event_time":1,"webhook_event":{}}"#;

/// Waits until an audit shows this.
async fn until(stage: &Stage, expected: impl Fn(&Audited) -> bool) -> anyhow::Result<Audited> {
    // To build the command, which its first use does, may take longer.
    chickwork("audit")?;
    let mut last = None;
    let looked = stage::until(LOOK, "the audit is as expected", async || {
        let audited = audit(stage, &["--wait", "5s"]).await?;
        if expected(&audited) {
            return Ok(Some(audited));
        }
        last = Some(audited);
        Ok(None)
    });
    looked.await.with_context(|| format!("{last:?}"))
}

/// Somebody empties the ask queue.
pub(super) async fn empty_ask_queue(stage: &Stage) -> anyhow::Result<()> {
    if let Some(path) = stage.location().strip_prefix("sqlite:") {
        let file = rusqlite::Connection::open(path)?;
        file.busy_timeout(SOON)?;
        let removed = file.execute("DELETE FROM jobs WHERE queue = 'ask'", [])?;
        ensure!(removed > 0, "nothing was there");
        return Ok(());
    }
    let operator = stage.operator().await?;
    let channel = operator.create_channel().await?;
    let queue = format!("{}.ask", stage.namespace());
    let removed = channel
        .queue_purge(queue.as_str().into(), QueuePurgeOptions::default())
        .await?;
    ensure!(removed > 0, "nothing was there");
    Ok(operator.close(200, "purged".into()).await?)
}

/// Somebody purges the queue of events while no worker runs: they are listed, put back, and answered
/// once, however often that is said.
pub(super) async fn what_was_taken_out_by_hand_is_listed_and_put_back(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.workers(1).prepare().await?;
    bot.front.start()?;
    bot.front.ready().await?;
    let mut messages = Vec::new();
    for text in ["echo one", "echo two"] {
        messages.push(bot.mention(text).await?);
    }
    received(bot.stage(), 2).await?;
    let waiting = audit(bot.stage(), &[]).await?;
    assert_eq!(
        (waiting.code, &waiting.sums["waiting"]),
        (Some(0), &json!(2))
    );
    empty_ask_queue(bot.stage()).await?;

    // It does not come to an end by waiting for it.
    let lost = audit(bot.stage(), &["--wait", "2s"]).await?;
    assert_eq!((lost.code, &lost.sums["unexplained"]), (Some(1), &json!(2)));
    let listed = lost.unexplained();
    ensure!(listed.len() == 2, "{lost:?}");
    for (event, message) in listed.into_iter().zip(&messages) {
        let id = event["id"].as_str().context("an id")?;
        let received_at: Timestamp = event["received_at"].as_str().context("a time")?.parse()?;
        let expected = json!({
            "unexplained": true, "id": id, "bot": "bot", "type": "mention_to_me", "room_id": ROOM,
            "message_id": message, "received_at": received_at, "last": "received",
        });
        assert_eq!(*event, expected, "oldest first");
    }
    let said = say(bot.stage(), &["--wait", "0"]).await?;
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("Nothing explains 2 events:"), "{said:?}");
    assert!(said.err.contains("chickwork audit --requeue"), "{said:?}");
    // Nobody agrees, so nothing happens.
    let said = say(bot.stage(), &["--wait", "0", "--requeue"]).await?;
    assert_eq!(said.code, Some(1));
    for words in ["no terminal to ask on", "--yes", "nothing was changed"] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }
    let still = audit(bot.stage(), &["--wait", "0"]).await?;
    assert_eq!(still.sums, lost.sums);

    let because = ["--wait", "0", "--requeue", "--yes", "--reason", "purged"];
    let said = say(bot.stage(), &because).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    for words in ["may be asked again 2 times", "2 of 2 put back."] {
        assert!(said.err.contains(words), "{words} is not in {said:?}");
    }
    let waiting = audit(bot.stage(), &[]).await?;
    assert_eq!(
        (waiting.code, &waiting.sums["waiting"]),
        (Some(0), &json!(2))
    );
    let said = say(bot.stage(), &because).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("nothing to put back"), "{said:?}");

    bot.workers[0].start()?;
    assert_eq!(bot.answer(&messages[0]).await?, "one");
    assert_eq!(bot.answer(&messages[1]).await?, "two");
    let all_answered = |audited: &Audited| audited.sums["answered"] == 2;
    let audited = until(bot.stage(), all_answered).await?;
    assert_eq!(
        (audited.code, &audited.sums["received"]),
        (Some(0), &json!(2))
    );
    let ledger = bot.sandbox.ledger();
    assert_eq!((ledger.totals.posted, ledger.totals.asked), (2, 2));
    bot.became(&messages[0], "it was put back", |what| match what {
        What::Replayed {
            replay: 1,
            reason,
            by,
        } if reason == "purged" => by.is_some().then_some(()),
        _ => None,
    })
    .await?;
    bot.end().await
}

/// Put back though it was there already, and once more after it was answered.
pub(super) async fn what_is_put_back_too_often_is_answered_once(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?.workers(1).prepare().await?;
    bot.front.start()?;
    bot.front.ready().await?;
    let message = bot.mention("echo once").await?;
    let event = bot.archived(&message).await?;
    let queue = bot.queue().await?;
    for replay in 0..2 {
        queue
            .put_back(event.clone(), put_back(replay, "to be sure"))
            .await?;
    }
    bot.workers[0].start()?;
    assert_eq!(bot.answer(&message).await?, "once");
    bot.posted(SOON, &message).await?;
    // The two others have come to nothing as well.
    let nothing_left = stage::until(SOON, "nothing is left", async || {
        let depths = queue.depths().await?;
        Ok(depths.iter().all(|depth| depth.jobs == 0).then_some(()))
    });
    nothing_left.await?;
    let asked = bot.sandbox.ledger().totals.asked;
    assert!(asked <= 3, "it was asked {asked} times");

    let before = ignored_as_duplicate(&bot).await?;
    queue.put_back(event, put_back(2, "once more")).await?;
    let once_more = stage::until(SOON, "it is ignored as a duplicate", async || {
        Ok((ignored_as_duplicate(&bot).await? > before).then_some(()))
    });
    Box::pin(once_more).await?;
    let ledger = bot.sandbox.ledger();
    assert_eq!((ledger.totals.posted, ledger.totals.asked), (1, asked));
    let audited = audit(bot.stage(), &[]).await?;
    assert_eq!(audited.code, Some(0), "{audited:?}");
    assert_eq!(
        (&audited.sums["received"], &audited.sums["answered"]),
        (&json!(1), &json!(1))
    );
    bot.end().await
}

async fn ignored_as_duplicate(bot: &Bot) -> anyhow::Result<usize> {
    let is_it = |what: &What| matches!(what, What::Ignored { reason } if reason == "duplicate");
    let outcomes = bot.outcomes().await?;
    Ok(outcomes
        .iter()
        .filter(|outcome| is_it(&outcome.what))
        .count())
}

/// What is put back slowly can be stopped between two events.
pub(super) async fn putting_back_can_be_stopped_and_says_how_far_it_came(
    kind: Kind,
) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    for number in 0..3 {
        queue.publisher().publish(&an_event(number)).await?;
    }
    received(&stage, 3).await?;
    empty_ask_queue(&stage).await?;

    let slowly = ["--wait", "0", "--requeue", "--yes", "--rate", "1/1h"];
    let (putting_back, _lines) = begin(typed(&stage, "audit", &slowly)?)?;
    let one_is_back = stage::until(SOON, "one is back", async || {
        let depths = queue.depths().await?;
        let mut asks = depths.iter().filter(|depth| depth.queue == "ask");
        Ok(asks.any(|asks| asks.jobs == 1).then_some(()))
    });
    one_is_back.await?;
    let said = stop(putting_back, libc::SIGINT).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    let words = "1 of 3 put back; stopped, 2 left.";
    assert!(said.err.contains(words), "{said:?}");
    let left = audit(&stage, &["--wait", "0"]).await?;
    assert_eq!((left.code, &left.sums["unexplained"]), (Some(1), &json!(2)));
    assert_eq!(left.sums["waiting"], 1);

    // The rest is put back by the next run.
    let said = say(&stage, &["--wait", "0", "--requeue", "--yes"]).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    let waiting = audit(&stage, &[]).await?;
    assert_eq!(
        (waiting.code, &waiting.sums["waiting"]),
        (Some(0), &json!(3))
    );
    Ok(())
}

/// Without an archive only what has outcomes is known, and that is said.
pub(super) async fn an_audit_without_an_archive_says_what_it_does_not_know(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .workers(1)
        .with("CHICKWORK_ARCHIVE_KEEP", "0")
        .start()
        .await?;
    let message = bot.mention("echo unrecorded").await?;
    bot.answer(&message).await?;
    bot.posted(SOON, &message).await?;
    told_without_an_archive(bot.stage(), "1 received = 1 answered").await?;

    // What nobody has begun to work on is counted, as long as it is there.
    bot.workers[0].kill().await?;
    bot.mention("echo waiting").await?;
    told_without_an_archive(
        bot.stage(),
        "2 received = 1 answered + 0 ignored + 0 dead + 1 waiting",
    )
    .await?;
    // That it was received is among the outcomes, so it is missed as well.
    empty_ask_queue(bot.stage()).await?;
    // The worker that was killed is believed for a while that it holds something.
    let patient = ["--archive-keep", "0", "--wait", "20s"];
    let lost = say(bot.stage(), &patient).await?;
    assert_eq!(lost.code, Some(1), "{lost:?}");
    let sum = "2 received = 1 answered + 0 ignored + 0 dead + 0 waiting + 1 unexplained";
    assert!(lost.out.contains(sum), "{lost:?}");
    // Who takes it that there is an archive is told that there is none.
    if kind == Kind::Rabbitmq {
        let archive = format!("{}.archive", bot.stage().namespace());
        // The story itself has looked at the outcomes with the usual settings, and so declared it.
        let operator = bot.stage().operator().await?;
        let channel = operator.create_channel().await?;
        channel
            .queue_delete(archive.as_str().into(), QueueDeleteOptions::default())
            .await?;
        operator.close(200, "deleted".into()).await?;
        let said = say(bot.stage(), &[]).await?;
        let why = format!("The archive does not exist on the broker ({archive})");
        assert!(said.err.contains(&why), "{said:?}");
    }
    bot.end().await
}

/// Waits until an audit that knows of no archive says this sum, and how little it knows.
async fn told_without_an_archive(stage: &Stage, sum: &str) -> anyhow::Result<()> {
    let said = stage::until(SOON, sum, async || {
        let said = say(stage, &["--archive-keep", "0"]).await?;
        let why = "There is no archive (CHICKWORK_ARCHIVE_KEEP is 0)";
        assert!(said.err.contains(why), "{said:?}");
        Ok(said.out.contains(sum).then_some(said))
    });
    let said = said.await?;
    let all = "Everything that is known of is explained";
    assert!(said.out.contains(all), "{said:?}");
    assert_eq!(said.code, Some(0), "{said:?}");
    Ok(())
}

/// Two different replies to one message are told, whatever else is in order.
pub(super) async fn a_reply_that_was_said_twice_is_told(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let (event, other) = (an_event(1), an_event(2));
    let posted = |event: &Event, reply: Option<&str>, found| {
        let reply_message_id = reply.and_then(|reply| MessageId::new(reply).ok());
        let what = What::Posted {
            reply_message_id,
            found,
        };
        let mut posted = outcome(event.id, what);
        posted.message_id.clone_from(&event.message_id);
        posted
    };
    // Found by looking, it is the same reply; and who told no id has said nothing else.
    for (event, reply, found) in [
        (&event, Some("71"), false),
        (&event, Some("71"), true),
        (&event, None, false),
        (&other, Some("72"), false),
    ] {
        queue.outcomes().record(posted(event, reply, found));
    }
    let two = |audited: &Audited| audited.sums["answered"] == 2;
    let audited = until(&stage, two).await?;
    assert_eq!((audited.code, &audited.sums["twice"]), (Some(0), &json!(0)));

    queue.outcomes().record(posted(&event, Some("73"), false));
    let told = until(&stage, |audited| audited.sums["twice"] == 1).await?;
    assert_eq!((told.code, &told.sums["unexplained"]), (Some(1), &json!(0)));
    let expected = json!({
        "twice": true, "room_id": 3, "message_id": event.message_id, "replies": ["71", "73"],
    });
    assert_eq!(told.rest, [expected]);
    let said = say(&stage, &[]).await?;
    assert!(said.out.contains("Answered twice: message 1"), "{said:?}");
    assert!(said.out.contains("by the messages 71, 73"), "{said:?}");
    // What was never archived is told of by its outcomes.
    assert!(
        said.err.contains("2 events are not in the archive"),
        "{said:?}"
    );
    Ok(())
}

/// How an event has ended is known before the event is gone, so a worker may be killed at any moment.
pub(super) async fn a_worker_that_is_killed_leaves_nothing_unexplained(
    kind: Kind,
) -> anyhow::Result<()> {
    /// More than a worker fetches at once.
    const MANY: u64 = 200;
    const ROUNDS: u64 = 3;
    let mut bot = Plan::on(kind)?.workers(1).prepare().await?;
    bot.say_nothing_more();
    bot.front.start()?;
    bot.front.ready().await?;
    for round in 1..=ROUNDS {
        let hears = (0..MANY).map(|number| {
            let aside = Say::new(ROOM, town::BEN, format!("nobody in particular {number}"));
            bot.hear(aside)
        });
        futures_util::future::try_join_all(hears).await?;
        received(bot.stage(), round * MANY).await?;
        bot.workers[0].start()?;
        let ignored = "chickwork_jobs_total{step=\"ask\",outcome=\"ignored\"}";
        bot.workers[0]
            .until_figure(ignored, |figure| figure >= 1.0)
            .await?;
        bot.workers[0].kill().await?;
        let left = audit(bot.stage(), &["--wait", "20s"]).await?;
        assert_eq!(left.sums["unexplained"], 0, "{left:?}");
        assert_eq!(left.sums["received"], round * MANY);
        assert_eq!(left.code, Some(0));
    }
    bot.workers[0].start()?;
    let all = ROUNDS * MANY;
    let all_ignored = |audited: &Audited| audited.sums["ignored"] == all;
    let audited = until(bot.stage(), all_ignored).await?;
    assert_eq!(audited.sums["ignored_by"], json!({ "not_addressed": all }));
    assert_eq!(audited.code, Some(0));
    bot.end().await
}

/// More is asked about than workers take at once, and SimSimi is slow: what they have in hand is in no
/// queue that could be counted, and waits all the same.
pub(super) async fn what_workers_have_in_hand_is_waiting() -> anyhow::Result<()> {
    const MANY: u64 = 100;
    let mut bot = Plan::on(Kind::Rabbitmq)?
        .unlimited()
        .world(|world| world.simsimi_takes = Duration::from_secs(8))
        .start()
        .await?;
    bot.say_nothing_more();
    let hooks: Vec<_> = (0..MANY)
        .map(|number| a_hook(&format!("18000000000000009{number:02}"), "echo slowly"))
        .collect();
    let deliveries = hooks.iter().map(|hook| bot.deliver(hook));
    let sent = futures_util::future::try_join_all(deliveries).await?;
    ensure!(sent.iter().all(|sent| sent.status == Some(200)), "{sent:?}");
    received(bot.stage(), MANY).await?;

    let audited = audit(bot.stage(), &[]).await?;
    assert_eq!(
        (audited.code, &audited.sums["unexplained"]),
        (Some(0), &json!(0)),
        "{audited:?}"
    );
    let waiting = audited.sums["waiting"].as_u64();
    assert!(waiting > Some(0), "{audited:?}");
    bot.end().await
}

/// A spool is an ordinary file, and looks like a queue. What is in it waits for its broker: an operator
/// who names it by mistake is told, and nothing is put into it that nobody would ever work on.
pub(super) async fn nobody_but_an_ingress_writes_into_a_spool() -> anyhow::Result<()> {
    let here = tempfile::tempdir()?;
    let path = here.path().canonicalize()?.join("spool.db");
    let nowhere = format!("amqp://guest:hush@127.0.0.1:{}/%2f", free_port()?);
    let queue = Queue::open(settings(&nowhere, "spools")?).await?;
    let of_the_ingress = SpoolSettings {
        path: path.clone(),
        max_bytes: 1024 * 1024,
    };
    let spool = Spool::open(of_the_ingress, &queue).await?;
    let publisher = queue.publisher_with(&spool);
    for number in 0..2 {
        publisher.publish(&an_event(number)).await?;
    }

    let errands: [&[&str]; 4] = [
        &["audit"],
        &["audit", "--requeue", "--yes", "--wait", "0"],
        &["dead", "retry", "--all", "--yes"],
        &["dead", "drop", "--all", "--yes"],
    ];
    for errand in errands {
        let mut command = chickwork(errand[0])?;
        command
            .args(&errand[1..])
            .env("CHICKWORK_QUEUE", format!("sqlite:{}", path.display()));
        let said = run(command).await?;
        assert_eq!(said.code, Some(1), "{errand:?}: {said:?}");
        let why = format!(
            "{} is the spool of an ingress: 2 events wait in it; set CHICKWORK_QUEUE to the broker",
            path.display()
        );
        assert!(said.err.contains(&why), "{errand:?}: {said:?}");
        assert!(said.out.is_empty(), "{errand:?}");
    }
    let as_a_queue = settings(&format!("sqlite:{}", path.display()), "")?;
    let as_a_queue = Queue::open_existing(as_a_queue).await?;
    let by_mistake = as_a_queue
        .put_back(an_event(0), put_back(0, "by mistake"))
        .await;
    ensure!(by_mistake.is_err(), "it was written into");
    let file = rusqlite::Connection::open(&path)?;
    for (table, expected) in [("spooled", 2), ("jobs", 0), ("outcomes", 0)] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = file.query_row(&count, [], |row| row.get(0))?;
        assert_eq!(count, expected, "{table}");
    }
    Ok(())
}

/// Looking creates no queue.
pub(super) async fn an_audit_of_nothing_names_what_is_not_there() -> anyhow::Result<()> {
    let here = tempfile::tempdir()?;
    let absolute = here.path().canonicalize()?.join("nowhere.db");
    let mut command = chickwork("audit")?;
    command
        .args(["--requeue", "--yes"])
        .current_dir(&here)
        .env("CHICKWORK_QUEUE", "sqlite:nowhere.db");
    let said = run(command).await?;
    assert_eq!(said.code, Some(1));
    let path = absolute.display().to_string();
    assert!(said.err.contains(&path), "{said:?}");
    ensure!(!absolute.exists(), "a queue was created");
    Ok(())
}

/// A namespace that nobody uses holds nothing to be held against anything.
pub(super) async fn an_audit_of_a_wrong_namespace_says_so() -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(Kind::Rabbitmq))?;
    let said = say(&stage, &["--requeue", "--yes"]).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    if !said.err.contains("CHICKWORK_NAMESPACE") {
        bail!("{said:?}");
    }
    Ok(())
}
