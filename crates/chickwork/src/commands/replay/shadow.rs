//! `replay --shadow`: SimSimi is asked for real, the reply is composed, and printed instead of posted. The
//! queue is read and not changed, and no outcome is written.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_clients::chatwork::{self, Chatwork};
use chickwork_clients::simsimi::{self, AskError, SimSimi};
use chickwork_queue::Queue;
use chickwork_queue::event::{Event, EventId};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_worker::{End, Me, Rehearsal, Rehearsed};
use jiff::Timestamp;
use serde::Serialize;

use super::found::{Bodies, Found};
use super::{Terms, code};
use crate::comparison::Side;
use crate::recorded::{Before, Recorded};
use crate::run::{Halt, Run};
use crate::settings::ShadowSettings;
use crate::{output, words};

/// How long the question at hand may take once the command is to stop: it is paid already.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// A name or an error is shown up to this length, in characters.
const LONGEST_SHOWN: usize = 200;

/// How events are rehearsed.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) terms: Terms,
    pub(super) settings: ShadowSettings,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unanswered {
    /// SimSimi did not give one.
    Failed(AskError),
    /// It was not asked: `--dry-run`, or the command is to stop.
    NotAsked,
}

/// An event that was rehearsed. The JSON fields are a contract.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    found: &'a Found,
    question: Option<&'a str>,
    reply: Option<&'a str>,
    reason: Option<&'a str>,
    error: Option<String>,
    before: Option<&'a str>,
    reason_before: Option<&'a str>,
}

impl Errand {
    /// Rehearses them, or says what SimSimi would be asked.
    pub(super) async fn run(self, queue: Option<&Queue>) -> anyhow::Result<ExitCode> {
        let (found, all_found) = self.terms.of_one_bot(queue, "an API token").await?;
        if found.is_empty() {
            return Ok(code(all_found));
        }
        let rehearsal = self.rehearsal().await?;
        let questions = questions(&rehearsal, queue, found.clone()).await?;
        let (total, name) = (found.len() as u64, &rehearsal.me.name);
        words::tell(format_args!(
            "{} to be rehearsed as {} (account {}): SimSimi is to be asked {}, which costs as many calls. Nothing is posted, queued or written down.",
            words::count(total, "event"),
            words::line(name, LONGEST_SHOWN),
            rehearsal.me.account,
            words::count(questions, "time"),
        ));
        if !self.terms.dry_run && questions > 0 {
            let times = words::count(questions, "time");
            if !self
                .terms
                .consent
                .to(format!("Ask SimSimi {times}?"))
                .await?
            {
                words::tell("Nothing was asked.");
                return Ok(ExitCode::FAILURE);
            }
        }
        let recorded = recorded(queue, &found).await?;
        let all_done = self.play(queue, &rehearsal, found, recorded).await?;
        Ok(code(all_found && all_done))
    }

    /// Whose part is played, as Chatwork tells.
    async fn rehearsal(&self) -> anyhow::Result<Rehearsal> {
        let settings = &self.settings;
        let chatwork = Chatwork::new(chatwork::Settings {
            url: settings.chatwork_url.clone(),
            api_token: settings.chatwork_token.reveal().to_owned(),
        })
        .context("CHATWORK_API_URL or CHATWORK_API_TOKEN cannot be used")?;
        let me = chatwork
            .me()
            .await
            .context("Chatwork does not tell whose the API token is")?
            .value;
        Ok(Rehearsal {
            me: Me {
                account: me.account_id,
                name: me.name,
            },
            ignore_accounts: settings.ignore_accounts.clone(),
            fallback: settings.fallback.clone(),
        })
    }

