//! Compares what was asked for, what koco said and what the agents entered, and finds each promise that was broken. Pure:
//! it is tested here, with a broken promise of each kind.

use std::{collections::BTreeMap, fmt};

use koco::api::{AgentRun, DesiredState, DisruptionPolicy, Phase, TerminationType};
use serde_json::Value;

use super::{
    ledger::{Entry, What},
    plan::{JobPlan, MAXIMUM_ATTEMPTS, Request},
};

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    Lost,
    RunTwice,
    Overlapping,
    FalseSuccess,
    FalsePause,
    FalseEnd,
    Leaked,
}

pub const PROMISES: [Promise; 7] = [
    Promise::Lost,
    Promise::RunTwice,
    Promise::Overlapping,
    Promise::FalseSuccess,
    Promise::FalsePause,
    Promise::FalseEnd,
    Promise::Leaked,
];

impl Promise {
    pub fn explained(self) -> &'static str {
        match self {
            Self::Lost => "jobs that never ended, ended otherwise than anything explains, or lost their result",
            Self::RunTwice => "starts of an agent that the record does not explain",
            Self::Overlapping => "agents of one job at the same time",
            Self::FalseSuccess => "successes of agents that did not end with success",
            Self::FalsePause => "entries of agents that were said to be paused",
            Self::FalseEnd => "entries of agents of jobs that were said to have ended",
            Self::Leaked => "pods, runs, workflows or processes that were left",
        }
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub promise: Promise,
    /// The job, or the object that was left.
    pub of: String,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.promise, self.of, self.text)
    }
}

/// All that is known of one job. Times are milliseconds since 1970.
#[derive(Clone, Debug)]
pub struct Story {
    pub plan: JobPlan,
    /// What was asked, and when that began.
    pub asked: Vec<(u64, Request)>,
    /// The last that was seen of it.
    pub phase: Option<Phase>,
    pub result: Option<Value>,
    /// When it was first seen in a terminal phase.
    pub ended: Option<u64>,
    /// When it was first seen to be gone.
    pub gone: Option<u64>,
    /// When it was seen to be paused.
    pub paused: Vec<u64>,
    /// By number, each as it was seen last.
    pub runs: BTreeMap<i32, AgentRun>,
    pub entries: Vec<Entry>,
}

impl Story {
    fn asked_for(&self, request: Request) -> bool {
        self.asked.iter().any(|(_, r)| *r == request)
    }

    fn deleted(&self) -> bool {
        self.asked_for(Request::Delete)
    }

    fn starts(&self) -> Vec<(&Entry, i32, bool)> {
        let start = |e: &'_ Entry| match e.what {
            What::Start { attempt, resumed } => Some((attempt, resumed)),
            _ => None,
        };
        self.entries.iter().filter_map(|e| start(e).map(|(attempt, resumed)| (e, attempt, resumed))).collect()
    }

    /// What the agent in a pod entered about its success.
    fn done(&self, pod: &str) -> Option<&str> {
        self.entries.iter().filter(|e| e.pod == pod).find_map(|e| match &e.what {
            What::Done(nonce) => Some(nonce.as_str()),
            _ => None,
        })
    }
}

