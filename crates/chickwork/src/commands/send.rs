//! `chickwork send`: builds, signs and posts one webhook, as Chatwork would.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::signature::Token;
use chickwork_sandbox::town;
use chickwork_sandbox::webhook::{Hook, Kind, send};
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use jiff::Timestamp;

use crate::command_line;
use crate::commands::{Call, Order};
use crate::output;
use crate::settings::parse;
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{LoggingSettings, Role, WEBHOOK_TOKEN};

const ROLES: &[Role] = &[Role::Send];
pub(crate) fn command() -> Command {
    let option =
        |name: &'static str, value: &'static str, parser: ValueParser, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name(value)
                .value_parser(parser)
                .help(help)
                .conflicts_with("file")
        };
    command_line::command(
        "send",
        "Builds, signs and posts a webhook; prints the status and how long it took",
        ROLES,
    )
    .mut_arg(WEBHOOK_TOKEN.about.flag(), |arg| arg.visible_alias("token"))
    .arg(
        command_line::value("url", "URL", "Where to post it")
            .value_parser(parse::url)
            .default_value("http://127.0.0.1:8080/webhook"),
    )
    .arg(
        option(
            "type",
            "TYPE",
            ValueParser::new(kind),
            "mention_to_me, message_created or message_updated",
        )
        .default_value("mention_to_me"),
    )
    .arg(option(
        "room",
        "ID",
        value_parser!(u64).into(),
        "The room [default: a group of the sandbox]",
    ))
    .arg(option(
        "message",
        "ID",
        ValueParser::new(message_id),
        "The message's id [default: a new one]",
    ))
    .arg(option(
        "from",
        "ID",
        value_parser!(u64).into(),
        "Who wrote it [default: somebody of the sandbox]",
    ))
    .arg(option(
        "to",
        "ID",
        value_parser!(u64).into(),
        "Whom it addresses [default: the bot of the sandbox]",
    ))
    .arg(
        option(
            "text",
            "TEXT",
            value_parser!(String),
            "What it says [default: hello, to whom it addresses]",
        )
        .allow_hyphen_values(true),
    )
    .arg(
        Arg::new("file")
            .long("file")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .help("Sends these bytes instead, signed as they are"),
    )
    .after_help("Exits 0 when the answer is 200, else 1.")
}

/// A webhook to send.
#[derive(Debug)]
struct Parcel {
    url: String,
    token: Token,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Hook(Box<Hook>),
    File(PathBuf),
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    let tokens = reader.require(&WEBHOOK_TOKEN);
    let (logging, tokens) = reader.finish(logging.zip(tokens))?;
    let content = match call.flags.get_one::<PathBuf>("file") {
        Some(path) => Content::File(path.clone()),
        None => Content::Hook(Box::new(hook(&call.flags, Timestamp::now()))),
    };
    let url = call
        .flags
        .get_one::<String>("url")
        .expect("it has a default")
        .clone();
    let parcel = Parcel {
        url,
        token: tokens.first,
        content,
    };
    Ok(Order {
        logging,
        work: Box::pin(run(parcel)),
    })
}

async fn run(parcel: Parcel) -> anyhow::Result<ExitCode> {
    let body = match parcel.content {
        Content::Hook(hook) => hook.json(),
        Content::File(path) => {
            std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?
        }
    };
    let sent = send(&parcel.url, &parcel.token, body).await?;
    let mut out = std::io::stdout();
    let written = match sent.status {
        Some(status) => writeln!(out, "{status} in {} ms", sent.millis),
        None => {
            let reason = sent
                .error
                .unwrap_or_else(|| "for no known reason".to_owned());
            writeln!(out, "no answer after {} ms: {reason}", sent.millis)
        }
    };
    let code = if sent.status == Some(200) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    output::end(written, code)
}

fn hook(flags: &ArgMatches, now: Timestamp) -> Hook {
    let number = |name: &str, default: u64| flags.get_one::<u64>(name).copied().unwrap_or(default);
    let kind = *flags.get_one::<Kind>("type").expect("it has a default");
    let addressee = AccountId(number("to", town::BOT.0));
    let now_seconds = now.as_second();
    Hook {
        kind,
        setting_id: "1".to_owned(),
        event_time: now_seconds,
        room_id: RoomId(number("room", town::GROUP.0)),
        message_id: flags
            .get_one::<MessageId>("message")
            .cloned()
            .unwrap_or_else(|| new_message_id(now)),
        author: AccountId(number("from", town::AN.0)),
        addressee,
        body: flags
            .get_one::<String>("text")
            .cloned()
            .unwrap_or_else(|| format!("[To:{addressee}] hello")),
        send_time: now_seconds,
        update_time: if kind == Kind::MessageUpdated {
            now_seconds
        } else {
            0
        },
    }
}

/// An id that no other message has, in Chatwork's 19 digits: the nanoseconds of now.
fn new_message_id(now: Timestamp) -> MessageId {
    MessageId::new(now.as_nanosecond().to_string()).expect("digits, and few enough of them")
}

fn kind(text: &str) -> Result<Kind, String> {
    [Kind::MentionToMe, Kind::MessageCreated, Kind::MessageUpdated]
        .into_iter()
        .find(|kind| kind.name() == text)
        .ok_or_else(|| "neither mention_to_me nor message_created nor message_updated; anything else can be sent with --file".to_owned())
}

fn message_id(text: &str) -> Result<MessageId, String> {
    MessageId::new(text).map_err(|error| error.to_string())
}
