//! Whether the broker is known to be away, so that not every event has to find out.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Becomes;
use crate::BrokerError;

/// So many different reasons are told while a breaker is open.
const MOST_REASONS: usize = 8;

/// A breaker for each kind of event: a broker that takes no dead letters may still take jobs.
#[derive(Debug)]
pub(super) struct Breakers {
    ask: Breaker,
    malformed: Breaker,
    ignored: Breaker,
}

impl Default for Breakers {
    fn default() -> Self {
        Self {
            ask: Breaker::of("events"),
            malformed: Breaker::of("dead letters"),
            ignored: Breaker::of("records of ignored events"),
        }
    }
}

impl Breakers {
    pub(super) fn of(&self, kind: &str) -> &Breaker {
        match kind {
            Becomes::MALFORMED => &self.malformed,
            Becomes::IGNORED => &self.ignored,
            _ => &self.ask,
        }
    }
}

/// Closed while the broker takes events of its kind, as an electric one is while the current flows.
#[derive(Debug)]
pub(super) struct Breaker {
    what: &'static str,
    /// Why the broker takes none; nothing while it does. Each reason is told once: it may change, and
    /// may go to and fro.
    reasons: Mutex<Vec<String>>,
}

impl Breaker {
    fn of(what: &'static str) -> Self {
        Self {
            what,
            reasons: Mutex::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.reasons().is_empty()
    }

    /// The broker did not take an event.
    pub(super) fn open(&self, error: &BrokerError) {
        let (what, reason) = (self.what, error.to_string());
        let mut reasons = self.reasons();
        if reasons.contains(&reason) || reasons.len() >= MOST_REASONS {
            return;
        }
        if reasons.is_empty() {
            log::warn!(
                "the broker takes no {what} ({reason}); until it does, they wait in the spool"
            );
        } else {
            log::warn!("the broker still takes no {what}, for another reason: {reason}");
        }
        reasons.push(reason);
    }

    /// The broker took one. However long that took: it was within the limit, and many are stored side
    /// by side. One that is so slow would fill the spool, which brings it one at a time.
    pub(super) fn close(&self) {
        let mut reasons = self.reasons();
        if !reasons.is_empty() {
            reasons.clear();
            log::info!("the broker takes {} again", self.what);
        }
    }

    fn reasons(&self) -> MutexGuard<'_, Vec<String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_one_kind_away_keeps_away_no_other() {
        let breakers = Breakers::default();
        let dead = breakers.of(Becomes::MALFORMED);
        dead.open(&BrokerError::Nacked);
        dead.open(&BrokerError::Closed);
        dead.open(&BrokerError::Nacked);
        assert_eq!(dead.reasons().len(), 2, "each reason is told once");
        assert!(dead.is_open() && !breakers.of(Becomes::ASK).is_open());
        dead.close();
        assert!(!dead.is_open());
    }
}
