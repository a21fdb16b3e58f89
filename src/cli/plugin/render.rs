//! A job as text: pure, from the object, its runs, its events and the time. Used by [`super::status`], and by what waits.
//! All of it passes [`plain`], so that no field of an object can forge a line.

use std::fmt::{Display, Write};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::ResourceExt;

use super::{
    events::Happened,
    output::reference,
    text::{self, plain},
    watch,
};
use crate::{
    api::{
        Acknowledged, AgentJob, AgentJobStatus, AgentProgress, AgentRun, DesiredState, ExecutionMode, RawJson, Reason,
        RunnerState, Termination, conditions,
    },
    platform::text::age,
};

/// How many events are shown.
const EVENTS: usize = 10;
/// How many runs are shown.
const RUNS: usize = 10;
/// The longest result that is shown whole, in characters.
const RESULT: usize = 400;
/// How much of an agent's message is shown beside a bar, in characters: the line has to fit a terminal.
const MESSAGE: usize = 40;

/// Lines of escaped text.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, line: impl AsRef<str>) {
        self.0.push_str(plain(line.as_ref()).trim_end());
        self.0.push('\n');
    }

    fn field(&mut self, name: &str, value: impl Display) {
        self.add(format!("{:<11}{value}", format!("{name}:")));
    }
}

/// The whole view. `runs` are those of this job, by number.
pub(super) fn view(job: &AgentJob, runs: &[AgentRun], events: &[Happened], now: Timestamp) -> String {
    let mut out = Lines::default();
    let status = job.status.clone().unwrap_or_default();
    let meta = &job.metadata;
    out.field("Job", format!("{}/{}", word(&meta.namespace), word(&meta.name)));
    let phase = status.phase.map_or("not seen by the operator yet".into(), |p| format!("{p:?}"));
    out.field("Phase", phase);
    let mode = status.resolved.as_ref().map(|r| r.execution_mode).or(job.spec.execution_mode);
    out.field("Mode", mode.map_or("-".into(), |m| format!("{m:?}, pausePolicy {:?}", job.spec.pause_policy())));
    if let Some(template) = &job.spec.template_ref {
        out.field("Template", template);
    }
    out.field("Attempt", attempt(&status));
    out.field("Times", times(job, &status, now));
    if let Some(told) = &status.progress {
        out.field("Progress", progress(told, now));
    }
    if let Some(used) = used(&status) {
        out.field("Used", used);
    }
    if let Some(pod) = &status.runner_pod {
        out.field("Pod", pod);
    }
    if let Some(w) = &status.workflow {
        let state = w.status.as_deref().unwrap_or("no answer yet");
        let paused = if w.is_paused == Some(true) { ", is_paused" } else { "" };
        out.field("Workflow", format!("{} ({state}{paused})", w.id));
    }
    if let Some(retry) = status.retry.as_ref().and_then(|r| r.retry_after.as_ref()).filter(|t| t.0 > now) {
        out.field("Next run", format!("in {}", age(now, retry.0)));
    }
    control(&mut out, &status, runs.last(), mode, now);
    for condition in status.conditions.iter().filter(|c| matters(c)) {
        let Condition { type_, status, reason, message, .. } = condition;
        out.field(type_, format!("{status}, {reason}: {message}"));
    }
    if let Some(error) = &status.error {
        out.field("Error", format!("{}: {}", error.kind, error.message));
    }
    if let Some(value) = &status.result {
        out.field("Result", result(value));
    }
    table(&mut out, runs, now);
    if !events.is_empty() {
        out.add("Events:");
    }
    for e in &events[events.len().saturating_sub(EVENTS)..] {
        let count = if e.count > 1 { format!(" (x{})", e.count) } else { String::new() };
        out.add(format!("  {:>5}  {:<7}  {:<14}  {}{count}", age(e.at, now), e.kind, e.reason, e.message));
    }
    out.0
}

