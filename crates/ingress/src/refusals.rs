//! Keeps the warning about refused signatures rare: anybody can send refused requests, and nobody
//! shall fill our logs with them.

use std::time::{Duration, Instant};

/// There is at most one warning in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Counts refusals between warnings.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    warned: Option<Instant>,
    unmentioned: u64,
}

impl Refusals {
    /// Notes a refusal. If a warning is due, returns how many refusals it stands for.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        self.unmentioned += 1;
        let due = self
            .warned
            .is_none_or(|warned| now.duration_since(warned) >= WARNING_INTERVAL);
        due.then(|| {
            self.warned = Some(now);
            std::mem::take(&mut self.unmentioned)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_one_warning_a_minute_that_counts_them() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        assert_eq!(refusals.note(start), Some(1));
        for second in 1..60 {
            assert_eq!(refusals.note(start + Duration::from_secs(second)), None);
        }
        assert_eq!(refusals.note(start + Duration::from_secs(60)), Some(60));
        assert_eq!(refusals.note(start + Duration::from_secs(61)), None);
    }
}
