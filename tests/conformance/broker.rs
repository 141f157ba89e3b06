//! What only a broker can do to us: lose a queue or a binding, hold objects with other arguments,
//! end connections, be several nodes.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chickwork_queue::event::BotName;
use chickwork_queue::job::{Settlement, Work};
use chickwork_queue::{Declare, Location, Queue, Settings};
use chickwork_tests::stage::{
    Kind, Stage, a_reply, an_event, next, nothing, outcome, settle, soon, within,
};
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::tell;

const LIMIT: u16 = 16;

fn on_a_broker<F: Future<Output = anyhow::Result<()>>>(
    story: impl FnOnce(Stage) -> F,
) -> anyhow::Result<()> {
    tell(Stage::new(Kind::Rabbitmq), story)
}

/// The pause between tries of what fails until the broker is mended: the broker tells nobody when.
const AGAIN: Duration = Duration::from_millis(100);

/// Sets marks until one is stored.
async fn mark_until_set(queue: &Queue) {
    while queue.outcomes().mark().await.is_err() {
        tokio::time::sleep(AGAIN).await;
    }
}

/// Publishes until it works again.
async fn publish_until_stored(
    queue: &Queue,
    number: u32,
) -> anyhow::Result<chickwork_queue::event::Event> {
    let event = an_event(number);
    let stored = async {
        while queue.publisher().publish(&event).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    };
    soon("publishing works again", stored).await?;
    Ok(event)
}

#[test]
fn an_event_is_not_stored_while_the_ask_queue_is_gone_and_the_queue_comes_back()
-> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let settings = Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        };
        stage.queue().await?;
        let queue = Queue::open(settings).await?;
        soon("it can be used", async {
            while queue.check().await.is_err() {}
        })
        .await?;
        let operator = stage.operator().await?;
        let ask = format!("{}.ask", stage.namespace());
        let channel = operator.create_channel().await?;
        channel
            .queue_delete(ask.as_str().into(), QueueDeleteOptions::default())
            .await?;
        // The archive still takes its copy, and the broker acks what it cannot route.
        for number in 0..20 {
            let stored = queue.publisher().publish(&an_event(number)).await;
            ensure!(stored.is_err(), "the event lies nowhere, and that is said");
        }
        // Whoever may declare heals it.
        let healing = stage.queue().await?;
        let event = publish_until_stored(&healing, 100).await?;
        let claim = next(&mut healing.claim_asks(LIMIT)).await?;
        ensure!(claim.job().work == Work::Ask(event));
        settle(claim, Settlement::Done).await
    })
}

#[test]
fn a_binding_that_somebody_removed_is_noticed_and_comes_back() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        queue.publisher().publish(&an_event(1)).await?;
        let operator = stage.operator().await?.create_channel().await?;
        let (ask, way_in) = (
            format!("{}.ask", stage.namespace()),
            format!("{}.in", stage.namespace()),
        );
        operator
            .queue_unbind(
                ask.as_str().into(),
                way_in.as_str().into(),
                "ask".into(),
                FieldTable::default(),
            )
            .await?;
        ensure!(
            queue.publisher().publish(&an_event(2)).await.is_err(),
            "an unroutable event is not stored"
        );
        publish_until_stored(&queue, 3).await?;
        Ok(())
    })
}

#[test]
fn an_exchange_that_somebody_deleted_comes_back() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        publish_until_stored(&queue, 1).await?;
        for name in ["in", "outcomes", "due"] {
            let operator = stage.operator().await?.create_channel().await?;
            let exchange = format!("{}.{name}", stage.namespace());
            operator
                .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
                .await?;
            publish_until_stored(&queue, 2).await?;
            soon("a mark can be set", mark_until_set(&queue)).await?;
        }
        let mut claims = queue.claim_asks(LIMIT);
        let claim = next(&mut claims).await?;
        let later = Settlement::Later(Duration::ZERO, chickwork_queue::job::Attempt::Counted);
        settle(claim, later).await
    })
}

#[test]
fn any_number_of_refused_publishes_leaves_a_handle_that_works() -> anyhow::Result<()> {
    /// More than a connection has channels; each refusal costs one.
    const REFUSALS: usize = 4_500;
    on_a_broker(async |stage: Stage| {
        let healer = stage.queue().await?;
        let settings = Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        };
        let queue = Queue::open(settings).await?;
        soon("it can be used", async {
            while queue.check().await.is_err() {}
        })
        .await?;
        let operator = stage.operator().await?.create_channel().await?;
        let exchange = format!("{}.outcomes", stage.namespace());
        operator
            .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
            .await?;
        let refused = async {
            for _ in 0..REFUSALS {
                ensure!(
                    queue.outcomes().mark().await.is_err(),
                    "there is no exchange"
                );
            }
            Ok(())
        };
        within(Duration::from_secs(60), "all are refused", refused).await??;
        soon("somebody heals it", mark_until_set(&healer)).await?;
        soon("and the handle works again", mark_until_set(&queue)).await
    })
}

