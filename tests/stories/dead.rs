//! `chickwork dead`, as an operator uses it: what was given up is listed, shown, put back or dropped.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_chatwork::signature::Token;
use chickwork_queue::Queue;
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::job::{Cause, Settlement, Work};
use chickwork_queue::outcome::What;
use chickwork_sandbox::fault::{Call, Fault, Service, When};
use chickwork_sandbox::town::{self, Role};
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, webhook};
use chickwork_tests::bot::{Bot, Plan, ROOM, SOMEBODY, a_hook};
use chickwork_tests::process::chickwork;
use chickwork_tests::said::{Said, begin, run, run_unread, stop, text, typed};
use chickwork_tests::stage::{
    Kind, Plant, SOON, Stage, a_reply, an_event, next, settle, soon, until,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::process::Command;

/// Longer than a letter takes to be given up, with `CHICKWORK_MAX_AGE` as these stories set it.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// The fields of a letter in JSON, in the order of the alphabet.
const FIELDS: [&str; 11] = [
    "attempts",
    "bot",
    "buried_at",
    "cause",
    "error",
    "id",
    "message_id",
    "received_at",
    "room_id",
    "step",
    "type",
];

/// `chickwork dead …` on this stage.
fn dead(stage: &Stage, words: &[&str]) -> anyhow::Result<Command> {
    typed(stage, "dead", words)
}

/// Runs it and sees that it succeeds.
async fn succeed(stage: &Stage, words: &[&str]) -> anyhow::Result<Said> {
    let said = run(dead(stage, words)?).await?;
    said.succeeded().with_context(|| format!("{words:?}"))
}

/// The same; what it has printed.
async fn done(stage: &Stage, words: &[&str]) -> anyhow::Result<String> {
    Ok(succeed(stage, words).await?.out)
}

/// What is listed, as JSON.
async fn listed(stage: &Stage, words: &[&str]) -> anyhow::Result<Vec<Value>> {
    let words = [&["list", "--json"], words].concat();
    succeed(stage, &words).await?.lines()
}

/// The ids of letters, in their order.
fn ids(letters: &[Value]) -> Vec<&str> {
    letters.iter().map(|letter| text(letter, "id")).collect()
}

fn of_cause(letters: &[Value], cause: Cause) -> anyhow::Result<&Value> {
    let mut fitting = letters
        .iter()
        .filter(|letter| letter["cause"] == cause.as_str());
    let letter = fitting.next();
    ensure!(
        fitting.next().is_none(),
        "more than one letter is {cause:?}"
    );
    letter.with_context(|| format!("no letter is {cause:?} in {letters:?}"))
}

/// Every cause there is, made by what makes it; listed, shown, retried, and what becomes of each.
pub(super) async fn every_cause_is_listed_shown_and_retried(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .with("CHICKWORK_MAX_AGE", "10s")
        .prepare()
        .await?;
    let poison = plant_the_rare_ones(&bot).await?;
    bot.front.start()?;
    for worker in &mut bot.workers {
        worker.start()?;
    }
    bot.ready().await?;
    let made = give_up_the_usual_ones(&bot).await?;

    let letters = soon_seven(&bot).await?;
    for letter in &letters {
        let mut fields: Vec<_> = letter.as_object().context("an object")?.keys().collect();
        fields.sort();
        assert_eq!(fields, FIELDS);
        assert!(letter["room_id"].is_u64() || letter["room_id"].is_null());
    }
    assert_eq!(
        listed(bot.stage(), &[]).await?,
        letters,
        "listing changes nothing"
    );
    let groups = done(bot.stage(), &["list"]).await?;
    assert!(groups.contains("7 dead letters"), "{groups}");
    let each = done(bot.stage(), &["list", "--each"]).await?;
    assert_eq!(each.lines().count(), 8, "{each}");
    for letter in &letters {
        let (id, cause) = (text(letter, "id"), text(letter, "cause"));
        assert!(each.contains(id) && each.contains(cause), "{each}");
        let shown = done(bot.stage(), &["show", id]).await?;
        assert!(shown.contains(id) && shown.contains(cause), "{shown}");
        let shown = succeed(bot.stage(), &["show", id, "--json"])
            .await?
            .json()?;
        for field in FIELDS {
            assert_eq!(shown[field], letter[field]);
        }
        assert!(shown["held"].is_object(), "{shown}");
    }
    let shown = |cause| {
        let id = of_cause(&letters, cause).map(|letter| text(letter, "id"));
        async { done(bot.stage(), &["show", id?]).await }
    };
    assert!(shown(Cause::Malformed).await?.contains("no JSON \\u{1b}"));
    assert!(shown(Cause::Exhausted).await?.contains("\"mention_to_me\""));
    assert!(shown(Cause::Uncertain).await?.contains("\nnobody knows\n"));

    // The world is well again, and every letter is put back.
    bot.sandbox.heal();
    bot.sandbox.set_role(town::READONLY, Role::Member);
    for letter in &letters {
        let put_back = ["retry", "--yes", "--cause", text(letter, "cause")];
        let put_back = done(bot.stage(), &put_back).await?;
        assert_eq!(put_back, format!("{}\n", text(letter, "id")));
    }
    for (message, words) in [
        (&made.refused, "may I"),
        (&made.exhausted, "anybody there"),
        (&made.expired, "still there"),
        (&poison, "no poison"),
        (&made.uncertain, "nobody knows"),
    ] {
        assert_eq!(bot.answer_within(GIVEN_UP, message).await?, words);
    }
    assert!(
        bot.posted(GIVEN_UP, &made.uncertain).await?,
        "it was looked for and found"
    );
    // Asked once more were those that had no reply yet.
    let asked = |words: &str| bot.asked().iter().filter(|asked| *asked == words).count();
    assert_eq!((asked("echo may I"), asked("echo nobody knows")), (1, 1));

    // What nobody understands is given up again; what a newer release wrote waits for one.
    let malformed = of_cause(&letters, Cause::Malformed)?;
    let again = until(SOON, "it is given up again", async || {
        let mut letters = listed(bot.stage(), &[]).await?;
        Ok(letters.pop().filter(|_| letters.is_empty()))
    })
    .await?;
    assert_eq!(again["id"], malformed["id"]);
    assert_ne!(again["buried_at"], malformed["buried_at"]);
    // A worker has read it this time, and has not asked.
    let id = text(&again, "id");
    let said = run(dead(bot.stage(), &["retry", id, "--dry-run"])?).await?;
    let expected = "1 that could not be understood; given up again";
    assert!(said.err.contains(expected), "{said:?}");
    let shown = done(bot.stage(), &["show", id]).await?;
    assert!(shown.contains("SimSimi was not asked"), "{shown}");
    bot.end().await
}

/// Letters that take ten deaths or an hour; the message of the first.
async fn plant_the_rare_ones(bot: &Bot) -> anyhow::Result<MessageId> {
    let queue = bot.queue().await?;
    let hook = a_hook("1800000000000000901", "echo no poison");
    let poison = Event {
        room_id: Some(hook.room_id),
        message_id: Some(hook.message_id.clone()),
        body: hook.json().into(),
        ..an_event(1)
    };
    bot.stage()
        .plant(Plant {
            work: Work::Ask(poison),
            deaths: 10,
            body: None,
        })
        .await?;
    let old = chickwork_queue::job::Reply {
        received_at: Timestamp::now() - Duration::from_secs(2 * 3600),
        ..a_reply(&an_event(2))
    };
    bot.stage()
        .plant(Plant {
            work: Work::Post(old),
            deaths: 0,
            body: Some(br#"{"v":99,"of":"a newer release"}"#.to_vec()),
        })
        .await?;
    queue.close(SOON).await;
    Ok(hook.message_id)
}

/// The messages whose letters were made by a bad day.
struct Made {
    refused: MessageId,
    exhausted: MessageId,
    expired: MessageId,
    uncertain: MessageId,
}

async fn give_up_the_usual_ones(bot: &Bot) -> anyhow::Result<Made> {
    let refused = bot
        .mention_in(town::READONLY, SOMEBODY, "echo may I")
        .await?;
    bot.buried(GIVEN_UP, &refused).await?;

    bot.sandbox.break_down(lost_in(ROOM, When::After));
    bot.sandbox.break_down(unreadable(ROOM));
    let uncertain = bot.mention("echo nobody knows").await?;
    bot.answer(&uncertain).await?;

    bot.sandbox
        .break_down(Fault::status(Service::Simsimi, 500).times(1000));
    let exhausted = bot.mention("echo anybody there").await?;

    let mut expired = a_hook("1800000000000000902", "echo still there");
    expired.event_time -= 3600;
    ensure!(bot.deliver(&expired).await?.status == Some(200));

    let token = Token::parse(DEMO_WEBHOOK_TOKEN)?;
    let garbage = b"no JSON \x1b[2J".to_vec();
    let sent = webhook::send(&bot.webhook_url(), &token, garbage).await?;
    ensure!(sent.status == Some(200));
    Ok(Made {
        refused,
        exhausted,
        expired: expired.message_id,
        uncertain,
    })
}

/// The next post in the room is lost, before or after it has arrived.
fn lost_in(room: RoomId, when: When) -> Fault {
    Fault::drop(Service::Chatwork, when)
        .on(Call::Post)
        .in_room(room)
}

/// The room cannot be read.
fn unreadable(room: RoomId) -> Fault {
    Fault::status(Service::Chatwork, 403)
        .on(Call::Messages)
        .in_room(room)
        .times(1000)
}

async fn soon_seven(bot: &Bot) -> anyhow::Result<Vec<Value>> {
    let letters = until(GIVEN_UP, "there is a letter of each cause", async || {
        let letters = listed(bot.stage(), &[]).await?;
        Ok((letters.len() == Cause::ALL.len()).then_some(letters))
    })
    .await?;
    for cause in Cause::ALL {
        of_cause(&letters, cause)?;
    }
    Ok(letters)
}

/// A person who has seen that the reply is not in the room overrules the doubt; the bot does not
/// look, and posts once.
pub(super) async fn who_has_looked_has_an_uncertain_reply_posted(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .with("CHICKWORK_MAX_AGE", "10s")
        .start()
        .await?;
    bot.sandbox.break_down(lost_in(ROOM, When::Before));
    // It stays so: the bot cannot look.
    bot.sandbox.break_down(unreadable(ROOM));
    let message = bot.mention("echo here I am").await?;
    let letter = bot.buried(GIVEN_UP, &message).await?;
    assert_eq!(letter.cause, Cause::Uncertain);
    assert_eq!(bot.answers(&message), 0);

    // Without --again it is looked for, in vain.
    let id = letter.id.to_string();
    done(bot.stage(), &["retry", &id, "--yes"]).await?;
    let again = bot.buried(GIVEN_UP, &message).await?;
    assert_eq!(again.cause, Cause::Uncertain);
    assert_ne!(again.buried_at, letter.buried_at);
    assert_eq!(bot.answers(&message), 0);

    let said = run(dead(bot.stage(), &["retry", "--again", &id, "--yes"])?).await?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("WITHOUT LOOKING"), "{said:?}");
    assert_eq!(bot.answer(&message).await?, "here I am");
    assert!(
        !bot.posted(SOON, &message).await?,
        "it was not found but posted"
    );
    assert_eq!(bot.answers(&message), 1);
    assert_eq!(bot.asked().len(), 1);
    bot.end().await
}

/// Four letters that differ in everything, by hand; their ids.
async fn four_letters(queue: &Queue) -> anyhow::Result<[EventId; 4]> {
    let bot = BotName::default();
    let (mut asks, mut posts) = (queue.claim_asks(8), queue.claim_posts(&bot, 8));
    let bury = |cause, error: &str| Settlement::Bury {
        cause,
        error: error.to_owned(),
    };
    let in_room = |room| Event {
        room_id: Some(RoomId(room)),
        ..an_event(0)
    };
    let events = [in_room(3), in_room(4), in_room(3), in_room(4)];

    for (event, error) in [
        (&events[0], "SimSimi failed: 500"),
        (&events[1], "SimSimi failed: 503"),
    ] {
        queue.publisher().publish(event).await?;
        let claim = next(&mut asks).await?;
        settle(claim, bury(Cause::Exhausted, error)).await?;
    }
    queue.publisher().publish(&events[2]).await?;
    let claim = next(&mut asks).await?;
    settle(claim, Settlement::Next(a_reply(&events[2]))).await?;
    let claim = next(&mut posts).await?;
    settle(
        claim,
        bury(Cause::Refused, "Chatwork answered 403: No, not you"),
    )
    .await?;
    let homeless = Event {
        room_id: None,
        message_id: None,
        ..events[3].clone()
    };
    queue
        .publisher()
        .bury(&homeless, "EOF while parsing")
        .await?;

    asks.stop().await;
    posts.stop().await;
    Ok(events.map(|event| event.id))
}

/// Each flag chooses what it says, and all of them together what each of them says.
pub(super) async fn filters_choose_exactly_what_they_say(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let four = four_letters(&queue).await?.map(|id| id.to_string());
    let [ask, other_ask, post, receive] = four.each_ref().map(String::as_str);
    let all = listed(&stage, &[]).await?;
    assert_eq!(ids(&all), [ask, other_ask, post, receive]);
    let buried = text(&all[2], "buried_at");
    let later = |letter: &&Value| {
        let at = |letter| text(letter, "buried_at").parse::<Timestamp>();
        at(letter).is_ok_and(|at| buried.parse().is_ok_and(|buried| at >= buried))
    };
    let since: Vec<&str> = all
        .iter()
        .filter(later)
        .map(|letter| text(letter, "id"))
        .collect();

    let table: [(&[&str], &[&str]); 14] = [
        (&["--cause", "exhausted"], &[ask, other_ask]),
        (
            &["--cause", "refused", "--cause", "malformed"],
            &[post, receive],
        ),
        (&["--cause", "poison"], &[]),
        (&["--step", "post"], &[post]),
        (&["--room", "3"], &[ask, post]),
        (&["--bot", "bot"], &[ask, other_ask, post, receive]),
        (&["--bot", "tob"], &[]),
        (&["--error", "no, NOT"], &[post]),
        (&["--error", "50"], &[ask, other_ask]),
        (&[post, ask], &[ask, post]),
        (&["--limit", "3"], &[ask, other_ask, post]),
        (&["--since", buried], &since),
        (&["--until", "1h"], &[]),
        (&["--room", "3", "--step", "ask", "--since", "1h"], &[ask]),
    ];
    for (flags, expected) in table {
        let listed = listed(&stage, flags).await?;
        assert_eq!(ids(&listed), expected, "{flags:?}");
    }
    // Numbers in an error make no other group.
    let groups = done(&stage, &["list"]).await?;
    assert!(groups.contains("     2  exhausted  ask"), "{groups}");
    assert!(groups.contains("SimSimi failed: #"), "{groups}");

    for (flags, words) in [
        (
            &["--limit", "1"][..],
            "This is the oldest dead letter. There are younger ones",
        ),
        (
            &["--limit", "3", "--json"],
            "These are the oldest 3 dead letters. There",
        ),
        (&["--limit", "4"], ""),
    ] {
        let list = run(dead(&stage, &[&["list"], flags].concat())?).await?;
        assert_eq!(list.err.is_empty(), words.is_empty(), "{list:?}");
        assert!(list.err.contains(words), "{words} in {list:?}");
    }
    let one = done(&stage, &["list", "--limit", "1"]).await?;
    assert!(one.contains("1 dead letter, and more. Next:"), "{one}");

    // The same flags choose what is taken.
    let dropped = done(&stage, &["drop", "--room", "4", "--step", "ask", "--yes"]).await?;
    assert_eq!(dropped, format!("{other_ask}\n"));
    let retry = ["retry", "--all", "--limit", "1", "--yes", "--json"];
    let put_back = succeed(&stage, &retry).await?.json()?;
    assert_eq!(text(&put_back, "id"), ask);
    assert_eq!(ids(&listed(&stage, &[]).await?), [post, receive]);
    Ok(())
}

/// What is asked and not answered is not done; what is not said cannot be done.
pub(super) async fn without_consent_nothing_is_changed(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let four = four_letters(&queue).await?;
    let before = listed(&stage, &[]).await?;
    let id = four[0].to_string();
    for deed in ["retry", "drop"] {
        // Nobody is there to answer.
        let said = run(dead(&stage, &[deed, "--all"])?).await?;
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.err.contains("add --yes"), "{said:?}");
        // The preview alone.
        let said = run(dead(&stage, &[deed, "--all", "--dry-run"])?).await?;
        assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.err.contains("exhausted"), "{said:?}");
        // Nothing was chosen, or too much at once.
        for wrong in [&[][..], &["--yes"], &["--limit", "2"], &["--all", &id]] {
            let said = run(dead(&stage, &[&[deed], wrong].concat())?).await?;
            assert_eq!(said.code, Some(2), "{deed} {wrong:?}: {said:?}");
        }
        // Nothing fits.
        let said = run(dead(&stage, &[deed, "--yes", "--cause", "poison"])?).await?;
        assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    }
    assert_eq!(listed(&stage, &[]).await?, before);
    let said = run(dead(&stage, &["retry", "--all", "--dry-run"])?).await?;
    assert!(
        said.err.contains("SimSimi may be asked 2 times"),
        "{said:?}"
    );
    Ok(())
}

