//! `logs`: the agent's log, from run to run until the job ends. After a lost connection it continues where it was.
//! The log itself is passed on as it is, as `kubectl logs` does: agents may use colours, and pipes want every byte.

use std::{cell::Cell, collections::BTreeMap, io::Write};

use anyhow::{anyhow, bail};
use clap::Args;
use futures::{AsyncBufReadExt, Stream, TryStreamExt};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::api::LogParams;

use super::{
    connect::{Session, job_name},
    text::say,
    watch::{self, RunChange},
};
use crate::api::{AgentJob, AgentRun};

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob
    #[arg(value_parser = job_name)]
    name: String,
    /// Follow the log, also of later runs' pods, until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of the existing log
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Prefix each line with its time
    #[arg(long)]
    timestamps: bool,
}

/// The state of an agent's container.
#[derive(Debug, PartialEq)]
enum Container {
    /// Not started, and why.
    Waiting(String),
    Running,
    Ended,
}

/// How far one pod's log was read.
struct Reader<'a> {
    session: &'a Session,
    arguments: &'a Arguments,
    container: String,
    tail: Option<i64>,
    last: Option<Timestamp>,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let job = session.job(&arguments.name).await?;
    let container = job.agent_container();
    if container.is_empty() {
        bail!("spec.template names no container");
    }
    let reader = || Reader { session, arguments, container: container.clone(), tail: arguments.tail, last: None };
    if arguments.follow {
        return follow(session, arguments, reader).await;
    }
    let runs = session.runs_of(&job).await.map_err(|e| session.explain(e, &arguments.name))?;
    let newest = runs.iter().rev().find(|r| pod_of(r).is_some());
    let run = newest.ok_or_else(|| anyhow!("agentjob.kodosumi.io/{} has no run yet", arguments.name))?;
    let pod = run.spec.identity.pod_name.as_str();
    let Some(found) = session.pods().get_opt(pod).await? else {
        match run.is_ready() || run.is_closed() {
            true => bail!("the pod {pod} is gone, and its log with it"),
            false => bail!("there is no pod {pod} yet"),
        }
    };
    match state(&found, &container) {
        Container::Waiting(why) => bail!("the agent in pod {pod} has not started: {why}"),
        _ => Ok(reader().read(pod, false).await?),
    }
}

/// A job and its runs, as they change.
struct Followed<J, R> {
    jobs: J,
    changes: R,
    job: AgentJob,
    runs: BTreeMap<i32, AgentRun>,
}

impl<J, R> Followed<J, R>
where
    J: Stream<Item = anyhow::Result<AgentJob>> + Unpin,
    R: Stream<Item = anyhow::Result<RunChange>> + Unpin,
{
    /// Waits for the next change.
    async fn changed(&mut self) -> anyhow::Result<()> {
        let ended = || anyhow!("the watch has ended");
        tokio::select! {
            job = self.jobs.try_next() => self.job = job?.ok_or_else(ended)?,
            change = self.changes.try_next() => match change?.ok_or_else(ended)? {
                RunChange::Now(run) => drop(self.runs.insert(run.number(), *run)),
                // Its number is remembered as read.
                RunChange::Gone(_) => {}
            },
        }
        Ok(())
    }

    /// The first run after that number; at first the newest.
    fn after(&self, read: Option<i32>) -> Option<AgentRun> {
        let mut with_pods = self.runs.values().filter(|r| pod_of(r).is_some());
        match read {
            Some(read) => with_pods.find(|r| r.number() > read).cloned(),
            None => with_pods.next_back().cloned(),
        }
    }

    /// Whether that run's pod writes nothing more: the run is closed, there is a later one, or the job has ended.
    fn is_over(&self, number: i32) -> bool {
        let closed = self.runs.get(&number).is_none_or(AgentRun::is_closed);
        closed || watch::finished(&self.job) || self.runs.keys().any(|n| *n > number)
    }
}