#[test]
fn claims_go_on_when_their_queue_was_deleted_under_way() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut claims = queue.claim_asks(LIMIT);
        queue.publisher().publish(&an_event(1)).await?;
        settle(next(&mut claims).await?, Settlement::Done).await?;
        let operator = stage.operator().await?.create_channel().await?;
        let ask = format!("{}.ask", stage.namespace());
        operator
            .queue_delete(ask.as_str().into(), QueueDeleteOptions::default())
            .await?;
        let (publisher, event) = (queue.clone(), an_event(2));
        let again = async {
            loop {
                tokio::select! {
                    claim = claims.next() => return claim,
                    () = tokio::time::sleep(AGAIN) => {
                        let _ = publisher.publisher().publish(&event).await;
                    }
                }
            }
        };
        let claim = within(Duration::from_secs(30), "claims come again", again).await?;
        settle(claim, Settlement::Done).await
    })
}

#[test]
fn claims_and_publishes_go_on_when_connections_are_closed_from_outside() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut claims = queue.claim_asks(LIMIT);
        let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
        nothing(&mut posts).await?;
        for number in 0..3 {
            let event = publish_until_stored(&queue, number).await?;
            let claim = next(&mut claims).await?;
            ensure!(claim.job().work == Work::Ask(event));
            settle(claim, Settlement::Done).await?;
            tokio::task::block_in_place(|| {
                stage
                    .node()?
                    .control(&["close_all_connections", "by an operator"])
            })?;
        }
        publish_until_stored(&queue, 9).await?;
        settle(next(&mut claims).await?, Settlement::Done).await
    })
}

#[test]
fn passive_mode_needs_the_objects_to_be_there_and_says_what_to_do() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let settings = Settings {
            declare: Declare::Passive,
            ..stage.settings()?
        };
        let queue = Queue::open(settings.clone()).await?;
        let error = queue
            .check()
            .await
            .err()
            .context("nothing is there yet")?
            .to_string();
        ensure!(
            error.contains("chickwork topology") && error.contains("CHICKWORK_DECLARE"),
            "{error}"
        );
        stage.queue().await?;
        let queue = Queue::open(settings).await?;
        queue.publisher().publish(&an_event(1)).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await
    })
}

#[test]
fn a_queue_that_breaks_a_promise_is_refused_with_the_cure() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let operator = stage.operator().await?.create_channel().await?;
        let ask = format!("{}.ask", stage.namespace());
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(5));
        operator
            .queue_declare(
                ask.as_str().into(),
                QueueDeclareOptions::durable(),
                arguments,
            )
            .await?;
        let queue = Queue::open(stage.settings()?).await?;
        let error = queue
            .check()
            .await
            .err()
            .context("five deliveries are too few")?
            .to_string();
        ensure!(
            error.contains(&ask) && error.contains("CHICKWORK_NAMESPACE"),
            "{error}"
        );
        Ok(())
    })
}

#[test]
fn a_stream_that_is_kept_for_another_time_is_used_with_a_warning() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let settings = Settings {
            archive_keep: Duration::from_secs(3 * 24 * 3600),
            ..stage.settings()?
        };
        let first = Queue::open(settings).await?;
        soon("it can be used", async {
            while first.check().await.is_err() {}
        })
        .await?;
        let queue = stage.queue().await?;
        queue.publisher().publish(&an_event(1)).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await
    })
}

#[test]
fn a_node_that_is_away_is_passed_over() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let Location::Amqp(urls) = stage.settings()?.location else {
            bail!("a broker")
        };
        let away = "amqp://guest:guest@127.0.0.1:1/%2f".to_owned();
        let location = Location::Amqp([vec![away.clone()], urls, vec![away]].concat());
        let queue = Queue::open(Settings {
            location,
            ..stage.settings()?
        })
        .await?;
        publish_until_stored(&queue, 1).await?;
        settle(next(&mut queue.claim_asks(LIMIT)).await?, Settlement::Done).await
    })
}

