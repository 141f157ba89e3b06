//! What Prometheus has seen of a stack, and what a person would ask it: by its HTTP API, with the
//! queries of the dashboard and of the alerts.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::{Stack, repository};

/// Where the dashboards lie.
const DASHBOARDS: &str = "deploy/observability/grafana/dashboards";
/// What Grafana puts in place of its variables for a look at the last quarter of an hour.
const VARIABLES: [(&str, &str); 3] = [
    ("$__rate_interval", "1m"),
    ("$__interval", "15s"),
    ("$__range", "15m"),
];
/// Names that begin like this are metrics.
const OF_METRICS: [&str; 2] = ["chickwork_", "rabbitmq_"];

/// A query of a panel.
#[derive(Debug, Clone)]
pub struct Query {
    /// The panel's title.
    pub panel: String,
    /// The query as it is written there.
    pub expression: String,
}

/// One thing that is scraped.
#[derive(Debug)]
pub struct Target {
    /// Which job.
    pub job: String,
    /// Where.
    pub address: String,
    /// Whether it answered the last time.
    pub is_up: bool,
    /// Why not.
    pub error: String,
}

/// An alert as it stands in the rules.
#[derive(Debug)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// The query.
    pub expression: String,
    /// `inactive`, `pending` or `firing`.
    pub state: String,
    /// Why it cannot be evaluated; empty if it can.
    pub error: String,
}

/// Asks a query at a moment; the series that are the answer.
pub async fn ask(stack: &Stack, expression: &str, moment: Timestamp) -> anyhow::Result<Vec<Value>> {
    let moment = moment.to_string();
    let query = [("query", expression), ("time", &moment)];
    let answer = get(stack, "api/v1/query", &query)
        .await
        .with_context(|| format!("asked {expression}"))?;
    let result = answer["result"].as_array().context("an answer is a list")?;
    Ok(match answer["resultType"].as_str() {
        // A number is a pair of time and value.
        Some("scalar") => vec![Value::Array(result.clone())],
        _ => result.clone(),
    })
}

/// The value of a query that has one; 0 if there is no series.
pub async fn figure(stack: &Stack, expression: &str) -> anyhow::Result<f64> {
    let series = ask(stack, expression, Timestamp::now()).await?;
    match series.first() {
        None => Ok(0.0),
        Some(first) => {
            let value = first["value"][1].as_str().context("a sample has a value")?;
            Ok(value.parse()?)
        }
    }
}

/// Everything that is scraped.
pub async fn targets(stack: &Stack) -> anyhow::Result<Vec<Target>> {
    let answer = get(stack, "api/v1/targets", &[("state", "active")]).await?;
    let target = |target: &Value| Target {
        job: text(&target["labels"]["job"]),
        address: text(&target["labels"]["instance"]),
        is_up: target["health"] == "up",
        error: text(&target["lastError"]),
    };
    Ok(list(&answer["activeTargets"]).map(target).collect())
}

/// Every alert of the rules that are loaded.
pub async fn alerts(stack: &Stack) -> anyhow::Result<Vec<Alert>> {
    let answer = get(stack, "api/v1/rules", &[]).await?;
    let rules = list(&answer["groups"]).flat_map(|group| list(&group["rules"]));
    let alert = |rule: &Value| Alert {
        name: text(&rule["name"]),
        expression: text(&rule["query"]),
        state: text(&rule["state"]),
        error: text(&rule["lastError"]),
    };
    let alerts = rules.filter(|rule| rule["type"] == "alerting");
    Ok(alerts.map(alert).collect())
}

/// The names of all metrics it has ever seen.
pub async fn metrics(stack: &Stack) -> anyhow::Result<BTreeSet<String>> {
    let answer = get(stack, "api/v1/label/__name__/values", &[]).await?;
    Ok(list(&answer).map(text).collect())
}

/// The queries of all panels of all dashboards, with Grafana's variables replaced.
pub fn dashboard() -> anyhow::Result<Vec<Query>> {
    let folder = repository().join(DASHBOARDS);
    let mut queries = Vec::new();
    for file in std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
        let file = file?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let dashboard: Value = serde_json::from_slice(&std::fs::read(&file)?)
                .with_context(|| format!("{}", file.display()))?;
            collect(&dashboard, "", &mut queries);
        }
    }
    ensure!(!queries.is_empty(), "no query in {}", folder.display());
    Ok(queries)
}

fn collect(value: &Value, panel: &str, queries: &mut Vec<Query>) {
    match value {
        Value::Array(values) => {
            for value in values {
                collect(value, panel, queries);
            }
        }
        Value::Object(members) => {
            let panel = members
                .get("title")
                .and_then(Value::as_str)
                .unwrap_or(panel);
            for (name, value) in members {
                match value.as_str() {
                    Some(expression) if name == "expr" => queries.push(Query {
                        panel: panel.to_owned(),
                        expression: without_variables(expression),
                    }),
                    _ => collect(value, panel, queries),
                }
            }
        }
        _ => {}
    }
}

fn without_variables(expression: &str) -> String {
    let mut replaced = expression.to_owned();
    for (variable, value) in VARIABLES {
        replaced = replaced.replace(variable, value);
    }
    replaced
}

/// The metrics that a query names.
pub fn named_in(expression: &str) -> impl Iterator<Item = &str> {
    let in_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let words = expression.split(move |c| !in_a_name(c));
    words.filter(|word| OF_METRICS.iter().any(|prefix| word.starts_with(prefix)))
}

async fn get(stack: &Stack, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
    let (status, body) = stack.get(stack.ports().prometheus, path, query).await?;
    let mut answer: Value =
        serde_json::from_str(&body).with_context(|| format!("Prometheus says {status}: {body}"))?;
    ensure!(
        status == 200 && answer["status"] == "success",
        "Prometheus says {status}: {}",
        answer["error"]
    );
    Ok(answer["data"].take())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
