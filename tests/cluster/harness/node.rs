//! The processes of pods, as the node sees them.

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait::within;

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
    within(Duration::from_secs(30), "the runner's process on the node", async || {
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

/// Leaves an empty file at the root of the container of a pod's process of that name.
pub fn write(pod_uid: &str, process: &str, file: &str) {
    let pid = *processes(pod_uid, process).first().expect("a process of the pod");
    fs::write(format!("/proc/{pid}/root/{file}"), "").unwrap_or_else(|e| panic!("{file} in {pod_uid}: {e}"));
}

pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to process {pid} of a pod: {e}"));
}

/// The same to one that may have ended.
pub fn signal_if_there(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}