/// Dropped is gone, whoever asks; why is written down. An empty list is no failure.
pub(super) async fn what_is_dropped_is_gone_and_its_reason_is_kept(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let refusal = Fault::status(Service::Chatwork, 400).on(Call::Post);
    bot.sandbox.break_down(refusal.times(1000));
    let mut mentions = Vec::new();
    for number in 0..3 {
        let message = bot.mention(&format!("hello {number}")).await?;
        let letter = bot.buried(GIVEN_UP, &message).await?;
        mentions.push((message, letter.id.to_string()));
    }
    let [(_, first), (dropped, second), (retried, third)] = &mentions[..] else {
        unreachable!("three were made");
    };
    let gone = done(
        bot.stage(),
        &["drop", second, "--yes", "--reason", "told her myself"],
    )
    .await?;
    assert_eq!(gone, format!("{second}\n"));
    let reason = bot.became(dropped, "it is dropped", |what| match what {
        What::Dropped { reason } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason.await?, "told her myself");
    done(bot.stage(), &["retry", third, "--yes"]).await?;
    let reason = bot.became(retried, "it is put back", |what| match what {
        What::Replayed {
            reason, replay: 1, ..
        } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason.await?, "dead retry");

    // It is gone for all commands; the others are done nevertheless.
    let said = run(dead(bot.stage(), &["show", second])?).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains(second), "{said:?}");
    let said = run(dead(bot.stage(), &["drop", second, first, "--yes"])?).await?;
    assert_eq!((said.code, said.out), (Some(1), format!("{first}\n")));
    assert!(said.err.contains(second), "{}", said.err);
    let said = run(dead(bot.stage(), &["list", "--each", second])?).await?;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains(second), "{said:?}");

    bot.buried(GIVEN_UP, retried).await?;
    done(bot.stage(), &["drop", "--all", "--yes"]).await?;
    for form in [&["list"][..], &["list", "--each"], &["list", "--json"]] {
        let said = run(dead(bot.stage(), form)?).await?;
        assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.err.contains("no dead letters"), "{said:?}");
    }
    bot.end().await
}