fn word(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

fn attempt(status: &AgentJobStatus) -> String {
    let most = match status.resolved.as_ref() {
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

/// What the agent says of itself.
fn progress(told: &AgentProgress, now: Timestamp) -> String {
    let percent = told.percent.map(|percent| format!("{percent}%"));
    let message = told.message.clone().filter(|message| !message.is_empty());
    let said: Vec<_> = percent.into_iter().chain(message).collect();
    format!("{} ({} ago)", if said.is_empty() { "-".into() } else { said.join(", ") }, age(told.time.0, now))
}

/// A job that is waited for, as one short line: its phase, and how far its agent says that it is.
pub(super) fn waited_for(job: &AgentJob) -> String {
    let mut text = format!("waiting for {}: {}", reference(&job.name_any()), watch::phase(job).as_str());
    let Some(told) = job.status.as_ref().and_then(|status| status.progress.as_ref()) else { return text };
    if let Some(percent) = told.percent {
        // Writing to a string does not fail.
        let _ = write!(text, " {} {percent}%", bar(percent));
    }
    if let Some(message) = told.message.as_ref().filter(|message| !message.is_empty()) {
        let shown: String = message.chars().take(MESSAGE).collect();
        let _ = write!(text, " {shown}{}", if shown.len() < message.len() { "…" } else { "" });
    }
    text
}

/// A bar of twenty cells.
fn bar(percent: i32) -> String {
    const CELLS: usize = 20;
    let full = usize::try_from(percent.clamp(0, 100)).unwrap_or(0) * CELLS / 100;
    format!("[{}{}]", "#".repeat(full), "-".repeat(CELLS - full))
}

/// What the job's agents report to have used, if anything.
fn used(status: &AgentJobStatus) -> Option<String> {
    let parts = status.used().usage.words();
    (!parts.is_empty()).then(|| format!("{}, by its own report", parts.join(", ")))
}

/// A row for each run: which attempt it is for, its pod, and how it ended.
fn table(out: &mut Lines, runs: &[AgentRun], now: Timestamp) {
    const HEAD: [&str; 8] = ["RUN", "ATTEMPT", "POD", "ENDED", "EXIT", "SOURCE", "STARTED", "DURATION"];
    if runs.is_empty() {
        return;
    }
    let first = runs.len().saturating_sub(RUNS);
    out.add(if first > 0 { format!("Runs (the newest {RUNS} of {}):", runs.len()) } else { "Runs:".into() });
    let mut rows = vec![HEAD.map(str::to_string)];
    rows.extend(runs[first..].iter().map(|run| row(run, now)));
    for line in text::table(&rows) {
        out.add(format!("  {line}"));
    }
}

fn row(run: &AgentRun, now: Timestamp) -> [String; 8] {
    let id = &run.spec.identity;
    let end = run.termination();
    let none = || "-".to_string();
    let attempt = if id.resumed { format!("{} (resumed)", id.attempt) } else { id.attempt.to_string() };
    let started = run.spec.grant.as_ref().filter(|_| run.may_have_started());
    [
        id.number.to_string(),
        attempt,
        if id.tombstone { none() } else { id.pod_name.clone() },
        ended(run, end),
        end.and_then(|t| t.exit_code).map_or_else(none, |code| code.to_string()),
        end.map_or_else(none, |t| format!("{:?}", t.source)),
        started.map_or_else(none, |grant| format!("{} ago", age(grant.time.0, now))),
        end.and_then(|t| t.duration.clone()).unwrap_or_else(none),
    ]
}

/// How a run ended, or its state.
fn ended(run: &AgentRun, end: Option<&Termination>) -> String {
    let status = run.status.as_ref();
    match end {
        Some(Termination { kind, error: Some(error), .. }) => format!("{kind:?} ({})", error.kind),
        Some(end) => format!("{:?}", end.kind),
        None if run.spec.identity.tombstone => "never created, or deleted".into(),
        None if status.is_some_and(|s| s.create_error.is_some()) => "not yet (the pod is refused)".into(),
        None if status.is_some_and(|s| s.unresponsive_since.is_some()) => "not yet (its runner is unresponsive)".into(),
        None if !run.is_ready() => "not yet (no runner)".into(),
        None if run.spec.grant.is_none() => "not yet (no start grant)".into(),
        None => format!("not yet ({:?})", doing(run)),
    }
}

/// The state of a granted run's agent. Its start is not recorded, so a runner that was waiting without a pause or
/// cancel counts as running.
fn doing(run: &AgentRun) -> RunnerState {
    let told = run.spec.command.as_ref().map_or(DesiredState::Running, |c| c.state);
    match answer(run).map(|a| a.state) {
        None => RunnerState::Running,
        Some(RunnerState::Waiting) if told == DesiredState::Running => RunnerState::Running,
        Some(state) => state,
    }
}

/// A runner's acknowledgement, if it is of a command.
fn answer(run: &AgentRun) -> Option<&Acknowledged> {
    run.acknowledged().filter(|a| run.spec.command.is_some() && a.generation > 0)
}

/// Pause, resume and cancel in progress: a line for each step done.
fn control(
    out: &mut Lines,
    status: &AgentJobStatus,
    run: Option<&AgentRun>,
    mode: Option<ExecutionMode>,
    now: Timestamp,
) {
    let control = status.control.clone().unwrap_or_default();
    let (command, answer) = (run.and_then(|r| r.spec.command.as_ref()), run.and_then(answer));
    if control == Default::default() && command.is_none() {
        return;
    }
    out.add("Control:");
    let mut station = |name: &str, state: &str, at: Timestamp, more: String| {
        out.add(format!("  {name:<12}  {state:<9}  {:>5} ago{more}", age(at, now)));
    };
    if let Some(d) = &control.desired {
        station("desired", d.state.as_str(), d.time.0, String::new());
    }
    if let Some(s) = control.sent.as_ref().filter(|_| mode != Some(ExecutionMode::Direct)) {
        station("sent", s.state.as_str(), s.time.0, String::new());
    }
    if let Some(c) = command {
        // Only if different: what the spec desires was sent before.
        let sent = control.sent.as_ref().filter(|s| s.time.0 < c.time.0).map(|s| s.state);
        let desired = control.desired.as_ref().map(|d| d.state);
        let elsewhere = desired.is_some_and(|d| d != c.state) && sent == desired;
        let from = if elsewhere { "  (from a signal: the spec desires another state)" } else { "" };
        station("command", c.state.as_str(), c.time.0, format!("  #{}{from}", c.generation));
    }
    if let Some(a) = answer {
        let old = command.is_some_and(|c| c.generation > a.generation);
        let mut more = format!("  #{}", a.generation);
        if old {
            more += "  (not the newest command)";
        }
        if let Some(problem) = &a.problem {
            more += &format!("  {problem}");
        }
        station("acknowledged", &format!("{:?}", a.state), a.time.0, more);
    }
}

/// Conditions that need not be shown: the phase implies them, or they are normal.
fn matters(c: &Condition) -> bool {
    match c.type_.as_str() {
        _ if c.reason == Reason::Failed.as_str() => false,
        conditions::STALLED => c.status == "True",
        conditions::READY => c.status != "True",
        conditions::PAUSED => c.status != "True" && c.reason != "NotPaused",
        _ => false,
    }
}

fn result(value: &RawJson) -> String {
    let text = value.get();
    match text.char_indices().nth(RESULT) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.into(),
    }
}

/// One line, for a watch without a terminal. `run` is the newest.
pub(super) fn summary(job: &AgentJob, run: Option<&AgentRun>) -> String {
    let status = job.status.clone().unwrap_or_default();
    let mut text = status.phase.map_or("-".into(), |p| format!("{p:?}"));
    let attempt = status.attempt.unwrap_or(0);
    // Writing to a string does not fail.
    let _ = write!(text, " attempt={attempt} pod={}", status.runner_pod.as_deref().unwrap_or("-"));
    if let Some(percent) = status.progress.as_ref().and_then(|told| told.percent) {
        let _ = write!(text, " progress={percent}%");
    }
    if let Some(control) = &status.control {
        let state = |s: Option<DesiredState>| s.map_or("-", DesiredState::as_str);
        let _ = write!(text, " desired={}", state(control.desired.as_ref().map(|d| d.state)));
        let _ = write!(text, " sent={}", state(control.sent.as_ref().map(|s| s.state)));
    }
    if let Some(run) = run {
        let _ = write!(text, " run={}", run.number());
        if let Some(c) = &run.spec.command {
            let _ = write!(text, " command={}#{}", c.state.as_str(), c.generation);
        }
        if let Some(a) = answer(run) {
            let _ = write!(text, " acknowledged={:?}#{}", a.state, a.generation);
        }
    }
    if let Some(error) = &status.error {
        let _ = write!(text, " error={}", error.kind);
    }
    plain(&text).into_owned()
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
