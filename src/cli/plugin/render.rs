//! A job as text: pure, from the object, its events and the time. Used by [`super::status`].

use std::fmt::{self, Display, Write};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use serde_json::Value;

use super::events::Happened;
use crate::api::{AgentJob, AgentJobStatus, DesiredState, ExecutionMode, conditions};

/// How many events are shown.
const EVENTS: usize = 10;
/// The longest result that is shown whole, in characters.
const RESULT: usize = 400;

/// The whole view.
pub(super) fn view(job: &AgentJob, events: &[Happened], now: Timestamp) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_view(&mut text, job, events, now);
    text
}

fn write_view(out: &mut String, job: &AgentJob, events: &[Happened], now: Timestamp) -> fmt::Result {
    let status = job.status.clone().unwrap_or_default();
    let meta = &job.metadata;
    line(out, "Job", format!("{}/{}", word(&meta.namespace), word(&meta.name)))?;
    let phase = status.phase.map_or("not seen by the operator yet".into(), |p| format!("{p:?}"));
    line(out, "Phase", phase)?;
    let mode = status.resolved.as_ref().map(|r| r.execution_mode).or(job.spec.execution_mode);
    line(out, "Mode", mode.map_or("-".into(), |m| format!("{m:?}, pausePolicy {:?}", job.spec.pause_policy)))?;
    line(out, "Attempt", attempt(&status))?;
    line(out, "Times", times(job, &status, now))?;
    if let Some(pod) = &status.runner_pod {
        line(out, "Pod", pod)?;
    }
    if let Some(w) = &status.workflow {
        let state = w.status.as_deref().unwrap_or("no answer yet");
        let paused = if w.is_paused == Some(true) { ", is_paused" } else { "" };
        line(out, "Workflow", format!("{} ({state}{paused})", w.id))?;
    }
    control(out, &status, mode, now)?;
    for condition in status.conditions.iter().filter(|c| matters(c)) {
        let Condition { type_, status, reason, message, .. } = condition;
        line(out, type_, format!("{status}, {reason}: {message}"))?;
    }
    if let Some(error) = &status.error {
        line(out, "Error", format!("{}: {}", error.kind, error.message))?;
    }
    if let Some(value) = &status.result {
        line(out, "Result", result(value))?;
    }
    if !events.is_empty() {
        writeln!(out, "Events:")?;
    }
    for e in &events[events.len().saturating_sub(EVENTS)..] {
        let count = if e.count > 1 { format!(" (x{})", e.count) } else { String::new() };
        writeln!(out, "  {:>5}  {:<7}  {:<14}  {}{count}", age(e.at, now), e.kind, e.reason, e.message)?;
    }
    Ok(())
}

fn line(out: &mut String, name: &str, value: impl Display) -> fmt::Result {
    writeln!(out, "{:<11}{value}", format!("{name}:"))
}

