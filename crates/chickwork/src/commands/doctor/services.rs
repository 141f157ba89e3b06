//! What the two services say: whose the API token is, what the bot may do where, who waits for it,
//! what time it is; and, where a call may be spent, whether SimSimi answers.

use std::time::Duration;

use chickwork_clients::chatwork::{
    self, Account, Answered, CallError, Chatwork, ContactRequest, Limits, Role, Room, RoomKind,
};
use chickwork_clients::simsimi::{self, Answer, AskError, SimSimi};
use chickwork_queue::examine::Finding;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::Readable;
use crate::settings::parse::Rate;
use crate::settings::{
    API_TOKEN, API_URL, IGNORE_ACCOUNTS, SIMSIMI_API_KEY, SIMSIMI_API_URL, SIMSIMI_LANG,
};
use crate::words;

/// A clock that is wrong by this much is worth a word.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(30);
/// A clock that is wrong by this much makes events too old, or never old.
const CLOCK_WRONG: SignedDuration = SignedDuration::from_secs(5 * 60);
/// Chatwork's clock comes in whole seconds.
const CLOCK_STEP: SignedDuration = SignedDuration::from_secs(1);
/// One part in so many of the account's calls is little.
const LITTLE: u32 = 10;
/// So many names are told; the rest is counted.
const NAMES: usize = 10;
/// A name is told up to this length, in characters.
const LONGEST_NAME: usize = 60;
/// Whoever asks is patient, but not like this.
const SLOW_ANSWER: Duration = Duration::from_secs(5);

/// Asks Chatwork, where the settings let us.
pub(super) async fn chatwork(settings: &Readable) -> Vec<Finding> {
    let (Some(url), Some(token)) = (&settings.api_url, &settings.api_token) else {
        return Vec::new();
    };
    let client = Chatwork::new(chatwork::Settings {
        url: url.clone(),
        api_token: token.reveal().to_owned(),
    });
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            let says = format!("CHATWORK_API_URL or CHATWORK_API_TOKEN cannot be used: {error}");
            return vec![Finding::wrong(API_URL.about.name, says, "Correct it.")];
        }
    };
    let before = Timestamp::now();
    let me = client.me().await;
    let after = Timestamp::now();
    let mut findings = Vec::new();
    let limits = match &me {
        Ok(Answered { limits, .. }) | Err(CallError::Refused { limits, .. }) => Some(*limits),
        Err(_) => None,
    };
    let account = match me {
        Ok(Answered { value, .. }) => value,
        Err(error) => {
            findings.push(not_told(&error));
            findings.extend(limits.and_then(|limits| clock(&limits, before, after)));
            return findings;
        }
    };
    findings.extend(of_account(&account, settings));
    findings.extend(limits.and_then(|limits| clock(&limits, before, after)));
    let (rooms, requests) = (client.rooms().await, client.incoming_requests().await);
    let newest = [limits_of(&rooms), limits_of(&requests), limits];
    if let Some(limits) = newest.into_iter().flatten().next() {
        findings.extend(calls_left(&limits, settings.account_limit));
    }
    findings.push(match rooms {
        Ok(Answered { value, .. }) => of_rooms(&value),
        Err(error) => unknown("rooms", &error),
    });
    match requests {
        Ok(Answered { value, .. }) => findings.extend(of_requests(&value)),
        Err(error) => findings.push(unknown("contact requests", &error)),
    }
    findings
}

fn limits_of<T>(answer: &Result<Answered<T>, CallError>) -> Option<Limits> {
    answer.as_ref().ok().map(|answered| answered.limits)
}

/// Chatwork does not tell whose the token is.
fn not_told(error: &CallError) -> Finding {
    let says = error.to_string();
    match error {
        CallError::NotSent(_) | CallError::InDoubt(_) => Finding::wrong(
            "Chatwork",
            says,
            "Check CHATWORK_API_URL, the name's address (DNS), the firewall, and HTTPS_PROXY where there is a proxy.",
        ),
        CallError::Refused { status: 401, .. } => Finding::wrong(
            API_TOKEN.about.name,
            format!("CHATWORK_API_TOKEN: {says}"),
            "Log in to Chatwork as the bot and copy the API token again. The webhook's token is another one.",
        ),
        CallError::Refused { status: 429, .. } => Finding::notice("Chatwork", says).with_cure(
            "The account has no calls left for some minutes. Does another program use its token?",
        ),
        CallError::Refused { status: 500.., .. } => Finding::wrong(
            "Chatwork",
            says,
            "That is Chatwork's trouble; try again later.",
        ),
        CallError::Refused { .. } | CallError::Nonsense(_) => Finding::wrong(
            API_URL.about.name,
            format!("CHATWORK_API_URL: {says}"),
            "Is it Chatwork's API, or a proxy or a login page? The default is https://api.chatwork.com/v2.",
        ),
    }
}

