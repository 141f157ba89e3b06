//! An outcome in words: one place for all commands that tell people what became of an event.

use std::time::Duration;

use chickwork_queue::Stored;
use chickwork_queue::job::Step;
use chickwork_queue::outcome::What;
use jiff::Timestamp;

use crate::words;

/// What happened, as one line without an end. It may have words from outside: they are for
/// [`words::line`]. Of what was asked, answered and is to be posted it has nothing.
pub(crate) fn outcome(what: &What) -> String {
    match what {
        What::Received {
            stored,
            forwarded_at,
        } => received(*stored, *forwarded_at),
        What::Ignored { reason } => format!("ignored: {reason}"),
        What::Asked { result, .. } if result == What::ANSWERED => "SimSimi answered".to_owned(),
        What::Asked { result, .. } if result == What::NO_ANSWER => {
            "SimSimi does not understand that".to_owned()
        }
        What::Asked { result, .. } => result.clone(),
        What::ReplyStored { .. } => "the reply is stored, to be posted".to_owned(),
        What::Later { step, reason, .. } => match step {
            Step::Receive => format!("put off: {reason}"),
            Step::Ask => format!("asking is put off: {reason}"),
            Step::Post => format!("posting is put off: {reason}"),
        },
        What::Intent { consumer } if consumer == What::ELSEWHERE => {
            "it came from another deployment; whether it was answered there is not known".to_owned()
        }
        What::Intent { .. } => "about to be posted".to_owned(),
        What::Posted { found: false, .. } => "posted".to_owned(),
        What::Posted { found: true, .. } => "posted, as was found out by looking".to_owned(),
        What::NotPosted { reason, .. } => format!("not posted: {reason}"),
        What::Looked { result, .. } => match result.as_str() {
            What::FOUND => "looked: it is there".to_owned(),
            What::ABSENT => "looked: it is not there".to_owned(),
            _ => "looked: nobody can tell".to_owned(),
        },
        What::Dead { cause, error, .. } => format!("given up ({}): {error}", cause.as_str()),
        What::Dropped { reason } => format!("dropped: {reason}"),
        What::Replayed { reason, .. } => format!("put back: {reason}"),
    }
}

fn received(stored: Stored, forwarded_at: Option<Timestamp>) -> String {
    let stored = match stored {
        Stored::Broker => "received, and stored in the broker",
        Stored::Spool => "received, and stored in the ingress's spool",
        Stored::Embedded => "received, and stored in the queue file",
        Stored::Recovered => "found in its room by `chickwork recover`, and stored",
    };
    match forwarded_at {
        Some(at) => format!(
            "{stored}; the broker took it at {}",
            words::time_of_step(at)
        ),
        None => stored.to_owned(),
    }
}

/// A length of time as exactly as it matters: `0.14 s`, `12.3 s`, `5 min 3 s`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{:.2} s", time.as_secs_f64()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// From one time to the other; nothing if clocks disagree.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_exactly_as_people_want_to_know() {
        for (millis, told) in [
            (0, "0.00 s"),
            (144, "0.14 s"),
            (1_440, "1.4 s"),
            (59_940, "59.9 s"),
            (60_000, "1 min 0 s"),
            (3_599_999, "59 min 59 s"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), told);
        }
    }

    #[test]
    fn clocks_that_disagree_tell_no_time() {
        let now = Timestamp::UNIX_EPOCH;
        let later = now + Duration::from_secs(1);
        assert_eq!(between(now, later), Duration::from_secs(1));
        assert_eq!(between(later, now), Duration::ZERO);
    }

    #[test]
    fn what_another_deployment_did_is_not_told_as_a_post_of_ours() {
        let told = |consumer: &str| {
            let consumer = consumer.to_owned();
            outcome(&What::Intent { consumer })
        };
        assert_eq!(told("host.7.1"), "about to be posted");
        assert!(told(What::ELSEWHERE).contains("another deployment"));
    }

    #[test]
    fn every_way_in_is_told() {
        let at: Timestamp = "2026-11-24T09:03:00.25Z".parse().expect("a time");
        assert_eq!(
            received(Stored::Spool, Some(at)),
            "received, and stored in the ingress's spool; the broker took it at 2026-11-24T09:03:00.250Z"
        );
        assert!(received(Stored::Broker, None).ends_with("in the broker"));
        assert!(received(Stored::Embedded, None).ends_with("in the queue file"));
        assert!(received(Stored::Recovered, None).contains("recover"));
    }
}
