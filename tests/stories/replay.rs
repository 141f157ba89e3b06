//! `chickwork replay`, as an operator and a developer use it: what was lost or given up is put back and
//! answered once, whatever comes in between, and what is answered stays so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::{AccountId, MessageId};
use chickwork_chatwork::notation;
use chickwork_queue::Queue;
use chickwork_queue::event::{Event, EventId};
use chickwork_queue::job::{Cause, Settlement, Work};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_sandbox::webhook::Hook;
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, Say, town};
use chickwork_tests::bot::{Bot, Plan, ROOM, a_hook};
use chickwork_tests::said::{Said, begin, run, run_within, stop, text, typed};
use chickwork_tests::stage::{
    A_WHILE, Kind, SOON, Stage, an_event, next, settle, soon, until, within,
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::process::Child;

/// How long a command may take that goes through a thousand events.
const DONE: Duration = Duration::from_secs(120);
/// How long a thousand answers may take.
const ALL_ANSWERED: Duration = Duration::from_secs(120);
/// So many webhooks are on their way at once.
const AT_ONCE: usize = 16;

async fn say(stage: &Stage, words: &[&str]) -> anyhow::Result<Said> {
    run_within(DONE, typed(stage, "replay", words)?).await
}

/// The same, quickly and without a question; it succeeds.
async fn replay(stage: &Stage, words: &[&str]) -> anyhow::Result<Said> {
    let said = say(stage, &[&["--yes", "--rate", "1000/1s"], words].concat()).await?;
    said.succeeded().with_context(|| format!("{words:?}"))
}

/// What would be done with each event, by its id.
async fn plan(stage: &Stage, words: &[&str]) -> anyhow::Result<HashMap<String, Value>> {
    let said = say(stage, &[&["--dry-run", "--json"], words].concat()).await?;
    let lines = said.succeeded()?.lines()?.into_iter().map(|line| {
        let id = line["id"].as_str().context("it has an id")?.to_owned();
        Ok((id, line))
    });
    lines.collect()
}

/// How many of a plan are to go which way.
fn ways(plan: &HashMap<String, Value>) -> BTreeMap<&str, usize> {
    let mut ways = BTreeMap::new();
    for line in plan.values() {
        *ways
            .entry(line["plan"].as_str().unwrap_or("?"))
            .or_default() += 1;
    }
    ways
}

/// The end of one that was begun.
async fn ended(running: Child) -> anyhow::Result<Said> {
    Said::of(within(DONE, "it has ended", running.wait_with_output()).await??)
}

/// What an audit has said, and its sums.
async fn audit(stage: &Stage, words: &[&str]) -> anyhow::Result<(Said, Value)> {
    let words = [&["--json"], words].concat();
    let said = run_within(DONE, typed(stage, "audit", &words)?).await?;
    let sums = said.lines()?.into_iter().next().context("no sums")?;
    Ok((said, sums))
}

/// The audit's sums, once it exits 0 and nothing waits.
async fn all_is_well(stage: &Stage) -> anyhow::Result<Value> {
    until(DONE, "the audit finds nothing", async || {
        let (said, sums) = audit(stage, &[]).await?;
        if said.code == Some(0) && sums["waiting"] == 0 {
            return Ok(Some(sums));
        }
        Ok(None)
    })
    .await
}

/// Waits until so many events are in the archive: copies are on their way for a moment.
async fn archived(stage: &Stage, count: usize) -> anyhow::Result<()> {
    let queue = stage.queue().await?;
    until(DONE, "all of it is archived", async || {
        let mut read = queue.archive().read(jiff::Timestamp::UNIX_EPOCH);
        let mut ids = BTreeSet::new();
        while let Some(event) = read.next().await? {
            ids.insert(event.id);
        }
        if ids.len() >= count {
            return Ok(Some(()));
        }
        Ok(None)
    })
    .await
}

/// One of the mentions by many people.
fn hook(number: u64) -> Hook {
    let message = (1_800_000_000_000_000_000 + number).to_string();
    Hook {
        author: AccountId(2_000_000 + number % 300),
        ..a_hook(&message, &format!("echo {number}"))
    }
}

/// Delivers these mentions; their messages.
async fn deliver(bot: &Bot, numbers: std::ops::Range<u64>) -> anyhow::Result<Vec<MessageId>> {
    let delivered = futures_util::stream::iter(numbers).map(async |number| {
        let hook = hook(number);
        let sent = bot.deliver(&hook).await?;
        ensure!(sent.status == Some(200), "{sent:?}");
        Ok(hook.message_id)
    });
    let delivered: Vec<_> = delivered.buffer_unordered(AT_ONCE).collect().await;
    delivered.into_iter().collect()
}

/// Takes this many jobs from the ask queue and ends them in this way; their events.
async fn end_asks(
    queue: &Queue,
    count: u16,
    end: impl Fn() -> Settlement,
) -> anyhow::Result<Vec<Event>> {
    let mut claims = queue.claim_asks(AT_ONCE as u16);
    let mut events = Vec::new();
    for _ in 0..count {
        let claim = next(&mut claims).await?;
        if let Work::Ask(event) = &claim.job().work {
            events.push(event.clone());
        }
        settle(claim, end()).await?;
    }
    claims.stop().await;
    Ok(events)
}

/// As if the queue had lost them: they have no job any more, and no end.
async fn lose(queue: &Queue, count: u16) -> anyhow::Result<Vec<Event>> {
    end_asks(queue, count, || Settlement::Done).await
}

/// Given up, as a worker does it.
async fn give_up(queue: &Queue, count: u16) -> anyhow::Result<Vec<Event>> {
    end_asks(queue, count, || Settlement::Bury {
        cause: Cause::Exhausted,
        error: "SimSimi was down".to_owned(),
    })
    .await
}

/// A bot whose ingress runs, and whose worker does not yet.
async fn a_bot_without_its_worker(kind: Kind) -> anyhow::Result<Bot> {
    let mut bot = Plan::on(kind)?.workers(1).unlimited().prepare().await?;
    bot.front.start()?;
    bot.front.ready().await?;
    Ok(bot)
}

async fn start_worker(bot: &mut Bot) -> anyhow::Result<()> {
    bot.workers[0].start()?;
    bot.workers[0].ready().await
}

/// Of a thousand events most are answered, some wait, some are dead, and some are lost: one replay over
/// all of them, and each is answered exactly once. The same replay again says nothing.
pub(super) async fn one_replay_over_everything_has_each_answered_once(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = a_bot_without_its_worker(kind).await?;
    start_worker(&mut bot).await?;
    let mut messages = deliver(&bot, 0..600).await?;
    bot.all_answered_once(ALL_ANSWERED, &messages).await?;
    all_is_well(bot.stage()).await?;
    bot.workers[0].terminate()?;
    bot.workers[0].exit_code().await?;

    let queue = bot.queue().await?;
    messages.extend(deliver(&bot, 600..800).await?);
    give_up(&queue, 200).await?;
    messages.extend(deliver(&bot, 800..850).await?);
    lose(&queue, 50).await?;
    messages.extend(deliver(&bot, 850..950).await?);
    // The youngest are lost too: whoever goes by numbers from the youngest on takes them for those that
    // wait.
    let waiting = hold_back(&queue, 100).await?;
    messages.extend(deliver(&bot, 950..1000).await?);
    lose(&queue, 50).await?;
    give_back(waiting).await?;
    archived(bot.stage(), 1000).await?;

    let said = replay(bot.stage(), &["--all"]).await?;
    for words in [
        "1000 events chosen:",
        "    200 to be put back where given up, from the dead letters",
        "    600 skipped: answered already",
    ] {
        assert!(said.err.contains(words), "{words} in {said:?}");
    }
    // A file knows which wait; on a broker those are put back as well, and answered once.
    let put_back = match kind {
        Kind::Sqlite => 300,
        Kind::Rabbitmq => 400,
    };
    assert_eq!(said.out.lines().count(), put_back, "{}", said.err);
    start_worker(&mut bot).await?;
    bot.all_answered_once(ALL_ANSWERED, &messages).await?;
    let sums = all_is_well(bot.stage()).await?;
    assert_eq!(
        (&sums["received"], &sums["answered"]),
        (&1000.into(), &1000.into())
    );

    let asked = bot.asked().len();
    let said = replay(bot.stage(), &["--all"]).await?;
    assert!(said.err.contains("1000 skipped: answered"), "{said:?}");
    assert_eq!(said.out, "");
    all_is_well(bot.stage()).await?;
    assert_eq!(bot.sandbox.ledger().posted.len(), 1000);
    assert_eq!(bot.asked().len(), asked);
    bot.end().await
}

/// Claims that are held for a while.
struct HeldBack {
    claims: chickwork_queue::Claims,
    held: Vec<chickwork_queue::Claim>,
}

async fn hold_back(queue: &Queue, count: u16) -> anyhow::Result<HeldBack> {
    let mut claims = queue.claim_asks(count);
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(next(&mut claims).await?);
    }
    Ok(HeldBack { claims, held })
}

