//! The dependency check: where dependencies come from, under which licences, which ones are
//! banned, and that none is there twice without a reason. Reads `cargo metadata`; needs no network.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use cargo_metadata::{Metadata, MetadataCommand};
use spdx::{Expression, LicenseReq, ParseMode};

/// What may be linked into a binary that anybody may use for anything.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    // The list of certificate authorities.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// What must not come in, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "TLS is rustls with ring: nothing to install"),
    ("native-tls", "TLS is rustls with ring: nothing to install"),
    ("aws-lc-sys", "needs cmake; ring is the one provider"),
    ("cmake", "a C compiler is all that a build may need"),
    ("chrono", "times are jiff's"),
    ("dotenvy", "`.env` is read by compose, not by the binary"),
];

/// What is linked in twice, and whose fault that is.
const TWICE: &[(&str, &str)] = &[
    ("base64", "reqwest's stack has an older one"),
    (
        "block-buffer",
        "lapin's TLS reads keys with the older RustCrypto",
    ),
    (
        "const-oid",
        "lapin's TLS reads keys with the older RustCrypto",
    ),
    (
        "cpufeatures",
        "lapin's TLS reads keys with the older RustCrypto",
    ),
    (
        "crypto-common",
        "lapin's TLS reads keys with the older RustCrypto",
    ),
    ("digest", "lapin's TLS reads keys with the older RustCrypto"),
    ("getrandom", "ring, tempfile and uuid disagree"),
    ("hashbrown", "metrics and clap disagree"),
    ("hmac", "lapin's TLS reads keys with the older RustCrypto"),
    ("http", "actix has 0.2, reqwest 1"),
    ("nom", "amq-protocol and cookie-factory disagree"),
    ("rand", "metrics and lapin disagree"),
    ("rand_core", "metrics and lapin disagree"),
    ("sha2", "lapin's TLS reads keys with the older RustCrypto"),
    ("syn", "derive macros are moving from 2 to 3"),
    ("synstructure", "derive macros are moving from 2 to 3"),
];

fn metadata() -> anyhow::Result<Metadata> {
    MetadataCommand::new()
        .other_options([
            "--locked".to_owned(),
            "--filter-platform=x86_64-unknown-linux-gnu".to_owned(),
        ])
        .exec()
        .context("cargo metadata")
}

#[test]
fn every_dependency_comes_from_crates_io() -> anyhow::Result<()> {
    for package in metadata()?.packages {
        let ours = package.source.is_none();
        let registry = package
            .source
            .as_ref()
            .is_some_and(cargo_metadata::Source::is_crates_io);
        ensure!(
            ours || registry,
            "{} comes from {:?}",
            package.name,
            package.source
        );
    }
    Ok(())
}

#[test]
fn every_dependency_has_a_licence_that_we_accept() -> anyhow::Result<()> {
    let accepted = |licence: &LicenseReq| {
        let name = licence.license.id().map_or("", |id| id.name);
        LICENCES.contains(&name) && licence.addition.is_none()
    };
    for package in metadata()?.packages {
        let name = &package.name;
        let written = package
            .license
            .as_deref()
            .with_context(|| format!("{name} names no licence"))?;
        let expression = Expression::parse_mode(written, ParseMode::LAX)
            .with_context(|| format!("{name}: {written}"))?;
        ensure!(expression.evaluate(accepted), "{name} is under {written}");
    }
    Ok(())
}

#[test]
fn nothing_banned_has_come_in() -> anyhow::Result<()> {
    let metadata = metadata()?;
    for (banned, reason) in BANNED {
        let there = metadata
            .packages
            .iter()
            .any(|package| package.name.as_str() == *banned);
        ensure!(
            !there,
            "{banned} is banned: {reason}; `cargo tree -i {banned}` says who brings it"
        );
    }
    Ok(())
}

#[test]
fn nothing_is_linked_in_twice_without_a_reason() -> anyhow::Result<()> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata()?.packages {
        versions
            .entry(package.name.to_string())
            .or_default()
            .insert(package.version.to_string());
    }
    let twice: BTreeSet<&str> = versions
        .iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, _)| name.as_str())
        .collect();
    let excused: BTreeSet<&str> = TWICE.iter().map(|(name, _)| *name).collect();
    let new: Vec<_> = twice.difference(&excused).collect();
    ensure!(
        new.is_empty(),
        "in two versions: {new:?}; `cargo tree -d` says who brings them"
    );
    let gone: Vec<_> = excused.difference(&twice).collect();
    ensure!(
        gone.is_empty(),
        "not there twice any more: take {gone:?} out of the list"
    );
    Ok(())
}
