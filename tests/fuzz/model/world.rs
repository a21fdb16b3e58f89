//! The world around the controller: the API server's objects with their versions, the node with the processes of pods,
//! and the runners, who reach the API server through a gateway.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use koco::{
    api::{Acknowledged, AgentJob, AgentRun, DesiredState, ErrorStatus, RunnerState, TerminationType, names},
    lifecycle,
    pods::{AgentContainer, PodView},
    protocol::runner::AgentEnd,
};
use serde_json::json;

/// How long a process may go on once its pod is to end.
const GRACE: i64 = 30;

/// A pod on the node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its object, unless it was deleted by force.
    pub object: Option<PodView>,
    /// Whether its runner lives.
    pub runner: bool,
    /// Whether its agent was started.
    pub started: bool,
    /// Whether its agent lives.
    pub agent: bool,
    /// Whether its agent stands still.
    pub frozen: bool,
    /// When the node ends it at the latest.
    pub killed_at: Option<i64>,
    born: u64,
}

/// What a controller may have in its caches.
#[derive(Clone)]
pub struct Objects {
    pub job: AgentJob,
    pub runs: BTreeMap<i32, AgentRun>,
    pub pods: BTreeMap<String, PodView>,
}

pub struct World {
    pub job: AgentJob,
    pub runs: BTreeMap<i32, AgentRun>,
    /// By the pod's name.
    pub pods: BTreeMap<String, Pod>,
    /// Earlier states of the objects, the newest last.
    past: Vec<Objects>,
    pub now: i64,
    version: u64,
    /// How many starts of an agent began a new attempt.
    pub attempts: i32,
    /// Whether somebody deleted a run: then the record of an attempt may be gone, too.
    pub tampered: bool,
}