async fn give_back(held_back: HeldBack) -> anyhow::Result<()> {
    for claim in held_back.held {
        settle(claim, Settlement::GiveBack).await?;
    }
    held_back.claims.stop().await;
    Ok(())
}

/// So many lost events; their ids.
async fn lost(stage: &Stage, queue: &Queue, count: u16) -> anyhow::Result<BTreeSet<String>> {
    for number in 0..count {
        queue.publisher().publish(&an_event(number.into())).await?;
    }
    let events = lose(queue, count).await?;
    archived(stage, count.into()).await?;
    Ok(events.iter().map(|event| event.id.to_string()).collect())
}

/// What waits in the ask queue, so many events at least, once for each job; it is gone afterwards.
async fn jobs(queue: &Queue, events: usize) -> anyhow::Result<Vec<String>> {
    let mut claims = queue.claim_asks(1);
    let mut ids = Vec::new();
    loop {
        let all_are_there = BTreeSet::from_iter(&ids).len() >= events;
        let patience = if all_are_there { A_WHILE } else { SOON };
        let Ok(claim) = tokio::time::timeout(patience, claims.next()).await else {
            break;
        };
        if let Work::Ask(event) = &claim.job().work {
            ids.push(event.id.to_string());
        }
        settle(claim, Settlement::Done).await?;
    }
    claims.stop().await;
    Ok(ids)
}