/// Something that the bot can do without was not told.
fn unknown(what: &str, error: &CallError) -> Finding {
    let cure = "Look again later; the bot itself does not need this.";
    Finding::notice(what, format!("They are not known: {error}")).with_cure(cure)
}

fn of_account(account: &Account, settings: &Readable) -> Vec<Finding> {
    let Account {
        account_id, name, ..
    } = account;
    let mut findings = if name.trim().is_empty() {
        let says = format!("The API token is of account {account_id}, which has no name.");
        vec![Finding::notice("Chatwork", says).with_cure(
            "Give it a name in Chatwork: people find it by that, and it stands behind its To tag.",
        )]
    } else {
        let name = shown(name);
        let says = format!("The API token is that of {name}, account {account_id}.");
        vec![Finding::good("Chatwork", says)]
    };
    let ignored = settings.ignore_accounts.as_deref().unwrap_or_default();
    if ignored.contains(account_id) {
        findings.push(
            Finding::notice(
                IGNORE_ACCOUNTS.about.name,
                "CHICKWORK_IGNORE_ACCOUNTS holds the bot itself, which is never answered anyway.",
            )
            .with_cure("Remove it. Or is this the API token of another account?"),
        );
    }
    findings
}

/// This machine's clock, by Chatwork's.
fn clock(limits: &Limits, before: Timestamp, after: Timestamp) -> Option<Finding> {
    let off = off(limits.date?, before, after);
    let amount = off.abs();
    let direction = if off.is_positive() { "fast" } else { "slow" };
    let says = format!(
        "This machine's clock is {} s {direction}, by Chatwork's",
        amount.as_secs()
    );
    let cure = "Let it be set by NTP (timedatectl set-ntp true, or chrony).";
    Some(if amount > CLOCK_WRONG {
        Finding::wrong(
            "clock",
            format!("{says}: events are taken for too old, or never become so."),
            cure,
        )
    } else if amount > CLOCK_TOLERANCE {
        Finding::notice("clock", says).with_cure(cure)
    } else {
        Finding::good("clock", "It agrees with Chatwork's.")
    })
}

/// How far our clock is ahead of theirs, given when we asked and when we had the answer.
fn off(theirs: Timestamp, before: Timestamp, after: Timestamp) -> SignedDuration {
    let ahead = before.duration_since(theirs) - CLOCK_STEP;
    let behind = theirs.duration_since(after);
    if ahead.is_positive() {
        ahead
    } else if behind.is_positive() {
        -behind
    } else {
        SignedDuration::ZERO
    }
}

fn calls_left(limits: &Limits, configured: Option<Rate>) -> Vec<Finding> {
    let (Some(limit), Some(left)) = (limits.limit, limits.remaining) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if left < limit.div_ceil(LITTLE) {
        findings.push(
            Finding::notice(
                "account limit",
                format!("Only {left} of {limit} calls are left in this window of Chatwork's."),
            )
            .with_cure("Replies may be late. Does another program use the bot's token?"),
        );
    }
    if let Some(configured) = configured.filter(|configured| configured.calls > limit) {
        findings.push(
            Finding::notice(
                "account limit",
                format!(
                    "Chatwork allows {limit} calls, and CHATWORK_ACCOUNT_LIMIT says {}.",
                    configured.calls
                ),
            )
            .with_cure(format!("Set CHATWORK_ACCOUNT_LIMIT to {limit}/5m.")),
        );
    }
    findings
}

fn of_rooms(rooms: &[Room]) -> Finding {
    let with_others: Vec<&Room> = rooms
        .iter()
        .filter(|room| room.kind != RoomKind::My)
        .collect();
    let silent: Vec<&str> = with_others
        .iter()
        .filter(|room| room.role == Role::Readonly)
        .map(|room| room.name.as_str())
        .collect();
    if with_others.is_empty() {
        return Finding::notice("rooms", "The bot is in no room with anybody.").with_cure(
            "Add its account to a room, or send it a contact request and accept it as the bot.",
        );
    }
    let count = words::count(with_others.len() as u64, "room");
    if silent.is_empty() {
        return Finding::good(
            "rooms",
            format!("The bot is in {count} and may write in each."),
        );
    }
    let says = format!(
        "The bot may read but not write in {} of {count}: {}",
        silent.len(),
        names(&silent)
    );
    let cure = "Ask an administrator of the room to make it a member. Until then its replies there become dead letters.";
    Finding::notice("rooms", says).with_cure(cure)
}

