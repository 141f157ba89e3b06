//! Processes are killed, stopped and frozen at random moments under traffic. What meets a dead ingress
//! is not acknowledged, and nobody owes it anything; all else comes to its end.

use std::time::Duration;

use anyhow::ensure;
use chickwork_tests::bot::Plan;
use chickwork_tests::stage::Kind;
use chickwork_tests::storm::{self, Storm};

/// So often something happens to a process.
const TROUBLES: usize = 8;
/// Up to so long is between two of them.
const BETWEEN: Duration = Duration::from_secs(3);
/// Longer than leases and heartbeats live.
const LONGER_THAN_HEARTBEATS: Duration = Duration::from_secs(18);

/// An ingress and two workers, in a world that takes a while, so that there is something in flight.
async fn a_storm(kind: Kind) -> anyhow::Result<Storm> {
    let plan = Plan::on(kind)?.workers(2).unlimited().world(|world| {
        world.simsimi_takes = Duration::from_millis(200);
        world.chatwork_takes = Duration::from_millis(100);
    });
    let mut storm = Storm::start(plan, storm::seed()?).await?;
    storm.traffic()?;
    storm.acked(10).await?;
    Ok(storm)
}

async fn some_time(storm: &mut Storm) {
    let share = storm.random.f64();
    storm.rage(BETWEEN.mul_f64(share)).await;
}

pub(super) async fn processes_are_killed_at_random(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    for _ in 0..TROUBLES {
        some_time(&mut storm).await;
        let victim = storm.random.usize(..storm.processes());
        storm.kill(victim, Duration::ZERO).await?;
    }
    storm.settle_the_sums().await?;
    storm.end().await
}

pub(super) async fn processes_are_restarted_at_random(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    for _ in 0..TROUBLES {
        some_time(&mut storm).await;
        let victim = storm.random.usize(..storm.processes());
        storm.restart(victim).await?;
    }
    let sums = storm.settle_the_sums().await?;
    ensure!(sums.acked > 20, "hardly anything was taken: {sums}");
    storm.end().await
}

pub(super) async fn processes_stand_still_at_random(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    let longest = storm.random.usize(..storm.processes());
    for time in [1, 4, 8] {
        some_time(&mut storm).await;
        let victim = storm.random.usize(..storm.processes());
        storm.freeze(victim, Duration::from_secs(time)).await?;
    }
    storm.freeze(longest, LONGER_THAN_HEARTBEATS).await?;
    storm.acked(20).await?;
    storm.settle_the_sums().await?;
    storm.end().await
}

/// Everything at once, as when a machine loses its power.
pub(super) async fn everything_is_killed_at_once_again_and_again(kind: Kind) -> anyhow::Result<()> {
    let mut storm = a_storm(kind).await?;
    for _ in 0..3 {
        some_time(&mut storm).await;
        storm.kill_everything().await?;
        storm.bot.ready().await?;
        storm.acked(10).await?;
    }
    storm.settle_the_sums().await?;
    storm.end().await
}