/// Ctrl-C stops between two events, says how far it came, and the same command goes on from there.
pub(super) async fn a_replay_that_is_stopped_goes_on_where_it_was(
    kind: Kind,
) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let ids = lost(&stage, &queue, 5).await?;
    let words = ["--all", "--yes", "--rate", "1/1h"];
    let (running, mut lines) = begin(typed(&stage, "replay", &words)?)?;
    let first = soon("one is back", lines.next_line())
        .await??
        .context("an id")?;
    assert!(ids.contains(&first), "{first}");
    let said = stop(running, libc::SIGINT).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    for words in [
        "1 of 5 put back; stopped, 4 left.",
        "The same command goes on from there",
    ] {
        assert!(said.err.contains(words), "{words} in {said:?}");
    }
    let left = plan(&stage, &["--all"]).await?;
    assert_eq!(left[&first]["state"], "waiting");
    let expected = BTreeMap::from([("put_back", 4), ("skip", 1)]);
    assert_eq!(ways(&left), expected);

    let said = replay(&stage, &["--all"]).await?;
    assert_eq!(said.out.lines().count(), 4, "{said:?}");
    let said = replay(&stage, &["--all"]).await?;
    assert!(said.err.contains("5 skipped: waiting already"), "{said:?}");
    let mut back = jobs(&queue, ids.len()).await?;
    back.sort();
    assert_eq!(back, Vec::from_iter(ids), "each is back once");
    Ok(())
}

/// Killed in the middle, again and again, a replay loses nothing.
pub(super) async fn a_replay_that_is_killed_loses_nothing(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let mut ids = lost(&stage, &queue, 20).await?;
    for number in 20..40 {
        queue.publisher().publish(&an_event(number)).await?;
    }
    let dead = give_up(&queue, 20).await?;
    ids.extend(dead.iter().map(|event| event.id.to_string()));
    archived(&stage, 40).await?;
    for rate in ["1000/1s", "100/1s", "30/1s"] {
        let words = ["--all", "--yes", "--rate", rate];
        let (mut running, mut lines) = begin(typed(&stage, "replay", &words)?)?;
        for _ in 0..3 {
            soon("one is back", lines.next_line()).await??;
        }
        running.kill().await?;
    }
    // Killed between the outcome and the job, an event on a broker may be lost or not, until nothing waits.
    let go_on = async || {
        let said = say(&stage, &["--all", "--yes", "--rate", "1000/1s"]).await?;
        let may_be_lost = said.err.contains("MAY BE LOST");
        ensure!((said.code == Some(1)) == may_be_lost, "{said:?}");
        anyhow::Ok(())
    };
    go_on().await?;
    let mut back: BTreeSet<_> = jobs(&queue, 0).await?.into_iter().collect();
    within(DONE, "nothing is left", async {
        while back != ids {
            go_on().await?;
            back.extend(jobs(&queue, 0).await?);
        }
        anyhow::Ok(())
    })
    .await??;
    assert!(
        chickwork_tests::stage::dead_letters(&queue)
            .await?
            .is_empty()
    );
    Ok(())
}

