//! What a cause means for a person, and what can be done about it.

use chickwork_queue::job::{Cause, Step};

/// Two sentences or three.
pub(crate) struct Explained {
    /// What happened.
    pub(crate) means: &'static str,
    /// What can be done.
    pub(crate) cure: &'static str,
}

pub(crate) fn explained(cause: Cause) -> Explained {
    let (means, cure) = match cause {
        Cause::Malformed => (
            "It came from Chatwork, but it is not JSON or does not have the shape of its type.",
            "Look at what it holds. If a newer release understands it, retry it there; else drop it.",
        ),
        Cause::Exhausted => (
            "It was tried again and again until it was older than CHICKWORK_MAX_AGE. The error is that of the last try.",
            "Retry it when the service works again.",
        ),
        Cause::Expired => (
            "It was older than CHICKWORK_MAX_AGE before anything could be tried.",
            "Retry it if an answer is still welcome: its age then counts anew. If many expire, look at the clock of this machine and at how long jobs wait.",
        ),
        Cause::Refused => (
            "Chatwork refused the reply for good. The error has its words.",
            "Mend what they name, for instance the bot's right to write in that room, and retry it; else drop it.",
        ),
        Cause::Uncertain => (
            "Nobody could find out whether the reply is in the room.",
            "Retry it: the bot looks into the room once more, and posts the reply if it is certainly not there. Or look yourself: if it is there, drop the letter; if it is not, retry it with --again, which posts WITHOUT LOOKING.",
        ),
        Cause::Poison => (
            "It came back ten times without having been settled. It seems to kill its worker.",
            "Find out why, from the workers' logs and from what it holds, before you retry it.",
        ),
        Cause::Newer => (
            "It was written by a newer release, and no worker of such a release came for an hour.",
            "Start a worker of that release, then retry it.",
        ),
    };
    Explained { means, cure }
}

/// What the step was doing that gave up.
pub(crate) fn step(step: Step, cause: Cause) -> &'static str {
    match step {
        Step::Receive => "before any work, when it came in",
        Step::Ask if cause == Cause::Malformed => "reading the event; SimSimi was not asked",
        Step::Ask => "asking SimSimi",
        Step::Post => "posting the reply",
    }
}
