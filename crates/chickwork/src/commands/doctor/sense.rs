//! Settings of which each is right and which together make no sense, or which somebody should think
//! about twice. Pure: what is read of the world is passed in.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::signature::Token;
use chickwork_queue::event::BotName;
use chickwork_queue::examine::Finding;
use chickwork_queue::spool::SpoolSettings;
use chickwork_queue::{Declare, Location};
use chickwork_sandbox::{DEMO_API_KEY, DEMO_API_TOKEN, DEMO_WEBHOOK_TOKEN};

use crate::settings::parse::{Rate, Secret};
use crate::settings::read::{Given, Reader};
use crate::settings::{
    ACCOUNT_LIMIT, ADMIN_LISTEN, API_TOKEN, API_URL, ARCHIVE_KEEP, CONCURRENCY, DECLARE, DRAIN,
    FALLBACK, IGNORE_ACCOUNTS, LISTEN, MAX_AGE, NAMESPACE, QUEUE, ROOM_LIMIT, Role, SENDER_LIMIT,
    SIMSIMI_API_KEY, SIMSIMI_API_URL, SIMSIMI_LANG, SPOOL, SPOOL_MAX_BYTES, WEBHOOK_TOKEN,
    WebhookTokens,
};

/// What Chatwork documents for an account.
const DOCUMENTED_ACCOUNT_LIMIT: Rate = Rate {
    calls: 300,
    per: Duration::from_secs(5 * 60),
};
/// What Chatwork documents for a room.
const DOCUMENTED_ROOM_LIMIT: Rate = Rate {
    calls: 10,
    per: Duration::from_secs(10),
};
/// Nobody talks to a bot more than this; two bots do.
const TALKATIVE: Rate = Rate {
    calls: 60,
    per: Duration::from_secs(60),
};
/// More questions at the same time than this are more than SimSimi's customers usually send.
const MANY_QUESTIONS: u16 = 64;
/// A step that a service does not want pauses for at least so long.
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);
/// Whoever stops a process waits this long in Kubernetes; docker waits 10 s.
const USUAL_GRACE: Duration = Duration::from_secs(30);
/// Time that a process takes on top of `CHICKWORK_DRAIN`.
const AFTER_DRAIN: Duration = Duration::from_secs(5);
/// Where orchestrators put secrets, readable by everybody in a container with one user.
const MOUNTED_SECRETS: &str = "/run/secrets";

