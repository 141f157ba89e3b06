//! Pausing a step: when a service says that we may not call it at all (a wrong key, a used-up
//! quota), asking on with every event would only make noise. Then one job at a time probes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chickwork_queue::job::Step;
use tokio::time::Instant;

/// The first pause.
const SHORTEST: Duration = Duration::from_secs(60);

/// Pauses double up to this.
const LONGEST: Duration = Duration::from_secs(600);

/// How long the others wait for the one that probes.
const WHILE_PROBING: Duration = Duration::from_secs(2);

/// Why a job is put off while its step pauses.
const PAUSED: &str = "paused";

/// Whether a step may call its service now; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pause {
    step: Step,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    Running,
    Paused {
        until: Instant,
        length: Duration,
        probing: bool,
        why: String,
    },
}

/// A step that pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Which one.
    pub step: Step,
    /// What the service said.
    pub reason: String,
    /// When the next job may try it. That may have passed, if none has come since.
    pub until: Instant,
}

/// What a job that wants to call finds.
#[derive(Debug)]
pub(crate) enum Gate {
    /// It may.
    Open(Pass),
    /// Not for so long.
    Closed(Duration),
}

/// The permission to call once. Without a word about how that went, the next one may try.
#[derive(Debug)]
pub(crate) struct Pass {
    pause: Pause,
    probe: bool,
}

impl Pause {
    /// A step that is not paused.
    pub(crate) fn new(step: Step) -> Self {
        let pause = Self {
            step,
            state: Arc::new(Mutex::new(State::Running)),
        };
        pause.show(false);
        pause
    }

    /// Asks for permission to call.
    pub(crate) fn gate(&self, now: Instant) -> Gate {
        let probe = match &mut *self.state() {
            State::Running => false,
            State::Paused { probing: true, .. } => return Gate::Closed(WHILE_PROBING),
            State::Paused { until, .. } if now < *until => return Gate::Closed(*until - now),
            State::Paused { probing, .. } => {
                *probing = true;
                true
            }
        };
        Gate::Open(Pass {
            pause: self.clone(),
            probe,
        })
    }

    /// How it pauses, if it does.
    pub(crate) fn paused(&self) -> Option<Paused> {
        match &*self.state() {
            State::Running => None,
            State::Paused { until, why, .. } => Some(Paused {
                step: self.step,
                reason: why.clone(),
                until: *until,
            }),
        }
    }

    /// Why a job is put off while the step pauses, for its story.
    pub(crate) fn reason(&self) -> String {
        match &*self.state() {
            State::Running => PAUSED.to_owned(),
            State::Paused { why, .. } => format!("{PAUSED}: {why}"),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, paused: bool) {
        metrics::gauge!("chickwork_paused", "step" => self.step.as_str()).set(if paused {
            1.0
        } else {
            0.0
        });
    }
}

impl Pass {
    /// The service took the call for a permitted one: whatever pause there was is over.
    pub(crate) fn welcome(self) {
        let mut state = self.pause.state();
        if matches!(*state, State::Paused { .. }) {
            *state = State::Running;
            log::info!(step = self.pause.step.as_str(); "the pause is over");
            self.pause.show(false);
        }
    }

    /// The service does not want to be called; says for how long nobody will.
    pub(crate) fn unwelcome(self, why: &dyn std::fmt::Display, now: Instant) -> Duration {
        let mut state = self.pause.state();
        let length = match *state {
            State::Running => SHORTEST,
            State::Paused { length, .. } if self.probe => (length * 2).min(LONGEST),
            // Others were in flight when the pause began; they do not make it longer.
            State::Paused { until, .. } => return until.saturating_duration_since(now),
        };
        *state = State::Paused {
            until: now + length,
            length,
            probing: false,
            why: why.to_string(),
        };
        log::error!(
            step = self.pause.step.as_str(), seconds = length.as_secs();
            "paused, nothing is lost: {why}"
        );
        self.pause.show(true);
        length
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe
            && let State::Paused { probing, .. } = &mut *self.pause.state()
        {
            *probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(pause: &Pause, now: Instant) -> Pass {
        match pause.gate(now) {
            Gate::Open(pass) => pass,
            Gate::Closed(rest) => panic!("closed for {rest:?}"),
        }
    }

    fn closed(pause: &Pause, now: Instant) -> Duration {
        match pause.gate(now) {
            Gate::Open(_) => panic!("open"),
            Gate::Closed(rest) => rest,
        }
    }

    #[test]
    fn a_pause_closes_the_gate_for_a_minute_and_then_lets_one_probe() {
        let (pause, now) = (Pause::new(Step::Ask), Instant::now());
        assert_eq!(open(&pause, now).unwelcome(&"quota", now), SHORTEST);
        let halfway = now + Duration::from_secs(30);
        assert_eq!(closed(&pause, halfway), Duration::from_secs(30));
        let over = now + SHORTEST;
        let probe = open(&pause, over);
        assert_eq!(closed(&pause, over), WHILE_PROBING);
        probe.welcome();
        open(&pause, over);
    }

    #[test]
    fn a_pause_tells_why_and_until_when_as_long_as_it_lasts() {
        let (pause, now) = (Pause::new(Step::Ask), Instant::now());
        assert_eq!(pause.paused(), None);
        open(&pause, now).unwelcome(&"quota", now);
        let paused = Paused {
            step: Step::Ask,
            reason: "quota".to_owned(),
            until: now + SHORTEST,
        };
        assert_eq!(pause.paused(), Some(paused));
        open(&pause, now + SHORTEST).welcome();
        assert_eq!(pause.paused(), None);
    }

    #[test]
    fn failed_probes_double_the_pause_up_to_ten_minutes() {
        let (pause, mut now) = (Pause::new(Step::Post), Instant::now());
        let mut lengths = Vec::new();
        for _ in 0..6 {
            let length = open(&pause, now).unwelcome(&"token", now);
            lengths.push(length.as_secs());
            now += length;
        }
        assert_eq!(lengths, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn those_in_flight_when_the_pause_began_do_not_make_it_longer() {
        let (pause, now) = (Pause::new(Step::Ask), Instant::now());
        let (first, second) = (open(&pause, now), open(&pause, now));
        first.unwelcome(&"key", now);
        assert_eq!(
            second
                .unwelcome(&"key", now + Duration::from_secs(1))
                .as_secs(),
            59
        );
    }

    #[test]
    fn a_probe_that_is_dropped_lets_the_next_one_probe() {
        let (pause, now) = (Pause::new(Step::Ask), Instant::now());
        open(&pause, now).unwelcome(&"key", now);
        let over = now + SHORTEST;
        drop(open(&pause, over));
        drop(open(&pause, over));
    }
}
