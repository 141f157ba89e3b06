//! `chickwork topology`: the broker objects as a definitions file, for whoever manages them instead of
//! us (`CHICKWORK_DECLARE=passive`); and with them a broker user for each role whose password is given.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use chickwork_queue::event::BotName;
use chickwork_queue::{BrokerRole, BrokerUser, Declare, Location};
use clap::builder::ValueParser;
use clap::{Arg, Command};
use rustls::crypto::CryptoProvider;
use serde_json::Value;

use crate::command_line;
use crate::commands::{Call, Order};
use crate::output;
use crate::settings::parse::Secret;
use crate::settings::read::{Mistakes, Reader};
use crate::settings::{
    ARCHIVE_KEEP, INGRESS_BROKER_PASSWORD, LoggingSettings, NAMESPACE, OPERATOR_BROKER_PASSWORD,
    Role, Setting, WORKER_BROKER_PASSWORD,
};

const ROLES: &[Role] = &[Role::Topology];

/// The broker reads the file as a user of its own. It holds no password, only salted hashes.
const FILE_MODE: u32 = 0o644;
/// A former file is read up to this length, in bytes. Ours have some twenty thousand.
const LARGEST_FORMER: u64 = 1024 * 1024;

const AFTER_HELP: &str = "\
A running broker imports the file with: rabbitmqctl import_definitions FILE
A broker imports it at its start, and only if it has changed, with these lines in rabbitmq.conf:
  definitions.import_backend = local_filesystem
  definitions.local.path = FILE
  definitions.skip_if_unchanged = true
Not with load_definitions, which imports it at every start: that may fail after a crash. A first
start with definitions makes no user guest; so give the passwords then, or nobody can log in.

A user is called after the namespace and its role, such as chickwork-worker, and has the rights
that its role needs and no others: run ingress and worker with CHICKWORK_DECLARE=passive. An
import changes the passwords and rights of users that exist, and never removes a user.";

pub(crate) fn command() -> Command {
    command_line::command(
        "topology",
        "Prints the broker objects that the bot needs, and users for its roles, as a definitions file for RabbitMQ",
        ROLES,
    )
    .arg(
        Arg::new("output")
            .long("output")
            .value_name("FILE")
            .value_parser(ValueParser::path_buf())
            .help("Writes this file instead, whole or not at all, for everybody to read; one that would be the same is left alone"),
    )
    .after_help(AFTER_HELP)
}

pub(crate) fn order(call: &Call) -> Result<Order, Mistakes> {
    let mut reader = Reader::new(&call.given, ROLES);
    let logging = LoggingSettings::read(&mut reader);
    let namespace = reader.get(&NAMESPACE);
    let archive_keep = reader.get(&ARCHIVE_KEEP);
    let mut password = |role, setting: &Setting<Secret>| {
        let given = reader.deliberate(setting)?;
        let password = |secret| Password {
            role,
            setting: setting.about.name,
            secret,
        };
        Some(given.map(password))
    };
    let passwords = [
        password(BrokerRole::Ingress, &INGRESS_BROKER_PASSWORD),
        password(BrokerRole::Worker, &WORKER_BROKER_PASSWORD),
        password(BrokerRole::Operator, &OPERATOR_BROKER_PASSWORD),
    ];
    let settings = || {
        let settings = chickwork_queue::Settings {
            // The same objects wherever the broker is; nobody is going to be asked.
            location: Location::Amqp(Vec::new()),
            namespace: namespace?,
            bots: vec![BotName::default()],
            declare: Declare::Passive,
            archive_keep: archive_keep?,
        };
        let passwords: Option<Vec<_>> = passwords.into_iter().collect();
        Some((
            logging?,
            settings,
            passwords?.into_iter().flatten().collect(),
        ))
    };
    let (logging, settings, passwords) = reader.finish(settings())?;
    let output = call.flags.get_one::<PathBuf>("output").cloned();
    Ok(Order {
        logging,
        work: Box::pin(run(settings, passwords, output)),
    })
}

