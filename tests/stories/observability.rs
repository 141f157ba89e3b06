//! What watches the bot agrees with the bot: the alerts, their tests and the dashboard name figures that
//! exist, and jobs that something scrapes; and every figure is explained. Whether the alerts fire when they should, Prometheus tests by
//! itself (`tests/deploy`); whether the panels show something, the stack does (`tests/compose`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};
use chickwork_tests::bot::{Bot, Plan};
use chickwork_tests::stage::Kind;
use serde_json::Value;

const DASHBOARD: &str = "deploy/observability/grafana/dashboards/chickwork.json";
const ALERTS: &str = "deploy/observability/alerts.yml";
const ALERTS_TEST: &str = "deploy/observability/alerts_test.yml";
const SCRAPES: &str = "deploy/observability/prometheus.yml";
/// What has the Prometheus operator scrape the same.
const MONITORS: [&str; 2] = [
    "deploy/kubernetes/bot/pod-monitor.yaml",
    "deploy/kubernetes/rabbitmq-operator/pod-monitor.yaml",
];
/// The series that others in the same Prometheus have as well, as a selector begins.
const ALSO_OF_OTHERS: [&str; 2] = ["up{", "rabbitmq_"];
/// How our figures begin.
const PREFIX: &str = "chickwork_";
/// What a histogram's series are called after its name.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_count", "_sum"];
/// What Grafana replaces in a query.
const VARIABLES: [&str; 3] = ["$__rate_interval", "$__range", "$__interval"];
/// A dashboard is so many columns wide.
const COLUMNS: u64 = 24;

/// A file of the repository.
fn read(path: &str) -> anyhow::Result<String> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn dashboard() -> anyhow::Result<Value> {
    serde_json::from_str(&read(DASHBOARD)?).context(DASHBOARD)
}

fn panels(dashboard: &Value) -> anyhow::Result<&Vec<Value>> {
    dashboard["panels"].as_array().context("a list of panels")
}

/// The queries of a panel.
fn queries(panel: &Value) -> impl Iterator<Item = &str> {
    let targets = panel["targets"].as_array().into_iter().flatten();
    targets.filter_map(|target| target["expr"].as_str())
}

/// Every figure of ours that a text names, as it is written there.
fn named_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c| !in_a_name(c));
    words.filter(|word| word.starts_with(PREFIX) && *word != PREFIX)
}

/// The series of ours that a text selects, as `chickwork_x{label="value"`: the name, and the labels that have
/// to be there as they are. Who tells it and how long it took are not the process's to say, or to know yet.
fn selected_in(text: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    text.match_indices(PREFIX).filter_map(|(begin, _)| {
        let (name, labels) = text[begin..].split_once('{')?;
        let (labels, _) = labels.split_once('}')?;
        let is_one = |label: &&str| {
            let name = label.split_once("=\"").map(|(name, _)| name);
            name.is_some_and(|name| is_name(name) && !["instance", "job", "le"].contains(&name))
        };
        is_name(name).then(|| (name, labels.split(',').filter(is_one).collect()))
    })
}

fn is_name(text: &str) -> bool {
    text.chars().all(in_a_name)
}

fn in_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What processes tell on their metrics pages.
#[derive(Debug, Default)]
struct Told {
    /// Names, and the kind of each.
    kinds: BTreeMap<String, String>,
    series: BTreeSet<String>,
    without_help: BTreeSet<String>,
}