async fn follow<'a>(
    session: &'a Session,
    arguments: &'a Arguments,
    reader: impl Fn() -> Reader<'a>,
) -> anyhow::Result<()> {
    let mut jobs = watch::job(session, &arguments.name).await?;
    let job = jobs.try_next().await?.ok_or_else(|| anyhow!("the watch has ended"))?;
    let live = async |job: &AgentJob| {
        let runs = session.runs_of(job).await.map_err(|e| session.explain(e, &arguments.name))?;
        anyhow::Ok(runs.into_iter().map(|r| (r.number(), r)).collect::<BTreeMap<_, _>>())
    };
    let runs = live(&job).await?;
    let mut followed = Followed { changes: watch::runs(session, &job), jobs, job, runs };
    let mut read: Option<i32> = None;
    loop {
        if let Some(run) = followed.after(read) {
            let mut reader = reader();
            if read.replace(run.number()).is_some() {
                reader.tail = None;
                say(format_args!("--- pod {}", run.spec.identity.pod_name));
            }
            one(session, &mut followed, reader, &run).await?;
        } else if watch::finished(&followed.job) {
            // The job's end may be seen before its last run.
            followed.runs = live(&followed.job).await?;
            if followed.after(read).is_none() {
                return Ok(());
            }
        } else {
            followed.changed().await?;
        }
    }
}

