//! How many calls of Chatwork may be made here: the part of the account's limit that is kept for reads,
//! and less than that where workers have used up the rest. Pure; the time comes in.

use std::collections::VecDeque;
use std::time::Duration;

use chickwork_clients::chatwork::Limits;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::settings::parse::Rate;

/// One part in so many of the account's calls is kept for reads: workers do not post with it.
const RESERVE: u32 = 10;
/// One part in so many of that is left to the workers' own reads.
const LEFT_TO_WORKERS: u32 = 3;
/// A window has ended a little before another clock says so.
const RESET_MARGIN: Duration = Duration::from_secs(1);

/// The calls that may be made, in a sliding window. They are counted when their answers have arrived.
#[derive(Debug)]
pub(super) struct Allowance {
    account: Rate,
    /// So many of them are ours.
    ours: usize,
    made: VecDeque<Instant>,
    /// Nobody else has any left either.
    rests_until: Option<Instant>,
}

impl Allowance {
    /// Of an account with this limit.
    pub(super) fn of(account: Rate) -> Self {
        Self {
            account,
            ours: reserve(account.calls),
            made: VecDeque::new(),
            rests_until: None,
        }
    }

    /// How long to wait before the next call: at most as long as the limit's window, and a little.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let window = self.account.per;
        while self.made.front().is_some_and(|made| *made + window <= now) {
            self.made.pop_front();
        }
        let full = self.made.len() >= self.ours;
        let free_at = full.then(|| self.made[self.made.len() - self.ours] + window);
        let rests_until = self.rests_until.filter(|until| *until > now);
        let at = free_at.into_iter().chain(rests_until).max();
        at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// A call was answered, or came to nothing; `limits` is what Chatwork said about it by its own
    /// clock, or, if it told no time, by ours.
    pub(super) fn called(&mut self, limits: &Limits, clock: Timestamp, now: Instant) {
        self.made.push_back(now);
        if let Some(told) = limits.limit {
            self.ours = reserve(told.min(self.account.calls));
        }
        let ours = u32::try_from(self.ours).unwrap_or(u32::MAX);
        let is_used_up = |left: u32| left <= ours / LEFT_TO_WORKERS;
        if limits.remaining.is_some_and(is_used_up) {
            self.rest(limits, clock, now);
        }
    }

    /// A call was refused: there are none left at all.
    pub(super) fn refused(&mut self, limits: &Limits, clock: Timestamp, now: Instant) {
        self.made.push_back(now);
        self.rest(limits, clock, now);
    }

    fn rest(&mut self, limits: &Limits, clock: Timestamp, now: Instant) {
        let window = self.account.per;
        let until_reset = limits.reset.map_or(window, |reset| {
            let clock = limits.date.unwrap_or(clock).as_second();
            let seconds = u64::try_from(reset.saturating_sub(clock)).unwrap_or(0);
            Duration::from_secs(seconds).min(window)
        });
        self.rests_until = Some(now + until_reset + RESET_MARGIN);
    }

    /// How long so many calls take from now on, if nobody else needs more than now.
    pub(super) fn time_for(&mut self, calls: usize, now: Instant) -> Duration {
        let wait = self.wait(now);
        let in_this_window = self.ours.saturating_sub(self.made.len());
        let later = calls.saturating_sub(in_this_window);
        let windows = u32::try_from(later.div_ceil(self.ours)).unwrap_or(u32::MAX);
        wait.max(self.account.per.saturating_mul(windows))
    }

    /// How many calls there may be in a window, and how long it is.
    pub(super) fn rate(&self) -> (u64, Duration) {
        (self.ours as u64, self.account.per)
    }
}

/// The part that is kept for reads. Who has next to nothing may still make a call.
fn reserve(calls: u32) -> usize {
    (calls / RESERVE).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn usual() -> Allowance {
        Allowance::of(Rate {
            calls: 300,
            per: WINDOW,
        })
    }

    fn left(remaining: u32, reset_in: i64) -> Limits {
        let date = Timestamp::from_second(1_700_000_000).expect("a time");
        Limits {
            limit: Some(300),
            remaining: Some(remaining),
            reset: Some(date.as_second() + reset_in),
            date: Some(date),
        }
    }

    fn call(allowance: &mut Allowance, limits: &Limits, now: Instant) {
        allowance.called(limits, Timestamp::UNIX_EPOCH, now);
    }

    #[test]
    fn no_window_holds_more_than_what_is_kept_for_reads() {
        let mut allowance = usual();
        let begun = Instant::now();
        let mut now = begun;
        let mut made: Vec<Instant> = Vec::new();
        for _ in 0..100 {
            now += allowance.wait(now);
            let recent = made.iter().filter(|made| **made + WINDOW > now).count();
            assert!(recent < 30, "{recent} in the window");
            made.push(now);
            call(&mut allowance, &Limits::default(), now);
            now += Duration::from_millis(100);
        }
        let took = now - begun;
        assert!(took >= 3 * WINDOW && took < 4 * WINDOW, "{took:?}");
    }

    #[test]
    fn what_others_have_used_up_is_not_used_here() {
        let now = Instant::now();
        for (remaining, expected) in [(299, 0), (11, 0), (10, 41), (0, 41)] {
            let mut allowance = usual();
            call(&mut allowance, &left(remaining, 40), now);
            let wait = Duration::from_secs(expected);
            assert_eq!(allowance.wait(now), wait, "{remaining} left");
            assert_eq!(allowance.wait(now + wait), Duration::ZERO);
        }
    }

    #[test]
    fn a_refusal_is_waited_out_and_no_absurd_one() {
        let now = Instant::now();
        for (limits, expected) in [
            (left(0, 120), 121),
            (left(0, -5), 1),
            (left(0, 1_000_000), 301),
            // Nothing was told.
            (Limits::default(), 301),
        ] {
            let mut allowance = usual();
            allowance.refused(&limits, Timestamp::UNIX_EPOCH, now);
            assert_eq!(allowance.wait(now), Duration::from_secs(expected));
        }
    }

    #[test]
    fn a_smaller_limit_than_ours_is_believed_and_a_larger_one_is_not() {
        let now = Instant::now();
        for (told, expected) in [(100, 10), (1000, 30), (3, 1)] {
            let mut allowance = usual();
            let limits = Limits {
                limit: Some(told),
                ..Limits::default()
            };
            call(&mut allowance, &limits, now);
            assert_eq!(allowance.rate(), (expected, WINDOW), "{told}");
        }
    }

    #[test]
    fn it_is_known_before_how_long_it_takes() {
        let now = Instant::now();
        let mut allowance = usual();
        call(&mut allowance, &Limits::default(), now);
        call(&mut allowance, &Limits::default(), now);
        for (calls, windows) in [(0, 0), (28, 0), (29, 1), (58, 1), (59, 2), (300, 10)] {
            assert_eq!(allowance.time_for(calls, now), WINDOW * windows, "{calls}");
        }
    }
}
