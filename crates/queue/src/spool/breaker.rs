//! Whether the broker is known to be away, so that not every event has to find out.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::BrokerError;

/// Closed while the broker takes events, as an electric one is while the current flows.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    open: AtomicBool,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// The broker did not take an event.
    pub(super) fn open(&self, error: &BrokerError) {
        if !self.open.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the broker takes no events ({error}); until it does, they wait in the spool"
            );
        }
    }

    /// The broker took one, and did not take long.
    pub(super) fn close(&self) {
        if self.open.swap(false, Ordering::Relaxed) {
            log::info!("the broker takes events again");
        }
    }
}