fn of_requests(requests: &[ContactRequest]) -> Option<Finding> {
    let who: Vec<&str> = requests
        .iter()
        .map(|request| request.name.as_str())
        .collect();
    let (subject, them) = match who.len() {
        0 => return None,
        1 => ("One person waits".to_owned(), "this person"),
        many => (format!("{many} people wait"), "these people"),
    };
    Some(
        Finding::notice(
            "contact requests",
            format!(
                "{subject} to be the bot's contact, and cannot write to it directly until then: {}",
                names(&who)
            ),
        )
        .with_cure(format!("Log in to Chatwork as the bot and accept {them}.")),
    )
}

/// The first names, and how many more there are. Anybody may choose them.
fn names(all: &[&str]) -> String {
    let told: Vec<String> = all.iter().take(NAMES).map(|name| shown(name)).collect();
    match all.len().checked_sub(NAMES) {
        None | Some(0) => told.join(", "),
        Some(more) => format!("{}, and {more} more", told.join(", ")),
    }
}

fn shown(name: &str) -> String {
    words::line(name, LONGEST_NAME)
}

/// Asks SimSimi once, where the settings let us.
pub(super) async fn simsimi(settings: &Readable) -> Vec<Finding> {
    let (Some(url), Some(key), Some(lang)) =
        (&settings.simsimi_url, &settings.simsimi_key, settings.lang)
    else {
        return Vec::new();
    };
    let client = SimSimi::new(simsimi::Settings {
        url: url.clone(),
        api_key: key.reveal().to_owned(),
        lang: lang.to_owned(),
    });
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            let says = format!("SIMSIMI_API_URL or SIMSIMI_API_KEY cannot be used: {error}");
            return vec![Finding::wrong(
                SIMSIMI_API_URL.about.name,
                says,
                "Correct it.",
            )];
        }
    };
    let begun = Instant::now();
    let answer = client.ask(greeting(lang)).await;
    vec![of_answer(&answer, lang, begun.elapsed())]
}

/// Something that SimSimi understands in its larger languages.
fn greeting(lang: &str) -> &'static str {
    match lang {
        "vn" => "xin chào",
        "ja" => "こんにちは",
        _ => "hello",
    }
}

