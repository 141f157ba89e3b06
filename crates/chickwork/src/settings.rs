//! Every setting there is, in one table: its name, its default, what it is for, who reads it and how
//! it is read. Flags, help, mistakes and warnings about unknown variables all come from here.
//!
//! How a value is found (flag, environment, file) is in [`read`], how a text becomes a value in
//! [`parse`]; the typed groups at the end are what the commands work with.

pub(crate) mod parse;
pub(crate) mod read;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::signature::{Token, Tokens};
use chickwork_queue::event::BotName;
use chickwork_queue::spool::SpoolSettings;
use chickwork_queue::{Declare, Location};
use chickwork_sandbox::DEMO_WEBHOOK_TOKEN;

use self::Role::{
    Dev, Doctor, Healthcheck, Ingress, Operator, Recover, Replay, Sandbox, Send, Status, Topology,
    Worker,
};
use self::parse::{LogFormat, Rate, Secret};
use self::read::Reader;

/// What a process does, as far as settings are concerned. A process reads only what its roles need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes webhooks.
    Ingress,
    /// Asks and posts.
    Worker,
    /// Everything at once on this machine.
    Dev,
    /// The stand-ins for both services.
    Sandbox,
    /// Sends one webhook.
    Send,
    /// Asks a running process whether it is ready.
    Healthcheck,
    /// Prints the broker objects.
    Topology,
    /// Looks into a queue that is there, or changes something in it, for a person.
    Operator,
    /// Says how the bot is; an operator who also looks back.
    Status,
    /// Looks for what the ingress did not hear, in the rooms; an operator who also reads Chatwork.
    Recover,
    /// Puts events back in; an operator who also knows what is too old, and signs.
    Replay,
    /// Checks what another role needs, and is given that role as well.
    Doctor,
}

/// A setting as people see it.
#[derive(Debug)]
pub(crate) struct About {
    /// The environment variable.
    pub(crate) name: &'static str,
    /// What it is when it is not set, in the same words as a value; `None` if that is left to whoever reads it.
    pub(crate) default: Option<&'static str>,
    /// What it is instead for these roles.
    pub(crate) default_of: &'static [(Role, &'static str)],
    /// A sentence for `--help`.
    pub(crate) help: &'static str,
    /// Whether the value is never shown, and may come from a file.
    pub(crate) secret: bool,
    /// Whether the empty text is a value; otherwise it is the same as not set.
    pub(crate) may_be_empty: bool,
    /// Who reads it.
    pub(crate) read_by: &'static [Role],
}

/// A setting together with the type of its value.
#[derive(Debug)]
pub(crate) struct Setting<T> {
    pub(crate) about: About,
    /// Reads a value. The error goes on after "NAME=value: ".
    pub(crate) parse: fn(&str) -> Result<T, String>,
}

/// What every command reads; those that look at more than one thing are operators as well.
const EVERYBODY: &[Role] = &[
    Ingress,
    Worker,
    Dev,
    Sandbox,
    Send,
    Healthcheck,
    Topology,
    Operator,
];

/// A row of the table that is neither secret nor ever empty.
const PLAIN: About = About {
    name: "",
    default: None,
    default_of: &[],
    help: "",
    secret: false,
    may_be_empty: false,
    read_by: &[],
};

pub(crate) static QUEUE: Setting<Location> = Setting {
    about: About {
        name: "CHICKWORK_QUEUE",
        default: Some("sqlite:chickwork.db"),
        help: "The queue: sqlite:PATH for a file on this machine, or amqp://… or amqps://…, several separated by commas for the nodes of one cluster",
        // A broker's URL carries a password.
        secret: true,
        read_by: &[Ingress, Worker, Operator],
        ..PLAIN
    },
    parse: parse::location,
};

pub(crate) static NAMESPACE: Setting<String> = Setting {
    about: About {
        name: "CHICKWORK_NAMESPACE",
        default: Some("chickwork"),
        help: "Prefix of every broker object, so that two bots or two tests can share a broker",
        read_by: &[Ingress, Worker, Topology, Operator],
        ..PLAIN
    },
    parse: parse::namespace,
};

pub(crate) static DECLARE: Setting<Declare> = Setting {
    about: About {
        name: "CHICKWORK_DECLARE",
        default: Some("active"),
        help: "active: create missing broker objects; passive: somebody else manages them (see `chickwork topology`), only check them",
        read_by: &[Ingress, Worker],
        ..PLAIN
    },
    parse: parse::declare,
};