    /// True when all were rehearsed, and answered where there was a question.
    async fn play(
        &self,
        queue: Option<&Queue>,
        rehearsal: &Rehearsal,
        found: Vec<Found>,
        mut recorded: HashMap<EventId, Recorded>,
    ) -> anyhow::Result<bool> {
        let simsimi = SimSimi::new(simsimi::Settings {
            url: self.settings.simsimi_url.clone(),
            api_key: self.settings.simsimi_key.reveal().to_owned(),
            lang: self.settings.lang.to_owned(),
        })
        .context("SIMSIMI_API_URL or SIMSIMI_API_KEY cannot be used")?;
        let mut run = Run::begin(found.len() as u64, self.terms.pace, FINISH_LIMIT)?;
        let mut failed = 0;
        let played = async {
            let mut bodies = Bodies::of(queue, found);
            while let Some((mut found, event)) = run.prepare(bodies.next()).await?? {
                let then = found.recorded.take().map(|recorded| *recorded);
                let then = then.or_else(|| recorded.remove(&event.id));
                let ask = async |question: &str| {
                    if self.terms.dry_run {
                        return Err(Unanswered::NotAsked);
                    }
                    run.turn().await.map_err(|_| Unanswered::NotAsked)?;
                    match run.finish(simsimi.ask(question)).await {
                        Ok(answer) => answer.map_err(Unanswered::Failed),
                        Err(_) => Err(Unanswered::NotAsked),
                    }
                };
                let played = rehearsal.play(&event.body, ask).await;
                if !self.terms.dry_run && played.end == End::Unanswered(Unanswered::NotAsked) {
                    return Err(Halt::Stopped);
                }
                run.step(self.print(&found, &event, &played, then.as_ref()))?;
                match played.end {
                    // The next question would be refused as well.
                    End::Unanswered(Unanswered::Failed(
                        error @ (AskError::Unauthorized(_) | AskError::QuotaUsedUp(_)),
                    )) => return Err(Halt::Failed(error.into())),
                    End::Unanswered(Unanswered::Failed(_)) => failed += 1,
                    _ => {}
                }
            }
            Ok(())
        };
        let played = played.await;
        let deed = if self.terms.dry_run {
            "shown, without asking"
        } else {
            "rehearsed"
        };
        let deed = match failed {
            0 => deed.to_owned(),
            failed => format!("{deed} ({failed} without an answer)"),
        };
        let left = run.end(played, &deed, |left| {
            format!("{left} are not to be had any more")
        })?;
        Ok(left == 0 && failed == 0)
    }

    fn print(
        &self,
        found: &Found,
        event: &Event,
        played: &Rehearsed<Unanswered>,
        then: Option<&Recorded>,
    ) -> io::Result<()> {
        let before = then.map_or(&Before::Open, |then| &then.before);
        let error = match &played.end {
            End::Unanswered(Unanswered::Failed(error)) => Some(error.to_string()),
            _ => None,
        };
        let mut out = io::stdout().lock();
        if self.terms.json {
            let line = Line {
                found,
                question: played.question.as_deref(),
                reply: match &played.end {
                    End::Said(text) => Some(text),
                    _ => None,
                },
                reason: match &played.end {
                    End::Ignored(reason) => Some(reason),
                    End::Malformed(_) => Some("malformed"),
                    _ => None,
                },
                error,
                before: match before {
                    Before::Said(text) => Some(text),
                    _ => None,
                },
                reason_before: match before {
                    Before::Ignored(reason) => Some(reason),
                    Before::Dead(cause) => Some(cause),
                    _ => None,
                },
            };
            return output::json(&line, &mut out);
        }
        write!(out, "{}  {}", event.id, words::time(event.received_at))?;
        if let (Some(room), Some(message)) = (event.room_id, &event.message_id) {
            write!(out, "  #!rid{room}-{message}")?;
        }
        writeln!(out)?;
        if let Some(question) = &played.question {
            writeln!(out, "  asks: {}", words::line(question, usize::MAX))?;
        }
        let now = match (&played.end, &error) {
            (_, Some(error)) => Side::Silent(error),
            (End::Said(text), None) => Side::Said(text),
            (End::Ignored(reason), None) => Side::Silent(reason),
            (End::Malformed(_), None) => Side::Silent("malformed"),
            (End::Unanswered(_), None) => Side::Silent("what SimSimi would say"),
        };
        for line in Side::difference(&Side::before(before), &now) {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)
    }
}

/// How often SimSimi is asked about these.
async fn questions(
    rehearsal: &Rehearsal,
    queue: Option<&Queue>,
    found: Vec<Found>,
) -> anyhow::Result<u64> {
    let mut bodies = Bodies::of(queue, found);
    let mut questions = 0;
    while let Some((_, event)) = bodies.next().await? {
        questions += u64::from(rehearsal.question(&event.body).is_some());
    }
    Ok(questions)
}

/// What was said about these, as far as it is written down here.
async fn recorded(
    queue: Option<&Queue>,
    found: &[Found],
) -> anyhow::Result<HashMap<EventId, Recorded>> {
    let here = found.iter().filter(|event| event.is_here);
    let mut stories: HashMap<EventId, Vec<Outcome>> =
        here.clone().map(|event| (event.id, Vec::new())).collect();
    let Some((queue, since)) = queue.zip(here.map(|event| event.received_at).min()) else {
        return Ok(HashMap::new());
    };
    // Clocks may differ by a little.
    let since = since.checked_sub(CLOCKS_DIFFER).unwrap_or(Timestamp::MIN);
    let mut outcomes = queue.outcomes().read(since);
    while let Some(outcome) = outcomes.next().await? {
        let tells = !matches!(
            outcome.what,
            What::Later { .. } | What::Intent { .. } | What::Looked { .. }
        );
        if tells && let Some(story) = stories.get_mut(&outcome.id) {
            story.push(outcome);
        }
    }
    let recorded = stories.into_iter();
    Ok(recorded
        .map(|(id, story)| (id, Recorded::of(&story)))
        .collect())
}

/// So much further back is read than the oldest event: two clocks may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5 * 60);
