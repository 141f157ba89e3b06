//! `chickwork dev`: everything in one process, with the sandbox for the outside world and a queue in a
//! temporary folder. Needs nothing, leaves nothing. With `--from` it plays exported events instead, without
//! any of that.

mod from;
mod story;
mod talk;
mod trouble;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_chatwork::signature::Tokens;
use chickwork_queue::event::BotName;
use chickwork_queue::{Declare, Location};
use chickwork_sandbox::{DEMO_WEBHOOK_TOKEN, Sandbox};
use clap::Command;
use jiff::Timestamp;
use tempfile::TempDir;

use crate::command_line::{self, switch};
use crate::commands::dev::from::From;
use crate::commands::dev::talk::Talk;
use crate::commands::{Call, Order};
use crate::roles::{Roles, RolesSettings};
use crate::settings::parse::{self, Rate, reachable};
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{
    ADMIN_LISTEN, DRAIN, IngressSettings, LISTEN, LoggingSettings, PolicySettings, ProcessSettings,
    Role, SANDBOX_LISTEN, WorkerSettings,
};
use crate::shutdown::Shutdown;

const ROLES: &[Role] = &[Role::Dev];

pub(crate) fn command() -> Command {
    let free_port = "a free port of 127.0.0.1";
    let command = [
        (&LISTEN.about, free_port),
        (&ADMIN_LISTEN.about, free_port),
        (&SANDBOX_LISTEN.about, free_port),
    ]
    .into_iter()
    .fold(
        command_line::command(
            "dev",
            "Everything in one process, without accounts or a broker: try it, talk to it",
            ROLES,
        ),
        command_line::with_default,
    )
    .arg(switch(
        "once",
        "Ends after the first reply; fails with a reason when none comes in 30 s",
    ));
    From::flags(command).after_help(from::NOTES)
}

#[derive(Debug)]
struct Settings {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    sandbox_listen: SocketAddr,
    drain: Duration,
    policy: PolicySettings,
    once: bool,
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    if let Some(from) = From::of(&call.flags) {
        let policy = PolicySettings::read(&mut reader);
        let (logging, policy) = reader.finish(logging.zip(policy))?;
        return Ok(Order {
            logging,
            work: Box::pin(from.run(policy)),
        });
    }
    let settings = read(&mut reader, call.flags.get_flag("once"));
    let (logging, settings) = reader.finish(logging.zip(settings))?;
    Ok(Order {
        logging,
        work: Box::pin(run(settings)),
    })
}

fn read(reader: &mut Reader<'_>, once: bool) -> Option<Settings> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen = reader.optional(&LISTEN);
    let admin_listen = reader.optional(&ADMIN_LISTEN);
    let sandbox_listen = reader.optional(&SANDBOX_LISTEN);
    let drain = reader.get(&DRAIN);
    let policy = PolicySettings::read(reader);
    Some(Settings {
        listen: listen?.unwrap_or(any_port),
        admin_listen: admin_listen?.unwrap_or(any_port),
        sandbox_listen: sandbox_listen?.unwrap_or(any_port),
        drain: drain?,
        policy: policy?,
        once,
    })
}

async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let folder = tempfile::Builder::new()
        .prefix("chickwork-dev-")
        .tempdir()
        .context("no temporary folder for the queue")?;
    let (trigger, shutdown) =
        Shutdown::on_signals(settings.drain).context("cannot wait for signals")?;
    let sandbox = start_sandbox(&settings).await?;
    let (lang, once) = (settings.policy.lang, settings.once);
    let roles = everything(settings, &sandbox, &folder)?;
    let roles = Roles::start(roles, shutdown.clone()).await?;
    let roles = roles.context("stopped before the start was over")?;
    let webhook_address = roles.webhook_address().expect("there is an ingress");
    let webhook_url = format!("http://{}/webhook", reachable(webhook_address));
    sandbox.set_webhook_url(webhook_url.clone());

    let places = [
        ("webhooks", webhook_url),
        (
            "sandbox",
            format!(
                "http://{} (GET /ledger, POST /say, POST /faults)",
                reachable(sandbox.address())
            ),
        ),
        (
            "admin",
            format!(
                "http://{} (/readyz, /metrics)",
                reachable(roles.admin_address())
            ),
        ),
        (
            "state",
            format!("{} (removed at the end)", folder.path().display()),
        ),
    ];
    let happens = roles.queue().outcomes().follow(Timestamp::now());
    let mut talk = Talk::new(&sandbox, happens, lang);
    let talked = tokio::select! {
        talked = async {
            talk.introduce(&places)?;
            talk.sample().await?;
            if once { Ok(()) } else { talk.converse().await }
        } => talked,
        () = shutdown.requested() => if once {
            Err(anyhow::anyhow!("stopped before the first reply"))
        } else {
            Ok(())
        },
    };
    if !shutdown.is_requested() {
        trigger.pull("the conversation is over");
    }
    roles.stop().await?;
    sandbox.stop().await;
    folder
        .close()
        .context("the temporary folder cannot be removed")?;
    talked.map(|()| ExitCode::SUCCESS)
}

async fn start_sandbox(settings: &Settings) -> anyhow::Result<Sandbox> {
    let Rate { calls, per } = settings.policy.account_limit;
    let account_limit = (calls, per);
    let Rate { calls, per } = settings.policy.room_limit;
    let sandbox = chickwork_sandbox::Settings {
        listen: settings.sandbox_listen,
        webhook_url: String::new(),
        account_limit,
        room_limit: (calls, per),
        ..chickwork_sandbox::Settings::demo()
    };
    Sandbox::start(sandbox)
        .await
        .context("CHICKWORK_SANDBOX_LISTEN cannot be used")
}

fn everything(
    settings: Settings,
    sandbox: &Sandbox,
    folder: &TempDir,
) -> anyhow::Result<RolesSettings> {
    let secret = |text: &str| parse::secret(text).map_err(anyhow::Error::msg);
    let near = reachable(sandbox.address());
    Ok(RolesSettings {
        process: ProcessSettings {
            queue: chickwork_queue::Settings {
                location: Location::Sqlite(folder.path().join("chickwork.db")),
                namespace: "dev".to_owned(),
                declare: Declare::Active,
                archive_keep: Duration::from_secs(24 * 60 * 60),
                bots: vec![BotName::default()],
            },
            admin_listen: settings.admin_listen,
            drain: settings.drain,
        },
        ingress: Some(IngressSettings {
            listen: settings.listen,
            tokens: Tokens::parse(DEMO_WEBHOOK_TOKEN)?,
            // Everything is made up here, and listens on this machine alone.
            anybody_signs: false,
            spool: None,
            linger: Duration::ZERO,
        }),
        worker: Some(WorkerSettings {
            policy: settings.policy,
            chatwork_url: format!("http://{near}/v2"),
            chatwork_token: secret(chickwork_sandbox::DEMO_API_TOKEN)?,
            simsimi_url: format!("http://{near}/190410"),
            simsimi_key: secret(chickwork_sandbox::DEMO_API_KEY)?,
        }),
    })
}