/// A run of many letters can be stopped between two of them; what others have taken meanwhile is told.
pub(super) async fn a_long_run_can_be_stopped_and_says_how_far_it_came(
    kind: Kind,
) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let four = four_letters(&queue).await?.map(|id| id.to_string());

    let drop_slowly = |which: &[&str], rate: &str| -> anyhow::Result<_> {
        let how = ["drop", "--yes", "--rate", rate];
        begin(dead(&stage, &[&how, which].concat())?)
    };
    let (dropping, mut lines) = drop_slowly(&["--all"], "1/1h")?;
    let first = soon("one is dropped", lines.next_line()).await??;
    assert_eq!(first.as_deref(), Some(four[0].as_str()));
    let said = stop(dropping, libc::SIGINT).await?;
    assert_eq!(said.code, Some(1), "{said:?}");
    let words = "1 of 4 dropped; stopped, 3 left";
    assert!(said.err.contains(words), "{said:?}");
    assert_eq!(ids(&listed(&stage, &[]).await?), &four[1..]);

    // Two at once: a letter that both have chosen is taken by one of them, and the other says so.
    let (second, both) = (four[1].as_str(), four[3].as_str());
    let (dropping, mut lines) = drop_slowly(&[second, both], "1/15s")?;
    let mut taken = vec![soon("one is dropped", lines.next_line()).await??];
    let other = run(dead(&stage, &["drop", both, "--yes"])?).await?;
    taken.extend(other.out.lines().map(|line| Some(line.to_owned())));
    while let Some(line) = soon("the first has ended", lines.next_line()).await?? {
        taken.push(Some(line));
    }
    let one = Said::of(soon("the first has ended", dropping.wait_with_output()).await??)?;
    assert_eq!(taken, [second, both].map(|id| Some(id.to_owned())));
    let said = [one, other];
    let late = said
        .each_ref()
        .map(|said| said.err.contains("somebody else has taken 1"));
    let codes = said.each_ref().map(|said| said.code);
    assert!(
        late == [true, false] && codes == [Some(1), Some(0)]
            || late == [false, true] && codes == [Some(0), Some(1)],
        "{codes:?}: {said:?}"
    );
    assert_eq!(ids(&listed(&stage, &[]).await?), [four[2].as_str()]);
    Ok(())
}

