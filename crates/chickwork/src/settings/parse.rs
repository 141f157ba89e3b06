//! How the text of a setting becomes its value, and what is said when it does not.
//!
//! Errors are written to follow "NAME=value: ". They never repeat the value, which may be secret.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::signature::{Token, Tokens};
use chickwork_queue::{Declare, Location};
use jiff::{Span, SpanRelativeTo};

use crate::settings::WebhookTokens;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A secret: its text is only given to whoever says [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// So many calls in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) calls: u32,
    pub(crate) per: Duration,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

pub(crate) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Where the queue is.
pub(crate) fn location(text: &str) -> Result<Location, String> {
    if let Some(path) = text.strip_prefix("sqlite:") {
        return match path {
            "" => Err("names no file; write `sqlite:chickwork.db`".to_owned()),
            ":memory:" => {
                Err("a queue in memory would not survive a crash; name a file".to_owned())
            }
            path if path.starts_with("//") && !path.starts_with("///") => Err(
                "a path follows `sqlite:` as it is, without `//`; write `sqlite:PATH`".to_owned(),
            ),
            path => Ok(Location::Sqlite(PathBuf::from(path))),
        };
    }
    let nodes: Vec<String> = text.split(',').map(|node| node.trim().to_owned()).collect();
    match nodes.iter().find_map(|node| amqp_node(node).err()) {
        None => Ok(Location::Amqp(nodes)),
        Some(_) if !text.contains("://") => {
            Err("is neither `sqlite:PATH` nor `amqp://…`; did you mean `sqlite:…`?".to_owned())
        }
        Some(error) => Err(error),
    }
}

/// The path of a file.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("sqlite:") {
        Some(path) => Err(format!("is the path of a file; did you mean `{path}`?")),
        None if text == ":memory:" => {
            Err("what is kept in memory would not survive a crash; name a file".to_owned())
        }
        None => Ok(PathBuf::from(text)),
    }
}

fn amqp_node(node: &str) -> Result<(), String> {
    let rest = node
        .strip_prefix("amqp://")
        .or_else(|| node.strip_prefix("amqps://"))
        .ok_or("is neither `sqlite:PATH` nor `amqp://…` nor `amqps://…`; between several nodes there is a comma")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() || host.starts_with(':') {
        return Err("has a node without a host".to_owned());
    }
    if rest.matches('@').count() > usize::from(!user.is_empty()) {
        return Err(
            "has an `@`, `/`, `?` or `#` in its password; write `%40`, `%2F`, `%3F` or `%23`"
                .to_owned(),
        );
    }
    let port = host
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'));
    match port {
        Some((_, port)) if port.parse::<u16>().is_err() => {
            Err("has a node whose port is not a number".to_owned())
        }
        _ => Ok(()),
    }
}

pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("is not 1 to 64 of letters, digits, `.`, `_` and `-`".to_owned())
    }
}

pub(crate) fn declare(text: &str) -> Result<Declare, String> {
    match text {
        "active" => Ok(Declare::Active),
        "passive" => Ok(Declare::Passive),
        _ => Err("is neither `active` nor `passive`".to_owned()),
    }
}

pub(crate) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither `text` nor `json`".to_owned()),
    }
}

/// An address to listen on.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || "is not an address and a port such as `0.0.0.0:8080`".to_owned();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match text.rsplit_once(':') {
        Some(("localhost", port)) => Ok(SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            port.parse().map_err(|_| wrong())?,
        ))),
        Some(("", port)) if port.parse::<u16>().is_ok() => {
            Err(format!("{}; did you mean `0.0.0.0:{port}`?", wrong()))
        }
        None if text.parse::<u16>().is_ok() => {
            Err(format!("{}; did you mean `0.0.0.0:{text}`?", wrong()))
        }
        _ => Err(wrong()),
    }
}

