//! Commands of the binary that run to their end, as whoever types them sees them: the exit code, what is
//! printed, what is said besides.

use std::borrow::BorrowMut;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::process::chickwork;
use crate::rabbitmq::signal;
use crate::stage::{Stage, soon, within};

/// How long a command may take, its own waiting included, whatever does not answer.
const ENDED: Duration = Duration::from_secs(60);

/// What a command has said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code, which a killed one has not.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it said besides.
    pub err: String,
}

impl Said {
    /// From the output of a command that a story has started itself.
    pub fn of(output: Output) -> anyhow::Result<Self> {
        Ok(Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// Sees that it has succeeded.
    pub fn succeeded(self) -> anyhow::Result<Self> {
        ensure!(self.code == Some(0), "{self:?}");
        Ok(self)
    }

    /// What it printed as JSON: one value.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }

    /// What it printed as JSON: one value a line.
    pub fn lines(&self) -> anyhow::Result<Vec<Value>> {
        let lines: Result<_, _> = self.out.lines().map(serde_json::from_str).collect();
        lines.with_context(|| format!("{self:?}"))
    }
}

/// A field of such a line; empty if it is not there, or no text.
pub fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_default()
}

/// Sees that these parts come in what was said, in this order, whatever is between them.
pub fn in_order(said: &str, parts: &[&str]) -> anyhow::Result<()> {
    let mut rest = said;
    for part in parts {
        let (_, behind) = rest
            .split_once(part)
            .with_context(|| format!("{part:?} is not there, or too early:\n{said}"))?;
        rest = behind;
    }
    Ok(())
}

/// A command on this stage, as it would be typed.
pub fn typed(stage: &Stage, name: &str, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = chickwork(name)?;
    command
        .args(words)
        .env("CHICKWORK_QUEUE", stage.location())
        .env("CHICKWORK_NAMESPACE", stage.namespace());
    Ok(command)
}

/// Runs a command to its end.
pub async fn run(command: impl BorrowMut<Command>) -> anyhow::Result<Said> {
    run_within(ENDED, command).await
}

/// The same for one that has a limit of its own.
pub async fn run_within(
    limit: Duration,
    mut command: impl BorrowMut<Command>,
) -> anyhow::Result<Said> {
    let output = command.borrow_mut().output();
    Said::of(within(limit, "the command has ended", output).await??)
}

/// Runs a command into a pipe that nobody reads any more.
pub async fn run_unread(mut command: impl BorrowMut<Command>) -> anyhow::Result<Said> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let running = command
        .borrow_mut()
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()?;
    let ended = within(ENDED, "the command has ended", running.wait_with_output());
    Said::of(ended.await??)
}

/// Begins a command; the lines that it prints meanwhile.
pub fn begin(
    mut command: impl BorrowMut<Command>,
) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let command = command.borrow_mut();
    let mut running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = running.stdout.take().context("its output was asked for")?;
    Ok((running, BufReader::new(out).lines()))
}

/// Sends one that was begun this signal, and waits for its end.
pub async fn stop(running: Child, number: i32) -> anyhow::Result<Said> {
    let id = running.id().context("it has ended")?;
    signal(i32::try_from(id)?, number);
    Said::of(soon("it has stopped", running.wait_with_output()).await??)
}