impl Told {
    async fn listen(&mut self, bot: &Bot) -> anyhow::Result<()> {
        for process in bot.servers() {
            let page = process.figures().await?;
            for line in page.lines() {
                if let Some(about) = line.strip_prefix("# TYPE ") {
                    let (name, kind) = about.split_once(' ').context("a name and a kind")?;
                    self.kinds.insert(name.to_owned(), kind.to_owned());
                    if !page.contains(&format!("# HELP {name} ")) {
                        self.without_help.insert(name.to_owned());
                    }
                } else if let Some((series, _)) = line.rsplit_once(' ') {
                    self.series.insert(series.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Whether somebody who asks for this name gets something.
    fn knows(&self, name: &str) -> bool {
        let is = |name: &str, histogram: bool| {
            let kind = self.kinds.get(name);
            kind.is_some_and(|kind| (kind == "histogram") == histogram)
        };
        let parts = OF_HISTOGRAMS
            .iter()
            .filter_map(|end| name.strip_suffix(end));
        is(name, false) || parts.into_iter().any(|name| is(name, true))
    }

    fn has_series(&self, name: &str, labels: &[&str]) -> bool {
        self.series.iter().any(|series| {
            let (its, own) = series.split_once('{').unwrap_or((series, "}"));
            let own: Vec<&str> = own.trim_end_matches('}').split(',').collect();
            its == name && labels.iter().all(|label| own.contains(label))
        })
    }
}

/// On both kinds of queue a bot is asked for its figures: before anything has happened, when what is
/// counted must be there already, so that its first increase is seen; and after one mention.
pub(super) async fn every_figure_that_is_watched_exists_and_every_figure_is_explained()
-> anyhow::Result<()> {
    let (mut fresh, mut told) = (Told::default(), Told::default());
    for kind in [Kind::Sqlite, Kind::Rabbitmq] {
        let bot = Plan::on(kind)?.start().await?;
        fresh.listen(&bot).await?;
        let message = bot.mention("echo xin chào").await?;
        bot.answer(&message).await?;
        // It is posted before it is counted.
        let counted = "chickwork_jobs_total{step=\"post\",outcome=\"posted\"}";
        let poster = bot.workers.first().unwrap_or(&bot.front);
        poster.until_figure(counted, |posted| posted == 1.0).await?;
        told.listen(&bot).await?;
        bot.end().await?;
    }

    let mut watched = vec![read(ALERTS)?, read(ALERTS_TEST)?];
    for panel in panels(&dashboard()?)? {
        watched.extend(queries(panel).map(str::to_owned));
    }
    for text in &watched {
        for name in named_in(text) {
            assert!(told.knows(name), "nobody has the figure {name}");
        }
        for (name, labels) in selected_in(text) {
            // Of calls there is nothing to tell before the first.
            let is_there = labels.is_empty()
                || name.starts_with("chickwork_call_seconds")
                || fresh.has_series(name, &labels);
            assert!(
                is_there,
                "a process that has just started has no {name}{labels:?}"
            );
        }
    }

    let readme = read("README.md")?;
    let (_, figures) = readme
        .split_once("\n### Figures\n")
        .context("a list of figures in README.md")?;
    let (figures, _) = figures.split_once("\n### ").unwrap_or((figures, ""));
    let explained: BTreeSet<&str> = named_in(figures).collect();
    for name in told.kinds.keys() {
        assert!(explained.contains(&**name), "README.md lacks {name}");
    }
    for name in explained {
        assert!(
            told.kinds.contains_key(name),
            "README.md explains {name}, which nobody has"
        );
    }
    assert_eq!(told.without_help, BTreeSet::new());
    Ok(())
}

/// A worker without its broker can do nothing, an ingress has its spool.
pub(super) async fn a_scrape_tells_who_is_ready() -> anyhow::Result<()> {
    const READY: &str = "chickwork_ready";
    let (plan, mut door) = super::spool::behind_a_door().await?;
    let bot = plan.start().await?;
    let worker = bot.workers.first().context("a worker")?;
    worker.until_figure(READY, |ready| ready == 1.0).await?;
    door.shut().await;
    worker.until_figure(READY, |ready| ready == 0.0).await?;
    bot.front.until_figure(READY, |ready| ready == 1.0).await?;
    bot.front
        .until_figure("chickwork_broker_up", |up| up == 0.0)
        .await?;
    door.open().await?;
    worker.until_figure(READY, |ready| ready == 1.0).await?;
    bot.end().await
}

/// Every panel says what it shows and what good looks like, has its place, and asks the one data source
/// with variables that are always set.
pub(super) async fn the_dashboard_can_be_read() -> anyhow::Result<()> {
    let dashboard = dashboard()?;
    assert_eq!(dashboard["uid"], "chickwork");
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard)? {
        let title = panel["title"].as_str().unwrap_or_default();
        ensure!(!title.is_empty(), "a panel without a title: {panel}");
        ensure!(ids.insert(panel["id"].as_u64()), "{title}: its id is taken");
        let place = |side: &str| panel["gridPos"][side].as_u64().context(title.to_owned());
        let (x, y, w, h) = (place("x")?, place("y")?, place("w")?, place("h")?);
        ensure!(x + w <= COLUMNS, "{title} is beyond the edge");
        for column in x..x + w {
            for line in y..y + h {
                ensure!(places.insert((column, line)), "{title} lies on another");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        let description = panel["description"].as_str().unwrap_or_default();
        let says_what_is_good = description.contains("Good") || description.contains("good");
        ensure!(says_what_is_good, "{title}: what does good look like?");
        let shown = &panel["fieldConfig"]["defaults"];
        ensure!(shown["unit"].is_string(), "{title} has no unit");
        ensure!(
            shown["thresholds"]["steps"].is_array(),
            "{title} has no thresholds"
        );
        let source = &panel["datasource"];
        ensure!(source["uid"] == "prometheus", "{title} asks {source}");
        ensure!(queries(panel).count() > 0, "{title} asks nothing");
        for query in queries(panel) {
            let rest = VARIABLES
                .iter()
                .fold(query.to_owned(), |query, name| query.replace(name, ""));
            ensure!(!rest.contains('$'), "{title}: a variable in {query}");
        }
    }
    Ok(())
}

/// An alert without a test may as well never fire.
pub(super) async fn every_alert_has_its_test() -> anyhow::Result<()> {
    let (alerts, tests) = (read(ALERTS)?, read(ALERTS_TEST)?);
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    ensure!(!names.is_empty(), "{ALERTS} has no alerts");
    for name in names {
        let expected = format!("labels: '{{alertname=\"{name}\"");
        ensure!(tests.contains(&expected), "{name} is never seen to fire");
    }
    Ok(())
}

/// In a Prometheus that watches other things as well, what is not ours must neither raise an alarm nor hide one.
/// So our jobs have names of their own, and whoever selects what others have too says whose it is.
pub(super) async fn what_others_have_is_not_taken_for_ours() -> anyhow::Result<()> {
    let scrapes = read(SCRAPES)?;
    // One that is commented out is for another kind of deployment.
    let lines = scrapes
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ']));
    let jobs: BTreeSet<&str> = lines
        .filter_map(|line| line.strip_prefix("- job_name: "))
        .filter(|job| job.starts_with("chickwork-"))
        .collect();
    ensure!(jobs.len() == 5, "{SCRAPES} has the jobs {jobs:?}");

    let mut watched = vec![read(ALERTS)?];
    for panel in panels(&dashboard()?)? {
        watched.extend(queries(panel).map(str::to_owned));
    }
    for text in &watched {
        let named = text
            .split("job=~\"")
            .skip(1)
            .chain(text.split("job=\"").skip(1));
        for named in named.filter_map(|rest| rest.split('"').next()) {
            for job in named.split('|') {
                ensure!(jobs.contains(job), "nobody scrapes the job {job}");
            }
        }
        for begin in ALSO_OF_OTHERS {
            for (at, _) in text.match_indices(begin) {
                let selector = text[at..].split('}').next().unwrap_or_default();
                // The end of another name, or words before a template.
                if text[..at].ends_with(in_a_name) || selector.contains("{{") {
                    continue;
                }
                let labels = selector.split_once('{').map(|(_, labels)| labels);
                let says_whose = labels.is_some_and(|labels| labels.starts_with("job="));
                ensure!(says_whose, "whose is {selector}?");
            }
        }
    }

    let mut monitored = BTreeSet::new();
    for monitor in MONITORS {
        let monitor = read(monitor)?;
        let names = monitor.split("replacement: ").skip(1);
        for name in names.filter_map(|rest| rest.split(['}', '\n']).next()) {
            match name.strip_suffix("$1") {
                Some(begin) => {
                    monitored.extend(["ingress", "worker"].map(|of| [begin, of].concat()))
                }
                None => _ = monitored.insert(name.to_owned()),
            }
        }
    }
    // There is none for `serve`, which is for one machine.
    let on_kubernetes = jobs.iter().filter(|job| **job != "chickwork-serve");
    assert_eq!(
        monitored,
        on_kubernetes.map(|job| (*job).to_owned()).collect()
    );
    let family = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with("family: "));
        line.map(|line| line.trim().to_owned())
    };
    assert_eq!(family(&read(MONITORS[1])?), family(&scrapes));
    Ok(())
}
