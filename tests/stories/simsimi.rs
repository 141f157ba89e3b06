//! What becomes of a mention when SimSimi misbehaves.

use std::time::Duration;

use chickwork_queue::job::{Cause, Step};
use chickwork_queue::outcome::What;
use chickwork_sandbox::fault::{Fault, Service, When};
use chickwork_tests::bot::{Bot, Plan, a_hook};
use chickwork_tests::door::Door;
use chickwork_tests::stage::Kind;

/// A SimSimi that fails in every way, one after the other, is asked again until it answers.
pub(super) async fn a_failing_simsimi_is_asked_again(kind: Kind) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?.start().await?;
    let failures = [
        Fault::status(Service::Simsimi, 500),
        Fault::status(Service::Simsimi, 200).with_body("<html>maintenance</html>"),
        Fault::drop(Service::Simsimi, When::Before),
        // Longer than anybody waits.
        Fault::delay(Service::Simsimi, Duration::from_secs(11)),
    ];
    let count = failures.len();
    for failure in failures {
        bot.sandbox.break_down(failure);
    }
    let message = bot.mention("echo at last").await?;
    assert_eq!(
        bot.answer_within(Duration::from_secs(60), &message).await?,
        "at last"
    );
    bot.posted(Duration::from_secs(10), &message).await?;
    assert_eq!(bot.answers(&message), 1);
    // The ledger notes a call when it is over; the slowest may still be on its way.
    let all = |ledger: &chickwork_sandbox::ledger::Ledger| ledger.asked.len() == count + 1;
    assert!(
        bot.sandbox.until(Duration::from_secs(15), all).await,
        "{:?}",
        bot.sandbox.ledger().asked
    );
    bot.end().await
}

/// A SimSimi that cannot be reached is tried again until it can.
pub(super) async fn a_simsimi_out_of_reach_is_tried_again(kind: Kind) -> anyhow::Result<()> {
    let plan = Plan::on(kind)?;
    let mut door = Door::to(plan.sandbox_address()).await?;
    let bot = plan
        .with(
            "SIMSIMI_API_URL",
            format!("http://{}/190410", door.address()),
        )
        .start()
        .await?;
    door.shut().await;
    let message = bot.mention("echo through the door").await?;
    let reason = bot.became(&message, "it is put off", later).await?;
    assert!(reason.contains("not reachable"), "{reason}");
    door.open().await?;
    assert_eq!(bot.answer(&message).await?, "through the door");
    assert_eq!(bot.asked().len(), 1);
    bot.end().await
}