/// Two people have the same idea at the same time.
pub(super) async fn two_replays_at_once_have_each_answered_once(kind: Kind) -> anyhow::Result<()> {
    let mut bot = a_bot_without_its_worker(kind).await?;
    let queue = bot.queue().await?;
    let mut messages = deliver(&bot, 0..20).await?;
    lose(&queue, 20).await?;
    messages.extend(deliver(&bot, 20..40).await?);
    give_up(&queue, 20).await?;
    archived(bot.stage(), 40).await?;
    start_worker(&mut bot).await?;
    let words = ["--all", "--yes", "--rate", "100/1s"];
    let (one, other) = tokio::join!(say(bot.stage(), &words), say(bot.stage(), &words));
    for said in [one?, other?] {
        // Who comes second to a letter says that somebody else has it; and of what the worker has in hand
        // a broker cannot say that it is not lost.
        let is_beaten = said.err.contains("taken or put back by somebody else")
            || (kind == Kind::Rabbitmq && said.err.contains("MAY BE LOST"));
        assert!(said.code == Some(0) || is_beaten, "{said:?}");
    }
    bot.all_answered_once(ALL_ANSWERED, &messages).await?;
    let sums = all_is_well(bot.stage()).await?;
    assert_eq!(sums["answered"], 40);
    assert_eq!(bot.sandbox.ledger().posted.len(), 40);
    bot.end().await
}

/// What is exported here is answered there, with the same ids; and once, however often that is said.
pub(super) async fn an_exported_file_is_received_by_an_empty_deployment(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut here = a_bot_without_its_worker(kind).await?;
    let queue = here.queue().await?;
    let lost = deliver(&here, 0..3).await?;
    lose(&queue, 3).await?;
    start_worker(&mut here).await?;
    let answered = deliver(&here, 3..5).await?;
    here.all_answered_once(SOON, &answered).await?;
    archived(here.stage(), 5).await?;
    all_but_the_lost_are_explained(here.stage(), 3).await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("events.jsonl");
    let file = path.to_str().context("a plain path")?;
    let export = typed(here.stage(), "events", &["export", "--output", file])?;
    run(export).await?.succeeded()?;

    let there = Plan::on(kind)?.unlimited().start().await?;
    // A broker could not tell there whether they wait, so they are not taken in by the way.
    let words = ["--from", file, "--state", "answered,waiting,unexplained"];
    let planned = plan(there.stage(), &words).await?;
    let expected = BTreeMap::from([("take_in", 3), ("skip", 2)]);
    assert_eq!(ways(&planned), expected);
    let said = replay(there.stage(), &words).await?;
    let ids: BTreeSet<_> = said.out.lines().map(str::to_owned).collect();
    let taken = planned.iter().filter(|(_, line)| line["plan"] == "take_in");
    assert_eq!(ids, taken.map(|(id, _)| id.clone()).collect());
    // A worker looks first whether somebody has answered elsewhere, and a look tells only after a while.
    there.all_answered_once(ALL_ANSWERED, &lost).await?;
    archived(there.stage(), 3).await?;
    let sums = all_is_well(there.stage()).await?;
    assert_eq!(
        (&sums["received"], &sums["answered"]),
        (&3.into(), &3.into())
    );

    // Now they are known there, and answered.
    let said = replay(there.stage(), &words).await?;
    assert!(said.err.contains("5 skipped: answered"), "{said:?}");
    assert_eq!(there.sandbox.ledger().posted.len(), 3);
    here.end().await?;
    there.end().await
}

/// Those that were lost are all that is unexplained.
async fn all_but_the_lost_are_explained(stage: &Stage, lost: u64) -> anyhow::Result<()> {
    until(DONE, "all others are explained", async || {
        let (_, sums) = audit(stage, &["--wait", "0"]).await?;
        if sums["unexplained"] == lost && sums["waiting"] == 0 {
            return Ok(Some(()));
        }
        Ok(None)
    })
    .await
}

/// A laptop hears what the bot heard; nothing else happens.
pub(super) async fn what_was_heard_is_sent_into_another_ingress(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let mut messages = Vec::new();
    for number in 0..3 {
        let hook = hook(number);
        let event = Event {
            room_id: Some(hook.room_id),
            message_id: Some(hook.message_id.clone()),
            body: hook.json().into(),
            ..an_event(0)
        };
        queue.publisher().publish(&event).await?;
        messages.push(hook.message_id);
    }
    archived(&stage, 3).await?;
    let laptop = Plan::on(Kind::Sqlite)?.unlimited().start().await?;
    let into = async |words: &[&str], token: &str| -> anyhow::Result<Said> {
        run(typed(&stage, "replay", words)?.env("CHATWORK_WEBHOOK_TOKEN", token)).await
    };
    let url = laptop.webhook_url();
    let words = ["--all", "--yes", "--rate", "1000/1s", "--into", &url];

    let other_token = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let said = into(&words, other_token).await?;
    assert_eq!((said.code, said.out.lines().count()), (Some(1), 1));
    for words in ["1 of 3 sent (1 × 401); stopped", "CHATWORK_WEBHOOK_TOKEN"] {
        assert!(said.err.contains(words), "{words} in {said:?}");
    }
    let said = run(typed(&stage, "replay", &words)?).await?;
    assert_eq!(said.code, Some(2), "without a token: {said:?}");

    let said = into(&words, DEMO_WEBHOOK_TOKEN).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("3 of 3 sent (3 × 200)."), "{said:?}");
    laptop.all_answered_once(SOON, &messages).await?;
    assert_eq!(jobs(&queue, 3).await?.len(), 3, "the queue is as it was");
    let mut outcomes = queue.outcomes().read(jiff::Timestamp::UNIX_EPOCH);
    while let Some(outcome) = outcomes.next().await? {
        assert_ne!(outcome.what.name(), "replayed");
    }
    laptop.end().await
}

