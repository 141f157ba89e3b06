//! The broker fails under traffic: killed, restarted, out of memory, frozen, robbed of a queue, cut
//! off, not there yet. Webhooks are answered with 200 all the while, and everything comes to its end.

use std::time::Duration;

use anyhow::ensure;
use chickwork_tests::bot::Plan;
use chickwork_tests::stage::Kind;
use chickwork_tests::storm::{self, Storm, Sums};

/// How long it rages between two troubles.
const BETWEEN: Duration = Duration::from_secs(3);
/// Longer than heartbeats of 5 s need to find out that nobody answers.
const LONGER_THAN_HEARTBEATS: Duration = Duration::from_secs(16);

/// An ingress and two workers on a broker of their own.
fn a_bot() -> anyhow::Result<Plan> {
    Ok(Plan::on(Kind::Rabbitmq)?.alone().workers(2).unlimited())
}

async fn a_storm() -> anyhow::Result<Storm> {
    let mut storm = Storm::start(a_bot()?, storm::seed()?).await?;
    storm.traffic()?;
    storm.acked(10).await?;
    Ok(storm)
}

/// Nobody was refused (see the sums), as there is a spool.
fn some_were_spooled(sums: &Sums) -> anyhow::Result<()> {
    ensure!(
        sums.stored.get("spool").is_some_and(|count| *count > 0),
        "nothing went through the spool: {sums}"
    );
    Ok(())
}

pub(super) async fn a_broker_is_killed_and_nobody_notices() -> anyhow::Result<()> {
    let mut storm = a_storm().await?;
    storm.kill_the_broker(Duration::ZERO).await?;
    storm.rage(BETWEEN).await;
    storm.kill_the_broker(Duration::ZERO).await?;
    storm.acked(20).await?;
    some_were_spooled(&storm.settle_the_sums().await?)?;
    storm.end().await
}

pub(super) async fn a_broker_is_away_for_long_and_nobody_notices() -> anyhow::Result<()> {
    let mut storm = a_storm().await?;
    storm.kill_the_broker(Duration::from_secs(20)).await?;
    storm.acked(20).await?;
    some_were_spooled(&storm.settle_the_sums().await?)?;
    storm.end().await
}

pub(super) async fn a_broker_is_restarted_and_nobody_notices() -> anyhow::Result<()> {
    let mut storm = a_storm().await?;
    for _ in 0..2 {
        storm.rage(BETWEEN).await;
        storm.restart_the_broker()?;
    }
    storm.acked(20).await?;
    some_were_spooled(&storm.settle_the_sums().await?)?;
    storm.end().await
}

pub(super) async fn a_broker_without_memory_holds_up_no_webhook() -> anyhow::Result<()> {
    let mut storm = a_storm().await?;
    storm.block_the_broker(Duration::from_secs(8)).await?;
    storm.acked(20).await?;
    some_were_spooled(&storm.settle_the_sums().await?)?;
    storm.end().await
}

pub(super) async fn a_frozen_broker_holds_up_no_webhook() -> anyhow::Result<()> {
    let mut storm = a_storm().await?;
    storm.rage(BETWEEN).await;
    storm.freeze_the_broker(LONGER_THAN_HEARTBEATS).await?;
    storm.acked(20).await?;
    some_were_spooled(&storm.settle_the_sums().await?)?;
    storm.end().await
}

pub(super) async fn closed_connections_are_opened_again() -> anyhow::Result<()> {
    let mut storm = a_storm().await?;
    for _ in 0..4 {
        storm.rage(BETWEEN).await;
        storm.close_all_connections()?;
    }
    storm.acked(20).await?;
    storm.settle_the_sums().await?;
    storm.end().await
}

/// Nothing but the archive knows what lay in a queue that somebody deletes. The audit finds it, and
/// puts it back in.
pub(super) async fn what_lay_in_a_deleted_queue_is_found_by_the_audit() -> anyhow::Result<()> {
    let mut storm = a_storm().await?;
    // While nobody works, the queue fills.
    for worker in &mut storm.bot.workers {
        worker.kill().await?;
    }
    storm.acked(60).await?;
    let deleted = storm.delete_the_ask_queue().await?;
    ensure!(deleted > 0, "there was nothing in the queue");
    // It is there again as soon as somebody publishes or works.
    storm.acked(20).await?;
    storm.calm().await?;

    let audit = storm.audit_of_the_lost().await?;
    ensure!(
        !audit.clean && audit.unexplained > 0 && audit.twice == 0,
        "{deleted} events were deleted with their queue: {audit:?}"
    );
    storm.requeue().await?;
    storm.settle_the_sums().await?;
    storm.end().await
}

/// Everything is started without a broker, and it comes much later.
pub(super) async fn a_broker_that_comes_late_finds_everything_waiting() -> anyhow::Result<()> {
    let mut storm = Storm::prepare(a_bot()?, storm::seed()?).await?;
    tokio::task::block_in_place(|| storm.bot.stage().node()?.stop())?;
    for server in storm.bot.servers_mut() {
        server.start()?;
    }
    storm.bot.front.ready().await?;
    storm.traffic()?;
    storm.acked(60).await?;
    ensure!(storm.bot.sandbox.ledger().posted.is_empty(), "who works?");
    tokio::task::block_in_place(|| storm.bot.stage().node()?.start_again())?;
    storm.acked(20).await?;
    some_were_spooled(&storm.settle_the_sums().await?)?;
    storm.end().await
}