/// Killed between any two letters, or within one: every job is back, none is given up any more, and
/// the next run is told nothing false.
pub(super) async fn a_run_that_is_killed_loses_nothing(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let mut left = HashSet::new();
    for number in 0..30 {
        let event = an_event(number);
        queue.publisher().bury(&event, "none").await?;
        left.insert(event.id);
    }
    for rate in ["1000/1s", "100/1s", "30/1s"] {
        let retry = ["retry", "--all", "--yes", "--rate", rate];
        let (mut retrying, mut lines) = begin(dead(&stage, &retry)?)?;
        for _ in 0..3 {
            soon("one is back", lines.next_line()).await??;
        }
        retrying.kill().await?;
    }
    done(&stage, &["retry", "--all", "--yes", "--rate", "1000/1s"]).await?;
    assert!(listed(&stage, &[]).await?.is_empty());
    let mut claims = queue.claim_asks(16);
    while !left.is_empty() {
        // One that was put back and not yet taken out when its run was killed is there twice.
        let claim = next(&mut claims).await?;
        if let Work::Ask(event) = &claim.job().work {
            left.remove(&event.id);
        }
        settle(claim, Settlement::Done).await?;
    }
    Ok(())
}

/// Whoever has read enough, as `head` has, is no reason for an outcry; but nothing is changed behind
/// the back of somebody who does not read on.
pub(super) async fn who_has_read_enough_may_go(kind: Kind) -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(kind))?;
    let queue = stage.queue().await?;
    let id = four_letters(&queue).await?[0].to_string();
    let unread = async |command: Command| -> anyhow::Result<(Option<i32>, String)> {
        let said = run_unread(command).await?;
        Ok((said.code, said.err))
    };
    let forms = [
        &["list"][..],
        &["list", "--each"],
        &["list", "--json"],
        &["show", &id],
        &["show", &id, "--json"],
    ];
    for form in forms {
        let unread = unread(dead(&stage, form)?).await?;
        assert_eq!(unread, (Some(0), String::new()), "{form:?}");
    }
    // Where the exit code is a result, it says the same to whoever reads nothing else: nobody works
    // here, and settings are missing.
    for name in ["status", "doctor"] {
        for form in [&[][..], &["--json"]] {
            let unread = unread(typed(&stage, name, form)?).await?;
            assert_eq!(unread, (Some(1), String::new()), "{name} {form:?}");
        }
    }
    let (code, said) = unread(dead(&stage, &["drop", "--all", "--yes"])?).await?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1 of 4 dropped; nobody reads on"), "{said}");
    assert_eq!(listed(&stage, &[]).await?.len(), 3);
    Ok(())
}