/// What is too old to be answered without embarrassment needs a word.
pub(super) async fn what_is_too_old_is_put_back_only_on_demand(kind: Kind) -> anyhow::Result<()> {
    let mut bot = a_bot_without_its_worker(kind).await?;
    let queue = bot.queue().await?;
    let mut old = hook(1);
    old.event_time -= 2 * 3600;
    ensure!(bot.deliver(&old).await?.status == Some(200));
    lose(&queue, 1).await?;
    archived(bot.stage(), 1).await?;
    let said = say(bot.stage(), &["--all", "--yes"]).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.err.contains("--ignore-age"), "{said:?}");
    replay(bot.stage(), &["--all", "--ignore-age"]).await?;
    start_worker(&mut bot).await?;
    bot.all_answered_once(SOON, &[old.message_id]).await?;
    bot.end().await
}

/// `--since` is about the receipt: what was given up since then and received before is not chosen, and
/// whoever has an outage in mind is told.
pub(super) async fn what_since_leaves_out_is_said(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let received_at = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2);
    let old = Event {
        received_at,
        ..an_event(1)
    };
    queue.publisher().publish(&old).await?;
    give_up(&queue, 1).await?;
    archived(&stage, 1).await?;
    for words in [
        &["--since", "1h", "--state", "dead"][..],
        &["--since", "1h", "--from", "dead"],
    ] {
        let said = say(&stage, words).await?;
        assert_eq!(said.code, Some(0), "{said:?}");
        let hint = "1 dead letter was given up since then, but its event was received before, and --since is about that: chickwork dead retry --since 20";
        assert!(said.err.contains(hint), "{said:?}");
        assert!(said.err.contains("is chosen."), "{said:?}");
    }
    let said = say(&stage, &["--since", "3h", "--state", "dead", "--dry-run"]).await?;
    assert!(!said.err.contains("since then"), "{said:?}");
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let since = format!("{since:.0}");
    let retry = typed(&stage, "dead", &["retry", "--since", &since, "--yes"])?;
    let retry = run(retry).await?;
    assert_eq!(retry.out, format!("{}\n", old.id), "{retry:?}");
    Ok(())
}

/// A message that was answered is answered again only on demand, and once for each demand.
pub(super) async fn what_is_answered_is_answered_again_only_on_demand(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.unlimited().start().await?;
    let message = bot.mention("echo once more").await?;
    bot.answer(&message).await?;
    bot.posted(SOON, &message).await?;
    archived(bot.stage(), 1).await?;
    all_is_well(bot.stage()).await?;
    let said = replay(bot.stage(), &["--all"]).await?;
    assert!(said.err.contains("1 skipped: answered"), "{said:?}");

    let said = say(bot.stage(), &["--all", "--again", "--dry-run"]).await?;
    assert!(said.err.contains("SECOND REPLY"), "{said:?}");
    let round = jiff::Timestamp::now().to_string();
    let again = format!("--again={round}");
    let said = replay(bot.stage(), &["--all", &again]).await?;
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    let twice = |ledger: &chickwork_sandbox::ledger::Ledger| ledger.answers_to(&message).len() == 2;
    assert!(bot.sandbox.until(SOON, twice).await, "no second reply");
    all_is_well(bot.stage()).await?;
    // The round is over: going on with it finds nothing.
    let said = replay(bot.stage(), &["--all", &again]).await?;
    assert!(
        said.err.contains("1 skipped: put back in this round"),
        "{said:?}"
    );
    let said = replay(bot.stage(), &["--all"]).await?;
    assert_eq!(said.out, "", "{said:?}");
    all_is_well(bot.stage()).await?;
    assert_eq!(bot.answers(&message), 2);
    bot.end().await
}