pub(crate) static LISTEN: Setting<SocketAddr> = Setting {
    about: About {
        name: "CHICKWORK_LISTEN",
        default: Some("0.0.0.0:8080"),
        help: "Where webhooks are taken, the public side",
        read_by: &[Ingress, Dev],
        ..PLAIN
    },
    parse: parse::address,
};

pub(crate) static ADMIN_LISTEN: Setting<SocketAddr> = Setting {
    about: About {
        name: "CHICKWORK_ADMIN_LISTEN",
        default: Some("127.0.0.1:9090"),
        help: "Where /healthz, /readyz and /metrics are served",
        read_by: &[Ingress, Worker, Dev, Healthcheck],
        ..PLAIN
    },
    parse: parse::address,
};

pub(crate) static SANDBOX_LISTEN: Setting<SocketAddr> = Setting {
    about: About {
        name: "CHICKWORK_SANDBOX_LISTEN",
        default: Some("127.0.0.1:8081"),
        help: "Where the sandbox stands in for Chatwork and SimSimi",
        read_by: &[Sandbox, Dev],
        ..PLAIN
    },
    parse: parse::address,
};

pub(crate) static SANDBOX_WEBHOOK_URL: Setting<String> = Setting {
    about: About {
        name: "CHICKWORK_SANDBOX_WEBHOOK_URL",
        default: Some("http://127.0.0.1:8080/webhook"),
        help: "Where the sandbox sends webhooks",
        read_by: &[Sandbox],
        ..PLAIN
    },
    parse: parse::url,
};

pub(crate) static SPOOL: Setting<PathBuf> = Setting {
    about: About {
        name: "CHICKWORK_SPOOL",
        default: Some("spool.db"),
        help: "The file in which an ingress keeps events while the broker is away; each ingress needs its own",
        read_by: &[Ingress, Status],
        ..PLAIN
    },
    parse: parse::path,
};

pub(crate) static SPOOL_MAX_BYTES: Setting<u64> = Setting {
    about: About {
        name: "CHICKWORK_SPOOL_MAX_BYTES",
        default: Some("1GiB"),
        help: "How large that file may become, such as 512MiB, 1GiB or a number of bytes",
        read_by: &[Ingress, Status],
        ..PLAIN
    },
    parse: parse::spool_bytes,
};

pub(crate) static CONCURRENCY: Setting<u16> = Setting {
    about: About {
        name: "CHICKWORK_CONCURRENCY",
        default: Some("16"),
        help: "How many questions are with SimSimi at the same time",
        read_by: &[Worker, Dev],
        ..PLAIN
    },
    parse: parse::concurrency,
};

pub(crate) static MAX_AGE: Setting<Duration> = Setting {
    about: About {
        name: "CHICKWORK_MAX_AGE",
        default: Some("1h"),
        help: "An event older than this is not answered any more",
        read_by: &[Worker, Dev, Status, Recover, Replay],
        ..PLAIN
    },
    parse: parse::max_age,
};

pub(crate) static ARCHIVE_KEEP: Setting<Duration> = Setting {
    about: About {
        name: "CHICKWORK_ARCHIVE_KEEP",
        default: Some("7d"),
        help: "Events and outcomes are kept at least so long, and little longer; 0: no archive",
        read_by: &[Ingress, Worker, Topology, Operator],
        ..PLAIN
    },
    parse: parse::archive_keep,
};

pub(crate) static DRAIN: Setting<Duration> = Setting {
    about: About {
        name: "CHICKWORK_DRAIN",
        default: Some("25s"),
        help: "How long a stopping process may finish what it holds",
        read_by: &[Ingress, Worker, Dev],
        ..PLAIN
    },
    parse: parse::drain,
};

pub(crate) static WEBHOOK_TOKEN: Setting<WebhookTokens> = Setting {
    about: About {
        name: "CHATWORK_WEBHOOK_TOKEN",
        help: "The token from the webhook's edit screen; several separated by commas: every webhook has its own, and old and new both work while rotating",
        secret: true,
        read_by: &[Ingress, Sandbox, Send, Replay],
        ..PLAIN
    },
    parse: parse::webhook_tokens,
};

pub(crate) static API_TOKEN: Setting<Secret> = Setting {
    about: About {
        name: "CHATWORK_API_TOKEN",
        help: "The bot account's API token",
        secret: true,
        read_by: &[Worker, Sandbox, Recover, Replay],
        ..PLAIN
    },
    parse: parse::secret,
};

