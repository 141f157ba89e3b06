//! What commands of an operator have in common: their settings, and a queue that is there.

use std::time::Duration;

use anyhow::Context as _;
use chickwork_queue::{Queue, QueueError, Settings};

use crate::commands::Call;
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{OperatorSettings, Role};

/// How long the queue may take to write its last records.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How often it is tried whether the queue can be used: the first connection may take too long.
const TRIES: u32 = 3;
/// Between two tries.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(300);

pub(super) fn settings(call: &Call) -> Result<OperatorSettings, Mistakes> {
    let mut reader = Reader::new(&call.given, &[Role::Operator]);
    let settings = OperatorSettings::read(&mut reader);
    reader.finish(settings)
}

/// Does something with a queue that is there.
pub(super) async fn on_queue<T>(
    settings: Settings,
    work: impl AsyncFnOnce(&Queue) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let queue = Queue::open_existing(settings)
        .await
        .context("CHICKWORK_QUEUE cannot be used")?;
    let done = work(&queue).await;
    queue.close(CLOSE_LIMIT).await;
    done
}

/// Whether the queue can be used, tried a few times.
pub(super) async fn usable(queue: &Queue) -> Result<(), QueueError> {
    for _ in 1..TRIES {
        if queue.check().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
    }
    queue.check().await
}
