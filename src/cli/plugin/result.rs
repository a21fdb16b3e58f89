//! `result`: what a job's agent has made, as JSON, or why there is none, with an exit code for scripts.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::anyhow;
use clap::Args;
use futures::TryStreamExt;
use serde_json::Value;

use super::{
    connect::{Session, job_name},
    output::reference,
    render::waited_for,
    settle::{self, Limit},
    text::{Progress, raw_json, say},
    watch,
};
use crate::api::{AgentJob, Phase};

pub(super) const EXIT_CODES: &str = "\
The result is one line of JSON; null if the agent has written none. Of a result that is too large for the status, its
size and its digest are printed, and a warning.

Exit codes:
  0    the job has succeeded: its result is on stdout
  1    it has failed, was cancelled or deleted, or can't be read: the error is on stderr
  2    wrong usage
  3    it has not ended yet
  124  with --wait: the time is over";

/// The exit code of a job that has not ended.
const NOT_YET: u8 = 3;

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob
    #[arg(value_parser = job_name)]
    name: String,
    /// Wait for the job's end
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    limit: Limit,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let name = arguments.name.as_str();
    let job = if arguments.wait {
        match tokio::time::timeout(arguments.limit.timeout.unwrap_or(Duration::MAX), end(session, name)).await {
            Ok(job) => job?,
            Err(_) => {
                say(format_args!("error: timed out waiting for {}", reference(name)));
                return Ok(settle::TIME_IS_OVER.into());
            }
        }
    } else {
        session.job(name).await?
    };
    Ok(match answer(&job) {
        Answer::Result(result, warning) => {
            writeln!(std::io::stdout(), "{result}")?;
            if let Some(warning) = warning {
                say(format_args!("warning: {warning}"));
            }
            ExitCode::SUCCESS
        }
        Answer::None(why) => {
            say(format_args!("error: {} {why}", reference(name)));
            ExitCode::FAILURE
        }
        Answer::NotYet(phase) => {
            let word = phase.as_str();
            say(format_args!("error: {} has not ended, its phase is {word}: --wait waits for it", reference(name)));
            NOT_YET.into()
        }
    })
}

async fn end(session: &Session, name: &str) -> anyhow::Result<AgentJob> {
    let mut changes = watch::job(session, name).await?;
    let mut progress = Progress::new();
    while let Some(job) = changes.try_next().await? {
        if watch::finished(&job) {
            return Ok(job);
        }
        progress.show(waited_for(&job));
    }
    Err(anyhow!("the watch has ended"))
}

#[derive(Debug, PartialEq)]
enum Answer {
    /// One line of JSON, and what is to be said about it.
    Result(String, Option<String>),
    /// Why there is none.
    None(String),
    NotYet(Phase),
}

fn answer(job: &AgentJob) -> Answer {
    let phase = watch::phase(job);
    let status = job.status.clone().unwrap_or_default();
    match phase {
        Phase::Succeeded => {
            let result = status.result.unwrap_or_else(|| Value::Null.into());
            Answer::Result(raw_json(result.get()), too_large(result.get()))
        }
        Phase::Failed | Phase::Cancelled => {
            let error = status.error.map(|e| format!(": {}: {}", e.kind, e.message)).unwrap_or_default();
            let word = if phase == Phase::Failed { "has failed" } else { "was cancelled" };
            Answer::None(format!("{word}{error}"))
        }
        phase => Answer::NotYet(phase),
    }
}

/// What the status says in place of a result that it can't hold.
fn too_large(result: &str) -> Option<String> {
    let said: Value = serde_json::from_str(result).ok()?;
    let is_so = said.get("truncated") == Some(&Value::Bool(true)) && said.get("digest").is_some();
    let size = said.get("size").filter(|_| is_so)?;
    Some(format!(
        "the result has {size} bytes, too many for the status: only its digest is kept. Agents with large results put them elsewhere"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{AgentJobStatus, ErrorStatus};

    fn job(phase: Phase, status: AgentJobStatus) -> AgentJob {
        AgentJob { status: Some(AgentJobStatus { phase: Some(phase), ..status }), ..AgentJob::default() }
    }

    #[test]
    fn a_result_is_one_harmless_line() {
        let result = |value: Value| AgentJobStatus { result: Some(value.into()), ..AgentJobStatus::default() };
        let of = |value: Value| answer(&job(Phase::Succeeded, result(value)));
        assert_eq!(of(json!({ "a": "\u{1b}\n" })), Answer::Result(r#"{"a":"\u001b\n"}"#.into(), None));
        assert_eq!(answer(&job(Phase::Succeeded, Default::default())), Answer::Result("null".into(), None));
        let Answer::Result(_, warning) = of(json!({ "truncated": true, "size": 99_999, "digest": "sha256:0" })) else {
            panic!()
        };
        assert!(warning.unwrap().contains("99999 bytes"));
    }

    #[test]
    fn an_end_without_a_result_has_a_reason() {
        let error = ErrorStatus { kind: "AgentFailed".into(), message: "exit code 1".into() };
        let status = AgentJobStatus { error: Some(error), ..AgentJobStatus::default() };
        assert_eq!(answer(&job(Phase::Failed, status)), Answer::None("has failed: AgentFailed: exit code 1".into()));
        assert_eq!(answer(&job(Phase::Cancelled, Default::default())), Answer::None("was cancelled".into()));
        assert_eq!(answer(&job(Phase::Retrying, Default::default())), Answer::NotYet(Phase::Retrying));
        assert_eq!(answer(&AgentJob::default()), Answer::NotYet(Phase::Pending));
    }
}
