//! Reads the log of one pod, over lost connections. The log itself is passed on as it is, as `kubectl logs` does: agents
//! may use colours, and pipes want every byte. Only a last line without an end gets one.

use std::{cell::Cell, io::Write, time::Duration};

use anyhow::bail;
use futures::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    jiff::Timestamp,
};
use kube::api::LogParams;

use super::{
    super::{
        connect::Session,
        text::{plain, say},
        watch,
    },
    Arguments,
};

/// The state of a container.
#[derive(Debug, PartialEq)]
pub(super) enum Container {
    /// Not started, and why.
    Waiting(String),
    Running,
    Ended,
}

/// How far one pod's log was read.
pub(super) struct Reader<'a> {
    pub session: &'a Session,
    pub arguments: &'a Arguments,
    pub container: &'a str,
    pub tail: Option<i64>,
    last: Option<Timestamp>,
}

impl<'a> Reader<'a> {
    pub fn new(session: &'a Session, arguments: &'a Arguments, container: &'a str) -> Self {
        Self { session, arguments, container, tail: arguments.tail, last: None }
    }
}

impl Reader<'_> {
    /// One pod's log from its start to its end, over broken connections. `over`: whether it can't be created any more.
    pub async fn whole(&mut self, pod: &str, over: &Cell<bool>) -> anyhow::Result<()> {
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
            has_container(&found, self.container)?;
            let before = state(&found, self.container);
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
    pub async fn read(&mut self, pod: &str, follow: bool) -> std::io::Result<()> {
        let params = LogParams {
            container: Some(self.container.into()),
            follow,
            tail_lines: self.tail,
            // Whole seconds, and at least one; the API server takes one of the two.
            since_seconds: self.arguments.since.filter(|_| self.last.is_none()).map(seconds),
            since_time: self.last,
            timestamps: true,
            ..LogParams::default()
        };
        let stream = self.session.pods().log_stream(pod, &params).await.map_err(std::io::Error::other)?;
        let prefix = match self.arguments.prefix {
            true => format!("[pod/{pod}/{}] ", plain(self.container)),
            false => String::new(),
        };
        let before = self.last;
        let copied =
            copy(Box::pin(stream), &mut self.last, &prefix, self.arguments.timestamps, &mut std::io::stdout()).await;
        if self.last != before {
            self.tail = None;
        }
        copied
    }
}

/// Passes lines on, but none that is as old as `last`: the server selects by whole seconds.
async fn copy(
    mut log: impl AsyncBufRead + Unpin,
    last: &mut Option<Timestamp>,
    prefix: &str,
    timestamps: bool,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line).await? > 0 {
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let (at, text) = split(&line);
        if at.is_none() || at > *last {
            *last = at.or(*last);
            let whole = [prefix.as_bytes(), if timestamps { &line } else { text }].concat();
            // An error of stdout is not a lost connection.
            out.write_all(&whole).map_err(|e| std::io::Error::new(std::io::ErrorKind::BrokenPipe, e))?;
        }
        line.clear();
    }
    Ok(())
}

/// A duration in the API server's words, rounded up.
fn seconds(age: Duration) -> i64 {
    let whole = age.as_secs().saturating_add(u64::from(age.subsec_nanos() > 0));
    i64::try_from(whole.max(1)).unwrap_or(i64::MAX)
}

/// A line's time and the rest.
fn split(line: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let Some(end) = line.iter().position(|byte| *byte == b' ') else { return (None, line) };
    match std::str::from_utf8(&line[..end]).ok().and_then(|at| at.parse().ok()) {
        Some(at) => (Some(at), &line[end + 1..]),
        None => (None, line),
    }
}

/// Whether no container of a pod can start any more.
fn nothing_starts(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

/// Whether a pod has a container of that name, of whatever kind; an error names those that it has.
pub(super) fn has_container(pod: &Pod, container: &str) -> anyhow::Result<()> {
    let spec = pod.spec.clone().unwrap_or_default();
    let later = spec.ephemeral_containers.iter().flatten().map(|c| c.name.clone());
    let all: Vec<_> =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.name.clone()).collect();
    let all: Vec<_> = all.into_iter().chain(later).collect();
    if !all.iter().any(|name| name == container) {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        bail!("the pod {pod} has no container {container}: it has {}", all.join(", "));
    }
    Ok(())
}

pub(super) fn state(pod: &Pod, container: &str) -> Container {
    let status = pod.status.clone().unwrap_or_default();
    let phase = || format!("the pod is {}", status.phase.clone().unwrap_or_else(|| "Pending".into()));
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found: Option<&ContainerStatus> = all.into_iter().flatten().flatten().find(|c| c.name == container);
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
        let (at, text) = split(b"2026-01-01T00:00:00.123456789Z tick 1 2");
        assert_eq!((at, text), ("2026-01-01T00:00:00.123456789Z".parse().ok(), &b"tick 1 2"[..]));
        assert_eq!(split(b"2026-01-01T00:00:00Z ").1, b"");
        assert_eq!(split(b"unable to retrieve"), (None, &b"unable to retrieve"[..]));
    }

    #[tokio::test]
    async fn every_byte_is_passed_on_once() {
        let log = b"2026-01-01T00:00:01Z old\n2026-01-01T00:00:02Z \xff\r\n2026-01-01T00:00:03Z end";
        let (mut last, mut out) = ("2026-01-01T00:00:01Z".parse().ok(), Vec::new());
        copy(&log[..], &mut last, "> ", false, &mut out).await.unwrap();
        assert_eq!((last, &out[..]), ("2026-01-01T00:00:03Z".parse().ok(), &b"> \xff\r\n> end\n"[..]));
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
        let installed = json!({ "status": { "phase": "Running", "initContainerStatuses": [{ "name": "koco-install",
            "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "terminated": { "exitCode": 0 } } }] } });
        assert_eq!(state(&serde_json::from_value(installed).unwrap(), "koco-install"), Container::Ended);
    }

    #[test]
    fn a_container_that_is_not_there_is_an_error_with_those_that_are() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": {
            "containers": [{ "name": "agent" }, { "name": "side" }], "initContainers": [{ "name": "koco-install" }] } }))
        .unwrap();
        assert!(has_container(&pod, "side").is_ok() && has_container(&pod, "koco-install").is_ok());
        let error = has_container(&pod, "x").unwrap_err().to_string();
        assert_eq!(error, "the pod p has no container x: it has agent, side, koco-install");
    }

    #[test]
    fn an_age_is_rounded_up_to_seconds() {
        let of = |millis| seconds(Duration::from_millis(millis));
        assert_eq!([of(0), of(1), of(1000), of(1500)], [1, 1, 1, 2]);
        assert_eq!(seconds(Duration::MAX), i64::MAX);
    }
}
