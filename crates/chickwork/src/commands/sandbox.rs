//! `chickwork sandbox`: the stand-ins alone, until a signal.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_sandbox::{Sandbox, Settings, town};
use clap::Command;

use crate::command_line;
use crate::commands::{Call, Order};
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{
    ACCOUNT_LIMIT, API_TOKEN, LoggingSettings, ROOM_LIMIT, Role, SANDBOX_LISTEN,
    SANDBOX_WEBHOOK_URL, SIMSIMI_API_KEY, WEBHOOK_TOKEN,
};
use crate::shutdown::Shutdown;

const ROLES: &[Role] = &[Role::Sandbox];

pub(crate) fn command() -> Command {
    command_line::command(
        "sandbox",
        "Stands in for Chatwork and SimSimi: keeps a ledger, misbehaves on command",
        ROLES,
    )
    .after_help(
        "Tokens and keys that are not set are the sandbox's own; they are printed at the start.",
    )
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    let settings = read(&mut reader);
    let (logging, settings) = reader.finish(logging.zip(settings))?;
    Ok(Order {
        logging,
        work: Box::pin(run(settings)),
    })
}

/// The settings, and whether they hold only tokens that may be shown.
fn read(reader: &mut Reader<'_>) -> Option<(Settings, bool)> {
    let listen = reader.get(&SANDBOX_LISTEN);
    let webhook_url = reader.get(&SANDBOX_WEBHOOK_URL);
    let webhook_token = reader.optional(&WEBHOOK_TOKEN);
    let api_token = reader.optional(&API_TOKEN);
    let api_key = reader.optional(&SIMSIMI_API_KEY);
    let account_limit = reader.get(&ACCOUNT_LIMIT);
    let room_limit = reader.get(&ROOM_LIMIT);
    let demo = Settings::demo();
    let (webhook_token, api_token, api_key) = (webhook_token?, api_token?, api_key?);
    let (account_limit, room_limit) = (account_limit?, room_limit?);
    let all_demo = webhook_token.is_none() && api_token.is_none() && api_key.is_none();
    let settings = Settings {
        listen: listen?,
        webhook_url: webhook_url?,
        webhook_token: webhook_token.map_or(demo.webhook_token, |tokens| tokens.first),
        api_token: api_token.map_or(demo.api_token, |token| token.reveal().to_owned()),
        api_key: api_key.map_or(demo.api_key, |key| key.reveal().to_owned()),
        account_limit: (account_limit.calls, account_limit.per),
        room_limit: (room_limit.calls, room_limit.per),
        ..demo
    };
    Some((settings, all_demo))
}

async fn run((settings, all_demo): (Settings, bool)) -> anyhow::Result<ExitCode> {
    let webhook_url = settings.webhook_url.clone();
    // There is nothing to drain: what the sandbox holds is made up.
    let (_trigger, shutdown) =
        Shutdown::on_signals(Duration::ZERO).context("cannot wait for signals")?;
    let sandbox = Sandbox::start(settings)
        .await
        .context("CHICKWORK_SANDBOX_LISTEN cannot be used")?;
    introduce(&sandbox, &webhook_url, all_demo)?;
    shutdown.requested().await;
    sandbox.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn introduce(sandbox: &Sandbox, webhook_url: &str, all_demo: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let address = sandbox.address();
    writeln!(
        out,
        "The sandbox stands in for both services. Point the bot at it:"
    )?;
    writeln!(out, "  CHATWORK_API_URL={}", sandbox.chatwork_url())?;
    writeln!(out, "  SIMSIMI_API_URL={}", sandbox.simsimi_url())?;
    if all_demo {
        writeln!(
            out,
            "  CHATWORK_API_TOKEN={}",
            chickwork_sandbox::DEMO_API_TOKEN
        )?;
        writeln!(out, "  SIMSIMI_API_KEY={}", chickwork_sandbox::DEMO_API_KEY)?;
        writeln!(
            out,
            "  CHATWORK_WEBHOOK_TOKEN={}",
            chickwork_sandbox::DEMO_WEBHOOK_TOKEN
        )?;
    }
    writeln!(out, "Webhooks go to {webhook_url}. Say something:")?;
    writeln!(
        out,
        "  curl http://{address}/say -H 'content-type: application/json' -d '{{\"room_id\":{},\"account_id\":{},\"body\":\"[To:{}] Xin chào!\"}}'",
        town::GROUP,
        town::AN,
        town::BOT,
    )?;
    writeln!(out, "See what happened:\n  curl http://{address}/ledger")?;
    out.flush()
}