/// What makes a user.
struct Password {
    role: BrokerRole,
    /// Where it was given.
    setting: &'static str,
    secret: Secret,
}

impl Password {
    /// Whether it can stand in an address as it is.
    fn is_plain(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        self.secret.reveal().bytes().all(plain)
    }
}

async fn run(
    settings: chickwork_queue::Settings,
    passwords: Vec<Password>,
    output: Option<PathBuf>,
) -> anyhow::Result<ExitCode> {
    for Password { setting, .. } in passwords.iter().filter(|password| !password.is_plain()) {
        writeln!(
            io::stderr(),
            "{setting} has characters other than letters, digits, `-`, `_`, `.` and `~`: \
             in CHICKWORK_QUEUE write them percent-encoded, such as `%40` for `@`"
        )?;
    }
    let former = output.as_deref().and_then(former);
    let known: Value = former
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let user = |Password { role, secret, .. }: &Password| {
        let password = secret.reveal();
        match BrokerUser::known(*role, password, &settings.namespace, &known) {
            Some(user) => Ok(user),
            None => Ok(BrokerUser::new(*role, password, salt()?)),
        }
    };
    let users = passwords
        .iter()
        .map(user)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let definitions = chickwork_queue::definitions(&settings, &users);
    let written = format!("{definitions:#}\n");
    let Some(file) = output else {
        let printed = io::stdout().write_all(written.as_bytes());
        return output::end(printed, ExitCode::SUCCESS);
    };
    let is_the_same = former.is_some_and(|former| former == written) && all_may_read(&file);
    if !is_the_same {
        replace(&file, &written)
            .with_context(|| format!("--output {} cannot be written", file.display()))?;
    }
    let path = std::path::absolute(&file).unwrap_or(file);
    let as_it_was = if is_the_same { " is as it was" } else { "" };
    let holds = holds(&definitions);
    writeln!(io::stderr(), "{}{as_it_was}: {holds}", path.display())?;
    Ok(ExitCode::SUCCESS)
}

/// What the file holds so far: its salts are kept, so that it changes only when something else does. A
/// broker imports what has changed, and no more. `None` for what is no file, or not readable text.
fn former(file: &Path) -> Option<String> {
    // Whoever opens a pipe waits for its other end.
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = File::open(file).ok()?;
    file.take(LARGEST_FORMER).read_to_string(&mut text).ok()?;
    Some(text)
}

fn all_may_read(file: &Path) -> bool {
    let rights = |is: Metadata| is.permissions().mode() & 0o777;
    file.metadata().is_ok_and(|is| rights(is) == FILE_MODE)
}

fn salt() -> anyhow::Result<[u8; 4]> {
    let mut salt = [0; 4];
    let provider = CryptoProvider::get_default().context("no source of randomness is installed")?;
    let filled = provider.secure_random.fill(&mut salt);
    filled
        .ok()
        .context("the operating system gives no random bytes")?;
    Ok(salt)
}

/// Writes beside the file and then takes its place: a broker that starts meanwhile reads the old
/// definitions or the new ones, and never half of them.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    beside.write_all(text.as_bytes())?;
    // Not at its creation: the process's mask may take rights away then.
    let everybody_reads = Permissions::from_mode(FILE_MODE);
    beside.as_file().set_permissions(everybody_reads)?;
    beside.as_file().sync_all()?;
    beside.persist(file)?;
    Ok(())
}

/// What is in the definitions, for people.
fn holds(definitions: &Value) -> String {
    let list = |kind: &str| definitions[kind].as_array().cloned().unwrap_or_default();
    let objects = list("exchanges").len() + list("queues").len();
    let users = list("users");
    let users: Vec<_> = users
        .iter()
        .filter_map(|user| user["name"].as_str())
        .collect();
    let users = match users[..] {
        [] => "no user".to_owned(),
        _ => users.join(", "),
    };
    format!("{objects} broker objects; {users}")
}
