//! The dev tools' programs, as the tests call them, and helpers that use them.

use std::{
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use super::{
    cluster,
    job::{agent, manifest},
};

/// The API server takes a moment to see a new policy: waits until a change that only it refuses is refused.
pub fn policy_in_force(dev: &Path) -> Result<(), String> {
    let job = |key: &str| {
        let mut job = manifest("koco-tests-probe", agent("succeed"));
        job["spec"]["inputs"] = serde_json::json!({ key: 1 });
        job.to_string()
    };
    let (create, delete) =
        (["apply", "-n", "default", "-f", "-"], ["delete", "-n", "default", "--ignore-not-found", "-f", "-"]);
    let began = Instant::now();
    loop {
        feed(dev, "kubectl", &delete, job("a").as_bytes())?;
        feed(dev, "kubectl", &create, job("a").as_bytes())?;
        let refused = feed(dev, "kubectl", &create, job("b").as_bytes());
        feed(dev, "kubectl", &delete, job("a").as_bytes())?;
        match refused {
            Err(e) if e.contains("spec.inputs is immutable") => return Ok(()),
            other if began.elapsed() > Duration::from_secs(120) => {
                return Err(format!("the policy is not in force: {other:?}"));
            }
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Runs a tool of the dev cluster and answers what it printed.
pub fn run(dev: &Path, tool: &str, args: &[&str]) -> Result<String, String> {
    feed(dev, tool, args, b"")
}

/// The same, with something on its standard input.
pub fn feed(dev: &Path, tool: &str, args: &[&str], input: &[u8]) -> Result<String, String> {
    // A wrapper passes ctr its socket; the others are called directly, as we are inside already.
    let program = if tool == "ctr" { dev.join("bin/ctr") } else { dev.join("tools").join(tool) };
    let mut command = Command::new(&program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
    // A tool that reads nothing may have closed it.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let done = child.wait_with_output().map_err(|e| e.to_string())?;
    if !done.status.success() {
        return Err(format!("{tool} {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// kubectl, for what users do with it.
pub fn kubectl(args: &[&str]) -> Result<String, String> {
    run(&cluster::get().dev, "kubectl", args)
}

/// A free port that no outgoing connection gets by chance, so that a server can be restarted on it.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() as u16).wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + offset % 18_000;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