/// The settings as far as they could be read: `None` where one is wrong, or where the role does not
/// read it.
#[derive(Debug, Clone, Default)]
pub(super) struct Readable {
    /// It is to be `ingress` or `worker`, not both in one process.
    one_role: bool,
    location: Option<Location>,
    namespace: Option<String>,
    declare: Option<Declare>,
    archive_keep: Option<Duration>,
    drain: Option<Duration>,
    pub(super) admin_listen: Option<SocketAddr>,
    pub(super) listen: Option<SocketAddr>,
    spool: Option<PathBuf>,
    spool_max_bytes: Option<u64>,
    webhook_tokens: Option<WebhookTokens>,
    concurrency: Option<u16>,
    max_age: Option<Duration>,
    pub(super) account_limit: Option<Rate>,
    room_limit: Option<Rate>,
    sender_limit: Option<Rate>,
    pub(super) ignore_accounts: Option<Vec<AccountId>>,
    fallback: Option<String>,
    pub(super) api_url: Option<String>,
    pub(super) api_token: Option<Secret>,
    pub(super) simsimi_url: Option<String>,
    pub(super) simsimi_key: Option<Secret>,
    pub(super) lang: Option<&'static str>,
    /// Whether these were given, whatever they say.
    namespace_given: bool,
    declare_given: bool,
    spool_given: bool,
    /// The files with secrets, by setting.
    secret_files: Vec<(&'static str, PathBuf)>,
}

impl Readable {
    pub(super) fn read(reader: &mut Reader<'_>, given: &Given, roles: &[Role]) -> Self {
        let mut readable = Self {
            one_role: !(roles.contains(&Role::Ingress) && roles.contains(&Role::Worker)),
            location: reader.get(&QUEUE),
            namespace: reader.get(&NAMESPACE),
            declare: reader.get(&DECLARE),
            archive_keep: reader.get(&ARCHIVE_KEEP),
            admin_listen: reader.get(&ADMIN_LISTEN),
            drain: reader.get(&DRAIN),
            namespace_given: given.says(&NAMESPACE.about),
            declare_given: given.says(&DECLARE.about),
            ..Self::default()
        };
        if roles.contains(&Role::Ingress) {
            readable.listen = reader.get(&LISTEN);
            readable.spool = reader.get(&SPOOL);
            readable.spool_max_bytes = reader.get(&SPOOL_MAX_BYTES);
            readable.spool_given = given.says(&SPOOL.about);
            readable.webhook_tokens = reader.require(&WEBHOOK_TOKEN);
        }
        if roles.contains(&Role::Worker) {
            readable.concurrency = reader.get(&CONCURRENCY);
            readable.max_age = reader.get(&MAX_AGE);
            readable.account_limit = reader.get(&ACCOUNT_LIMIT);
            readable.room_limit = reader.get(&ROOM_LIMIT);
            readable.sender_limit = reader.get(&SENDER_LIMIT);
            readable.ignore_accounts = reader.get(&IGNORE_ACCOUNTS);
            readable.fallback = reader.optional(&FALLBACK).flatten();
            readable.api_url = reader.get(&API_URL);
            readable.api_token = reader.require(&API_TOKEN);
            readable.simsimi_url = reader.get(&SIMSIMI_API_URL);
            readable.simsimi_key = reader.require(&SIMSIMI_API_KEY);
            readable.lang = reader.get(&SIMSIMI_LANG);
        }
        let secrets = [
            &QUEUE.about,
            &WEBHOOK_TOKEN.about,
            &API_TOKEN.about,
            &SIMSIMI_API_KEY.about,
        ];
        readable.secret_files = secrets
            .into_iter()
            .filter(|about| about.concerns(roles))
            .filter_map(|about| Some((about.name, given.secret_file(about)?)))
            .collect();
        readable
    }

    /// The queue, where what it needs could be read.
    pub(super) fn queue(&self) -> Option<chickwork_queue::Settings> {
        Some(chickwork_queue::Settings {
            location: self.location.clone()?,
            namespace: self.namespace.clone()?,
            bots: vec![BotName::default()],
            declare: self.declare?,
            archive_keep: self.archive_keep?,
        })
    }