/// Before anything is done it is said what would be done to each, and why.
pub(super) async fn a_dry_run_tells_what_would_become_of_each(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let mut ids = BTreeMap::new();
    for (number, name) in ["own", "flood", "duplicate", "malformed", "lost", "its twin"]
        .into_iter()
        .enumerate()
    {
        let event = match name {
            "its twin" => an_event(4),
            _ => an_event(u32::try_from(number)?),
        };
        ids.insert(name, event.id);
        let publisher = queue.publisher();
        match name {
            "own" | "flood" | "duplicate" => publisher.archive(&event, name).await?,
            "malformed" => publisher.bury(&event, "no JSON").await?,
            _ => publisher.publish(&event).await?,
        };
    }
    lose(&queue, 2).await?;
    archived(&stage, 6).await?;
    let planned = plan(&stage, &["--all"]).await?;
    let told = |name: &str| {
        let line = &planned[&ids[name].to_string()];
        (text(line, "plan"), text(line, "reason"))
    };
    for (name, plan, reason) in [
        ("own", "skip", "would be ignored again: own"),
        ("flood", "skip", "--state ignored"),
        ("duplicate", "skip", "would be ignored again: duplicate"),
        ("malformed", "skip", "nobody understands it"),
        ("lost", "put_back", ""),
        ("its twin", "close", ""),
    ] {
        let (its_plan, its_reason) = told(name);
        assert_eq!(its_plan, plan, "{name}");
        assert!(its_reason.contains(reason), "{name}: {its_reason}");
    }
    let said = say(&stage, &["--all", "--dry-run"]).await?;
    assert_eq!(said.out.lines().count(), 7, "{said:?}");
    assert!(
        said.err.contains("SimSimi may be asked 1 time,"),
        "{said:?}"
    );

    let ignored = plan(&stage, &["--state", "ignored"]).await?;
    let expected = BTreeMap::from([("put_back", 1), ("skip", 2)]);
    assert_eq!(ways(&ignored), expected);
    let malformed = ids["malformed"].to_string();
    let by_id = plan(&stage, &[&malformed]).await?;
    assert_eq!(by_id[&malformed]["plan"], "retry");
    let dead = plan(&stage, &["--from", "dead", &malformed]).await?;
    assert_eq!(dead[&malformed]["plan"], "retry");

    // Nothing has changed, and nothing does without a choice or without consent.
    let said = say(&stage, &[]).await?;
    assert_eq!(said.code, Some(2), "{said:?}");
    let said = say(&stage, &["--all"]).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains("--yes"), "{said:?}");
    let nobody = EventId::fresh().to_string();
    let said = say(&stage, &[&nobody, "--yes"]).await?;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(&nobody), "{said:?}");
    assert!(jobs(&queue, 0).await?.is_empty());
    Ok(())
}

/// The reason and the counter are kept, by whichever way an event is put back.
pub(super) async fn why_it_was_replayed_is_kept(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    lost(&stage, &queue, 1).await?;
    queue.publisher().publish(&an_event(1)).await?;
    give_up(&queue, 1).await?;
    archived(&stage, 2).await?;
    replay(&stage, &["--all", "--reason", "a bad night"]).await?;
    let mut read = queue.outcomes().read(jiff::Timestamp::UNIX_EPOCH);
    let mut told = Vec::new();
    while let Some(outcome) = read.next().await? {
        if let What::Replayed {
            replay, reason, by, ..
        } = outcome.what
        {
            assert_eq!((replay, reason.as_str()), (1, "a bad night"));
            assert_eq!(by.as_deref(), Some("replay"));
            told.push(outcome.id);
        }
    }
    assert_eq!(told.len(), 2);
    Ok(())
}

/// The broker goes away in the middle: that is said, and nothing is lost.
pub(super) async fn a_replay_whose_broker_goes_away_says_so_and_goes_on() -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::alone(Kind::Rabbitmq))?;
    let queue = stage.queue().await?;
    let ids = lost(&stage, &queue, 20).await?;
    let words = ["--all", "--yes", "--rate", "4/1s"];
    let (running, mut lines) = begin(typed(&stage, "replay", &words)?)?;
    for _ in 0..2 {
        soon("one is back", lines.next_line()).await??;
    }
    tokio::task::block_in_place(|| stage.node()?.kill())?;
    let said = ended(running).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    for words in ["of 20 put back; stopped", "the queue does not take them"] {
        assert!(said.err.contains(words), "{words} in {said:?}");
    }
    tokio::task::block_in_place(|| stage.node()?.start_again())?;
    let queue = stage.queue().await?;
    // What was said to be back when the broker went away may be lost: nothing is called waiting for which
    // there may be no job.
    let said = say(&stage, &["--all", "--yes", "--rate", "1000/1s"]).await?;
    ensure!(
        (said.code == Some(1)) == said.err.contains("MAY BE LOST"),
        "{said:?}"
    );
    if said.code == Some(1) {
        replay(&stage, &["--state", "unexplained"]).await?;
    }
    let back: BTreeSet<_> = jobs(&queue, ids.len()).await?.into_iter().collect();
    assert_eq!(back, ids);
    Ok(())
}