/// Where to reach, from this machine, what listens on this address.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The base of a web address; a slash at its end is dropped.
pub(crate) fn url(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else {
        let hint = if text.contains("://") {
            ""
        } else {
            "; did you leave out `https://`?"
        };
        return Err(format!("does not begin with `http://` or `https://`{hint}"));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') {
        return Err("has no host".to_owned());
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("contains a space".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A length of time: `25s`, `90m`, `1h 30m`, `7d`, `500ms`. A day has 24 hours.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.parse::<u64>().is_ok() {
        return Err(format!("has no unit; did you mean `{text}s`?"));
    }
    text.parse::<Span>()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| {
            "is not a length of time such as `500ms`, `25s`, `90m`, `1h` or `7d`".to_owned()
        })
}

fn duration_within(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = duration(text)?;
    if (least..=most).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!(
            "is not between {} and {}",
            words(least),
            words(most)
        ))
    }
}

/// A duration as it would be written in a setting.
fn words(duration: Duration) -> String {
    match duration.as_secs() {
        0 => "0".to_owned(),
        seconds if seconds % DAY.as_secs() == 0 => format!("{}d", seconds / DAY.as_secs()),
        seconds if seconds % HOUR.as_secs() == 0 => format!("{}h", seconds / HOUR.as_secs()),
        seconds if seconds % MINUTE.as_secs() == 0 => format!("{}m", seconds / MINUTE.as_secs()),
        seconds => format!("{seconds}s"),
    }
}

pub(crate) fn max_age(text: &str) -> Result<Duration, String> {
    // Outcomes, by which a reply is known to be posted, are kept for a day in any case.
    duration_within(text, SECOND, 12 * HOUR)
}

pub(crate) fn archive_keep(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Ok(Duration::ZERO),
        _ => duration_within(text, MINUTE, 3650 * DAY),
    }
}

pub(crate) fn drain(text: &str) -> Result<Duration, String> {
    duration_within(text, Duration::ZERO, HOUR)
}

pub(crate) fn concurrency(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(number) if (1..=1024).contains(&number) => Ok(number),
        _ => Err("is not a number from 1 to 1024".to_owned()),
    }
}

/// Units of sizes. Those of a letter alone mean one thing to some programs and the other to others.
const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A size: `512MiB`, `1GiB`, `1GB`, or a number of bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let wrong = "is not a size such as `512MiB`, `1GiB` or a number of bytes";
    let number: u64 = number.parse().map_err(|_| wrong.to_owned())?;
    if let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) {
        return number.checked_mul(*bytes).ok_or_else(|| wrong.to_owned());
    }
    let meant = unit.get(..1).and_then(|letter| {
        let letter = letter.to_ascii_uppercase();
        let meant = format!("{letter}iB");
        SIZES
            .iter()
            .any(|(name, _)| *name == meant)
            .then_some(meant)
    });
    Err(match meant {
        Some(meant) => format!("{wrong}; did you mean `{number}{meant}`?"),
        None => wrong.to_owned(),
    })
}

pub(crate) fn spool_bytes(text: &str) -> Result<u64, String> {
    // Room for some webhooks of the largest size, and less than SQLite's limit.
    match bytes(text)? {
        bytes if (1 << 20..=1 << 40).contains(&bytes) => Ok(bytes),
        _ => Err("is not between 1MiB and 1TiB".to_owned()),
    }
}

/// So many calls in so much time: `300/5m`.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let (calls, per) = text
        .split_once('/')
        .ok_or("is not a number, a slash and a length of time, such as `300/5m`")?;
    let calls = match calls.trim().parse() {
        Ok(calls) if (1..=1_000_000).contains(&calls) => calls,
        _ => {
            return Err(
                "does not begin with a number from 1 to 1000000; write for instance `300/5m`"
                    .to_owned(),
            );
        }
    };
    let per =
        duration_within(per.trim(), SECOND, DAY).map_err(|error| format!("its time {error}"))?;
    Ok(Rate { calls, per })
}