    /// The spool, where the process is to have one: an ingress on a broker.
    pub(super) fn spool(&self) -> Option<SpoolSettings> {
        matches!(self.location, Some(Location::Amqp(_))).then_some(())?;
        Some(SpoolSettings {
            path: self.spool.clone()?,
            max_bytes: self.spool_max_bytes?,
        })
    }
}

/// Everything that deserves a second thought.
pub(super) fn examine(
    settings: &Readable,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = CHECKS.iter().filter_map(|check| check(settings)).collect();
    findings.extend(loose_files(&settings.secret_files));
    findings.extend(proxied(settings, variable));
    findings
}

const CHECKS: &[fn(&Readable) -> Option<Finding>] = &[
    odd_webhook_token,
    webhook_token_as_api_token,
    one_secret_twice,
    demo_webhook_token,
    demo_api_token,
    demo_simsimi_key,
    half_a_sandbox,
    chatwork_in_the_clear,
    simsimi_in_the_clear,
    one_address_for_both,
    open_admin_port,
    file_for_one_role,
    namespace_of_a_file,
    declare_of_a_file,
    spool_of_a_file,
    forgetful_archive,
    impatient,
    patient_drain,
    room_above_account,
    account_above_chatwork,
    room_above_chatwork,
    many_questions,
    no_sender_limit,
    silent,
];

fn odd_webhook_token(settings: &Readable) -> Option<Finding> {
    let odd = settings.webhook_tokens.as_ref()?.odd;
    (odd > 0).then(|| {
        Finding::notice(
            WEBHOOK_TOKEN.about.name,
            "CHATWORK_WEBHOOK_TOKEN has a token that is not of 32 bytes, as Chatwork's are",
        )
        .with_cure("Is it the API token? Copy the token, whole, from the webhook's edit screen.")
    })
}

fn webhook_token_as_api_token(settings: &Readable) -> Option<Finding> {
    let token = settings.api_token.as_ref()?.reveal();
    // API tokens are shorter.
    let looks_like_one = token.len() == Token::USUAL_LENGTH && Token::parse(token).is_ok();
    looks_like_one.then(|| {
        Finding::wrong(
            API_TOKEN.about.name,
            "CHATWORK_API_TOKEN looks like the token of a webhook",
            "The API token is another one: log in to Chatwork as the bot, service integration. Were the two swapped?",
        )
    })
}

fn one_secret_twice(settings: &Readable) -> Option<Finding> {
    let api_token = settings.api_token.as_ref().map(Secret::reveal);
    let simsimi_key = settings.simsimi_key.as_ref().map(Secret::reveal);
    let tokens = settings.webhook_tokens.as_ref();
    let is_webhook_token = |secret: Option<&str>| {
        let (Some(secret), Some(tokens)) = (secret, tokens) else {
            return false;
        };
        tokens.contain(secret)
    };
    let [webhook, api, simsimi] = [
        &WEBHOOK_TOKEN.about,
        &API_TOKEN.about,
        &SIMSIMI_API_KEY.about,
    ]
    .map(|about| about.name);
    let (one, other) = if api_token.is_some() && api_token == simsimi_key {
        (api, simsimi)
    } else if is_webhook_token(api_token) {
        (api, webhook)
    } else if is_webhook_token(simsimi_key) {
        (simsimi, webhook)
    } else {
        return None;
    };
    Some(Finding::wrong(
        one,
        format!("{one} is the same as {other}"),
        "They come from different places: one was pasted where the other belongs.",
    ))
}

fn demo_webhook_token(settings: &Readable) -> Option<Finding> {
    if !settings
        .webhook_tokens
        .as_ref()?
        .contain(DEMO_WEBHOOK_TOKEN)
    {
        return None;
    }
    let name = WEBHOOK_TOKEN.about.name;
    let says = "CHATWORK_WEBHOOK_TOKEN is the sandbox's, which everybody knows";
    let cure = "Copy the token from the webhook's edit screen in Chatwork.";
    match settings.api_url.as_deref() {
        Some(url) if is_real(url) => Some(Finding::wrong(
            name,
            format!("{says}, and CHATWORK_API_URL is the real Chatwork"),
            cure,
        )),
        // Who works is not known here; to try the bot it is fine.
        None => Some(
            Finding::notice(
                name,
                format!("{says}: whoever reaches the ingress can speak to the bot"),
            )
            .with_cure(cure),
        ),
        Some(_) => None,
    }
}

fn demo_api_token(settings: &Readable) -> Option<Finding> {
    let demo = settings.api_token.as_ref()?.reveal() == DEMO_API_TOKEN;
    (demo && is_real(settings.api_url.as_deref()?)).then(|| {
        Finding::wrong(
            API_TOKEN.about.name,
            "CHATWORK_API_TOKEN is the sandbox's, and CHATWORK_API_URL is the real Chatwork",
            "Log in to Chatwork as the bot and copy the API token, or set CHATWORK_API_URL to the sandbox.",
        )
    })
}

fn demo_simsimi_key(settings: &Readable) -> Option<Finding> {
    let demo = settings.simsimi_key.as_ref()?.reveal() == DEMO_API_KEY;
    (demo && is_real(settings.simsimi_url.as_deref()?)).then(|| {
        Finding::wrong(
            SIMSIMI_API_KEY.about.name,
            "SIMSIMI_API_KEY is the sandbox's, and SIMSIMI_API_URL is the real SimSimi",
            "Copy the key of your project in the SimSimi workshop, or set SIMSIMI_API_URL to the sandbox.",
        )
    })
}

fn half_a_sandbox(settings: &Readable) -> Option<Finding> {
    let (chatwork, simsimi) = (
        settings.api_url.as_deref()?,
        settings.simsimi_url.as_deref()?,
    );
    let (real, near) = match (is_real(chatwork), is_real(simsimi)) {
        (true, false) if is_near(simsimi) => (&API_URL.about, &SIMSIMI_API_URL.about),
        (false, true) if is_near(chatwork) => (&SIMSIMI_API_URL.about, &API_URL.about),
        _ => return None,
    };
    let (real, near) = (real.name, near.name);
    Some(
        Finding::notice(
            near,
            format!("{near} is on this machine, and {real} is the real service"),
        )
        .with_cure("If that is the sandbox, use it for both or for none."),
    )
}

fn chatwork_in_the_clear(settings: &Readable) -> Option<Finding> {
    let demo = settings.api_token.as_ref().map(Secret::reveal) == Some(DEMO_API_TOKEN);
    in_the_clear(API_URL.about.name, settings.api_url.as_deref()?, demo)
}

fn simsimi_in_the_clear(settings: &Readable) -> Option<Finding> {
    let demo = settings.simsimi_key.as_ref().map(Secret::reveal) == Some(DEMO_API_KEY);
    let url = settings.simsimi_url.as_deref()?;
    in_the_clear(SIMSIMI_API_URL.about.name, url, demo)
}

fn in_the_clear(name: &str, url: &str, demo: bool) -> Option<Finding> {
    if !url.starts_with("http://") || is_near(url) {
        return None;
    }
    let says =
        format!("{name} is not encrypted: the token and people's words can be read on the way");
    let cure = "Write https:// instead of http://.";
    if is_real(url) {
        Some(Finding::wrong(name, says, cure))
    } else {
        // What everybody knows needs no protection: a sandbox in the next container.
        (!demo).then(|| Finding::notice(name, says).with_cure(cure))
    }
}

fn one_address_for_both(settings: &Readable) -> Option<Finding> {
    let (listen, admin) = (settings.listen?, settings.admin_listen?);
    let same_port = listen.port() == admin.port() && listen.port() != 0;
    let same_place =
        listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
    (same_port && same_place).then(|| {
        Finding::wrong(
            ADMIN_LISTEN.about.name,
            format!(
                "CHICKWORK_ADMIN_LISTEN and CHICKWORK_LISTEN both want port {}",
                admin.port()
            ),
            "Give one of them another port.",
        )
    })
}

fn open_admin_port(settings: &Readable) -> Option<Finding> {
    let admin = settings.admin_listen?;
    (!admin.ip().is_loopback()).then(|| {
        let says = format!("CHICKWORK_ADMIN_LISTEN={admin} can be reached from other machines");
        let cure = "Right in a container of its own; else write 127.0.0.1, as everybody may read its figures.";
        Finding::notice(ADMIN_LISTEN.about.name, says).with_cure(cure)
    })
}

fn is_file(settings: &Readable) -> bool {
    matches!(settings.location, Some(Location::Sqlite(_)))
}

fn file_for_one_role(settings: &Readable) -> Option<Finding> {
    (is_file(settings) && settings.one_role).then(|| {
        Finding::notice(
            QUEUE.about.name,
            "CHICKWORK_QUEUE is a file: ingress and worker have to run on this machine",
        )
        .with_cure(
            "For several machines use RabbitMQ; for one, `chickwork serve` is both in one process.",
        )
    })
}

fn namespace_of_a_file(settings: &Readable) -> Option<Finding> {
    (is_file(settings) && settings.namespace_given).then(|| {
        Finding::notice(
            NAMESPACE.about.name,
            "CHICKWORK_NAMESPACE has no effect, as the queue is a file",
        )
        .with_cure("Give each bot a file of its own.")
    })
}

fn declare_of_a_file(settings: &Readable) -> Option<Finding> {
    (is_file(settings) && settings.declare_given).then(|| {
        Finding::notice(
            DECLARE.about.name,
            "CHICKWORK_DECLARE has no effect, as the queue is a file",
        )
        .with_cure("Unset it.")
    })
}

fn spool_of_a_file(settings: &Readable) -> Option<Finding> {
    (is_file(settings) && settings.spool_given).then(|| {
        Finding::notice(
            SPOOL.about.name,
            "CHICKWORK_SPOOL has no effect, as the queue is a file",
        )
        .with_cure("Unset it: events are safe in the queue's own file.")
    })
}

fn forgetful_archive(settings: &Readable) -> Option<Finding> {
    let (keep, max_age) = (settings.archive_keep?, settings.max_age?);
    (keep != Duration::ZERO && keep < max_age).then(|| {
        let says = "CHICKWORK_ARCHIVE_KEEP is shorter than CHICKWORK_MAX_AGE: an event may be forgotten before it is answered";
        let cure = "Keep events longer than they may be answered.";
        Finding::notice(ARCHIVE_KEEP.about.name, says).with_cure(cure)
    })
}

fn impatient(settings: &Readable) -> Option<Finding> {
    (settings.max_age? <= SHORTEST_PAUSE).then(|| {
        let says = "CHICKWORK_MAX_AGE is no longer than the shortest pause: when a service refuses us once, all that waits expires";
        let cure = "Take some minutes at least; the default is 1h.";
        Finding::notice(MAX_AGE.about.name, says).with_cure(cure)
    })
}

fn patient_drain(settings: &Readable) -> Option<Finding> {
    let whole = settings.drain? + AFTER_DRAIN;
    (whole > USUAL_GRACE).then(|| {
        let says = format!(
            "CHICKWORK_DRAIN: stopping may take {} s, and Kubernetes kills after 30 s, docker after 10 s",
            whole.as_secs()
        );
        let cure = "Give it that time (terminationGracePeriodSeconds, stop_grace_period), or drain for less.";
        Finding::notice(DRAIN.about.name, says).with_cure(cure)
    })
}

fn room_above_account(settings: &Readable) -> Option<Finding> {
    let (account, room) = (settings.account_limit?, settings.room_limit?);
    (account.calls < room.calls).then(|| {
        let says = "CHATWORK_ACCOUNT_LIMIT allows fewer calls than CHATWORK_ROOM_LIMIT allows posts in one room";
        let cure = "Were the two swapped? The defaults are 300/5m and 10/10s.";
        Finding::notice(ACCOUNT_LIMIT.about.name, says).with_cure(cure)
    })
}

fn account_above_chatwork(settings: &Readable) -> Option<Finding> {
    let limit = settings.account_limit?;
    above(
        ACCOUNT_LIMIT.about.name,
        limit,
        DOCUMENTED_ACCOUNT_LIMIT,
        "300/5m",
    )
}

fn room_above_chatwork(settings: &Readable) -> Option<Finding> {
    let limit = settings.room_limit?;
    above(
        ROOM_LIMIT.about.name,
        limit,
        DOCUMENTED_ROOM_LIMIT,
        "10/10s",
    )
}

fn above(name: &str, limit: Rate, documented: Rate, written: &str) -> Option<Finding> {
    (most(limit, documented.per) > documented.calls).then(|| {
        Finding::notice(
            name,
            format!("{name} is above the {written} that Chatwork documents: it will refuse calls"),
        )
        .with_cure("Unset it, unless Chatwork has granted you more.")
    })
}

/// The most calls that such a limit allows in any period of this length.
fn most(limit: Rate, per: Duration) -> u32 {
    let windows = per.as_secs_f64() / limit.per.as_secs_f64();
    // Above this it does not matter how many exactly.
    (f64::from(limit.calls) * windows.max(1.0)).min(f64::from(u32::MAX)) as u32
}

fn many_questions(settings: &Readable) -> Option<Finding> {
    let concurrency = settings.concurrency?;
    (concurrency > MANY_QUESTIONS).then(|| {
        let says = format!(
            "CHICKWORK_CONCURRENCY={concurrency} questions at the same time from each worker is a lot"
        );
        let cure = "SimSimi does not say how many it takes; Chatwork lets one reply a second out in the end.";
        Finding::notice(CONCURRENCY.about.name, says).with_cure(cure)
    })
}

fn no_sender_limit(settings: &Readable) -> Option<Finding> {
    (most(settings.sender_limit?, TALKATIVE.per) > TALKATIVE.calls).then(|| {
        let says = "CHICKWORK_SENDER_LIMIT is so high that it ends no loop of two bots, and each answer costs";
        let cure = "The default is 10/1m. Put other bots into CHICKWORK_IGNORE_ACCOUNTS.";
        Finding::notice(SENDER_LIMIT.about.name, says).with_cure(cure)
    })
}

fn silent(settings: &Readable) -> Option<Finding> {
    let blank = settings.fallback.as_ref()?.trim().is_empty();
    blank.then(|| {
        Finding::notice(
            FALLBACK.about.name,
            "CHICKWORK_FALLBACK is empty: the bot is silent when SimSimi does not understand",
        )
        .with_cure("Unset it for a friendly line.")
    })
}

/// Files with secrets that everybody on this machine can read.
fn loose_files(files: &[(&'static str, PathBuf)]) -> Vec<Finding> {
    files
        .iter()
        .filter(|(_, path)| !path.starts_with(MOUNTED_SECRETS) && readable_by_all(path))
        .map(|(name, path)| {
            Finding::notice(
                *name,
                format!(
                    "{name}_FILE={} can be read by everybody on this machine",
                    path.display()
                ),
            )
            .with_cure(format!("chmod 600 {}", path.display()))
        })
        .collect()
}

fn readable_by_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

/// Which services are called through a proxy; told without the password in its address.
fn proxied(settings: &Readable, variable: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let services = [
        ("Chatwork", &settings.api_url),
        ("SimSimi", &settings.simsimi_url),
    ];
    services
        .into_iter()
        .filter_map(|(service, url)| {
            let url = url.as_deref()?;
            let proxy = chickwork_clients::proxy(url, variable)?;
            let says = format!("{service} is called through the proxy {proxy}");
            let cure = format!(
                "Right where there is no other way out; else add {} to NO_PROXY.",
                host(url)
            );
            Some(Finding::notice("proxy", says).with_cure(cure))
        })
        .collect()
}

/// Whether this is one of the two services themselves.
fn is_real(url: &str) -> bool {
    let host = host(url).to_ascii_lowercase();
    [".chatwork.com", ".simsimi.com"]
        .iter()
        .any(|domain| host.ends_with(domain))
}

/// Whether this is on this machine.
fn is_near(url: &str) -> bool {
    let host = host(url);
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The host in the base of a web address.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority
        .rsplit_once('@')
        .map_or(authority, |(_, place)| place);
    match place.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => place,
    }
}

#[cfg(test)]
mod tests {
    use chickwork_queue::examine::Grade;

    use super::*;

    const REAL: [(&str, &str); 4] = [
        (
            "CHATWORK_WEBHOOK_TOKEN",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ),
        ("CHATWORK_API_TOKEN", "0123456789abcdef0123456789abcdef"),
        ("SIMSIMI_API_KEY", "a-key-of-simsimis"),
        ("CHICKWORK_QUEUE", "amqp://rabbit"),
    ];
    const SANDBOX: [(&str, &str); 6] = [
        ("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN),
        ("CHATWORK_API_TOKEN", DEMO_API_TOKEN),
        ("SIMSIMI_API_KEY", DEMO_API_KEY),
        ("CHATWORK_API_URL", "http://sandbox:8081/v2"),
        ("SIMSIMI_API_URL", "http://127.0.0.1:8081/190410"),
        ("CHICKWORK_QUEUE", "amqp://rabbit"),
    ];
    const BOTH: &[Role] = &[Role::Ingress, Role::Worker];

    /// What is found in `basis` changed by `changes`.
    fn found(basis: &[(&str, &str)], changes: &[(&str, &str)], roles: &[Role]) -> Vec<Finding> {
        let set = basis.iter().chain(changes);
        let given = Given {
            environment: set
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
            ..Given::default()
        };
        let mut reader = Reader::new(&given, roles);
        let settings = Readable::read(&mut reader, &given, roles);
        let mistakes = reader.into_mistakes();
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let none = |_: &str| None;
        examine(&settings, &none)
    }

    #[test]
    fn what_makes_sense_is_not_talked_about() {
        for basis in [&REAL[..], &SANDBOX[..]] {
            assert_eq!(found(basis, &[], BOTH), []);
        }
        let file = [("CHICKWORK_QUEUE", "sqlite:chickwork.db")];
        assert_eq!(found(&REAL, &file, BOTH), []);
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_grade() {
        use Grade::{Notice, Wrong};
        const WEBHOOK: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        const API: &str = "0123456789abcdef0123456789abcdef";
        type Row = (&'static [(&'static str, &'static str)], Grade, &'static str);
        let table: &[Row] = &[
            (
                &[("CHATWORK_WEBHOOK_TOKEN", "d3Jvbmc=")],
                Notice,
                "not of 32 bytes",
            ),
            (
                &[
                    ("CHATWORK_WEBHOOK_TOKEN", API),
                    ("CHATWORK_API_TOKEN", WEBHOOK),
                ],
                Wrong,
                "CHATWORK_API_TOKEN looks like the token of a webhook",
            ),
            (
                &[("CHATWORK_WEBHOOK_TOKEN", API)],
                Wrong,
                "CHATWORK_API_TOKEN is the same as CHATWORK_WEBHOOK_TOKEN",
            ),
            (
                &[("SIMSIMI_API_KEY", API)],
                Wrong,
                "CHATWORK_API_TOKEN is the same as SIMSIMI_API_KEY",
            ),
            (
                &[("SIMSIMI_API_KEY", WEBHOOK)],
                Wrong,
                "SIMSIMI_API_KEY is the same as CHATWORK_WEBHOOK_TOKEN",
            ),
            (
                &[("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN)],
                Wrong,
                "the sandbox's, which everybody knows",
            ),
            (
                &[("CHATWORK_API_TOKEN", DEMO_API_TOKEN)],
                Wrong,
                "CHATWORK_API_URL is the real",
            ),
            (
                &[("SIMSIMI_API_KEY", DEMO_API_KEY)],
                Wrong,
                "SIMSIMI_API_URL is the real",
            ),
            (
                &[("CHATWORK_API_URL", "http://localhost:8081/v2")],
                Notice,
                "CHATWORK_API_URL is on this machine",
            ),
            (
                &[("SIMSIMI_API_URL", "http://[::1]:8081")],
                Notice,
                "SIMSIMI_API_URL is on this machine",
            ),
            (
                &[("CHATWORK_API_URL", "http://api.chatwork.com/v2")],
                Wrong,
                "CHATWORK_API_URL is not encrypted",
            ),
            (
                &[("SIMSIMI_API_URL", "http://mock.example/190410")],
                Notice,
                "SIMSIMI_API_URL is not encrypted",
            ),
            (
                &[
                    ("CHICKWORK_LISTEN", "0.0.0.0:9090"),
                    ("CHICKWORK_ADMIN_LISTEN", "127.0.0.1:9090"),
                ],
                Wrong,
                "both want port 9090",
            ),
            (
                &[("CHICKWORK_ADMIN_LISTEN", "0.0.0.0:9090")],
                Notice,
                "from other machines",
            ),
            (
                &[
                    ("CHICKWORK_QUEUE", "sqlite:a.db"),
                    ("CHICKWORK_NAMESPACE", "chick"),
                ],
                Notice,
                "CHICKWORK_NAMESPACE has no effect",
            ),
            (
                &[
                    ("CHICKWORK_QUEUE", "sqlite:a.db"),
                    ("CHICKWORK_DECLARE", "passive"),
                ],
                Notice,
                "CHICKWORK_DECLARE has no effect",
            ),
            (
                &[
                    ("CHICKWORK_QUEUE", "sqlite:a.db"),
                    ("CHICKWORK_SPOOL", "spool.db"),
                ],
                Notice,
                "CHICKWORK_SPOOL has no effect",
            ),
            (
                &[("CHICKWORK_ARCHIVE_KEEP", "30m")],
                Notice,
                "shorter than CHICKWORK_MAX_AGE",
            ),
            (&[("CHICKWORK_MAX_AGE", "1m")], Notice, "the shortest pause"),
            (&[("CHICKWORK_DRAIN", "1m")], Notice, "may take 65 s"),
            (
                &[
                    ("CHATWORK_ACCOUNT_LIMIT", "10/10s"),
                    ("CHATWORK_ROOM_LIMIT", "300/5m"),
                ],
                Notice,
                "fewer calls than CHATWORK_ROOM_LIMIT",
            ),
            (
                &[("CHATWORK_ACCOUNT_LIMIT", "600/10m")],
                Notice,
                "CHATWORK_ACCOUNT_LIMIT is above the 300/5m",
            ),
            (
                &[("CHATWORK_ROOM_LIMIT", "2/1s")],
                Notice,
                "CHATWORK_ROOM_LIMIT is above the 10/10s",
            ),
            (
                &[("CHICKWORK_CONCURRENCY", "500")],
                Notice,
                "CHICKWORK_CONCURRENCY=500",
            ),
            (
                &[("CHICKWORK_SENDER_LIMIT", "1000/1m")],
                Notice,
                "ends no loop",
            ),
            (&[("CHICKWORK_FALLBACK", "")], Notice, "the bot is silent"),
        ];
        for (changes, grade, says) in table {
            let findings = found(&REAL, changes, BOTH);
            let told = findings.iter().find(|finding| finding.says.contains(says));
            let told = told.unwrap_or_else(|| panic!("{says} is not in {findings:?}"));
            assert_eq!(told.grade, *grade, "{told:?}");
            assert!(told.cure.is_some(), "{told:?}");
            for secret in [WEBHOOK, API] {
                assert!(!format!("{findings:?}").contains(secret), "{findings:?}");
            }
        }
    }

    #[test]
    fn a_role_alone_is_told_what_concerns_it() {
        let file = [("CHICKWORK_QUEUE", "sqlite:a.db")];
        let findings = found(&SANDBOX, &file, &[Role::Ingress]);
        let [token, queue] = &findings[..] else {
            panic!("{findings:?}");
        };
        assert!(token.says.contains("can speak to the bot"), "{token:?}");
        assert!(queue.says.contains("on this machine"), "{queue:?}");
        assert!(
            findings
                .iter()
                .all(|finding| finding.grade == Grade::Notice)
        );
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_told_with_its_path() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "0123456789abcdef0123456789abcdef\n").expect("written");
        let path = file.path().to_str().expect("a plain path");
        let without: Vec<_> = REAL
            .into_iter()
            .filter(|(name, _)| *name != "CHATWORK_API_TOKEN")
            .collect();
        let changes = [("CHATWORK_API_TOKEN_FILE", path)];
        assert_eq!(found(&without, &changes, BOTH), []);
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(file.path(), open).expect("our own file");
        let findings = found(&without, &changes, BOTH);
        assert!(findings[0].says.contains(path), "{findings:?}");
    }

    #[test]
    fn a_proxy_is_told_of_the_services_that_are_called_through_it() {
        let settings = Readable {
            api_url: Some("https://api.chatwork.com/v2".to_owned()),
            simsimi_url: Some("https://wsapi.simsimi.com/190410".to_owned()),
            ..Readable::default()
        };
        let told = |no_proxy: &str| -> Vec<String> {
            let variable = |name: &str| match name {
                "https_proxy" => Some("http://me:sesame@proxy:3128".to_owned()),
                "NO_PROXY" => Some(no_proxy.to_owned()),
                _ => None,
            };
            let findings = proxied(&settings, &variable).into_iter();
            findings.map(|finding| finding.says).collect()
        };
        let (chatwork, simsimi) = (
            "Chatwork is called through the proxy proxy:3128",
            "SimSimi is called through the proxy proxy:3128",
        );
        assert_eq!(told(""), [chatwork, simsimi]);
        assert_eq!(told(".simsimi.com"), [chatwork]);
        assert_eq!(told("*"), [""; 0]);
    }
}
