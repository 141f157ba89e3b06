//! The files of the stack, held against the binary: a setting that is new, renamed or given to the wrong
//! container is found here. Needs no Docker; `tests/compose` starts the stack for real.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};
use chickwork_sandbox::{DEMO_API_KEY, DEMO_API_TOKEN, DEMO_WEBHOOK_TOKEN};
use chickwork_tests::process::chickwork;
use yaml_rust2::{Yaml, YamlLoader};

/// The commands of each service of ours; those of `operator` are what a person runs in it.
const SERVICES: &[(&str, &[&str])] = &[
    ("topology", &["topology"]),
    ("ingress", &["ingress"]),
    ("worker", &["worker"]),
    ("sandbox", &["sandbox"]),
    (
        "operator",
        &[
            "status",
            "audit",
            "dead list",
            "dead show",
            "dead retry",
            "dead drop",
            "events list",
            "events show",
            "events export",
            "events purge",
            "replay",
            "recover",
        ],
    ),
];

/// Of those who call others: the HTTP client reads these by itself.
const PROXY: [&str; 2] = ["HTTPS_PROXY", "NO_PROXY"];

/// What Compose itself reads from `.env`.
const READ_BY_COMPOSE: [&str; 2] = ["COMPOSE_FILE", "COMPOSE_PROFILES"];

/// What a process may need beyond `CHICKWORK_DRAIN` to give back what it holds and to close, in seconds.
const CLOSING: u64 = 10;

/// In a comment of `.env.example`: what follows is not the default.
const AN_EXAMPLE: &str = "(An example.)";

#[test]
fn each_service_is_given_what_its_command_reads_and_nothing_else() -> anyhow::Result<()> {
    let stack = Stack::read()?;
    for (service, commands) in SERVICES {
        let mut reads = names(&settings_of(commands)?);
        if ["worker", "operator"].contains(service) {
            reads.extend(PROXY.map(str::to_owned));
        }
        let given: BTreeSet<String> = stack.environment(service)?.into_keys().collect();
        assert_eq!(given, reads, "{service}");
    }
    Ok(())
}

#[test]
fn the_example_explains_every_setting_and_no_other() -> anyhow::Result<()> {
    let stack = Stack::read()?;
    let every_command = SERVICES.iter().flat_map(|(_, commands)| *commands);
    let others = ["dev", "serve", "send", "doctor", "healthcheck"];
    let mut known: BTreeSet<String> = every_command
        .chain(&others)
        .map(|command| settings_of(&[command]))
        .collect::<anyhow::Result<Vec<_>>>()?
        .iter()
        .flat_map(names)
        .collect();
    known.extend(stack.interpolations().into_keys());
    known.extend(PROXY.map(str::to_owned));
    known.extend(READ_BY_COMPOSE.map(str::to_owned));

    let example = example()?;
    let explained: BTreeSet<String> = example.keys().cloned().collect();
    assert_eq!(explained, known);
    for (name, entry) in &example {
        ensure!(!entry.comment.is_empty(), "{name} has no line of why");
    }
    Ok(())
}

#[test]
fn the_example_shows_the_defaults() -> anyhow::Result<()> {
    let mut defaults = BTreeMap::new();
    for command in ["topology", "worker", "ingress", "sandbox"] {
        defaults.extend(
            settings_of(&[command])?
                .into_iter()
                .filter_map(|(name, setting)| Some((name, setting.default?))),
        );
    }
    for (name, values) in Stack::read()?.interpolations() {
        // Two would be two answers to one question.
        ensure!(values.len() == 1, "{name} has several defaults: {values:?}");
        defaults.extend(values.into_iter().map(|value| (name.clone(), value)));
    }
    let shown = example()?;
    let shown = shown
        .iter()
        .filter(|(_, entry)| !entry.comment.contains(AN_EXAMPLE));
    for (name, entry) in shown {
        if let Some(default) = defaults.get(name) {
            assert_eq!(&entry.value, default, "{name}");
        }
    }
    Ok(())
}

#[test]
fn the_tokens_are_the_sandboxs_until_there_are_others() -> anyhow::Result<()> {
    let (example, defaults) = (example()?, Stack::read()?.interpolations());
    for (name, demo) in [
        ("CHATWORK_WEBHOOK_TOKEN", DEMO_WEBHOOK_TOKEN),
        ("CHATWORK_API_TOKEN", DEMO_API_TOKEN),
        ("SIMSIMI_API_KEY", DEMO_API_KEY),
    ] {
        let shown = example.get(name).map(|entry| entry.value.as_str());
        assert_eq!(shown, Some(demo), "{name} in .env.example");
        let default = defaults.get(name).and_then(|values| values.first());
        assert_eq!(default.map(String::as_str), Some(demo), "{name}");
    }
    Ok(())
}