pub(crate) static API_URL: Setting<String> = Setting {
    about: About {
        name: "CHATWORK_API_URL",
        default: Some("https://api.chatwork.com/v2"),
        help: "Chatwork's API",
        read_by: &[Worker, Recover, Replay],
        ..PLAIN
    },
    parse: parse::url,
};

pub(crate) static ACCOUNT_LIMIT: Setting<Rate> = Setting {
    about: About {
        name: "CHATWORK_ACCOUNT_LIMIT",
        default: Some("300/5m"),
        help: "Calls that Chatwork allows an account",
        read_by: &[Worker, Sandbox, Dev, Recover],
        ..PLAIN
    },
    parse: parse::rate,
};

pub(crate) static ROOM_LIMIT: Setting<Rate> = Setting {
    about: About {
        name: "CHATWORK_ROOM_LIMIT",
        default: Some("10/10s"),
        help: "Posts that Chatwork allows in a room",
        read_by: &[Worker, Sandbox, Dev],
        ..PLAIN
    },
    parse: parse::rate,
};

pub(crate) static SENDER_LIMIT: Setting<Rate> = Setting {
    about: About {
        name: "CHICKWORK_SENDER_LIMIT",
        default: Some("10/1m"),
        // One person talks a lot there, and it costs nothing.
        default_of: &[(Dev, "1000/1m")],
        help: "Answers per sender and room; more is ignored as flood, which ends bot loops and bounds the cost",
        read_by: &[Worker, Dev],
        ..PLAIN
    },
    parse: parse::rate,
};

pub(crate) static IGNORE_ACCOUNTS: Setting<Vec<AccountId>> = Setting {
    about: About {
        name: "CHICKWORK_IGNORE_ACCOUNTS",
        default: Some(""),
        help: "Account ids that are never answered (other bots), separated by commas",
        may_be_empty: true,
        read_by: &[Worker, Dev, Recover, Replay],
        ..PLAIN
    },
    parse: parse::accounts,
};

pub(crate) static SIMSIMI_API_KEY: Setting<Secret> = Setting {
    about: About {
        name: "SIMSIMI_API_KEY",
        help: "The key of the SimSimi project",
        secret: true,
        read_by: &[Worker, Sandbox, Replay],
        ..PLAIN
    },
    parse: parse::secret,
};

pub(crate) static SIMSIMI_API_URL: Setting<String> = Setting {
    about: About {
        name: "SIMSIMI_API_URL",
        default: Some("https://wsapi.simsimi.com/190410"),
        help: "SimSimi's API; /talk is appended",
        read_by: &[Worker, Replay],
        ..PLAIN
    },
    parse: parse::url,
};

pub(crate) static SIMSIMI_LANG: Setting<&'static str> = Setting {
    about: About {
        name: "SIMSIMI_LANG",
        default: Some("vn"),
        help: "The language that SimSimi speaks, by its own codes: vn, ja, en, ko, …",
        read_by: &[Worker, Dev, Replay],
        ..PLAIN
    },
    parse: parse::language,
};

pub(crate) static FALLBACK: Setting<String> = Setting {
    about: About {
        name: "CHICKWORK_FALLBACK",
        help: "What is said when SimSimi does not understand or nothing is left to ask; empty: stay silent [default: a friendly line in SIMSIMI_LANG]",
        may_be_empty: true,
        read_by: &[Worker, Dev, Replay],
        ..PLAIN
    },
    parse: parse::fallback,
};

pub(crate) static INGRESS_BROKER_PASSWORD: Setting<Secret> = Setting {
    about: About {
        name: "CHICKWORK_INGRESS_BROKER_PASSWORD",
        help: "Makes a broker user <namespace>-ingress with this password, who may only put events in",
        secret: true,
        read_by: &[Topology],
        ..PLAIN
    },
    parse: parse::secret,
};

pub(crate) static WORKER_BROKER_PASSWORD: Setting<Secret> = Setting {
    about: About {
        name: "CHICKWORK_WORKER_BROKER_PASSWORD",
        help: "Makes a broker user <namespace>-worker with this password, who may only work",
        secret: true,
        read_by: &[Topology],
        ..PLAIN
    },
    parse: parse::secret,
};