fn of_answer(answer: &Result<Answer, AskError>, lang: &str, took: Duration) -> Finding {
    let took_too_long = took > SLOW_ANSWER;
    let took = format!("after {} ms", took.as_millis());
    let error = match answer {
        Ok(_) if took_too_long => {
            return Finding::notice("SimSimi", format!("It answers in {lang}, but only {took}."))
                .with_cure(
                    "Ask again later; the bot waits 10 s for an answer and then tries again.",
                );
        }
        Ok(Answer::Said(_)) => {
            return Finding::good("SimSimi", format!("It answers in {lang}, {took}."));
        }
        Ok(Answer::NothingToSay) => {
            return Finding::notice(
                "SimSimi",
                format!("It accepts the key, but did not understand a greeting in {lang}."),
            )
            .with_cure("Is SIMSIMI_LANG the language that people speak?");
        }
        Err(error) => error,
    };
    let says = error.to_string();
    match error {
        AskError::Unauthorized(_) => Finding::wrong(
            SIMSIMI_API_KEY.about.name,
            format!("SIMSIMI_API_KEY: {says}"),
            "Copy the key of your project in the SimSimi workshop again; has the project expired?",
        ),
        AskError::QuotaUsedUp(_) => Finding::wrong(
            SIMSIMI_API_KEY.about.name,
            format!("SIMSIMI_API_KEY: {says}"),
            "Buy calls for the project in the SimSimi workshop. Until then nothing is asked, and mentions wait.",
        ),
        AskError::Rejected(_) => Finding::wrong(
            SIMSIMI_LANG.about.name,
            format!("SIMSIMI_LANG={lang}: {says}"),
            "Try another language; if that is rejected too, SimSimi has changed its API.",
        ),
        AskError::Failed(_) => Finding::wrong(
            "SimSimi",
            says,
            "Is SIMSIMI_API_URL right? Else that is SimSimi's trouble; try again later.",
        ),
        AskError::TimedOut | AskError::Unreachable(_) => Finding::wrong(
            "SimSimi",
            says,
            "Check SIMSIMI_API_URL, the name's address (DNS), the firewall, and HTTPS_PROXY where there is a proxy.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::id::{AccountId, RoomId};
    use chickwork_queue::examine::Grade;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    #[test]
    fn a_clock_is_as_wrong_as_it_certainly_is() {
        let table = [
            (0, "", Grade::Good),
            (25, "", Grade::Good),
            (-25, "", Grade::Good),
            (100, "99 s fast", Grade::Notice),
            (-100, "98 s slow", Grade::Notice),
            (1000, "999 s fast", Grade::Wrong),
            (-1000, "998 s slow", Grade::Wrong),
        ];
        for (ahead, says, grade) in table {
            let limits = Limits {
                date: Some(at(0)),
                ..Limits::default()
            };
            // The answer took two seconds.
            let told = clock(&limits, at(ahead), at(ahead + 2)).expect("Chatwork told");
            assert_eq!(told.grade, grade, "{told:?}");
            assert!(told.says.contains(says), "{told:?}");
        }
        assert_eq!(clock(&Limits::default(), at(0), at(0)), None);
    }

    #[test]
    fn little_that_is_left_and_less_than_was_thought_are_notices() {
        let told = |remaining, configured| {
            let limits = Limits {
                limit: Some(300),
                remaining: Some(remaining),
                ..Limits::default()
            };
            let per = Duration::from_secs(300);
            let configured = Some(Rate {
                calls: configured,
                per,
            });
            calls_left(&limits, configured).len()
        };
        assert_eq!(told(30, 300), 0);
        assert_eq!(told(29, 300), 1);
        assert_eq!(told(0, 600), 2);
    }

    #[test]
    fn rooms_that_cannot_be_written_in_are_named() {
        let room = |number, name: &str, kind, role| Room {
            room_id: RoomId(number),
            name: name.to_owned(),
            kind,
            role,
        };
        let mine = room(1, "Chickwork", RoomKind::My, Role::Admin);
        assert_eq!(of_rooms(std::slice::from_ref(&mine)).grade, Grade::Notice);
        let tea = room(2, "Tea", RoomKind::Group, Role::Member);
        assert_eq!(of_rooms(&[mine.clone(), tea.clone()]).grade, Grade::Good);
        let notices = room(3, "Notices\u{1b}[2J", RoomKind::Group, Role::Readonly);
        let told = of_rooms(&[mine, tea, notices]);
        assert!(
            told.says.ends_with("in 1 of 2 rooms: Notices\\u{1b}[2J"),
            "{told:?}"
        );
    }

    #[test]
    fn who_waits_is_named_up_to_a_number() {
        let request = |number: u64| ContactRequest {
            request_id: number,
            account_id: AccountId(number),
            name: format!("N{number}"),
        };
        assert_eq!(of_requests(&[]), None);
        let one = of_requests(&[request(1)]).expect("one waits");
        assert!(one.says.starts_with("One person waits"), "{one:?}");
        let requests: Vec<_> = (0..12).map(request).collect();
        let many = of_requests(&requests).expect("they wait");
        assert!(many.says.ends_with("N9, and 2 more"), "{many:?}");
    }

    #[test]
    fn every_failure_has_a_cure() {
        let refused = |status| CallError::Refused {
            status,
            said: "no".to_owned(),
            limits: Limits::default(),
            room_limit: false,
        };
        let table = [
            (CallError::NotSent("away".to_owned()), "DNS"),
            (CallError::InDoubt("late".to_owned()), "DNS"),
            (refused(401), "copy the API token again"),
            (refused(404), "https://api.chatwork.com/v2"),
            (refused(302), "https://api.chatwork.com/v2"),
            (refused(429), "another program"),
            (refused(503), "try again later"),
            (CallError::Nonsense("html".to_owned()), "a login page"),
        ];
        for (error, cure) in table {
            let told = not_told(&error).cure.expect("a cure");
            assert!(told.contains(cure), "{error:?}: {told}");
        }
        let words = || "no".to_owned();
        let table = [
            (AskError::Unauthorized(words()), "Copy the key"),
            (AskError::QuotaUsedUp(words()), "Buy calls"),
            (AskError::Rejected(words()), "another language"),
            (AskError::Failed(words()), "SIMSIMI_API_URL"),
            (AskError::TimedOut, "firewall"),
            (AskError::Unreachable(words()), "firewall"),
        ];
        for (error, cure) in table {
            let told = of_answer(&Err(error), "vn", Duration::ZERO);
            assert!(told.cure.expect("a cure").contains(cure));
        }
    }

    #[test]
    fn an_answer_that_took_long_or_was_none_is_a_notice() {
        let said = Ok(Answer::Said("Chíp!".to_owned()));
        let grade = |answer, took| of_answer(answer, "vn", Duration::from_secs(took)).grade;
        assert_eq!(grade(&said, 1), Grade::Good);
        assert_eq!(grade(&said, 6), Grade::Notice);
        assert_eq!(grade(&Ok(Answer::NothingToSay), 1), Grade::Notice);
    }
}