/// The log of one run's pod. The job may go on meanwhile; a pod that never starts must not block then.
async fn one<J, R>(
    session: &Session,
    followed: &mut Followed<J, R>,
    mut reader: Reader<'_>,
    run: &AgentRun,
) -> anyhow::Result<()>
where
    J: Stream<Item = anyhow::Result<AgentJob>> + Unpin,
    R: Stream<Item = anyhow::Result<RunChange>> + Unpin,
{
    let pod = run.spec.identity.pod_name.as_str();
    let over = Cell::new(followed.is_over(run.number()));
    let whole = reader.whole(pod, &over);
    tokio::pin!(whole);
    loop {
        tokio::select! {
            biased;
            done = &mut whole => return done,
            change = followed.changed(), if !over.get() => {
                change?;
                over.set(followed.is_over(run.number()));
                // The rest is read, unless the container never started. The run is ready before the
                // kubelet reports its container as running.
                let registered = followed.runs.get(&run.number()).is_some_and(AgentRun::is_ready);
                if over.get() && !registered && !began(session, pod).await {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether a pod's containers have started, or the pod is gone.
async fn began(session: &Session, pod: &str) -> bool {
    let found = session.pods().get_opt(pod).await.ok().flatten();
    found.is_some_and(|p| p.status.and_then(|s| s.phase).is_some_and(|phase| phase != "Pending"))
}

impl Reader<'_> {
    /// One pod's log from its start to its end, over broken connections. `over`: whether it can't be created any more.
    async fn whole(&mut self, pod: &str, over: &Cell<bool>) -> anyhow::Result<()> {
        let mut seen = false;
        loop {
            // Read before the pod: one that is created in between is read again.
            let last = over.get() || seen;
            let Some(found) = self.session.pods().get_opt(pod).await? else {
                if last {
                    say(format_args!("--- the pod {pod} is gone, and its log with it"));
                    return Ok(());
                }
                // A run is created before its pod.
                watch::a_little().await;
                continue;
            };
            seen = true;
            let before = state(&found, &self.container);
            match &before {
                Container::Waiting(_) if nothing_starts(&found) => return Ok(()),
                Container::Waiting(_) => watch::a_little().await,
                _ => {
                    if let Err(e) = self.read(pod, true).await {
                        if e.kind() == std::io::ErrorKind::BrokenPipe {
                            return Err(e.into());
                        }
                        say(format_args!("--- the log of pod {pod}: {e}"));
                        watch::a_little().await;
                    } else if before == Container::Ended {
                        return Ok(());
                    } else {
                        // Either the container or the connection has ended: the next read of the pod shows which.
                        watch::a_little().await;
                    }
                }
            }
        }
    }

    /// Reads the log since the last line that was read, and with `follow` new lines.
    async fn read(&mut self, pod: &str, follow: bool) -> std::io::Result<()> {
        let params = LogParams {
            container: Some(self.container.clone()),
            follow,
            tail_lines: self.tail,
            since_time: self.last,
            timestamps: true,
            ..LogParams::default()
        };
        let stream = self.session.pods().log_stream(pod, &params).await.map_err(std::io::Error::other)?;
        let mut lines = Box::pin(stream).lines();
        while let Some(line) = lines.try_next().await? {
            let (at, text) = split(&line);
            // The server selects by whole seconds.
            if at.is_some() && at <= self.last {
                continue;
            }
            self.last = at.or(self.last);
            self.tail = None;
            let mut out = std::io::stdout().lock();
            // An error of stdout is not a lost connection.
            writeln!(out, "{}", if self.arguments.timestamps { &line } else { text })
                .map_err(|e| std::io::Error::new(std::io::ErrorKind::BrokenPipe, e))?;
        }
        Ok(())
    }
}

/// A line's time and the rest.
fn split(line: &str) -> (Option<Timestamp>, &str) {
    match line.split_once(' ') {
        Some((at, text)) if at.parse::<Timestamp>().is_ok() => (at.parse().ok(), text),
        _ => (None, line),
    }
}

/// The name of a run's pod; one that was created closed has none.
fn pod_of(run: &AgentRun) -> Option<&str> {
    (!run.spec.identity.tombstone).then_some(run.spec.identity.pod_name.as_str())
}

/// Whether no container of a pod can start any more.
fn nothing_starts(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

fn state(pod: &Pod, container: &str) -> Container {
    let status = pod.status.clone().unwrap_or_default();
    let phase = || format!("the pod is {}", status.phase.clone().unwrap_or_else(|| "Pending".into()));
    let found = status.container_statuses.iter().flatten().find(|c| c.name == container);
    let Some(state) = found.and_then(|c| c.state.clone()) else { return Container::Waiting(phase()) };
    match (state.running, state.terminated, state.waiting) {
        (Some(_), _, _) => Container::Running,
        (_, Some(_), _) => Container::Ended,
        (_, _, waiting) => Container::Waiting(waiting.and_then(|w| w.reason).unwrap_or_else(phase)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn lines_come_with_their_time() {
        let (at, text) = split("2026-01-01T00:00:00.123456789Z tick 1 2");
        assert_eq!((at, text), ("2026-01-01T00:00:00.123456789Z".parse().ok(), "tick 1 2"));
        assert_eq!(split("2026-01-01T00:00:00Z ").1, "");
        assert_eq!(split("unable to retrieve"), (None, "unable to retrieve"));
    }

    #[test]
    fn a_container_waits_runs_and_ends() {
        let pod = |state: Value| -> Pod {
            let container = json!({ "name": "agent", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state });
            serde_json::from_value(json!({ "status": { "phase": "Pending", "containerStatuses": [container] } }))
                .unwrap()
        };
        assert_eq!(state(&pod(json!({ "running": {} })), "agent"), Container::Running);
        assert_eq!(state(&pod(json!({ "terminated": { "exitCode": 1 } })), "agent"), Container::Ended);
        let pull = pod(json!({ "waiting": { "reason": "ErrImagePull" } }));
        assert_eq!(state(&pull, "agent"), Container::Waiting("ErrImagePull".into()));
        assert_eq!(state(&pull, "other"), Container::Waiting("the pod is Pending".into()));
    }

    fn run(number: i32, termination: Value, tombstone: bool) -> AgentRun {
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r" },
            "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": number, "attempt": 1, "tombstone": tombstone,
                "podName": format!("p-{number}"), "executionMode": "Direct", "heartbeat": "1s" } },
            "status": termination,
        }))
        .unwrap()
    }

    #[test]
    fn runs_are_read_in_order_from_the_newest_on() {
        let ended = json!({ "termination": { "type": "Failed", "source": "Runner", "time": "2026-01-01T00:00:00Z", "started": true } });
        let runs = [run(1, ended, false), run(2, json!({}), true), run(3, json!({}), false)];
        let empty = futures::stream::empty::<anyhow::Result<AgentJob>>();
        let mut followed = Followed {
            jobs: empty,
            changes: futures::stream::empty(),
            job: AgentJob::default(),
            runs: runs.into_iter().map(|r| (r.number(), r)).collect(),
        };
        let number = |f: &Followed<_, _>, read| f.after(read).map(|r| r.number());
        assert_eq!(number(&followed, None), Some(3), "from the start the newest");
        assert_eq!(number(&followed, Some(1)), Some(3), "a tombstone has no pod");
        assert_eq!(number(&followed, Some(3)), None);
        assert!(followed.is_over(1) && !followed.is_over(3));
        followed.runs.insert(4, run(4, json!({}), false));
        assert!(followed.is_over(3), "a later run");
    }
}