fn word(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

fn attempt(status: &AgentJobStatus) -> String {
    let most = match status.resolved.as_ref() {
        Some(r) if r.execution_mode == ExecutionMode::Direct => " of 1".into(),
        Some(r) if r.retry_policy.maximum_attempts > 0 => format!(" of {}", r.retry_policy.maximum_attempts),
        _ => String::new(),
    };
    match status.attempt {
        Some(n) => format!("{n}{most}"),
        None => "none started yet".into(),
    }
}

fn times(job: &AgentJob, status: &AgentJobStatus, now: Timestamp) -> String {
    let mut parts = Vec::new();
    if let Some(t) = &job.metadata.creation_timestamp {
        parts.push(format!("created {} ago", age(t.0, now)));
    }
    if let Some(t) = &status.start_time {
        parts.push(format!("started {} ago", age(t.0, now)));
    }
    if let Some(t) = &status.completion_time {
        parts.push(format!("ended {} ago", age(t.0, now)));
    }
    parts.join(", ")
}

/// Pause, resume and cancel on their way: a line for each station that they have reached.
fn control(out: &mut String, status: &AgentJobStatus, mode: Option<ExecutionMode>, now: Timestamp) -> fmt::Result {
    let Some(control) = &status.control else { return Ok(()) };
    writeln!(out, "Control:")?;
    let mut station = |name: &str, state: &str, at: Timestamp, more: String| {
        writeln!(out, "  {name:<10} {state:<10} {:>5} ago{more}", age(at, now))
    };
    if let Some(d) = &control.desired {
        station("desired", d.state.as_str(), d.time.0, String::new())?;
    }
    if let Some(s) = control.sent.as_ref().filter(|_| mode != Some(ExecutionMode::Direct)) {
        station("sent", s.state.as_str(), s.time.0, String::new())?;
    }
    if let Some(c) = &control.command {
        let elsewhere = control.desired.as_ref().is_some_and(|d| d.state != c.state && settled(status));
        let from = if elsewhere { "  (from elsewhere: the spec asks for something else)" } else { "" };
        station("command", c.state.as_str(), c.time.0, format!("  #{}{from}", c.seq))?;
    }
    if let Some(c) = &control.confirmed {
        let old = control.command.as_ref().is_some_and(|command| command.seq > c.seq);
        let mut more = format!("  #{}", c.seq);
        if old {
            more += "  (not the newest command)";
        }
        if let Some(problem) = &c.problem {
            more += &format!("  {problem}");
        }
        station("confirmed", &format!("{:?}", c.state), c.time.0, more)?;
    }
    Ok(())
}

/// Whether what the spec desires was sent, so that a command that differs is somebody else's and not one on its way.
fn settled(status: &AgentJobStatus) -> bool {
    let Some(control) = &status.control else { return false };
    let (Some(desired), Some(sent), Some(command)) = (&control.desired, &control.sent, &control.command) else {
        return false;
    };
    desired.state == sent.state && command.time.0 > sent.time.0
}

/// What a reader need not be told: the phase says it, or it is as it should be.
fn matters(c: &Condition) -> bool {
    match c.type_.as_str() {
        conditions::STALLED => c.status == "True",
        conditions::READY => c.status != "True",
        conditions::PAUSED => c.status != "True" && c.reason != "NotPaused",
        _ => false,
    }
}

fn result(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(RESULT) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// How long ago, as kubectl writes it: two units at the most.
pub(super) fn age(at: Timestamp, now: Timestamp) -> String {
    let s = now.as_second().saturating_sub(at.as_second()).max(0);
    match s {
        0..120 => format!("{s}s"),
        120..600 => format!("{}m{}s", s / 60, s % 60),
        600..10_800 => format!("{}m", s / 60),
        10_800..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// One line, for a watch whose output is no terminal.
pub(super) fn summary(job: &AgentJob) -> String {
    let status = job.status.clone().unwrap_or_default();
    let mut text = status.phase.map_or("-".into(), |p| format!("{p:?}"));
    let attempt = status.attempt.unwrap_or(0);
    let _ = write!(text, " attempt={attempt} pod={}", status.runner_pod.as_deref().unwrap_or("-"));
    if let Some(control) = &status.control {
        let state = |s: Option<DesiredState>| s.map_or("-", DesiredState::as_str);
        let _ = write!(text, " desired={}", state(control.desired.as_ref().map(|d| d.state)));
        let _ = write!(text, " sent={}", state(control.sent.as_ref().map(|s| s.state)));
        let command = control.command.as_ref();
        let _ = write!(text, " command={}#{}", state(command.map(|c| c.state)), command.map_or(0, |c| c.seq));
        if let Some(c) = &control.confirmed {
            let _ = write!(text, " confirmed={:?}#{}", c.state, c.seq);
        }
    }
    if let Some(error) = &status.error {
        let _ = write!(text, " error={}", error.kind);
    }
    text
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
