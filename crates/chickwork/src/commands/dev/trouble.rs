//! What can be broken from the terminal of `chickwork dev`: each trouble by its words, with what it
//! does and what that means.

use std::time::Duration;

use chickwork_sandbox::fault::{Call, Fault, Service, When};
use serde_json::{Value, json};

/// How long a slow service takes: well below the bot's patience, and long enough to be noticed.
const SLOW: Duration = Duration::from_secs(3);

/// Something to go wrong.
pub(super) struct Trouble {
    /// The command, without its slash.
    command: &'static str,
    /// What follows the command.
    word: &'static str,
    /// What happens now, in a sentence.
    pub(super) says: &'static str,
    /// The same for the sandbox.
    pub(super) fault: fn() -> Fault,
}

const TROUBLES: [Trouble; 14] = [
    Trouble {
        command: "simsimi",
        word: "down",
        says: "SimSimi drops every call, until /heal.",
        fault: || Fault::drop(Service::Simsimi, When::Before).always(),
    },
    Trouble {
        command: "simsimi",
        word: "slow",
        says: "SimSimi takes 3 s for every answer, until /heal.",
        fault: || Fault::delay(Service::Simsimi, SLOW).always(),
    },
    Trouble {
        command: "simsimi",
        word: "500",
        says: "SimSimi fails at the next question.",
        fault: || simsimi(500, "Server error"),
    },
    Trouble {
        command: "simsimi",
        word: "228",
        says: "SimSimi does not understand the next question.",
        fault: || simsimi(228, "Do Not Understand"),
    },
    Trouble {
        command: "simsimi",
        word: "403",
        says: "SimSimi does not accept the key at the next question: asking will pause for a minute.",
        fault: || simsimi(403, "Unauthorized"),
    },
    Trouble {
        command: "simsimi",
        word: "429",
        says: "SimSimi's quota is used up at the next question: asking will pause for a minute.",
        fault: || simsimi(429, "Limit Exceeded"),
    },
    Trouble {
        command: "chatwork",
        word: "down",
        says: "Chatwork drops every call, until /heal.",
        fault: || Fault::drop(Service::Chatwork, When::Before).always(),
    },
    Trouble {
        command: "chatwork",
        word: "slow",
        says: "Chatwork takes 3 s for every answer, until /heal.",
        fault: || Fault::delay(Service::Chatwork, SLOW).always(),
    },
    Trouble {
        command: "chatwork",
        word: "429",
        says: "Chatwork refuses the next post: the account has no calls left for some minutes.",
        fault: || post().with_status(429),
    },
    Trouble {
        command: "chatwork",
        word: "room-429",
        says: "Chatwork refuses the next post: too many in this room. Other rooms go on.",
        fault: || {
            let words = "Rate limit for message posting per room exceeded.";
            post().with_status(429).with_body(errors(words))
        },
    },
    Trouble {
        command: "chatwork",
        word: "403",
        says: "Chatwork refuses the next post: the bot may not write there, and leaves the room alone for 10 minutes.",
        fault: || {
            let words = "You don't have permission to send/edit message.";
            post().with_status(403).with_body(errors(words))
        },
    },
    Trouble {
        command: "chatwork",
        word: "500",
        says: "Chatwork fails at the next post: nobody can tell whether it arrived.",
        fault: || post().with_status(500),
    },
    Trouble {
        command: "lose",
        word: "next answer",
        says: "The next post will arrive, and its answer get lost: the bot will look for it in the room.",
        fault: || Fault::drop(Service::Chatwork, When::After).on(Call::Post),
    },
    Trouble {
        command: "lose",
        word: "next post",
        says: "The next post will get lost without an answer: the bot will look for it in the room.",
        fault: || Fault::drop(Service::Chatwork, When::Before).on(Call::Post),
    },
];

/// The trouble that is meant by a command and the word behind it.
pub(super) fn meant(command: &str, word: &str) -> Option<&'static Trouble> {
    TROUBLES
        .iter()
        .find(|trouble| (trouble.command, trouble.word) == (command, word))
}

/// What may stand behind a command, for people; `None` if it breaks nothing.
pub(super) fn words_after(command: &str) -> Option<String> {
    let words: Vec<&str> = TROUBLES
        .iter()
        .filter(|trouble| trouble.command == command)
        .map(|trouble| trouble.word)
        .collect();
    let (last, others) = words.split_last()?;
    Some(format!("{} or {last}", others.join(", ")))
}

/// SimSimi's own way to fail: 200, and its status in the body.
fn simsimi(status: u16, words: &str) -> Fault {
    let body = json!({ "status": status, "statusMessage": words });
    Fault::nothing(Service::Simsimi).with_body(body)
}

fn post() -> Fault {
    Fault::nothing(Service::Chatwork).on(Call::Post)
}

fn errors(words: &str) -> Value {
    json!({ "errors": [words] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_can_happen_and_is_found_by_its_words() {
        for trouble in &TROUBLES {
            assert_eq!((trouble.fault)().check(), Ok(()), "{}", trouble.says);
            let found = meant(trouble.command, trouble.word).expect(trouble.word);
            assert_eq!(found.says, trouble.says);
        }
        assert!(meant("simsimi", "room-429").is_none());
    }

    #[test]
    fn who_does_not_know_the_words_is_told_them() {
        let words = words_after("lose");
        assert_eq!(words.as_deref(), Some("next answer or next post"));
        assert_eq!(
            words_after("simsimi").as_deref(),
            Some("down, slow, 500, 228, 403 or 429")
        );
        assert_eq!(words_after("dance"), None);
    }
}