pub(crate) static OPERATOR_BROKER_PASSWORD: Setting<Secret> = Setting {
    about: About {
        name: "CHICKWORK_OPERATOR_BROKER_PASSWORD",
        help: "Makes a broker user <namespace>-operator with this password, for status, audit and dead, and for looking at the broker's management pages",
        secret: true,
        read_by: &[Topology],
        ..PLAIN
    },
    parse: parse::secret,
};

pub(crate) static LOG: Setting<String> = Setting {
    about: About {
        name: "RUST_LOG",
        default: Some("info"),
        // The terminal of a command is for its result, that of `dev` for a conversation. Whoever looks
        // into a queue should be told about what lies there; in `dev` the stories of events tell it.
        default_of: &[
            (Doctor, "error"),
            (Send, "error"),
            (Healthcheck, "error"),
            (Topology, "error"),
            // That the broker takes no messages is what it prints first.
            (Status, "warn,chickwork_queue::amqp::connection=off"),
            (Operator, "warn"),
            (Dev, "warn,chickwork_worker::desk=error"),
        ],
        help: "What is logged: a level (error, warn, info, debug, trace), or levels per module as in info,chickwork_worker=debug",
        read_by: EVERYBODY,
        ..PLAIN
    },
    parse: parse::text,
};

pub(crate) static LOG_FORMAT: Setting<LogFormat> = Setting {
    about: About {
        name: "CHICKWORK_LOG_FORMAT",
        default: Some("text"),
        help: "text, or json: one object a line",
        read_by: EVERYBODY,
        ..PLAIN
    },
    parse: parse::log_format,
};

/// The table, in the order of `--help`.
pub(crate) static ALL: &[&About] = &[
    &QUEUE.about,
    &NAMESPACE.about,
    &DECLARE.about,
    &LISTEN.about,
    &ADMIN_LISTEN.about,
    &SANDBOX_LISTEN.about,
    &SANDBOX_WEBHOOK_URL.about,
    &SPOOL.about,
    &SPOOL_MAX_BYTES.about,
    &CONCURRENCY.about,
    &MAX_AGE.about,
    &ARCHIVE_KEEP.about,
    &DRAIN.about,
    &WEBHOOK_TOKEN.about,
    &API_TOKEN.about,
    &API_URL.about,
    &ACCOUNT_LIMIT.about,
    &ROOM_LIMIT.about,
    &SENDER_LIMIT.about,
    &IGNORE_ACCOUNTS.about,
    &SIMSIMI_API_KEY.about,
    &SIMSIMI_API_URL.about,
    &SIMSIMI_LANG.about,
    &FALLBACK.about,
    &INGRESS_BROKER_PASSWORD.about,
    &WORKER_BROKER_PASSWORD.about,
    &OPERATOR_BROKER_PASSWORD.about,
    &LOG.about,
    &LOG_FORMAT.about,
];

impl About {
    /// The flag of the same meaning, without its dashes: `CHICKWORK_QUEUE` is `--queue`, the names of
    /// the two services stay.
    pub(crate) fn flag(&self) -> String {
        if self.name == "RUST_LOG" {
            return "log".to_owned();
        }
        let name = self.name.strip_prefix("CHICKWORK_").unwrap_or(self.name);
        name.to_ascii_lowercase().replace('_', "-")
    }

    /// The variable that may name a file with the value instead; secrets only.
    pub(crate) fn file_name(&self) -> String {
        format!("{}_FILE", self.name)
    }

    /// The flag that may name a file with the value instead; secrets only.
    pub(crate) fn file_flag(&self) -> String {
        format!("{}-file", self.flag())
    }

    /// What it is for a process with these roles when it is not set.
    pub(crate) fn default_for(&self, roles: &[Role]) -> Option<&'static str> {
        let mut own = self.default_of.iter();
        own.find(|(role, _)| roles.contains(role))
            .map(|(_, default)| *default)
            .or(self.default)
    }

    /// Whether a process with these roles reads it.
    pub(crate) fn concerns(&self, roles: &[Role]) -> bool {
        self.read_by.iter().any(|role| roles.contains(role))
    }
}

/// The webhook tokens: all of them verify, the first one signs.
#[derive(Debug, Clone)]
pub(crate) struct WebhookTokens {
    pub(crate) all: Tokens,
    pub(crate) first: Token,
    /// How many of them do not have the 32 bytes that Chatwork's have.
    pub(crate) odd: usize,
}

