//! `archive get`: what became of one job: in short, or all that is kept.

use std::{
    fmt::{Display, Write as _},
    io::{self, Write},
};

use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{
    super::{
        connect::Session,
        server::{Access, Server},
        text::{self, json, plain},
        yaml,
    },
    find::{self, Named},
    list::word,
};
use crate::platform::{clock, text::age};

#[derive(Args)]
pub(in super::super) struct Arguments {
    /// The AgentJob, which may be gone, or an execution by its fid
    #[arg(value_name = "NAME|FID", value_parser = find::named)]
    execution: Named,
    /// How to print it: in short, or all that is kept
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
    Yaml,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let mut server = Server::find(session, &arguments.access).await?;
    let fid = match &arguments.execution {
        Named::Fid(fid) => fid.clone(),
        Named::Job(name) => find::by_name(session, &mut server, name).await?.fid,
    };
    let found = server.get(&format!("/api/v1/executions/{fid}"), &[]).await?;
    let mut out = io::stdout().lock();
    match arguments.output {
        Output::Text => write!(out, "{}", view(&found, clock::now()))?,
        Output::Json => writeln!(out, "{}", text::pretty_json(&found))?,
        Output::Yaml => write!(out, "{}", yaml::document(&found))?,
    }
    Ok(())
}

/// Lines of escaped text.
#[derive(Default)]
struct Lines(String);

impl Lines {
    /// A field, unless it is empty.
    fn field(&mut self, name: &str, value: impl Display) {
        let value = value.to_string();
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(self.0, "{:<13}{}", format!("{name}:"), plain(&value));
        }
    }
}

/// An execution in short. All of it is escaped: agents write results and errors.
fn view(found: &Value, now: Timestamp) -> String {
    let (mut out, status) = (Lines::default(), &found["job"]["status"]);
    let field = |name| word(found, name);
    out.field("Execution", field("fid"));
    out.field("Job", format!("{}/{}", field("namespace"), field("name")));
    out.field("Phase", field("phase"));
    out.field("Attempt", found["attempt"].as_i64().unwrap_or_default());
    out.field("Mode", field("executionMode"));
    out.field("Entry point", field("entryPoint"));
    out.field("Owner", field("owner"));
    let times =
        [("Created", "creationTime"), ("Started", "startTime"), ("Ended", "completionTime"), ("Gone", "deletionTime")];
    for (name, at) in times {
        let ago = field(at).parse().map_or(String::new(), |time| format!(" ({} ago)", age(time, now)));
        out.field(name, format!("{}{ago}", field(at)));
    }
    if let Some(error) = status.get("error").filter(|error| error.is_object()) {
        out.field("Error", format!("{}: {}", word(error, "type"), word(error, "message")));
    }
    if let Some(result) = status.get("result").filter(|result| !result.is_null()) {
        out.field("Result", json(result));
    }
    let parts = [&found["attempts"], &found["runs"], &found["job"]["runs"]];
    for (n, run) in parts.into_iter().find_map(Value::as_array).into_iter().flatten().enumerate() {
        if n == 0 {
            out.0.push_str("Attempts:\n");
        }
        let _ = writeln!(out.0, "  {}", plain(&words(run)));
    }
    out.0
}

/// The fields of a run that are one word, in a line.
fn words(run: &Value) -> String {
    let fields = run.as_object().into_iter().flatten().filter_map(|(name, value)| match value {
        Value::String(text) if !text.is_empty() => Some(format!("{name}={text}")),
        Value::Number(number) => Some(format!("{name}={number}")),
        Value::Bool(bool) => Some(format!("{name}={bool}")),
        _ => None,
    });
    fields.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn execution(status: Value) -> Value {
        json!({ "fid": "6740c100aabbccddeeff0011", "namespace": "n", "name": "x", "phase": "Failed", "attempt": 2,
            "executionMode": "Direct", "entryPoint": "e\nPhase:  Succeeded", "creationTime": "2026-01-01T00:00:00Z",
            "job": { "spec": {}, "status": status } })
    }

    fn shown(found: &Value) -> String {
        view(found, "2026-01-01T00:01:00Z".parse().unwrap())
    }

    #[test]
    fn an_execution_is_shown_in_short_and_forges_no_line() {
        let error = json!({ "error": { "type": "AgentFailed", "message": "a\u{1b}[2J" } });
        let text = shown(&execution(error));
        let expected = "\
Execution:   6740c100aabbccddeeff0011
Job:         n/x
Phase:       Failed
Attempt:     2
Mode:        Direct
Entry point: e\\nPhase:  Succeeded
Created:     2026-01-01T00:00:00Z (60s ago)
Error:       AgentFailed: a\\u{1b}[2J
";
        assert_eq!(text, expected);
        let text = shown(&execution(json!({ "result": { "a": "\u{202e}" } })));
        assert!(text.ends_with("Result:      {\"a\":\"\\u202e\"}\n"), "{text}");
        assert!(shown(&json!({})).starts_with("Job:         /\n"), "an older server, or a newer one");
    }

    #[test]
    fn attempts_are_shown_if_they_are_kept() {
        let mut found = execution(json!({}));
        found["attempts"] =
            json!([{ "number": 1, "pod": "x-1", "error": { "type": "t" } }, { "number": 2, "pod": "\u{1b}" }]);
        let text = shown(&found);
        assert!(text.ends_with("  number=1 pod=x-1\n  number=2 pod=\\u{1b}\n"), "{text}");
    }
}