impl World {
    pub fn new(spec: &serde_json::Value) -> Self {
        let mut job: AgentJob = serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "name": "a", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "1",
                "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "entryPoint": "e", "executionMode": "Direct",
                "template": { "spec": { "containers": [{ "name": "agent" }] } } },
        }))
        .expect("a job");
        let mut whole = serde_json::to_value(&job.spec).expect("JSON");
        json_patch::merge(&mut whole, spec);
        job.spec = serde_json::from_value(whole).expect("a spec");
        let now = job.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let (runs, pods) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self { job, runs, pods, past: vec![], now, version: 1, attempts: 0, tampered: false };
        world.remember();
        world
    }

    pub fn time(&self) -> Time {
        Time(Timestamp::from_second(self.now).expect("a time"))
    }

    fn remember(&mut self) {
        let objects = self.pods.iter().filter_map(|(name, pod)| Some((name.clone(), pod.object.clone()?)));
        self.past.push(Objects { job: self.job.clone(), runs: self.runs.clone(), pods: objects.collect() });
    }

    /// The objects as they were so many changes ago.
    pub fn earlier(&self, ago: usize) -> &Objects {
        &self.past[(self.past.len() - 1).saturating_sub(ago)]
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// A write of the job, if `read` is its newest version.
    pub fn put_job(&mut self, read: &AgentJob, change: impl FnOnce(&mut AgentJob)) -> bool {
        if read.metadata.resource_version != self.job.metadata.resource_version {
            return false;
        }
        change(&mut self.job);
        self.job.metadata.resource_version = Some(self.next_version());
        self.remember();
        true
    }

    /// A run's creation; the one of that name if there is one, and whether it is new.
    pub fn create_run(&mut self, mut run: AgentRun) -> (AgentRun, bool) {
        let number = run.number();
        if let Some(there) = self.runs.get(&number) {
            return (there.clone(), false);
        }
        let version = self.next_version();
        run.metadata.uid = Some(format!("r{number}-{version}"));
        run.metadata.resource_version = Some(version);
        run.metadata.creation_timestamp = Some(self.time());
        assert_eq!(run.name(), names::run("a", "u", number));
        self.runs.insert(number, run.clone());
        self.remember();
        (run, true)
    }

    /// A write as [`koco::runs::Runs`] makes it: decided on the version that is known, and again on the newest after a
    /// conflict; never of a closed run. `None` if the run is gone.
    pub fn modify_run(&mut self, known: &AgentRun, change: impl Fn(&mut AgentRun)) -> Option<AgentRun> {
        for current in [Some(known.clone()), self.runs.get(&known.number()).cloned()] {
            let current = current?;
            let mut new = current.clone();
            change(&mut new);
            if current.is_closed() || (&new.spec, &new.status) == (&current.spec, &current.status) {
                return Some(current);
            }
            let newest = self.runs.get(&known.number());
            if newest.is_none_or(|n| n.metadata.resource_version != current.metadata.resource_version) {
                continue;
            }
            new.metadata.resource_version = Some(self.next_version());
            self.runs.insert(new.number(), new.clone());
            self.remember();
            return Some(new);
        }
        None
    }

    /// Garbage collection deletes the pod of a run that is deleted.
    pub fn delete_run(&mut self, uid: &str) {
        let Some(number) = self.runs.values().find(|r| r.uid() == uid).map(AgentRun::number) else { return };
        self.runs.remove(&number);
        let of = |p: &Pod| p.object.as_ref().is_some_and(|o| o.run_uid.as_deref() == Some(uid));
        let pod = self.pods.values().find(|p| of(p)).and_then(|p| p.object.clone());
        self.remember();
        if let Some(pod) = pod {
            self.delete_pod(&pod.name, &pod.uid);
        }
    }

    pub fn create_pod(&mut self, run: &AgentRun) {
        let name = run.spec.identity.pod_name.clone();
        if self.pods.get(&name).is_some_and(|p| p.object.is_some()) {
            return;
        }
        let uid = format!("p{}", self.next_version());
        let (run_uid, created) = (Some(run.uid().to_string()), Some(self.time()));
        let object = PodView { name: name.clone(), uid, run_uid, created, ..PodView::default() };
        // A second pod of this name is another process: the one before is tracked on.
        if let Some(before) = self.pods.remove(&name) {
            self.pods.insert(format!("{name} before {}", object.uid), before);
        }
        let pod = Pod {
            object: Some(object),
            runner: true,
            started: false,
            agent: false,
            frozen: false,
            killed_at: None,
            born: self.version,
        };
        self.pods.insert(name, pod);
        self.remember();
    }

    /// The names of the pods, the newest first.
    pub fn newest_pods(&self) -> Vec<String> {
        let mut names: Vec<_> = self.pods.iter().map(|(name, pod)| (pod.born, name.clone())).collect();
        names.sort_by_key(|(born, _)| std::cmp::Reverse(*born));
        names.into_iter().map(|(_, name)| name).collect()
    }

    /// With its grace period.
    pub fn delete_pod(&mut self, name: &str, uid: &str) {
        let now = self.now;
        let Some(pod) = self.pods.get_mut(name) else { return };
        let Some(object) = pod.object.as_mut().filter(|o| o.uid == uid && !o.deleting()) else { return };
        object.deletion_deadline = Some(Time(Timestamp::from_second(now + GRACE).expect("a time")));
        pod.killed_at = Some(now + GRACE);
        self.remember();
    }

    /// By force: nobody waits for its processes.
    pub fn forget_pod(&mut self, name: &str) {
        let now = self.now;
        let Some(pod) = self.pods.get_mut(name).filter(|p| p.object.is_some()) else { return };
        pod.object = None;
        pod.killed_at.get_or_insert(now + GRACE);
        self.remember();
    }

    /// Time passes, and the kubelet ends what is to end.
    pub fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        let late: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, p)| p.killed_at.is_some_and(|at| at <= self.now))
            .map(|(n, _)| n.clone())
            .collect();
        for name in late {
            self.exit(&name);
            self.pods.remove(&name);
            self.remember();
        }
    }

    /// The pod's container ends.
    pub fn exit(&mut self, name: &str) {
        let Some(pod) = self.pods.get_mut(name).filter(|p| p.runner) else { return };
        (pod.runner, pod.agent) = (false, false);
        if let Some(object) = &mut pod.object {
            object.agent = AgentContainer::Ended { exit_code: 1, reason: "Error".into(), message: None };
            object.ended = true;
        }
        self.remember();
    }

    /// The pod's run, if it is there and its runner lives.
    fn run_of(&self, name: &str) -> Option<AgentRun> {
        let pod = self.pods.get(name).filter(|p| p.runner)?;
        let uid = pod.object.as_ref().and_then(|o| o.run_uid.clone());
        let of = |r: &&AgentRun| r.spec.identity.pod_name == name && (uid.is_none() || uid.as_deref() == Some(r.uid()));
        self.runs.values().find(of).cloned()
    }

    /// The runner registers, and starts the agent if nothing speaks against it.
    pub fn start(&mut self, name: &str) {
        let Some(run) = self.run_of(name) else { return };
        let status = self.job.status.as_ref();
        let over = status.is_some_and(|s| {
            s.phase.is_some_and(|p| p.is_terminal()) || s.active_run.is_some_and(|newest| newest > run.number())
        });
        let told = run.spec.command.as_ref().map_or(DesiredState::Running, |c| c.state);
        let unwanted = match self.job.spec.desired_state {
            DesiredState::Running => false,
            DesiredState::Paused => !run.is_ready() && told == DesiredState::Running,
            DesiredState::Cancelled => !run.is_ready(),
        };
        let Some(uid) = self.pods[name].object.as_ref().map(|o| o.uid.clone()) else { return };
        // A run has one runner: the gateway refuses that of another pod, which has another key.
        let is_taken = run.status.as_ref().and_then(|s| s.pod_uid.as_ref()).is_some_and(|of| *of != uid);
        if over || unwanted || run.is_closed() || is_taken {
            return;
        }
        let (ready, generation) = (self.time(), run.command_generation());
        let held = told != DesiredState::Running;
        let (state, time, started) = (RunnerState::Waiting, self.time(), self.pods[name].started);
        let written = self.modify_run(&run, |run| {
            let status = run.status.get_or_insert_default();
            status.pod_uid.get_or_insert_with(|| uid.clone());
            status.ready_time.get_or_insert_with(|| ready.clone());
            // One whose agent has started obeys each command by itself.
            if !started && status.acknowledged.as_ref().is_none_or(|a| a.generation < generation) {
                status.acknowledged =
                    Some(Acknowledged { binding: 0, generation, state, problem: None, time: time.clone() });
            }
        });
        let granted = written.is_some_and(|run| run.may_run());
        let pod = self.pods.get_mut(name).expect("it is there");
        if let Some(object) = &mut pod.object {
            object.agent = AgentContainer::Running;
        }
        if granted && !held && !pod.started {
            (pod.started, pod.agent) = (true, true);
            self.attempts += i32::from(!run.spec.identity.resumed);
        }
        self.remember();
    }

    /// The runner carries out its command.
    pub fn obey(&mut self, name: &str) {
        let Some(run) = self.run_of(name).filter(AgentRun::may_run) else { return };
        let Some(command) = run.spec.command.clone() else { return };
        let agent = self.pods[name].agent;
        match command.state {
            DesiredState::Cancelled => return self.report(name, TerminationType::Cancelled, None),
            DesiredState::Paused if agent && run.spec.identity.pause_policy.may_evict() => {
                return self.report(name, TerminationType::Evicted, None);
            }
            _ => {}
        }
        let state = match (command.state, agent) {
            (_, false) => RunnerState::Waiting,
            (DesiredState::Paused, true) => RunnerState::Frozen,
            (_, true) => RunnerState::Running,
        };
        let (generation, time) = (command.generation, self.time());
        self.pods.get_mut(name).expect("it is there").frozen = state == RunnerState::Frozen;
        self.modify_run(&run, |run| {
            let acknowledged = Acknowledged { binding: 0, generation, state, problem: None, time: time.clone() };
            run.status.get_or_insert_default().acknowledged = Some(acknowledged);
        });
        if command.state == DesiredState::Running && !agent {
            self.start(name);
        }
    }

    /// The agent ends, and the runner reports it. Its container ends later.
    pub fn report(&mut self, name: &str, kind: TerminationType, error: Option<&str>) {
        let Some(run) = self.run_of(name).filter(AgentRun::is_ready) else { return };
        let pod = self.pods.get_mut(name).expect("it is there");
        let started = pod.started;
        pod.agent = false;
        let error = error.map(|kind| ErrorStatus { kind: kind.into(), message: "why".into() });
        let end = AgentEnd {
            kind,
            started,
            error,
            non_retryable: false,
            exit_code: None,
            result: None,
            active_millis: 0,
            usage: Default::default(),
            result_omitted: false,
        };
        let now = self.time();
        self.modify_run(&run, |run| {
            run.status.get_or_insert_default().termination = Some(lifecycle::claimed(run, &end, &now));
        });
        // One that has reported starts nothing any more.
        self.pods.get_mut(name).expect("it is there").started = true;
    }

    /// A gateway has heard nothing of the runner, or something again.
    pub fn silent(&mut self, name: &str, silent: bool) {
        let Some(run) = self.run_of(name).filter(AgentRun::may_run) else { return };
        let now = self.time();
        self.modify_run(&run, |run| {
            let since = run.status.as_ref().and_then(|s| s.unresponsive_since.clone());
            run.status.get_or_insert_default().unresponsive_since = silent.then(|| since.unwrap_or(now.clone()));
        });
    }
}