/// More events are said to be back than there are jobs: that is said, and nothing is called waiting that
/// may be lost. What was recovered waits like anything else.
pub(super) async fn what_a_broker_has_lost_does_not_hide_behind_what_was_put_back()
-> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(Kind::Rabbitmq))?;
    let queue = stage.queue().await?;
    for number in 0..5 {
        queue.publisher().publish(&an_event(number)).await?;
    }
    for number in 5..11 {
        let event = recovered(number);
        queue.recover(&event).await?;
    }
    lose(&queue, 11).await?;
    queue.publisher().publish(&an_event(11)).await?;
    archived(&stage, 12).await?;
    let said = replay(&stage, &["--all"]).await?;
    assert_eq!(said.out.lines().count(), 12, "{said:?}");

    // The one that waited has two jobs.
    lose(&queue, 13).await?;
    queue.publisher().publish(&an_event(12)).await?;
    archived(&stage, 13).await?;
    let said = say(&stage, &["--all", "--yes", "--rate", "1000/1s"]).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("12 skipped: put back before"), "{said:?}");
    let said = replay(&stage, &["--state", "unexplained"]).await?;
    assert!(said.out.lines().count() >= 12, "{said:?}");
    Ok(())
}

/// As `recover` makes them.
fn recovered(number: u32) -> Event {
    let event = an_event(number);
    Event {
        put_back_at: Some(event.received_at),
        replay: 1,
        ..event
    }
}

/// What was recovered and waits is no sign that anything was put back.
pub(super) async fn what_was_recovered_and_waits_is_left_alone(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    for number in 0..3 {
        queue.publisher().publish(&an_event(number)).await?;
    }
    queue.recover(&recovered(3)).await?;
    archived(&stage, 4).await?;
    let said = replay(&stage, &["--all"]).await?;
    assert_eq!(said.out, "", "{said:?}");
    assert!(said.err.contains("4 skipped: waiting already"), "{said:?}");
    Ok(())
}

/// One lost event in a file of its own, by way of another deployment.
async fn an_exported_event(
    kind: Kind,
    hook: &Hook,
    folder: &std::path::Path,
) -> anyhow::Result<String> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let event = Event {
        room_id: Some(hook.room_id),
        message_id: Some(hook.message_id.clone()),
        body: hook.json().into(),
        ..an_event(0)
    };
    queue.publisher().publish(&event).await?;
    lose(&queue, 1).await?;
    archived(&stage, 1).await?;
    let path = folder.join("events.jsonl");
    let said = run(typed(&stage, "events", &["export"])?).await?;
    // As if it had been given up there: else a broker would not tell for a while whether it waits.
    let mut line = said.succeeded()?.json()?;
    line["state"] = "dead".into();
    line["why"] = "uncertain".into();
    std::fs::write(&path, format!("{line}\n"))?;
    Ok(path.to_str().context("a plain path")?.to_owned())
}

/// What somebody may have answered elsewhere since it was exported is looked for before it is said.
pub(super) async fn what_was_answered_elsewhere_is_not_answered_here(
    kind: Kind,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let hook = hook(1);
    let file = an_exported_event(kind, &hook, folder.path()).await?;
    let bot = Plan::on(kind)?.unlimited().start().await?;
    let reply = notation::reply(
        hook.author,
        hook.room_id,
        &hook.message_id,
        "said elsewhere",
    );
    bot.sandbox.say(Say::new(ROOM, town::BOT, reply)).await;
    let said = replay(bot.stage(), &["--from", &file, "--all"]).await?;
    assert!(said.err.contains("1 to be received anew"), "{said:?}");
    let end = until(ALL_ANSWERED, "it has come to an end", async || {
        let outcomes = bot.outcomes().await?;
        let is_its_end = |outcome: &Outcome| {
            outcome.message_id.as_ref() == Some(&hook.message_id) && outcome.what.is_end()
        };
        if let Some(end) = outcomes.into_iter().find(is_its_end) {
            return Ok(Some(end));
        }
        Ok(None)
    })
    .await?;
    ensure!(
        matches!(end.what, What::Posted { found: true, .. }),
        "{end:?}"
    );
    assert_eq!(bot.sandbox.ledger().posted.len(), 0);
    bot.end().await
}