#[test]
fn a_broker_that_is_away_is_said_to_be_within_two_seconds() -> anyhow::Result<()> {
    on_a_broker(async |stage: Stage| {
        let location = Location::Amqp(vec!["amqp://guest:guest@127.0.0.1:1/%2f".to_owned()]);
        let queue = Queue::open(Settings {
            location,
            ..stage.settings()?
        })
        .await?;
        let (publisher, event) = (queue.publisher(), an_event(1));
        let refused = within(
            Duration::from_secs(3),
            "it says no",
            publisher.publish(&event),
        );
        ensure!(refused.await?.is_err());
        Ok(())
    })
}

#[test]
fn while_an_alarm_blocks_publishing_nothing_is_acked_and_nothing_is_lost() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut claims = queue.claim_asks(LIMIT);
        let waiting = an_event(1);
        queue.publisher().publish(&waiting).await?;
        let held = next(&mut claims).await?;
        tokio::task::block_in_place(|| {
            stage
                .node()?
                .control(&["set_vm_memory_high_watermark", "absolute", "1MB"])
        })?;
        let blocked = async { while queue.publisher().publish(&an_event(2)).await.is_ok() {} };
        soon("the broker takes no more", blocked).await?;
        // A worker that has to publish waits, and does not lose its claim over it.
        let settling = tokio::spawn(settle(
            held,
            Settlement::Later(
                Duration::from_secs(1),
                chickwork_queue::job::Attempt::Counted,
            ),
        ));
        tokio::task::block_in_place(|| {
            stage
                .node()?
                .control(&["set_vm_memory_high_watermark", "absolute", "1GB"])
        })?;
        publish_until_stored(&queue, 3).await?;
        within(Duration::from_secs(30), "the claim is settled", settling).await???;
        let back = async {
            loop {
                let claim = claims.next().await;
                let is_it = matches!(&claim.job().work, Work::Ask(event) if event.id == waiting.id);
                let attempts = claim.job().attempts;
                settle(claim, Settlement::Done).await?;
                if is_it {
                    return anyhow::Ok(attempts);
                }
            }
        };
        ensure!(within(Duration::from_secs(30), "the job is back", back).await?? == 1);
        Ok(())
    })
}

#[test]
fn an_intent_that_meets_an_alarm_is_refused_and_takes_no_other_claim_along() -> anyhow::Result<()> {
    tell(Stage::alone(Kind::Rabbitmq), async |stage: Stage| {
        let queue = stage.queue().await?;
        let mut asks = queue.claim_asks(LIMIT);
        for number in 0..2 {
            let event = publish_until_stored(&queue, number).await?;
            settle(next(&mut asks).await?, Settlement::Next(a_reply(&event))).await?;
        }
        let mut posts = queue.claim_posts(&BotName::default(), LIMIT);
        let (one, other) = (next(&mut posts).await?, next(&mut posts).await?);
        let tenure = one.tenure();
        let alarm = |level: &str| {
            let arguments = ["set_vm_memory_high_watermark", "absolute", level];
            tokio::task::block_in_place(|| stage.node()?.control(&arguments))
        };
        alarm("1MB")?;
        let blocked = async { while queue.publisher().publish(&an_event(9)).await.is_ok() {} };
        soon("the broker takes no more", blocked).await?;
        let intent = |claim: &chickwork_queue::Claim| {
            let Work::Post(reply) = &claim.job().work else {
                unreachable!("these are replies")
            };
            let consumer = "a test".to_owned();
            outcome(
                reply.id,
                chickwork_queue::outcome::What::Intent { consumer },
            )
        };
        ensure!(
            one.intend(&intent(&one)).await.is_err(),
            "nobody confirms it"
        );
        alarm("1GB")?;
        ensure!(
            other.intend(&intent(&other)).await.is_err(),
            "one that is unconfirmed is enough"
        );
        let later = || Settlement::Later(Duration::ZERO, chickwork_queue::job::Attempt::NotCounted);
        let settled = async {
            settle(one, later()).await?;
            settle(other, later()).await
        };
        within(Duration::from_secs(60), "both are settled", settled).await??;
        for _ in 0..2 {
            let claim = within(Duration::from_secs(60), "both are back", posts.next()).await?;
            ensure!(claim.tenure() > tenure, "under a new tenure");
            ensure!(claim.job().deaths == 0, "nobody died");
            claim.intend(&intent(&claim)).await?;
            settle(claim, Settlement::Done).await?;
        }
        Ok(())
    })
}