pub(crate) fn accounts(text: &str) -> Result<Vec<AccountId>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .map(|id| {
            id.parse().map(AccountId).map_err(|_| {
                "is not a list of account ids, which are numbers, separated by commas".to_owned()
            })
        })
        .collect()
}

pub(crate) fn webhook_tokens(text: &str) -> Result<WebhookTokens, String> {
    let first = text.split(',').next().unwrap_or_default().trim();
    let odd = |token: &&str| token.trim().len() != Token::USUAL_LENGTH;
    let tokens = Tokens::parse(text).and_then(|all| {
        let first = Token::parse(first)?;
        let odd = text.split(',').filter(odd).count();
        Ok(WebhookTokens { all, first, odd })
    });
    tokens.map_err(|error| error.to_string())
}

/// A key or token that travels in an HTTP header.
pub(crate) fn secret(text: &str) -> Result<Secret, String> {
    const LONGEST: usize = 1024;
    if text.len() > LONGEST {
        Err(format!("is longer than {LONGEST} characters"))
    } else if text.is_empty() {
        Err("is empty".to_owned())
    } else if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Secret(text.to_owned()))
    } else {
        Err("contains a space or a character that cannot be part of a key".to_owned())
    }
}

pub(crate) fn fallback(text: &str) -> Result<String, String> {
    const LONGEST: usize = 1000;
    if text.chars().count() > LONGEST {
        Err(format!("is longer than {LONGEST} characters"))
    } else {
        Ok(text.to_owned())
    }
}

/// SimSimi's own language codes (SmallTalk API 190410), some of which are not ISO's.
const LANGUAGES: &[&str] = &[
    "af", "al", "ar", "as", "az", "be", "bg", "bn", "br", "bs", "ca", "ch", "cs", "cx", "cy", "da",
    "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "fy", "gl", "gn", "gu", "he", "hi", "hr",
    "hu", "hy", "id", "is", "it", "ja", "jv", "ka", "kh", "kk", "kn", "ko", "ku", "lt", "lv", "mk",
    "ml", "mn", "mr", "ms", "my", "nb", "ne", "nl", "or", "pa", "ph", "pl", "ps", "pt", "ro", "rs",
    "ru", "rw", "si", "sk", "sl", "sv", "sw", "ta", "te", "tg", "th", "tr", "uk", "ur", "uz", "vn",
    "zh",
];

/// A language that SimSimi speaks.
pub(crate) fn language(text: &str) -> Result<&'static str, String> {
    if let Some(code) = LANGUAGES.iter().find(|code| **code == text) {
        return Ok(code);
    }
    let wrong = "is not one of SimSimi's language codes";
    match meant_language(text) {
        Some(code) => Err(format!("{wrong}; did you mean `{code}`?")),
        None => Err(wrong.to_owned()),
    }
}