/// Without an archive, what was received here is known by what became of it.
pub(super) async fn the_same_file_twice_is_received_once_whether_or_not_there_is_an_archive(
    kind: Kind,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = an_exported_event(kind, &hook(1), folder.path()).await?;
    let mut bot = Plan::on(kind)?
        .workers(1)
        .unlimited()
        .with("CHICKWORK_ARCHIVE_KEEP", "0")
        .prepare()
        .await?;
    let from_file = async |bot: &Bot| {
        let words = ["--from", &file, "--all", "--yes"];
        let mut command = typed(bot.stage(), "replay", &words)?;
        let said = run(command.env("CHICKWORK_ARCHIVE_KEEP", "0")).await?;
        said.succeeded()
    };
    bot.front.start()?;
    bot.front.ready().await?;
    // An ingress is ready before a broker has all objects, and the command makes none.
    bot.dead_letters().await?;
    let said = from_file(&bot).await?;
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    let said = from_file(&bot).await?;
    assert!(said.err.contains("1 skipped: waiting already"), "{said:?}");
    start_worker(&mut bot).await?;
    bot.all_answered_once(ALL_ANSWERED, &[hook(1).message_id])
        .await?;
    bot.posted(SOON, &hook(1).message_id).await?;
    let said = from_file(&bot).await?;
    assert!(said.err.contains("1 skipped: answered"), "{said:?}");
    assert_eq!(bot.asked().len(), 1);
    bot.end().await
}

/// Several events about one message: each of them has an end afterwards, and SimSimi is asked once.
pub(super) async fn every_event_of_a_message_has_an_end_and_costs_nothing_more(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = a_bot_without_its_worker(kind).await?;
    let queue = bot.queue().await?;
    deliver(&bot, 1..3).await?;
    deliver(&bot, 2..3).await?;
    lose(&queue, 3).await?;
    deliver(&bot, 3..4).await?;
    give_up(&queue, 1).await?;
    start_worker(&mut bot).await?;
    let mut answered = deliver(&bot, 1..2).await?;
    answered.extend(deliver(&bot, 3..4).await?);
    for message in &answered {
        bot.posted(SOON, message).await?;
    }
    archived(bot.stage(), 6).await?;
    all_but_the_lost_are_explained(bot.stage(), 3).await?;
    let planned = plan(bot.stage(), &["--all"]).await?;
    let expected = BTreeMap::from([("close", 3), ("put_back", 1), ("skip", 2)]);
    assert_eq!(ways(&planned), expected);
    replay(bot.stage(), &["--all"]).await?;
    bot.all_answered_once(SOON, &[hook(2).message_id]).await?;
    let sums = all_is_well(bot.stage()).await?;
    assert_eq!(
        (&sums["received"], &sums["answered"]),
        (&6.into(), &3.into())
    );
    assert_eq!(bot.asked().len(), 3);
    assert!(bot.dead_letters().await?.is_empty());
    bot.end().await
}

/// Killed in the middle and run once more as it was, a round answers nothing a third time.
pub(super) async fn a_round_that_is_killed_and_begun_once_more_answers_each_once(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.unlimited().start().await?;
    let messages = deliver(&bot, 0..3).await?;
    bot.all_answered_once(SOON, &messages).await?;
    archived(bot.stage(), 3).await?;
    all_is_well(bot.stage()).await?;
    let words = ["--all", "--yes", "--again", "--rate", "1/1h"];
    let (mut running, mut lines) = begin(typed(bot.stage(), "replay", &words)?)?;
    soon("one is back", lines.next_line()).await??;
    running.start_kill()?;
    let said = ended(running).await?;
    assert!(said.err.contains("This round is --again="), "{said:?}");
    if kind == Kind::Rabbitmq {
        // Of what the worker has in hand a broker cannot say that it is not lost.
        all_is_well(bot.stage()).await?;
    }
    let left = replay(bot.stage(), &["--all", "--again"]).await?;
    assert_eq!(left.out.lines().count(), 2, "{left:?}");
    let each_twice = |ledger: &chickwork_sandbox::ledger::Ledger| {
        let mut answers = messages
            .iter()
            .map(|message| ledger.answers_to(message).len());
        answers.all(|count| count == 2)
    };
    assert!(
        bot.sandbox.until(SOON, each_twice).await,
        "no second replies"
    );
    all_is_well(bot.stage()).await?;
    let said = replay(bot.stage(), &["--all", "--again"]).await?;
    assert_eq!(said.out, "", "{said:?}");
    assert_eq!(bot.sandbox.ledger().posted.len(), 6);
    bot.end().await
}