/// A queue that is not there is not created, and the place is named as it was understood.
pub(super) async fn a_queue_file_that_is_not_there_is_named_and_not_created() -> anyhow::Result<()>
{
    let here = tempfile::tempdir()?;
    let absolute = here.path().canonicalize()?.join("nowhere.db");
    let deeds: [&[&str]; 4] = [
        &["list"],
        &["show", "01a20caa-3f93-70fb-83f5-248e49a65e0a"],
        &["retry", "--all", "--yes"],
        &["drop", "--all", "--yes"],
    ];
    for words in deeds {
        let mut command = chickwork("dead")?;
        command
            .args(words)
            .current_dir(&here)
            .env("CHICKWORK_QUEUE", "sqlite:nowhere.db");
        let said = run(command).await?;
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        let path = absolute.display().to_string();
        assert!(said.err.contains(&path), "{path} is not in {said:?}");
        ensure!(!absolute.exists(), "a queue was created");
    }
    Ok(())
}

/// A namespace that nobody uses holds no queue, and none is created.
pub(super) async fn a_wrong_namespace_is_told_and_nothing_is_created() -> anyhow::Result<()> {
    let stage = tokio::task::block_in_place(|| Stage::new(Kind::Rabbitmq))?;
    for words in [&["list"][..], &["drop", "--all", "--yes"]] {
        let said = run(dead(&stage, words)?).await?;
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        assert!(
            said.err.contains(stage.namespace()) && said.err.contains("CHICKWORK_NAMESPACE"),
            "{said:?}"
        );
    }
    let operator = stage.operator().await?;
    let channel = operator.create_channel().await?;
    let passive = lapin::options::QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let name = format!("{}.dead", stage.namespace());
    let there = channel
        .queue_declare(name.into(), passive, lapin::types::FieldTable::default())
        .await;
    ensure!(there.is_err(), "a queue was created");
    Ok(())
}
