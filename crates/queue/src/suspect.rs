//! What happens to a job that comes back without having been settled.
//!
//! Whoever held it died, or lost the broker. A job may be the reason, or lie innocently beside the
//! one that is: prefetched jobs come back as well. So after a few returns a job is put off by a
//! random time, which soon leaves the guilty one alone in its worker, and only one that dies over
//! and over is buried. The broker's own delivery limit is no help here: it counts every return of
//! every prefetched message, clean stops included.

use std::time::Duration;

/// From this many deaths on a job that comes back is put off.
pub(crate) const SUSPECT_AT: u32 = 3;
/// At this many deaths a job that comes back is buried.
pub(crate) const POISON_AT: u32 = 10;
/// A suspect is put off by a random number of whole seconds in this range.
const PUT_OFF_SECONDS: std::ops::RangeInclusive<u64> = 1..=30;

/// What to do with a job that was just fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Work on it.
    Work,
    /// Not now: put it off, remembering its deaths.
    PutOff(Duration),
    /// Bury it as poison.
    Bury,
}

/// Decides by the returns since the job was last written, and its deaths in all (those included).
pub(crate) fn fate(returns: u32, deaths: u32) -> Fate {
    if returns == 0 || deaths < SUSPECT_AT {
        Fate::Work
    } else if deaths < POISON_AT {
        Fate::PutOff(Duration::from_secs(fastrand::u64(PUT_OFF_SECONDS)))
    } else {
        Fate::Bury
    }
}

/// The error text of a job buried as poison.
pub(crate) fn poison_error(deaths: u32) -> String {
    format!("came back unsettled {deaths} times; presumably it kills its worker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_worked_on_twice_more_then_put_off_and_at_ten_deaths_buried() {
        assert_eq!(fate(0, 0), Fate::Work);
        assert_eq!(fate(1, 1), Fate::Work);
        assert_eq!(fate(2, 2), Fate::Work);
        assert!(matches!(fate(3, 3), Fate::PutOff(_)));
        assert_eq!(
            fate(0, 3),
            Fate::Work,
            "after having been put off it gets its chance"
        );
        assert!(matches!(fate(1, 4), Fate::PutOff(_)));
        assert!(matches!(fate(1, 9), Fate::PutOff(_)));
        assert_eq!(fate(0, 9), Fate::Work);
        assert_eq!(fate(1, 10), Fate::Bury);
    }

    #[test]
    fn suspects_are_spread_over_half_a_minute() {
        for _ in 0..1000 {
            let Fate::PutOff(delay) = fate(1, 5) else {
                panic!("a suspect is put off");
            };
            assert!((1..=30).contains(&delay.as_secs()));
        }
    }
}
