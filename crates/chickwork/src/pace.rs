//! How fast a command that does the same to many goes about it: `--rate`, at most so many in so much time.

use std::time::Duration;

use clap::{Arg, ArgMatches};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::command_line;
use crate::settings::parse::{self, Rate};
use crate::words;

/// Slow enough for the workers to go on with what is new meanwhile.
const USUAL: &str = "10/1s";
/// From this on a preview says how long it takes.
const LONG: Duration = Duration::from_secs(10);

/// The pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace(Rate);

impl Pace {
    /// `--rate`.
    pub(crate) fn flag() -> Arg {
        command_line::value("rate", "RATE", "At most so many in so much time")
            .value_parser(parse::rate)
            .default_value(USUAL)
    }

    /// What the flags say.
    pub(crate) fn of(flags: &ArgMatches) -> Self {
        Self(*flags.get_one("rate").expect("it has a default"))
    }

    /// From the beginning of one to that of the next.
    pub(crate) fn between(self) -> Duration {
        self.0.per / self.0.calls
    }

    /// How long so many take, in a sentence, if that is long.
    pub(crate) fn warning(self, count: u64) -> Option<String> {
        let pauses = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
        let time = self.between().saturating_mul(pauses);
        let takes = words::length(time);
        (time >= LONG).then(|| format!("This takes about {takes}; see --rate."))
    }

    /// A tick for each. One that was late is not made up for.
    pub(crate) fn ticks(self) -> Interval {
        let mut ticks = interval(self.between());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_said() {
        let pace = Pace(parse::rate("10/1s").expect("a rate"));
        assert_eq!(pace.between(), Duration::from_millis(100));
        assert_eq!(pace.warning(0), None);
        assert_eq!(pace.warning(100), None);
        let said = pace.warning(101).expect("it takes ten seconds");
        assert!(said.ends_with("see --rate."), "{said}");
    }
}
