//! Who may use whom: the table of the architecture page, checked against `cargo metadata`. A new edge
//! between our crates is a decision: change that page and this table in the same commit.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// A crate of ours, without the prefix that all of them have.
struct Layer {
    name: &'static str,
    /// The crates of ours that it may use, without their prefix.
    may_use: &'static [&'static str],
}

const ALL: &[&str] = &[
    "chatwork", "queue", "clients", "ingress", "worker", "sandbox",
];

const LAYERS: &[Layer] = &[
    Layer {
        name: "chatwork",
        may_use: &[],
    },
    Layer {
        name: "queue",
        may_use: &["chatwork"],
    },
    Layer {
        name: "clients",
        may_use: &["chatwork"],
    },
    Layer {
        name: "ingress",
        may_use: &["chatwork", "queue"],
    },
    Layer {
        name: "worker",
        may_use: &["chatwork", "queue", "clients"],
    },
    Layer {
        name: "sandbox",
        may_use: &["chatwork"],
    },
];

/// Crates of others that only some of ours may use.
const RESERVED: &[(&str, &[&str])] = &[
    ("lapin", &["queue"]),
    ("deadpool-lapin", &["queue"]),
    ("rusqlite", &["queue"]),
    // The sandbox sends webhooks, as it stands for the outside world.
    ("reqwest", &["clients", "sandbox"]),
    ("hyper-util", &["clients"]),
    ("actix-web", &["ingress", "sandbox", "chickwork"]),
    // Chatwork's formats are pure: no runtime.
    (
        "tokio",
        &[
            "queue",
            "clients",
            "ingress",
            "worker",
            "sandbox",
            "chickwork",
        ],
    ),
];

#[test]
fn every_crate_uses_only_what_its_layer_allows() -> anyhow::Result<()> {
    let uses = uses()?;
    for layer in LAYERS {
        let used = uses
            .get(layer.name)
            .with_context(|| format!("there is no crate {}", layer.name))?;
        for other in ALL
            .iter()
            .filter(|other| used.contains(&format!("chickwork-{other}")))
        {
            ensure!(
                layer.may_use.contains(other),
                "{} must not use {other}",
                layer.name
            );
        }
    }
    Ok(())
}

#[test]
fn what_is_reserved_is_used_by_nobody_else() -> anyhow::Result<()> {
    for (name, used) in uses()?.iter().filter(|(name, _)| *name != "tests") {
        for (reserved, owners) in RESERVED
            .iter()
            .filter(|(reserved, _)| used.contains(*reserved))
        {
            ensure!(
                owners.contains(&name.as_str()),
                "{name} must not use {reserved}"
            );
        }
    }
    Ok(())
}

#[test]
fn every_crate_has_its_layer() -> anyhow::Result<()> {
    let known: BTreeSet<&str> = LAYERS
        .iter()
        .map(|layer| layer.name)
        .chain(["chickwork", "tests"])
        .collect();
    for name in uses()?.keys() {
        ensure!(
            known.contains(name.as_str()),
            "{name} has no place in the table of layers"
        );
    }
    Ok(())
}

/// What each of our crates uses when it is built for use, not for its tests; its name without the
/// prefix.
fn uses() -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let metadata = metadata()?;
    let packages = metadata.workspace_packages().into_iter().map(|package| {
        let used = package.dependencies.iter();
        let used = used.filter(|dependency| dependency.kind != DependencyKind::Development);
        let name = package.name.as_str();
        (
            name.strip_prefix("chickwork-").unwrap_or(name).to_owned(),
            used.map(|dependency| dependency.name.to_string()).collect(),
        )
    });
    Ok(packages.collect())
}

fn metadata() -> anyhow::Result<Metadata> {
    let mut command = MetadataCommand::new();
    command
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps();
    Ok(command.other_options(vec!["--offline".to_owned()]).exec()?)
}
