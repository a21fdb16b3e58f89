//! What koco says of jobs and runs, as a watcher sees it, with the times at which it was seen: what is said was true then,
//! or had been.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    sync::Arc,
};

use futures::StreamExt;
use koco::api::{AgentJob, AgentRun, DesiredState, Phase, conditions};
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::{Test, agent_log::now};

/// What was seen of one job.
#[derive(Clone, Debug, Default)]
pub struct JobSeen {
    pub phase: Option<Phase>,
    pub result: Option<Value>,
    /// When it was first seen in a terminal phase, to be gone, and to be paused by each generation of its spec.
    pub ended: Option<u64>,
    pub gone: Option<u64>,
    pub paused: BTreeMap<i64, u64>,
}

/// What was seen of all.
#[derive(Default)]
pub struct Seen {
    pub jobs: HashMap<String, JobSeen>,
    /// By the job's name and the run's number.
    pub runs: HashMap<String, BTreeMap<i32, AgentRun>>,
}

impl Seen {
    fn job(&mut self, job: &AgentJob) {
        let seen = self.jobs.entry(job.name_any()).or_default();
        let Some(status) = &job.status else { return };
        seen.phase = status.phase;
        seen.result = status.result.as_ref().and_then(|r| r.read().ok());
        if status.phase.is_some_and(Phase::is_terminal) {
            seen.ended.get_or_insert_with(now);
        }
        let generation = job.metadata.generation;
        let of_this = status.observed_generation == generation && job.spec.desired_state == DesiredState::Paused;
        if of_this && conditions::is_true(&status.conditions, conditions::PAUSED) {
            seen.paused.entry(generation.unwrap_or_default()).or_insert_with(now);
        }
    }

    fn run(&mut self, run: &AgentRun) {
        let runs = self.runs.entry(run.spec.identity.job_name.clone()).or_default();
        runs.insert(run.number(), run.clone());
    }

    /// After a new list: what is not in it is gone.
    fn listed(&mut self, names: &HashSet<String>) {
        for (name, seen) in &mut self.jobs {
            if !names.contains(name) {
                seen.gone.get_or_insert_with(now);
            }
        }
    }

    /// It is not there any more.
    pub fn gone(&mut self, name: &str) {
        self.jobs.entry(name.into()).or_default().gone.get_or_insert_with(now);
    }

    /// How many jobs have ended or are gone.
    pub fn ended(&self) -> usize {
        self.jobs.values().filter(|seen| seen.ended.is_some() || seen.gone.is_some()).count()
    }

    /// How many jobs are in each phase.
    pub fn phases(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for seen in self.jobs.values() {
            let phase = match (seen.gone, seen.phase) {
                (Some(_), _) => "deleted".to_string(),
                (None, Some(phase)) => format!("{phase:?}"),
                (None, None) => "new".to_string(),
            };
            *count.entry(phase).or_default() += 1;
        }
        count
    }
}

/// Watches while it is kept.
pub struct Watch {
    pub seen: Arc<Mutex<Seen>>,
    tasks: [JoinHandle<()>; 2],
}

impl Watch {
    pub fn of(test: &Test) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let tasks = [tokio::spawn(jobs(test.jobs(), seen.clone())), tokio::spawn(runs(test.runs(), seen.clone()))];
        Self { seen, tasks }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn jobs(api: Api<AgentJob>, seen: Arc<Mutex<Seen>>) {
    let mut events = pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        // The watcher goes on by itself after an error.
        let Ok(event) = event else { continue };
        let mut seen = seen.lock();
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(job) => {
                listed.insert(job.name_any());
                seen.job(&job);
            }
            Event::InitDone => seen.listed(&listed),
            Event::Apply(job) => seen.job(&job),
            Event::Delete(job) => seen.gone(&job.name_any()),
        }
    }
}

async fn runs(api: Api<AgentRun>, seen: Arc<Mutex<Seen>>) {
    let mut events = pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        if let Ok(Event::InitApply(run) | Event::Apply(run) | Event::Delete(run)) = event {
            seen.lock().run(&run);
        }
    }
}
