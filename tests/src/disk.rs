//! The disk of a process, as the process sees it: it can be full, be broken, or be where the process
//! dies. A preloaded library (`tests/crash`) stands in between; nobody has to be root, and no real
//! disk is filled.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::process::Server;

/// On which side of an effect somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The effect never comes.
    Before,
    /// The effect is there, and nobody has been told.
    After,
}

/// A disk that does what it is told.
#[derive(Debug)]
pub struct Disk(TempDir);

impl Disk {
    /// A disk under this process, from its next start on. It works.
    pub fn under(server: &mut Server) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("chickwork-disk-")
            .tempdir()?;
        server.set("LD_PRELOAD", library()?.display().to_string());
        server.set("CRASH_FOLDER", folder.path().display().to_string());
        Ok(Self(folder))
    }

    /// The process is to be killed at its `number`th commit from now on.
    pub fn crash(&self, number: u32, side: Side) -> anyhow::Result<()> {
        let side = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        // It is there at once or not at all.
        let draft = self.0.path().join("draft");
        std::fs::write(&draft, format!("{number} {side}"))?;
        Ok(std::fs::rename(draft, self.order("crash"))?)
    }

    /// From now on it is full.
    pub fn fill(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(self.order("full"), "")?)
    }

    /// From now on nothing can be made safe on it.
    pub fn break_down(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(self.order("broken"), "")?)
    }

    /// From now on it works.
    pub fn heal(&self) -> anyhow::Result<()> {
        for order in ["crash", "full", "broken"].map(|order| self.order(order)) {
            if order.exists() {
                std::fs::remove_file(order)?;
            }
        }
        Ok(())
    }

    fn order(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// The library that stands in between.
fn library() -> anyhow::Result<PathBuf> {
    crate::process::binary()?;
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2);
    let folder = folder.context("tests run in target/PROFILE/deps")?;
    let library = folder.join("examples").join("libcrash.so");
    ensure!(
        Path::exists(&library),
        "{} is missing: cargo builds it together with the tests",
        library.display()
    );
    Ok(library)
}
