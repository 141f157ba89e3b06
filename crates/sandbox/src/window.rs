//! A sliding window: so many in such a time, at every moment.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

/// What was taken in the last `per`.
#[derive(Debug)]
pub(crate) struct Window {
    limit: u32,
    per: Duration,
    taken: VecDeque<Timestamp>,
}

impl Window {
    pub(crate) fn new(limit: u32, per: Duration) -> Self {
        Self {
            limit,
            per,
            taken: VecDeque::new(),
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// How many are left at `now`.
    pub(crate) fn left(&mut self, now: Timestamp) -> u32 {
        while self
            .taken
            .front()
            .is_some_and(|first| *first + self.per <= now)
        {
            self.taken.pop_front();
        }
        let taken = u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        self.limit.saturating_sub(taken)
    }

    /// Takes one if one is left.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        let free = self.left(now) > 0;
        if free {
            self.taken.push_back(now);
        }
        free
    }

    /// When there is one more than now, in Unix seconds, rounded up; `now` if nothing is taken.
    pub(crate) fn reset(&self, now: Timestamp) -> i64 {
        let at = self.taken.front().map_or(now, |first| *first + self.per);
        let whole = at.as_second();
        if at.subsec_nanosecond() > 0 {
            whole + 1
        } else {
            whole
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("a time")
    }

    #[test]
    fn what_was_taken_comes_back_when_its_time_is_over() {
        let mut window = Window::new(2, Duration::from_secs(10));
        assert_eq!(window.left(at(0)), 2);
        assert!(window.take(at(500)));
        assert!(window.take(at(9_000)));
        assert!(!window.take(at(10_499)));
        assert_eq!(window.reset(at(10_499)), 11);
        assert!(window.take(at(10_500)));
        assert_eq!(window.left(at(10_500)), 0);
        assert_eq!(window.left(at(60_000)), 2);
    }
}