/// SimSimi's code for what other programs call this language.
fn meant_language(text: &str) -> Option<&'static str> {
    let tag = text.to_ascii_lowercase().replace('_', "-");
    let tag = tag.split('.').next().unwrap_or_default();
    let code = match tag {
        "zh-cn" | "zh-hans" | "zh-sg" | "zh-hans-cn" | "cn" => "ch",
        "zh-tw" | "zh-hant" | "zh-hk" | "zh-hant-tw" | "tw" => "zh",
        tag => match tag.split('-').next().unwrap_or_default() {
            "vi" | "vie" | "vietnamese" => "vn",
            "jp" | "jpn" | "japanese" => "ja",
            "eng" | "english" => "en",
            "kr" | "kor" | "korean" => "ko",
            "sr" => "rs",
            "km" => "kh",
            "sq" => "al",
            "fil" | "tl" => "ph",
            "ceb" => "cx",
            "no" | "nn" => "nb",
            primary => return LANGUAGES.iter().copied().find(|code| *code == primary),
        },
    };
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_units() {
        let cases = [
            ("25s", Some(25_000)),
            ("500ms", Some(500)),
            ("90m", Some(5_400_000)),
            ("1h", Some(3_600_000)),
            ("1h 30m", Some(5_400_000)),
            ("1h30m", Some(5_400_000)),
            ("7d", Some(604_800_000)),
            ("1w", Some(604_800_000)),
            ("1.5h", Some(5_400_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("25", None),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("5 s ago", None),
            ("one hour", None),
            ("1y", None),
            ("99999999999999999999h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(
                duration(text).ok(),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
        assert!(duration("25").is_err_and(|error| error.contains("`25s`")));
        assert!(drain("2h").is_err_and(|error| error.contains("between 0 and 1h")));
        assert!(max_age("0").is_err());
        assert_eq!(archive_keep("0"), Ok(Duration::ZERO));
        assert!(archive_keep("1s").is_err());
    }

    #[test]
    fn limits_are_calls_per_time() {
        assert_eq!(
            rate("300/5m"),
            Ok(Rate {
                calls: 300,
                per: 5 * MINUTE
            })
        );
        assert_eq!(
            rate("10 / 10s"),
            Ok(Rate {
                calls: 10,
                per: 10 * SECOND
            })
        );
        for wrong in [
            "", "300", "300/", "/5m", "0/5m", "-1/5m", "300/5", "300/0s", "300/2d", "300/5m/1",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert!(rate("300/5").is_err_and(|error| error.contains("`5s`")));
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        let cases = [
            ("1048576", Some(1_048_576)),
            ("512MiB", Some(512 << 20)),
            ("512 MiB", Some(512 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1GB", Some(1_000_000_000)),
            ("10kB", Some(10_000)),
            ("7B", Some(7)),
            ("", None),
            ("GiB", None),
            ("-1GiB", None),
            ("1.5GiB", None),
            ("1G", None),
            ("1gib", None),
            ("1 GiB of it", None),
            ("1é", None),
            ("99999999999999999999", None),
            ("99999999999TiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        for (text, meant) in [("1G", "`1GiB`"), ("512mb", "`512MiB`")] {
            assert!(
                bytes(text).is_err_and(|error| error.contains(meant)),
                "{text}"
            );
        }
        assert_eq!(spool_bytes("1MiB"), Ok(1 << 20));
        assert!(spool_bytes("0").is_err_and(|error| error.contains("between 1MiB and 1TiB")));
        assert!(spool_bytes("1MB").is_err());
    }

    #[test]
    fn a_file_is_named_by_its_path() {
        assert_eq!(path("/var/lib/s.db"), Ok("/var/lib/s.db".into()));
        assert!(path("sqlite:s.db").is_err_and(|error| error.contains("`s.db`")));
        assert!(path(":memory:").is_err());
    }

    #[test]
    fn a_queue_is_a_file_or_a_broker() {
        assert_eq!(
            location("sqlite:chickwork.db"),
            Ok(Location::Sqlite("chickwork.db".into()))
        );
        assert_eq!(
            location("sqlite:/var/lib/c.db"),
            Ok(Location::Sqlite("/var/lib/c.db".into()))
        );
        let one = "amqp://user:p%40ss@rabbit:5672/%2f";
        assert_eq!(location(one), Ok(Location::Amqp(vec![one.to_owned()])));
        assert_eq!(
            location("amqps://a, amqps://b:5671,amqps://[::1]"),
            Ok(Location::Amqp(vec![
                "amqps://a".into(),
                "amqps://b:5671".into(),
                "amqps://[::1]".into()
            ]))
        );
        let wrong = [
            "chickwork.db",
            "sqlite:",
            "sqlite::memory:",
            "sqlite://chickwork.db",
            "postgres://x",
            "amqp://",
            "amqp://ulla:geheim@",
            "amqp://ulla:geheim@:5672",
            "amqp://host:port",
            "amqp://a,sqlite:b",
            "amqp://a,,amqp://b",
            "amqp://ulla:geh@im@host",
            "amqp://ulla:geh/im@host",
            "amqp://ulla:geh?im@host",
            "amqp://ulla:geh#im@host",
        ];
        for text in wrong {
            let error = location(text).expect_err(text);
            assert!(!error.contains("geh") && !error.contains("ulla"), "{error}");
        }
        for odd in [
            "geh@im", "geh/im", "geh?im", "geh#im", "7#im", "#im", "7/im",
        ] {
            let address = format!("amqp://ulla:{odd}@host");
            assert!(
                location(&address).is_err_and(|error| error.contains("`%23`")),
                "{odd}"
            );
        }
        assert!(location("chickwork.db").is_err_and(|error| error.contains("sqlite:")));
    }

    #[test]
    fn addresses_have_a_port_and_hints_where_one_is_likely() {
        assert!(address("0.0.0.0:8080").is_ok());
        assert!(address("[::]:8080").is_ok());
        assert_eq!(
            address("localhost:80").map(|address| address.to_string()),
            Ok("127.0.0.1:80".into())
        );
        for (wrong, hint) in [
            (":8080", "0.0.0.0:8080"),
            ("8080", "0.0.0.0:8080"),
            ("example.org:1", "such as"),
            ("1.2.3.4", "such as"),
        ] {
            assert!(
                address(wrong).is_err_and(|error| error.contains(hint)),
                "{wrong}"
            );
        }
    }

    #[test]
    fn web_addresses_are_http() {
        assert_eq!(
            url("https://api.chatwork.com/v2/"),
            Ok("https://api.chatwork.com/v2".into())
        );
        assert_eq!(
            url("http://127.0.0.1:8081/v2"),
            Ok("http://127.0.0.1:8081/v2".into())
        );
        for wrong in [
            "api.chatwork.com/v2",
            "ftp://x",
            "https://",
            "https:///v2",
            "http://:80",
            "https://a b",
        ] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        assert!(url("api.chatwork.com").is_err_and(|error| error.contains("https://")));
    }

    #[test]
    fn languages_are_simsimis_own() {
        assert_eq!(
            LANGUAGES.len(),
            LANGUAGES
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        );
        for code in ["vn", "ja", "en", "zh", "ch"] {
            assert_eq!(language(code), Ok(code));
        }
        let hints = [
            ("vi", "vn"),
            ("vi_VN.UTF-8", "vn"),
            ("VN", "vn"),
            ("ja-JP", "ja"),
            ("jp", "ja"),
            ("zh-CN", "ch"),
            ("zh_TW", "zh"),
            ("sr", "rs"),
            ("km", "kh"),
            ("sq", "al"),
            ("tl", "ph"),
            ("ceb", "cx"),
            ("no", "nb"),
            ("en-GB", "en"),
        ];
        for (text, code) in hints {
            assert!(
                language(text).is_err_and(|error| error.contains(&format!("`{code}`"))),
                "{text}"
            );
        }
        assert!(language("klingon").is_err_and(|error| !error.contains("did you mean")));
    }

    #[test]
    fn tokens_are_base64_and_never_repeated() {
        assert!(webhook_tokens("iY/hmitgwCBlc5DnjAZ8pyRG1HF0zFflfmKmtCDg1wk=").is_ok());
        assert!(webhook_tokens("iY/hmitgwCBlc5DnjAZ8pyRG1HF0zFflfmKmtCDg1wk=,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").is_ok());
        let error = webhook_tokens("not*a*token").expect_err("no Base64");
        assert!(
            error.contains("edit screen") && !error.contains("not*a*token"),
            "{error}"
        );
        assert_eq!(format!("{:?}", secret("hush")), "Ok(Secret(…))");
        assert!(secret("two words").is_err());
        // A space and nothing else comes here as nothing.
        assert!(secret("").is_err());
    }

    #[test]
    fn accounts_are_numbers() {
        assert_eq!(accounts(""), Ok(vec![]));
        assert_eq!(accounts("1, 22,"), Ok(vec![AccountId(1), AccountId(22)]));
        assert!(accounts("1,bot").is_err());
    }
}
