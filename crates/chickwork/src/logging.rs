//! Logs on stderr: lines for people, or one JSON object a line for machines.

use std::io::Write as _;

use env_logger::fmt::Formatter;
use jiff::Timestamp;
use log::kv::{self, VisitSource};
use log::{LevelFilter, Record};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::settings::LoggingSettings;
use crate::settings::parse::LogFormat;

/// Starts logging; once, before anything is worth a line.
pub(crate) fn start(settings: &LoggingSettings) {
    let mut builder = env_logger::Builder::new();
    builder
        // Whoever breaks a connection off would otherwise write errors into our logs.
        .filter_module("actix_http", LevelFilter::Off)
        .filter_module("actix_server", LevelFilter::Warn)
        // lapin's own view of a broken connection; we say what it means for us.
        .filter_module("lapin", LevelFilter::Off)
        .filter_module("tracing::span", LevelFilter::Off)
        .parse_filters(&settings.filter)
        // lapin logs the bodies of returned messages. After the filters, so that nobody can ask for them.
        .filter_module("lapin::returned_messages", LevelFilter::Off);
    match settings.format {
        LogFormat::Text => builder.format_timestamp_millis(),
        LogFormat::Json => builder.format(json),
    };
    builder.init();
}

fn json(formatter: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let line = serde_json::to_string(&Line::of(record, Timestamp::now()))?;
    writeln!(formatter, "{line}")
}

/// What every line has, then the key-values; they never hide what every line has.
#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    level: String,
    target: &'a str,
    msg: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record<'_>, now: Timestamp) -> Self {
        let mut fields = Fields(Map::new());
        // Collecting into a map cannot fail; a value that fails to show itself is left out.
        let _ = record.key_values().visit(&mut fields);
        let Fields(mut fields) = fields;
        for taken in ["ts", "level", "target", "msg"] {
            fields.remove(taken);
        }
        Self {
            ts: format!("{now:.3}"),
            level: record.level().as_str().to_ascii_lowercase(),
            target: record.target(),
            msg: record.args().to_string(),
            fields,
        }
    }
}

struct Fields(Map<String, Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let value = if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_i64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            number.into()
        } else if let Some(flag) = value.to_bool() {
            flag.into()
        } else {
            value.to_string().into()
        };
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_is_one_object_with_the_ids_as_fields() {
        let message = format_args!("reply posted\nin two lines");
        let key_values: &[(&str, kv::Value<'_>)] = &[
            ("room", kv::Value::from(12_u64)),
            ("message", kv::Value::from("18")),
            ("late", kv::Value::from(false)),
            ("msg", kv::Value::from("never overwritten")),
        ];
        let record = Record::builder()
            .level(log::Level::Info)
            .target("chickwork_worker::post")
            .args(message)
            .key_values(&key_values)
            .build();
        let line = serde_json::to_string(&Line::of(&record, Timestamp::UNIX_EPOCH)).expect("JSON");
        assert_eq!(
            line,
            r#"{"ts":"1970-01-01T00:00:00.000Z","level":"info","target":"chickwork_worker::post","msg":"reply posted\nin two lines","late":false,"message":"18","room":12}"#
        );
    }
}
