//! A process that claims jobs and holds them, for stories in which processes are killed or frozen.
//!
//! `claimant QUEUE NAMESPACE ask|post|publish COUNT`: claims (or publishes) so many, prints a line
//! for each, and then answers each line on its standard input: `intend` tries to store an intent
//! for the last claim and says `intended` or `refused`.

use std::io::Write as _;

use anyhow::{Context, bail};
use chickwork_queue::event::BotName;
use chickwork_queue::job::Work;
use chickwork_queue::outcome::What;
use chickwork_tests::stage::{an_event, open, outcome};
use tokio::io::{AsyncBufReadExt, BufReader};

fn say(line: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [location, namespace, what, count] = arguments.as_slice() else {
        bail!("claimant QUEUE NAMESPACE ask|post|publish COUNT");
    };
    let count: u16 = count.parse()?;
    let queue = open(location, namespace).await?;
    if what == "publish" {
        for number in 0..count {
            let event = an_event(number.into());
            queue.publisher().publish(&event).await?;
            say(&format!("published {}", event.id))?;
        }
        std::future::pending::<()>().await;
    }
    let mut claims = match what.as_str() {
        "ask" => queue.claim_asks(count),
        "post" => queue.claim_posts(&BotName::default(), count),
        other => bail!("{other}?"),
    };
    let mut held = Vec::new();
    for _ in 0..count {
        let claim = claims.next().await;
        let id = match &claim.job().work {
            Work::Ask(event) => event.id,
            Work::Post(reply) => reply.id,
        };
        held.push((id, claim));
        say(&format!("claimed {id}"))?;
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (id, claim) = held.last().context("nothing is held")?;
        match line.as_str() {
            "intend" => {
                let intent = outcome(
                    *id,
                    What::Intent {
                        consumer: "claimant".to_owned(),
                    },
                );
                say(if claim.intend(&intent).await.is_ok() {
                    "intended"
                } else {
                    "refused"
                })?;
            }
            other => bail!("{other}?"),
        }
    }
    std::future::pending::<()>().await;
    Ok(())
}