#[test]
fn the_overlay_takes_every_secret_from_a_file() -> anyhow::Result<()> {
    let overlay = Stack::parse(file("deploy/compose.secrets.yml")?)?;
    for (service, commands) in SERVICES {
        let secrets = settings_of(commands)?;
        let secrets = secrets.iter().filter(|(_, setting)| setting.secret);
        let settings = overlay.environment(service)?;
        let mounted = strings(&overlay.field(service, "secrets")?);
        assert_eq!(settings.len(), 2 * mounted.len(), "{service}");
        for (name, _) in secrets {
            ensure!(
                settings.contains_key(name)
                    && overlay.text.contains(&format!("{name}: !reset null")),
                "{service} is still given {name}"
            );
            let path = settings.get(&format!("{name}_FILE")).cloned().flatten();
            let path = path.with_context(|| format!("{service} has no {name}_FILE"))?;
            let secret = path.strip_prefix("/run/secrets/").unwrap_or(&path);
            ensure!(
                mounted.iter().any(|mounted| mounted == secret),
                "{service} is not given the file {secret}"
            );
            let source = overlay.document["secrets"][secret]["file"].as_str();
            assert_eq!(source, Some(&*format!("./secrets/{secret}")));
        }
    }
    Ok(())
}

#[test]
fn what_is_stopped_has_time_to_finish() -> anyhow::Result<()> {
    let stack = Stack::read()?;
    let seconds = |text: &str| -> anyhow::Result<u64> {
        let number = text.strip_suffix('s').context("a time in seconds")?;
        Ok(number.parse()?)
    };
    let grace = stack.interpolations();
    let grace = &grace["STOP_GRACE_PERIOD"][0];
    for service in ["ingress", "worker"] {
        let text = stack.field(service, "stop_grace_period")?;
        assert_eq!(text.as_str(), Some("${STOP_GRACE_PERIOD:-35s}"));
        let settings = settings_of(&[service])?;
        let drain = settings["CHICKWORK_DRAIN"].default.as_deref();
        let drain = seconds(drain.context("a default")?)?;
        ensure!(
            seconds(grace)? >= drain + CLOSING,
            "{service} is killed while it drains"
        );
    }
    Ok(())
}

#[test]
fn only_the_profile_public_is_open_to_everybody() -> anyhow::Result<()> {
    let stack = Stack::read()?;
    for service in stack.services()? {
        let is_public = strings(&stack.field(&service, "profiles")?) == ["public"];
        for port in strings(&stack.field(&service, "ports")?) {
            ensure!(
                is_public || port.starts_with("127.0.0.1:"),
                "{service} publishes {port} to everybody"
            );
        }
    }
    assert_eq!(strings(&stack.field("rabbitmq", "networks")?), ["inside"]);
    assert!(stack.field("rabbitmq", "ports")?.is_badvalue());
    assert_eq!(
        stack.document["networks"]["inside"]["internal"],
        Yaml::Boolean(true)
    );
    Ok(())
}

#[test]
fn no_container_may_more_than_it_needs() -> anyhow::Result<()> {
    let stack = Stack::read()?;
    for service in stack.services()? {
        let list = |key| Ok::<_, anyhow::Error>(strings(&stack.field(&service, key)?));
        assert_eq!(
            stack.field(&service, "read_only")?,
            Yaml::Boolean(true),
            "{service}"
        );
        assert_eq!(list("cap_drop")?, ["ALL"], "{service}");
        assert_eq!(
            list("security_opt")?,
            ["no-new-privileges:true"],
            "{service}"
        );
        let added = list("cap_add")?;
        ensure!(
            added.is_empty() || (service == "caddy" && added == ["NET_BIND_SERVICE"]),
            "{service} is given {added:?}"
        );
        let log = stack.field(&service, "logging")?;
        ensure!(
            log["options"]["max-size"].as_str().is_some(),
            "{service} may log until the disk is full"
        );
    }
    Ok(())
}

/// A compose file.
struct Stack {
    text: String,
    document: Yaml,
}

impl Stack {
    fn read() -> anyhow::Result<Self> {
        Self::parse(file("docker-compose.yml")?)
    }

    fn parse(text: String) -> anyhow::Result<Self> {
        let document = YamlLoader::load_from_str(&text)?.into_iter().next();
        let document = document.context("an empty file")?;
        Ok(Self { text, document })
    }

    fn services(&self) -> anyhow::Result<Vec<String>> {
        Ok(merged(&self.document["services"])?.into_keys().collect())
    }

