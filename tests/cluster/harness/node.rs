//! The processes of pods, as the node sees them.

use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Job,
    job::pod_uid,
    wait::{DEADLINE, within},
};

/// The pids, on the node, of a pod's processes of that name.
pub fn processes(pod_uid: &str, name: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| of(Path::new(&format!("/proc/{pid}")), pod_uid, name)).collect()
}

fn of(process: &Path, pod_uid: &str, name: &str) -> bool {
    let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
    // With cgroupfs the UID is as it is, with systemd its dashes are underscores.
    let (comm, cgroup) = (read("comm"), read("cgroup"));
    comm.trim() == name && (cgroup.contains(pod_uid) || cgroup.contains(&pod_uid.replace('-', "_")))
}

/// The pod's runner, which is the first process of its container.
pub async fn runner(pod_uid: &str) -> i32 {
    within(DEADLINE, "the runner's process on the node", async || {
        let found = processes(pod_uid, "koco-runner");
        let first = found.iter().copied().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let innermost =
                status.lines().find_map(|l| l.strip_prefix("NSpid:")).and_then(|l| l.split_whitespace().last());
            innermost == Some("1")
        });
        first.ok_or(found)
    })
    .await
}

/// Lets an agent go on that waits for a file `/go`.
pub async fn let_go(job: &Job<'_>) {
    let uid = pod_uid(&job.running_pod().await);
    // It has its name a moment after its start was reported.
    let agent = async || processes(&uid, "test-agent").first().copied().ok_or("no agent in the pod");
    let pid = within(DEADLINE, "the agent's process on the node", agent).await;
    fs::write(format!("/proc/{pid}/root/go"), "").unwrap_or_else(|e| panic!("/go in {uid}: {e}"));
}

pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to process {pid} of a pod: {e}"));
}

/// The same to one that may have ended.
pub fn signal_if_there(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}
