//! Looks at the queue, and at an ingress's spool, as `chickwork doctor` does, and says in sentences what
//! is wrong and what to do about it. It changes nothing and creates nothing, every wait in it has a limit, and it goes on after
//! a failure as far as that makes sense.

use std::path::Path;

use jiff::Timestamp;

use crate::spool::SpoolSettings;
use crate::{Location, Settings, amqp, sqlite};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: `queue file`, `broker rabbit-1:5672`, `queue chickwork.ask`, …
    pub subject: String,
    /// How it is.
    pub grade: Grade,
    /// A sentence that says so.
    pub says: String,
    /// What to do about it.
    pub cure: Option<String>,
}

/// How something is that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it has to be.
    Good,
    /// It works, but somebody should know.
    Notice,
    /// It does not work.
    Wrong,
}

/// What a process that is to work with the queue has to be able to do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// To put events in.
    Writing,
    /// To claim jobs as well.
    WritingAndReading,
}

impl Finding {
    /// It is as it has to be.
    pub fn good(subject: impl Into<String>, says: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            grade: Grade::Good,
            says: says.into(),
            cure: None,
        }
    }

    /// It works, but somebody should know.
    pub fn notice(subject: impl Into<String>, says: impl Into<String>) -> Self {
        Self {
            grade: Grade::Notice,
            ..Self::good(subject, says)
        }
    }

    /// It does not work, and this is what to do about it.
    pub fn wrong(
        subject: impl Into<String>,
        says: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            grade: Grade::Wrong,
            ..Self::good(subject, says)
        }
        .with_cure(cure)
    }

    /// With what to do about it.
    pub fn with_cure(self, cure: impl Into<String>) -> Self {
        Self {
            cure: Some(cure.into()),
            ..self
        }
    }
}

/// Looks at the queue, for a process with these needs. There is always at least one finding.
pub async fn examine(settings: &Settings, needs: Needs) -> Vec<Finding> {
    match &settings.location {
        Location::Sqlite(path) => sqlite::examine::examine(path).await,
        Location::Amqp(urls) => amqp::examine::examine(urls, settings, needs).await,
    }
}

/// Looks at the spool of an ingress. There is always at least one finding.
pub async fn examine_spool(settings: &SpoolSettings) -> Vec<Finding> {
    sqlite::examine::examine_spool(settings).await
}

/// A spool as it lies on the disk. How much it may hold, only its ingress knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolSeen {
    /// How many events wait in it.
    pub events: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// When the newest was.
    pub newest: Option<Timestamp>,
    /// How many bytes they take on the disk.
    pub bytes: u64,
    /// The number of the process that uses it, if one does.
    pub process: Option<u32>,
}

/// A file that is no spool, or cannot be read: its name, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoSpool(pub(crate) String);

/// What the spool at this place holds, whoever uses it; `None` if there is none so far.
pub async fn look_at_spool(path: &Path) -> Result<Option<SpoolSeen>, NoSpool> {
    sqlite::examine::look_at_spool(path).await
}