    /// What a service says under this key, or a bad value if nothing.
    fn field(&self, service: &str, key: &str) -> anyhow::Result<Yaml> {
        let service = &self.document["services"][service];
        Ok(merged(service)?.remove(key).unwrap_or(Yaml::BadValue))
    }

    /// The variables of a service; without a value are those that are passed on as they are.
    fn environment(&self, service: &str) -> anyhow::Result<BTreeMap<String, Option<String>>> {
        let environment = merged(&self.field(service, "environment")?)?;
        let text = |value: Yaml| value.as_str().map(str::to_owned);
        Ok(environment
            .into_iter()
            .map(|(name, value)| (name, text(value)))
            .collect())
    }

    /// The variables in `${…}` with their different defaults.
    fn interpolations(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for rest in self.text.split("${").skip(1) {
            let inside = rest.split('}').next().unwrap_or(rest);
            let end =
                inside.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
            let (name, default) = inside.split_at(end.unwrap_or(inside.len()));
            let default = default.trim_start_matches(':').trim_start_matches('-');
            let defaults = found.entry(name.to_owned()).or_default();
            if !defaults.iter().any(|known| known == default) {
                defaults.push(default.to_owned());
            }
        }
        found
    }
}

/// A mapping with what is merged into it; what it says itself counts.
fn merged(mapping: &Yaml) -> anyhow::Result<BTreeMap<String, Yaml>> {
    let mut all = BTreeMap::new();
    let own = match mapping {
        Yaml::BadValue => return Ok(all),
        mapping => mapping.as_hash().context("not a mapping")?,
    };
    let sources = match &mapping["<<"] {
        Yaml::BadValue => Vec::new(),
        Yaml::Array(several) => several.iter().collect(),
        one => vec![one],
    };
    for source in sources {
        all.extend(merged(source)?);
    }
    for (key, value) in own {
        let key = key.as_str().context("a key that is no text")?;
        all.insert(key.to_owned(), value.clone());
    }
    all.remove("<<");
    Ok(all)
}

/// The texts in a list; none if there is no list.
fn strings(list: &Yaml) -> Vec<String> {
    let items = list.as_vec().into_iter().flatten();
    let texts = items.filter_map(Yaml::as_str);
    texts.map(str::to_owned).collect()
}

/// A setting, as `--help` tells of it.
struct Setting {
    default: Option<String>,
    /// Whether it may come from a file.
    secret: bool,
}

/// The settings that these commands read.
fn settings_of(commands: &[&str]) -> anyhow::Result<BTreeMap<String, Setting>> {
    let mut settings = BTreeMap::new();
    for command in commands {
        let mut words = command.split(' ');
        let first = words.next().context("a command")?;
        let mut help = chickwork(first)?;
        help.args(words).arg("--help");
        let output = help.as_std_mut().output()?;
        ensure!(output.status.success(), "chickwork {command} --help fails");
        // Without the line breaks, which may be anywhere.
        let text = String::from_utf8(output.stdout)?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut mentioned = text.split("[env: ").skip(1).peekable();
        while let Some(mention) = mentioned.next() {
            let (name, rest) = mention.split_once(']').context("a bracket is closed")?;
            let file = format!("{name}_FILE]");
            let default = rest.trim_start().strip_prefix("[default: ");
            let setting = Setting {
                default: default.and_then(|text| Some(text.split_once(']')?.0.to_owned())),
                secret: mentioned.next_if(|next| next.starts_with(&file)).is_some(),
            };
            settings.insert(name.to_owned(), setting);
        }
    }
    ensure!(!settings.is_empty(), "{commands:?} read nothing");
    Ok(settings)
}

fn names(settings: &BTreeMap<String, Setting>) -> BTreeSet<String> {
    settings.keys().cloned().collect()
}

/// A variable in `.env.example`.
struct Entry {
    value: String,
    /// The lines above it; several variables in a row share one.
    comment: String,
}

fn example() -> anyhow::Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut comment = String::new();
    let mut last_was_comment = false;
    for line in file(".env.example")?.lines() {
        let is_comment = line.starts_with("# ") || line == "#";
        if line.is_empty() || (is_comment && !last_was_comment) {
            comment.clear();
        }
        last_was_comment = is_comment;
        if is_comment {
            comment.push_str(line);
        } else if let Some((name, value)) = line.trim_start_matches('#').split_once('=') {
            let entry = Entry {
                value: value.to_owned(),
                comment: comment.clone(),
            };
            let before = entries.insert(name.to_owned(), entry);
            ensure!(before.is_none(), "{name} is there twice");
        }
    }
    Ok(entries)
}

fn file(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("{name} cannot be read"))
}
