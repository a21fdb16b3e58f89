//! `logs`: what the agent writes, from pod to pod until the job ends. A connection that breaks is taken up where it broke.

use std::io::Write;

use anyhow::{anyhow, bail};
use clap::Args;
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::api::LogParams;
use serde_json::Value;

use super::{connect::Session, watch};
use crate::api::AgentJob;

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob
    name: String,
    /// Go on as the agent writes, over to the next attempt's pod, until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of what is there already
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
}

/// What an agent's container is doing.
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
    let container = agent(&job).ok_or_else(|| anyhow!("spec.template names no container"))?;
    let reader = || Reader { session, arguments, container: container.clone(), tail: arguments.tail, last: None };
    if arguments.follow {
        return follow(session, arguments, reader).await;
    }
    let pod = pod_of(&job).ok_or_else(|| anyhow!("agentjob.kodosumi.io/{} has no pod yet", arguments.name))?;
    let found =
        session.pods().get_opt(pod).await?.ok_or_else(|| anyhow!("the pod {pod} is gone, and its log with it"))?;
    match state(&found, &container) {
        Container::Waiting(why) => bail!("the agent in pod {pod} has not started: {why}"),
        _ => Ok(reader().read(pod, false).await?),
    }
}

async fn follow<'a>(
    session: &'a Session,
    arguments: &'a Arguments,
    reader: impl Fn() -> Reader<'a>,
) -> anyhow::Result<()> {
    let mut changes = watch::job(session, &arguments.name).await?;
    let mut job = changes.try_next().await?.ok_or_else(|| anyhow!("the watch has ended"))?;
    let mut read: Option<String> = None;
    loop {
        let pod = pod_of(&job).filter(|p| read.as_deref() != Some(p)).map(str::to_string);
        if let Some(pod) = pod {
            let mut reader = reader();
            if read.replace(pod.clone()).is_some() {
                reader.tail = None;
                eprintln!("--- pod {pod}");
            }
            // While one pod's log is read, the job may move on; a pod that never starts must not hold us up then.
            let whole = reader.whole(&pod);
            tokio::pin!(whole);
            loop {
                tokio::select! {
                    biased;
                    done = &mut whole => break done?,
                    change = changes.try_next() => {
                        job = change?.ok_or_else(|| anyhow!("the watch has ended"))?;
                        if pod_of(&job) != Some(&pod) || watch::finished(&job) {
                            // What there is left of it is read to its end, unless it never began.
                            if !began(session, &pod).await { break }
                            whole.await?;
                            break;
                        }
                    }
                }
            }
            continue;
        }
        if watch::finished(&job) {
            return Ok(());
        }
        job = changes.try_next().await?.ok_or_else(|| anyhow!("the watch has ended"))?;
    }
}

/// Whether a pod's containers are past the start: of a pod that is gone nothing more comes.
async fn began(session: &Session, pod: &str) -> bool {
    let found = session.pods().get_opt(pod).await.ok().flatten();
    found.is_some_and(|p| p.status.and_then(|s| s.phase).is_some_and(|phase| phase != "Pending"))
}

impl Reader<'_> {
    /// One pod's log from its start to its end, over broken connections.
    async fn whole(&mut self, pod: &str) -> anyhow::Result<()> {
        loop {
            let Some(found) = self.session.pods().get_opt(pod).await? else {
                eprintln!("--- the pod {pod} is gone, and its log with it");
                return Ok(());
            };
            let before = state(&found, &self.container);
            match &before {
                Container::Waiting(_) if over(&found) => return Ok(()),
                Container::Waiting(_) => watch::a_little().await,
                _ => {
                    if let Err(e) = self.read(pod, true).await {
                        if e.kind() == std::io::ErrorKind::BrokenPipe {
                            return Err(e.into());
                        }
                        eprintln!("--- the log of pod {pod}: {e}");
                        watch::a_little().await;
                    } else if before == Container::Ended {
                        return Ok(());
                    } else {
                        // It ended with its container, or with the connection: the next look tells.
                        watch::a_little().await;
                    }
                }
            }
        }
    }

    /// What is there since the last line that was read, and with `follow` what comes.
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
            // Our own output may be closed: that is no broken connection.
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

/// The name of the agent's container: the template's first.
fn agent(job: &AgentJob) -> Option<String> {
    let containers = job.spec.template.get("spec")?.get("containers")?;
    containers.get(0)?.get("name").and_then(Value::as_str).map(str::to_string)
}

/// The newest pod, once it was made.
fn pod_of(job: &AgentJob) -> Option<&str> {
    let claim = job.status.as_ref()?.claim.as_ref()?;
    claim.pod_uid.as_ref().map(|_| claim.pod_name.as_str())
}

/// Whether nothing of a pod will start any more.
fn over(pod: &Pod) -> bool {
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
    use super::*;
    use serde_json::json;

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
}
