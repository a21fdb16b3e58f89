//! The rounds: a patch as kubectl would send it, and when it took effect.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, future::try_join_all};
use k8s_openapi::api::core::v1::Pod;
use koco::{
    api::{AgentJob, AgentJobStatus, AgentRun, DesiredState, Phase, RunnerState},
    platform::{kubernetes, metrics::RequestMetrics},
};
use kube::{
    Api,
    api::{LogParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    Measured,
    agent::{Agent, quiet},
    bare::Bare,
    percentile, within,
};

/// When each station of a request showed in the job or its run, in milliseconds from the patch.
#[derive(Default)]
pub struct Stations {
    sent: Vec<f64>,
    command: Vec<f64>,
    acknowledged: Vec<f64>,
    phase: Vec<f64>,
}

impl Stations {
    /// Reads the job's changes until it has been at every station.
    async fn follow(
        &mut self,
        changes: &mut Changes,
        began: Instant,
        state: DesiredState,
        runner: RunnerState,
        phase: Phase,
    ) -> anyhow::Result<()> {
        let mut seen = [None; 4];
        while seen.contains(&None) {
            let (at, change) = changes.recv().await.context("the watch has ended")?;
            let now = match change {
                Change::Job(status) => {
                    let sent = status.control.unwrap_or_default().sent.is_some_and(|s| s.state == state);
                    [sent, false, false, status.phase.is_some_and(|p| p == phase || p.is_terminal())]
                }
                Change::Run(run) => {
                    let told = run.spec.command.as_ref().is_some_and(|c| c.state == state);
                    [false, told, told && run.acknowledged_state() == Some(runner), false]
                }
            };
            for (seen, now) in seen.iter_mut().zip(now) {
                if now {
                    seen.get_or_insert(millis(at.saturating_duration_since(began)));
                }
            }
        }
        let lists = [&mut self.sent, &mut self.command, &mut self.acknowledged, &mut self.phase];
        for (list, at) in lists.into_iter().zip(seen) {
            list.extend(at);
        }
        Ok(())
    }

    pub fn print(&self, what: &str) {
        let stations = [
            ("signal sent", &self.sent),
            ("command written", &self.command),
            ("acknowledged", &self.acknowledged),
            ("phase", &self.phase),
        ];
        let parts = stations.map(|(name, v)| format!("{name} {:.0}/{:.0}", percentile(v, 0.5), percentile(v, 0.99)));
        println!("  {what:<7} {} ms", parts.join(", "));
    }
}

/// What a watch shows.
enum Change {
    Job(Box<AgentJobStatus>),
    Run(Box<AgentRun>),
}

type Changes = mpsc::UnboundedReceiver<(Instant, Change)>;

pub struct Bench<'a> {
    jobs: Api<AgentJob>,
    /// Of a client of its own: others' streams would take its connection, and a handshake would be measured now and
    /// then.
    patches: Api<AgentJob>,
    runs: Api<AgentRun>,
    pods: Api<Pod>,
    bare: &'a Bare,
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Rounds don't fall into step with anything that has a period.
async fn pause(round: usize) {
    tokio::time::sleep(Duration::from_millis(30 + (round * 37 % 50) as u64)).await;
}

impl<'a> Bench<'a> {
    pub async fn new(client: kube::Client, namespace: &str, bare: &'a Bare) -> anyhow::Result<Self> {
        Ok(Self {
            jobs: Api::namespaced(client.clone(), namespace),
            patches: Api::namespaced(kubernetes::client(&RequestMetrics::default()).await?, namespace),
            runs: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
            bare,
        })
    }

    /// Pauses and resumes one agent again and again.
    pub async fn toggle(&self, rounds: usize, measured: &mut Measured) -> anyhow::Result<()> {
        let started = within("the agent to start", self.start("toggle")).await?;
        let agent = Agent::of(&started.runner_pod_uid.context("no pod")?)?;
        let mut changes = self.changes("toggle");
        quiet().await?;
        while measured.thawed.len() < rounds {
            let round = measured.thawed.len();
            if let Err(error) = self.toggle_once(round, &agent, &mut changes, measured).await {
                measured.lost(error)?;
            }
        }
        self.patch("toggle", DesiredState::Cancelled).await
    }

    async fn toggle_once(
        &self,
        round: usize,
        agent: &Agent,
        changes: &mut Changes,
        m: &mut Measured,
    ) -> anyhow::Result<()> {
        m.bare.push(self.bare.round().await?);
        pause(round).await;
        m.frozen.push(self.ask("toggle", DesiredState::Paused, agent, changes, &mut m.pausing).await?);
        pause(round + 1).await;
        m.thawed.push(self.ask("toggle", DesiredState::Running, agent, changes, &mut m.resuming).await?);
        pause(round + 2).await;
        Ok(())
    }

    /// One pause or resume; goes on until the status says so too.
    async fn ask(
        &self,
        name: &str,
        state: DesiredState,
        agent: &Agent,
        changes: &mut Changes,
        stations: &mut Stations,
    ) -> anyhow::Result<f64> {
        let still = state == DesiredState::Paused;
        while changes.try_recv().is_ok() {}
        self.ready(name).await?;
        let effect = agent.until(still);
        let began = Instant::now();
        self.patch(name, state).await?;
        let took = effect.await? - began;
        let (runner, phase) =
            if still { (RunnerState::Frozen, Phase::Paused) } else { (RunnerState::Running, Phase::Running) };
        within("the status to say so", stations.follow(changes, began, state, runner, phase)).await?;
        Ok(millis(took))
    }

    /// Starts a batch of agents, and cancels one after the other, each when the node has come to rest after the one
    /// before.
    pub async fn cancel(&self, first: usize, count: usize, measured: &mut Measured) -> anyhow::Result<()> {
        let names: Vec<_> = (first..first + count).map(|i| format!("cancel-{i}")).collect();
        let started = try_join_all(names.iter().map(|name| within("an agent to start", self.start(name)))).await?;
        for (i, (name, status)) in names.iter().zip(started).enumerate() {
            let pod = status.runner_pod.context("no pod")?;
            quiet().await?;
            if let Err(error) = self.cancel_round(i, name, &pod, measured).await {
                measured.lost(error)?;
                self.patch(name, DesiredState::Cancelled).await?;
            }
            let ended = |s: &AgentJobStatus| s.phase.is_some_and(Phase::is_terminal);
            within("a job's end", self.until(name, ended)).await?;
        }
        Ok(())
    }

    async fn cancel_round(&self, round: usize, name: &str, pod: &str, measured: &mut Measured) -> anyhow::Result<()> {
        let bare = self.bare.round().await?;
        pause(round).await;
        let took = within("SIGTERM", self.cancel_one(name, pod, &mut measured.cancelling)).await?;
        measured.bare_at_cancel.push(bare);
        measured.sigterm.push(took);
        Ok(())
    }

    async fn cancel_one(&self, name: &str, pod: &str, stations: &mut Stations) -> anyhow::Result<f64> {
        let params = LogParams { container: Some("agent".into()), follow: true, ..LogParams::default() };
        let mut lines = Box::pin(self.pods.log_stream(pod, &params).await?).lines();
        // With this line it has its handler.
        while !lines.try_next().await?.context("an agent without a word")?.starts_with("pid ") {}
        let mut changes = self.changes(name);
        self.ready(name).await?;
        let (began, patched) = (SystemTime::now().duration_since(UNIX_EPOCH)?, Instant::now());
        self.patch(name, DesiredState::Cancelled).await?;
        while let Some(line) = lines.try_next().await? {
            if let Some(at) = line.strip_prefix("sigterm ") {
                let took = at.trim().parse::<f64>()? + 0.5 - millis(began);
                let (state, runner, phase) = (DesiredState::Cancelled, RunnerState::Stopping, Phase::Cancelling);
                stations.follow(&mut changes, patched, state, runner, phase).await?;
                return Ok(took);
            }
        }
        anyhow::bail!("the agent of {name} ended without SIGTERM")
    }

    /// Opens the connection for the next patch, if it is not open.
    async fn ready(&self, name: &str) -> anyhow::Result<()> {
        self.patches.get_metadata(name).await?;
        Ok(())
    }

    async fn patch(&self, name: &str, state: DesiredState) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "desiredState": state } }));
        self.patches.patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Creates a job and waits until its agent runs.
    async fn start(&self, name: &str) -> anyhow::Result<AgentJobStatus> {
        let job = serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1",
            "kind": "AgentJob",
            "metadata": { "name": name },
            "spec": {
                "executionMode": "Temporal",
                "entryPoint": "count?every_ms=1000",
                "template": { "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{ "name": "agent", "image": "localhost/koco-test-agent:dev", "command": ["/test-agent"] }],
                } },
            },
        }))?;
        self.jobs.create(&PostParams::default(), &job).await.context("is the operator installed? make up")?;
        let started = |s: &AgentJobStatus| s.phase == Some(Phase::Running) && s.runner_pod_uid.is_some();
        self.until(name, started).await
    }

    async fn until(&self, name: &str, holds: impl Fn(&AgentJobStatus) -> bool) -> anyhow::Result<AgentJobStatus> {
        let mut changes = self.changes(name);
        loop {
            let (_, change) = changes.recv().await.context("the watch has ended")?;
            if let Change::Job(status) = change
                && holds(&status)
            {
                return Ok(*status);
            }
        }
    }

    /// A job's status and its runs each time that they change, with the time that it came here.
    fn changes(&self, name: &str) -> Changes {
        let (tell, changes) = mpsc::unbounded_channel();
        let selected = |field: &str| watcher::Config::default().fields(&format!("{field}={name}"));
        let jobs = watcher(self.jobs.clone(), selected("metadata.name")).default_backoff().applied_objects();
        let runs = watcher(self.runs.clone(), selected("spec.identity.jobName")).default_backoff().applied_objects();
        let jobs = jobs.map_ok(|job| Change::Job(Box::new(job.status.unwrap_or_default()))).boxed();
        let runs = runs.map_ok(|run| Change::Run(Box::new(run))).boxed();
        let mut both = futures::stream::select(jobs, runs);
        tokio::spawn(async move {
            loop {
                let change = tokio::select! { change = both.next() => change, () = tell.closed() => return };
                match change {
                    Some(Ok(change)) => {
                        // The receiver is gone.
                        let _ = tell.send((Instant::now(), change));
                    }
                    Some(Err(e)) => eprintln!("the watch: {e}"),
                    None => return,
                }
            }
        });
        changes
    }
}