/// Where a rule says what it finds.
type Say<'s> = &'s mut dyn FnMut(Promise, String);
type Rule = fn(&Story, Say<'_>);

/// What is wrong with a job.
pub fn judge(story: &Story) -> Vec<Violation> {
    let mut found = Vec::new();
    let rules: [Rule; 6] = [lost, run_twice, overlapping, false_success, false_pause, false_end];
    for rule in rules {
        rule(story, &mut |promise, text| found.push(Violation { promise, of: story.plan.name.clone(), text }));
    }
    found
}

fn lost(story: &Story, say: Say<'_>) {
    if story.deleted() {
        if story.gone.is_none() {
            say(Promise::Lost, "it was deleted, and is still there".into());
        }
        return;
    }
    if story.gone.is_some() && story.ended.is_none() {
        return say(Promise::Lost, "it is gone, and was not deleted".into());
    }
    match story.phase {
        Some(Phase::Succeeded) => {
            let last = story.runs.values().rev().find(|run| !run.spec.identity.tombstone);
            let pod = last.map(|run| run.spec.identity.pod_name.clone());
            let nonce = pod.as_deref().and_then(|pod| story.done(pod));
            let kept = match story.plan.large_result {
                true => story.result.as_ref().is_some_and(|r| r["truncated"] == true),
                false => story.result.as_ref().and_then(|r| r["nonce"].as_str()) == nonce,
            };
            if !kept {
                say(Promise::Lost, format!("its result is {:?}, its agent's was {nonce:?}", story.result));
            }
        }
        Some(Phase::Failed) => {
            let failed = story.runs.values().filter_map(AgentRun::termination);
            if !failed.into_iter().any(|t| t.kind == TerminationType::Failed && t.started) {
                let ends = story.runs.values().filter_map(|run| run.termination()?.error.as_ref());
                let kinds: Vec<_> = ends.map(|error| &error.kind).collect();
                say(Promise::Lost, format!("it failed, and no run of it did: {kinds:?}"));
            }
        }
        Some(Phase::Cancelled) if story.asked_for(Request::Want(DesiredState::Cancelled)) => {}
        other => say(Promise::Lost, format!("it ended as {other:?}")),
    }
}

/// Each start is that of a run, each run starts its agent once, and its successor is explained by how it ended.
fn run_twice(story: &Story, say: Say<'_>) {
    let starts = story.starts();
    for (n, (start, ..)) in starts.iter().enumerate() {
        if starts[..n].iter().any(|(other, ..)| other.pod == start.pod) {
            say(Promise::RunTwice, format!("its agent started twice in {}", start.pod));
        }
    }
    // The last that was seen of a deleted job's runs need not be their end.
    if story.deleted() {
        return;
    }
    for (start, attempt, resumed) in &starts {
        let run = story.runs.values().find(|run| run.spec.identity.pod_name == start.pod);
        let Some(run) = run else {
            say(Promise::RunTwice, format!("its agent started in {}, which is no run's", start.pod));
            continue;
        };
        let identity = &run.spec.identity;
        if (identity.attempt, identity.resumed) != (*attempt, *resumed) {
            say(Promise::RunTwice, format!("its agent in {} had attempt {attempt}, resumed: {resumed}", start.pod));
        }
        if run.termination().is_some_and(|t| !t.started) {
            say(Promise::RunTwice, format!("its agent started in {}, and is recorded as not started", start.pod));
        }
    }
    // A tombstone was created closed: there is no pod of it.
    let runs: Vec<&AgentRun> = story.runs.values().filter(|run| !run.spec.identity.tombstone).collect();
    for pair in runs.windows(2) {
        if let Err(why) = explains(pair[0], pair[1]) {
            say(Promise::RunTwice, format!("run {} follows run {}: {why}", pair[1].number(), pair[0].number()));
        }
    }
    let ignored = runs.iter().filter(|run| is_ignored(run, story.plan.disruption_policy)).count();
    let attempt = runs.last().map_or(0, |run| run.spec.identity.attempt);
    if attempt > MAXIMUM_ATTEMPTS + ignored as i32 {
        say(Promise::RunTwice, format!("attempt {attempt}, with {ignored} disruptions that don't count"));
    }
}

/// Whether a run's attempt does not count against the maximum.
fn is_ignored(run: &AgentRun, policy: DisruptionPolicy) -> bool {
    let error = run.termination().and_then(|end| end.error.as_ref());
    policy == DisruptionPolicy::Ignore && error.is_some_and(|e| e.kind == "Disrupted")
}

/// Whether the end of a run is a reason for the next one.
fn explains(run: &AgentRun, next: &AgentRun) -> Result<(), String> {
    let Some(end) = run.termination() else { return Err("it has not ended".into()) };
    let same = run.spec.identity.attempt == next.spec.identity.attempt;
    let error = end.error.as_ref().map_or("", |e| e.kind.as_str());
    let ok = match end.kind {
        TerminationType::Evicted => same && next.spec.identity.resumed,
        TerminationType::Failed if !end.started => same,
        TerminationType::Failed => run.spec.identity.attempt + 1 == next.spec.identity.attempt && !end.non_retryable,
        TerminationType::Succeeded | TerminationType::Cancelled => false,
    };
    if ok { Ok(()) } else { Err(format!("{:?} {error}, started: {}, the same attempt: {same}", end.kind, end.started)) }
}

fn overlapping(story: &Story, say: Say<'_>) {
    let mut spans: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for entry in &story.entries {
        let span = spans.entry(&entry.pod).or_insert((entry.at, entry.at));
        *span = (span.0.min(entry.at), span.1.max(entry.at));
    }
    let mut spans: Vec<_> = spans.into_iter().map(|(pod, (from, to))| (from, to, pod)).collect();
    spans.sort();
    for pair in spans.windows(2) {
        if pair[1].0 <= pair[0].1 {
            let by = pair[0].1 - pair[1].0;
            say(Promise::Overlapping, format!("its agents in {} and {} for {by} ms", pair[0].2, pair[1].2));
        }
    }
}

fn false_success(story: &Story, say: Say<'_>) {
    for run in story.runs.values() {
        let pod = &run.spec.identity.pod_name;
        let success = run.termination().is_some_and(|t| t.kind == TerminationType::Succeeded);
        if success && story.done(pod).is_none() {
            say(Promise::FalseSuccess, format!("run {}, and its agent did not end with success", run.number()));
        }
    }
    let succeeded = |run: &AgentRun| run.termination().is_some_and(|t| t.kind == TerminationType::Succeeded);
    if story.phase == Some(Phase::Succeeded) && !story.runs.values().any(succeeded) {
        say(Promise::FalseSuccess, "no run of it succeeded".into());
    }
}

/// Whether an agent makes this entry because its pod is being ended: somebody has deleted it, or drained the node. A frozen
/// agent is resumed for its SIGTERM, maybe between its look for that and an entry.
fn ends(story: &Story, entry: &Entry) -> bool {
    let of_pod: Vec<_> = story.entries.iter().filter(|e| e.pod == entry.pod).collect();
    let until_next = of_pod.iter().position(|e| std::ptr::eq(*e, entry)).map_or(0, |at| at + 2);
    of_pod.iter().take(until_next).any(|e| e.what == What::Sigterm)
}

/// From the moment when it was seen to be paused until the next that was asked of it. What was seen after that says
/// nothing: the next may have been asked, and not heard, while the API server was away.
fn false_pause(story: &Story, say: Say<'_>) {
    for paused in &story.paused {
        let (before, after) = story.asked.split_at(story.asked.partition_point(|(at, _)| at <= paused));
        if before.last().map(|(_, request)| *request) != Some(Request::Want(DesiredState::Paused)) {
            continue;
        }
        let next = after.first().map_or(u64::MAX, |(at, _)| *at);
        if let Some(entry) = story.entries.iter().find(|e| e.at > *paused && e.at < next && !ends(story, e)) {
            let late = entry.at - paused;
            say(Promise::FalsePause, format!("{:?} in {}, {late} ms after it was paused", entry.what, entry.pod));
        }
    }
}

/// A deleted job is gone before its agent ends: garbage collection ends the pod. What then stays is found as leaked.
fn false_end(story: &Story, say: Say<'_>) {
    let Some(end) = story.ended else { return };
    if let Some(entry) = story.entries.iter().find(|e| e.at > end) {
        say(Promise::FalseEnd, format!("{:?} in {}, {} ms after it ended", entry.what, entry.pod, entry.at - end));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::plan::Plan;

    /// A job whose agent is paused and resumed, fails, and then succeeds.
    fn story() -> Story {
        let mut plan = Plan::new(1, Duration::from_secs(60)).jobs.remove(0);
        plan.large_result = false;
        plan.disruption_policy = DisruptionPolicy::Count;
        Story {
            plan,
            asked: vec![(30, Request::Want(DesiredState::Paused)), (50, Request::Want(DesiredState::Running))],
            phase: Some(Phase::Succeeded),
            result: Some(json!({ "nonce": "n" })),
            ended: Some(200),
            gone: None,
            paused: vec![35],
            runs: [
                (1, run(1, 1, json!({ "type": "Failed", "started": true }))),
                (2, run(2, 2, json!({ "type": "Succeeded", "started": true }))),
            ]
            .into(),
            entries: entries("10 p1 start 1 \n20 p1 tick 1\n60 p1 tick 2\n70 p1 fail\n110 p2 start 2 \n150 p2 done n"),
        }
    }

    fn run(number: i32, attempt: i32, mut termination: Value) -> AgentRun {
        termination["source"] = json!("Runner");
        termination["time"] = json!("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": format!("j-{number}") },
            "spec": { "identity": {
                "jobName": "j", "jobUID": "u", "number": number, "attempt": attempt, "podName": format!("p{number}"),
                "executionMode": "Direct", "heartbeat": "10s",
            } },
            "status": { "termination": termination },
        }))
        .expect("a run")
    }

    fn entries(text: &str) -> Vec<Entry> {
        text.lines().map(|line| crate::ledger::parse(line).expect("an entry")).collect()
    }

    fn promises(story: &Story) -> Vec<Promise> {
        let mut all: Vec<_> = judge(story).into_iter().map(|v| v.promise).collect();
        all.dedup();
        all
    }

    #[test]
    fn nothing_is_wrong_with_a_job_that_went_well() {
        assert_eq!(judge(&story()), []);
        let deleted =
            Story { asked: vec![(90, Request::Delete)], paused: vec![], ended: None, gone: Some(200), ..story() };
        assert_eq!(judge(&deleted), []);
    }

    #[test]
    fn a_job_is_lost_without_an_end_or_a_result() {
        assert_eq!(promises(&Story { phase: Some(Phase::Running), ended: None, ..story() }), [Promise::Lost]);
        assert_eq!(promises(&Story { phase: Some(Phase::Cancelled), ..story() }), [Promise::Lost]);
        assert_eq!(promises(&Story { result: None, ..story() }), [Promise::Lost]);
        assert_eq!(promises(&Story { asked: vec![(9, Request::Delete)], paused: vec![], ..story() }), [Promise::Lost]);
        assert_eq!(promises(&Story { ended: None, gone: Some(200), ..story() }), [Promise::Lost]);
        let mut failed = Story { phase: Some(Phase::Failed), ..story() };
        failed.runs.remove(&1);
        failed.entries.retain(|e| e.pod == "p2");
        assert_eq!(promises(&failed), [Promise::Lost]);
    }

    #[test]
    fn a_start_that_the_record_does_not_explain_is_one_too_many() {
        let with = |line: &str| Story { entries: [story().entries, entries(line)].concat(), ..story() };
        assert_eq!(promises(&with("115 p2 start 2 ")), [Promise::RunTwice], "twice in one pod");
        assert_eq!(promises(&with("160 p3 start 3 ")), [Promise::RunTwice], "in no run's pod");
        let recorded = |end| Story { runs: [(1, run(1, 1, end)), (2, story().runs[&2].clone())].into(), ..story() };
        assert_eq!(promises(&recorded(json!({ "type": "Failed", "started": false }))), [Promise::RunTwice]);
        assert_eq!(promises(&recorded(json!({ "type": "Evicted", "started": true }))), [Promise::RunTwice]);
        let fatal = json!({ "type": "Failed", "started": true, "nonRetryable": true });
        assert_eq!(promises(&recorded(fatal)), [Promise::RunTwice]);
        let mut tombstone = story();
        tombstone.runs.insert(3, run(3, 2, json!({ "type": "Cancelled", "started": false })));
        assert!(promises(&tombstone).contains(&Promise::RunTwice));
        tombstone.runs.get_mut(&3).expect("a run").spec.identity.tombstone = true;
        assert_eq!(promises(&tombstone), [], "it has no pod");
    }

    #[test]
    fn two_agents_may_not_overlap() {
        let entries = [story().entries, entries("112 p1 tick 3")].concat();
        assert_eq!(promises(&Story { entries, ..story() }), [Promise::Overlapping]);
    }

    #[test]
    fn a_success_is_an_agents_own() {
        let mut story = story();
        story.entries.retain(|e| !matches!(e.what, What::Done(_)));
        assert_eq!(promises(&story), [Promise::Lost, Promise::FalseSuccess]);
    }

    #[test]
    fn a_paused_agent_enters_nothing() {
        let ending = |lines: &str| Story { entries: [story().entries, entries(lines)].concat(), ..story() };
        assert_eq!(promises(&ending("40 p1 tick 2")), [Promise::FalsePause]);
        assert_eq!(judge(&Story { paused: vec![55], ..story() }), [], "it was told to go on before");
        assert_eq!(promises(&ending("40 p1 sigterm\n41 p1 tick 2")), [], "it ignores it");
        assert_eq!(promises(&ending("40 p1 tick 2\n41 p1 sigterm")), []);
        assert_eq!(promises(&ending("40 p1 tick 2\n41 p1 tick 3\n42 p1 sigterm")), [Promise::FalsePause]);
        assert_eq!(promises(&ending("40 p1 tick 2\n115 p2 sigterm")), [Promise::FalsePause], "another one's");
    }

    #[test]
    fn after_the_end_there_is_no_entry() {
        assert_eq!(promises(&Story { ended: Some(120), ..story() }), [Promise::FalseEnd]);
    }
}