impl WebhookTokens {
    /// Whether the text is one of them.
    pub(crate) fn contain(&self, text: &str) -> bool {
        const PROBE: &[u8] = b"probe";
        // Tokens cannot be compared; what they sign can.
        Token::parse(text)
            .is_ok_and(|token| self.all.verify(PROBE.into(), &token.sign(PROBE)).is_ok())
    }
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub(crate) struct LoggingSettings {
    pub(crate) filter: String,
    pub(crate) format: LogFormat,
}

impl LoggingSettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let filter = reader.get(&LOG);
        let format = reader.get(&LOG_FORMAT);
        Some(Self {
            filter: filter?,
            format: format?,
        })
    }
}

/// What every process that serves needs, whatever its roles.
#[derive(Debug, Clone)]
pub(crate) struct ProcessSettings {
    pub(crate) queue: chickwork_queue::Settings,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) drain: Duration,
}

impl ProcessSettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let location = reader.get(&QUEUE);
        let namespace = reader.get(&NAMESPACE);
        let declare = reader.get(&DECLARE);
        let archive_keep = reader.get(&ARCHIVE_KEEP);
        let admin_listen = reader.get(&ADMIN_LISTEN);
        let drain = reader.get(&DRAIN);
        Some(Self {
            queue: chickwork_queue::Settings {
                location: location?,
                namespace: namespace?,
                declare: declare?,
                archive_keep: archive_keep?,
                bots: vec![BotName::default()],
            },
            admin_listen: admin_listen?,
            drain: drain?,
        })
    }
}

/// What a command needs that an operator points at a queue which is there.
#[derive(Debug, Clone)]
pub(crate) struct OperatorSettings {
    pub(crate) logging: LoggingSettings,
    pub(crate) queue: chickwork_queue::Settings,
}

impl OperatorSettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let logging = LoggingSettings::read(reader);
        let location = reader.get(&QUEUE);
        let namespace = reader.get(&NAMESPACE);
        let archive_keep = reader.get(&ARCHIVE_KEEP);
        Some(Self {
            queue: chickwork_queue::Settings {
                location: location?,
                namespace: namespace?,
                declare: Declare::Nothing,
                archive_keep: archive_keep?,
                bots: vec![BotName::default()],
            },
            logging: logging?,
        })
    }
}

/// What `recover` needs: an operator's queue, and what a worker knows of Chatwork.
#[derive(Debug, Clone)]
pub(crate) struct RecoverSettings {
    pub(crate) operator: OperatorSettings,
    pub(crate) chatwork_url: String,
    pub(crate) chatwork_token: Secret,
    pub(crate) account_limit: Rate,
    pub(crate) max_age: Duration,
    pub(crate) ignore_accounts: Vec<AccountId>,
}

impl RecoverSettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let operator = OperatorSettings::read(reader);
        let chatwork_url = reader.get(&API_URL);
        let chatwork_token = reader.require(&API_TOKEN);
        let account_limit = reader.get(&ACCOUNT_LIMIT);
        let max_age = reader.get(&MAX_AGE);
        let ignore_accounts = reader.get(&IGNORE_ACCOUNTS);
        Some(Self {
            operator: operator?,
            chatwork_url: chatwork_url?,
            chatwork_token: chatwork_token?,
            account_limit: account_limit?,
            max_age: max_age?,
            ignore_accounts: ignore_accounts?,
        })
    }
}

/// For how long a stopping ingress says so before it stops accepting: twice what a load balancer
/// that asks every second needs.
const LINGER: Duration = Duration::from_secs(2);

/// What the ingress needs.
#[derive(Debug, Clone)]
pub(crate) struct IngressSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) tokens: Tokens,
    /// Whether one of them is the sandbox's, with which anybody can sign, and somebody should know.
    pub(crate) anybody_signs: bool,
    /// Where events wait while a broker is away; a queue in a file has no use for it.
    pub(crate) spool: Option<SpoolSettings>,
    /// For how long it goes on accepting once it is to stop.
    pub(crate) linger: Duration,
}

impl IngressSettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.get(&LISTEN);
        let tokens = reader.require(&WEBHOOK_TOKEN);
        let path = reader.get(&SPOOL);
        let max_bytes = reader.get(&SPOOL_MAX_BYTES);
        let tokens = tokens?;
        Some(Self {
            listen: listen?,
            anybody_signs: tokens.contain(DEMO_WEBHOOK_TOKEN),
            tokens: tokens.all,
            spool: Some(SpoolSettings {
                path: path?,
                max_bytes: max_bytes?,
            }),
            linger: LINGER,
        })
    }
}

