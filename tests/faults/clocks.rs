//! Clocks that are wrong: what Chatwork's says of an event is believed only as far as it makes sense.

use std::time::Duration;

use anyhow::ensure;
use chickwork_tests::bot::Plan;
use chickwork_tests::stage::Kind;
use chickwork_tests::storm::{self, Sort, Storm};

/// From the future: as if it were now, and answered. From long ago: given up as too old, with its
/// cause, and not lost.
pub(super) async fn events_from_the_future_and_from_long_ago_have_their_end(
    kind: Kind,
) -> anyhow::Result<()> {
    let plan = Plan::on(kind)?.unlimited();
    let mut storm = Storm::start(plan, storm::seed()?).await?.sorts(&[
        Sort::Mention,
        Sort::FromTheFuture,
        Sort::LongAgo,
    ]);
    storm.traffic()?;
    storm.rage(Duration::from_secs(10)).await;
    let sums = storm.settle_the_sums().await?;
    let of = |sort| {
        let told = storm.told();
        told.iter().filter(|told| told.sort == sort).count()
    };
    ensure!(
        of(Sort::FromTheFuture) > 0 && of(Sort::LongAgo) > 0,
        "{sums}"
    );
    // Nobody pays for what is too old.
    ensure!(
        storm.bot.asked().len() == sums.answered + sums.asked_again,
        "{sums}"
    );
    storm.end().await
}