fn later(what: &What) -> Option<String> {
    match what {
        What::Later { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

/// Tries end with `CHICKWORK_MAX_AGE`; an operator finds the last error.
pub(super) async fn what_simsimi_never_answers_is_buried_with_the_last_error(
    kind: Kind,
) -> anyhow::Result<()> {
    let bot = Plan::on(kind)?
        .with("CHICKWORK_MAX_AGE", "20s")
        .start()
        .await?;
    let down = Fault::status(Service::Simsimi, 503).with_body("{\"message\":\"out of corn\"}");
    bot.sandbox.break_down(down.times(1000));
    let message = bot.mention("anybody there?").await?;
    let letter = bot.buried(Duration::from_secs(90), &message).await?;
    assert_eq!((letter.cause, letter.step), (Cause::Exhausted, Step::Ask));
    assert!(letter.error.contains("out of corn"), "{}", letter.error);
    assert!(letter.attempts >= 1, "{letter:?}");
    assert!(bot.asked().len() >= 2);
    assert!(bot.sandbox.ledger().posted.is_empty());
    bot.end().await
}

/// An event that is too old when its turn comes is not answered at all.
pub(super) async fn an_old_mention_expires_unasked(kind: Kind) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .with("CHICKWORK_MAX_AGE", "60s")
        .start()
        .await?;
    let mut hook = a_hook("1800000000000000001", "are you still there?");
    hook.event_time -= 120;
    assert_eq!(bot.deliver(&hook).await?.status, Some(200));
    let letter = bot
        .buried(Duration::from_secs(20), &hook.message_id)
        .await?;
    assert_eq!(
        (letter.cause, letter.step, letter.attempts),
        (Cause::Expired, Step::Ask, 0)
    );
    // A time in the future counts as now.
    let mut hook = a_hook("1800000000000000002", "echo early bird");
    hook.event_time += 3600;
    assert_eq!(bot.deliver(&hook).await?.status, Some(200));
    assert_eq!(bot.answer(&hook.message_id).await?, "early bird");
    assert_eq!(bot.asked().len(), 1);
    let expired = "chickwork_dead_total{cause=\"expired\"}";
    bot.worker()
        .until_figure(expired, |figure| figure == 1.0)
        .await?;
    bot.end().await
}

/// What is SimSimi's business with us (key, quota, parameters) is not the event's fault: asking
/// pauses, loudly, and the mention waits.
pub(super) async fn asking_pauses_when_simsimi_does_not_want_us() -> anyhow::Result<()> {
    let mut bot = Plan::on(Kind::Sqlite)?.start().await?;
    let refusals: [(u16, &str); 3] = [
        (429, r#"{"status":429,"statusMessage":"Limit Exceeded"}"#),
        (403, r#"{"status":403,"statusMessage":"Unauthorized"}"#),
        (
            227,
            r#"{"status":227,"statusMessage":"Parameter Required"}"#,
        ),
    ];
    let mut waiting = Vec::new();
    for (status, body) in refusals {
        bot.sandbox
            .break_down(Fault::nothing(Service::Simsimi).with_body(body));
        let asked = bot.asked().len();
        let message = bot.mention(&format!("echo after {status}")).await?;
        paused(&mut bot, &message, "ask").await?;
        // Others are not asked about meanwhile, and wait as well.
        let other = bot.mention(&format!("echo with {status}")).await?;
        let why = bot.became(&other, "it is put off", later).await?;
        assert!(why.starts_with("paused: SimSimi"), "{why}");
        assert_eq!(bot.asked().len(), asked + 1);
        assert!(
            bot.worker()
                .log()
                .contains("paused, nothing is lost: SimSimi"),
            "{status}"
        );
        waiting.extend([message, other]);
        if status != 227 {
            // A pause ends with its process.
            bot.worker().kill().await?;
            bot.worker().start()?;
            bot.ready().await?;
        }
    }
    // The last one is waited for, once, in all of these stories.
    bot.all_answered_once(Duration::from_secs(100), &waiting)
        .await?;
    for message in &waiting {
        let counted = bot.outcomes().await?.into_iter().any(|outcome| {
            outcome.message_id.as_ref() == Some(message)
                && later(&outcome.what).is_some_and(|reason| !reason.starts_with("paused"))
        });
        assert!(!counted, "a pause is no failed try");
    }
    bot.worker()
        .until_figure("chickwork_paused{step=\"ask\"}", |figure| figure == 0.0)
        .await?;
    bot.end().await
}

/// Waits until the step is known to pause because of this message.
pub(super) async fn paused(
    bot: &mut Bot,
    message: &chickwork_chatwork::id::MessageId,
    step: &str,
) -> anyhow::Result<()> {
    let why = bot.became(message, "it is put off", later).await?;
    assert!(why.starts_with("paused: "), "{why}");
    let series = format!("chickwork_paused{{step=\"{step}\"}}");
    bot.worker()
        .until_figure(&series, |figure| figure == 1.0)
        .await
}

/// With a wrong key nothing is said, nothing is lost, and the key is not told.
pub(super) async fn a_wrong_key_is_found_out_at_the_first_question(
    kind: Kind,
) -> anyhow::Result<()> {
    let mut bot = Plan::on(kind)?
        .with("SIMSIMI_API_KEY", "not-the-key")
        .start()
        .await?;
    let message = bot.mention("hello?").await?;
    paused(&mut bot, &message, "ask").await?;
    assert_eq!(bot.sandbox.ledger().asked.len(), 1);
    assert!(!bot.worker().log().contains("not-the-key"));
    bot.end().await
}
