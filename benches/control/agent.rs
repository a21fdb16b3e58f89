//! An agent's process and the node, as the kernel of this machine sees them.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

const POLL: Duration = Duration::from_micros(500);
const LIMIT: Duration = Duration::from_secs(60);

/// The test agent's process in a pod.
#[derive(Clone)]
pub struct Agent {
    stat: PathBuf,
}

impl Agent {
    /// Finds it by its program and the pod's UID in its cgroup, both of which are world-readable.
    pub fn of(pod_uid: &str) -> anyhow::Result<Self> {
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let ours = fs::read(path.join("cmdline")).is_ok_and(|c| c.starts_with(b"/test-agent\0"));
            let group = fs::read_to_string(path.join("cgroup")).unwrap_or_default().replace('_', "-");
            if ours && group.contains(pod_uid) {
                return Ok(Self { stat: path.join("stat") });
            }
        }
        bail!("no process of the agent on this machine: is the node another one?")
    }

    /// Whether it is stopped.
    fn stopped(&self) -> anyhow::Result<bool> {
        let stat = fs::read_to_string(&self.stat).context("the agent's process")?;
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        Ok(rest.trim_start().starts_with(['T', 't']))
    }

    /// Watches, on a thread of its own, until it is stopped or runs; returns when that was.
    pub fn until(&self, stopped: bool) -> impl Future<Output = anyhow::Result<Instant>> + use<> {
        let agent = self.clone();
        let watch = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            while agent.stopped()? != stopped {
                if began.elapsed() > LIMIT {
                    bail!("the agent is not {}", if stopped { "frozen" } else { "thawed" });
                }
                std::thread::sleep(POLL);
            }
            Ok(Instant::now())
        });
        async { watch.await? }
    }
}

/// How long a look at the processors takes.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until the processors have rested for half of the time: pods that start and end are the kubelet's work and
/// containerd's, and would disturb the measurement.
pub async fn quiet() -> anyhow::Result<()> {
    crate::within("a quiet node", async {
        let mut before = processors()?;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = processors()?;
            let (idle, all) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
            if idle * 2 >= all {
                return Ok(());
            }
            before = now;
        }
    })
    .await
}

/// The ticks that all processors were idle, and all ticks.
fn processors() -> anyhow::Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().and_then(|l| l.strip_prefix("cpu ")).context("/proc/stat")?;
    let ticks: Vec<u64> = first.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok((ticks.get(3).copied().context("/proc/stat")?, ticks.iter().take(8).sum()))
}