/// How the worker works, wherever the two services are.
#[derive(Debug, Clone)]
pub(crate) struct PolicySettings {
    pub(crate) concurrency: u16,
    pub(crate) max_age: Duration,
    pub(crate) account_limit: Rate,
    pub(crate) room_limit: Rate,
    pub(crate) sender_limit: Rate,
    pub(crate) ignore_accounts: Vec<AccountId>,
    pub(crate) lang: &'static str,
    /// `None` is silence.
    pub(crate) fallback: Option<String>,
}

impl PolicySettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let concurrency = reader.get(&CONCURRENCY);
        let max_age = reader.get(&MAX_AGE);
        let account_limit = reader.get(&ACCOUNT_LIMIT);
        let room_limit = reader.get(&ROOM_LIMIT);
        let sender_limit = reader.get(&SENDER_LIMIT);
        let ignore_accounts = reader.get(&IGNORE_ACCOUNTS);
        let lang = reader.get(&SIMSIMI_LANG);
        let fallback = reader.optional(&FALLBACK);
        let lang = lang?;
        Some(Self {
            concurrency: concurrency?,
            max_age: max_age?,
            account_limit: account_limit?,
            room_limit: room_limit?,
            sender_limit: sender_limit?,
            ignore_accounts: ignore_accounts?,
            lang,
            fallback: fallback_in(lang, fallback?),
        })
    }
}

/// What is said at a loss: the line that was given, or silence if that is empty, or the usual one.
fn fallback_in(lang: &str, given: Option<String>) -> Option<String> {
    match given {
        Some(line) if line.trim().is_empty() => None,
        Some(line) => Some(line),
        None => Some(friendly_line(lang).to_owned()),
    }
}

/// What the chick says when it is at a loss.
fn friendly_line(lang: &str) -> &'static str {
    match lang {
        "vn" => "Chíp chíp! Mình chưa hiểu lắm, bạn nói lại theo cách khác nhé 🐤",
        "ja" => "ぴよぴよ！うまく聞き取れなかったみたい。もう一度、別の言い方で話しかけてね 🐤",
        _ => "Cheep cheep! I did not quite get that, could you say it another way? 🐤",
    }
}

/// What the worker needs.
#[derive(Debug, Clone)]
pub(crate) struct WorkerSettings {
    pub(crate) policy: PolicySettings,
    pub(crate) chatwork_url: String,
    pub(crate) chatwork_token: Secret,
    pub(crate) simsimi_url: String,
    pub(crate) simsimi_key: Secret,
}

impl WorkerSettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let policy = PolicySettings::read(reader);
        let chatwork_url = reader.get(&API_URL);
        let chatwork_token = reader.require(&API_TOKEN);
        let simsimi_url = reader.get(&SIMSIMI_API_URL);
        let simsimi_key = reader.require(&SIMSIMI_API_KEY);
        Some(Self {
            policy: policy?,
            chatwork_url: chatwork_url?,
            chatwork_token: chatwork_token?,
            simsimi_url: simsimi_url?,
            simsimi_key: simsimi_key?,
        })
    }
}

/// What a rehearsal with SimSimi needs: what a worker knows of the two services, and says by itself.
#[derive(Debug, Clone)]
pub(crate) struct ShadowSettings {
    pub(crate) chatwork_url: String,
    pub(crate) chatwork_token: Secret,
    pub(crate) simsimi_url: String,
    pub(crate) simsimi_key: Secret,
    pub(crate) lang: &'static str,
    pub(crate) ignore_accounts: Vec<AccountId>,
    /// `None` is silence.
    pub(crate) fallback: Option<String>,
}

impl ShadowSettings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let chatwork_url = reader.get(&API_URL);
        let chatwork_token = reader.require(&API_TOKEN);
        let simsimi_url = reader.get(&SIMSIMI_API_URL);
        let simsimi_key = reader.require(&SIMSIMI_API_KEY);
        let lang = reader.get(&SIMSIMI_LANG);
        let ignore_accounts = reader.get(&IGNORE_ACCOUNTS);
        let fallback = reader.optional(&FALLBACK);
        let lang = lang?;
        Some(Self {
            chatwork_url: chatwork_url?,
            chatwork_token: chatwork_token?,
            simsimi_url: simsimi_url?,
            simsimi_key: simsimi_key?,
            lang,
            ignore_accounts: ignore_accounts?,
            fallback: fallback_in(lang, fallback?),
        })
    }
}
