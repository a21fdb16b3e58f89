//! The dev cluster that is up, and what the tests need of it once a run.

use std::{
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use super::job::{agent, manifest};

/// The node's address in the cluster's network, which pods reach us at.
pub const NODE_IP: &str = "10.244.0.1";
pub const IMAGE: &str = "localhost/koco:dev";
pub const AGENT_IMAGE: &str = "localhost/koco-test-agent:dev";
pub const KOCO: &str = env!("CARGO_BIN_EXE_koco");

const HOW: &str = "These tests run inside the dev cluster: `make up INSTALL=0`, then `make cluster-test ARGS=NAME`, or
`deploy/dev/enter cargo test --test cluster -- NAME`.";

pub struct Cluster {
    /// The dev cluster's folder.
    pub dev: PathBuf,
    /// The shared Temporal server.
    pub temporal: String,
}

/// The cluster, made ready by whoever comes first.
pub fn get() -> &'static Cluster {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    match CLUSTER.get_or_init(prepare) {
        Ok(cluster) => cluster,
        Err(why) => panic!("{why}\n{HOW}"),
    }
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set."))
}

fn prepare() -> Result<Cluster, String> {
    let dev = PathBuf::from(variable("KOCO_DEV_DIR")?);
    let temporal = variable("TEMPORAL_ADDRESS")?;
    variable("KUBECONFIG")?;
    let cluster = Cluster { dev, temporal };
    TcpListener::bind((NODE_IP, 0)).map_err(|e| format!("{NODE_IP} is not an address of this machine: {e}."))?;
    let nodes = run(&cluster.dev, "kubectl", &["get", "node", "node1", "-o", "jsonpath={.status.images[*].names}"])?;
    for image in [IMAGE, AGENT_IMAGE] {
        if !nodes.contains(image) {
            // The kubelet reports images now and then only; the runtime knows.
            let there = run(&cluster.dev, "ctr", &["images", "ls", "-q"])?;
            if !there.lines().any(|l| l == image) {
                return Err(format!("The image {image} is not on the node."));
            }
        }
    }
    let running = [
        "get",
        "deployments",
        "-A",
        "-l",
        "app.kubernetes.io/part-of=koco",
        "-o",
        "jsonpath={range .items[?(@.spec.replicas>0)]}{.metadata.namespace}/{.metadata.name} {end}",
    ];
    let installed = run(&cluster.dev, "kubectl", &running)?;
    if !installed.trim().is_empty() {
        return Err(format!(
            "An installed operator would see to the tests' jobs, too: {installed}. Scale it to 0 (`make cluster-test` does)."
        ));
    }
    install_crd(&cluster.dev)?;
    Ok(cluster)
}

/// The CRDs of this build, and the chart's policy that refuses what their own rules overlook. Not the one that reserves pods:
/// it is for an installed release, and [`super::chart`] installs it where a test asks for it.
fn install_crd(dev: &Path) -> Result<(), String> {
    let crd = Command::new(KOCO).arg("crd").output().map_err(|e| e.to_string())?;
    if !crd.status.success() {
        return Err(format!("koco crd: {}", String::from_utf8_lossy(&crd.stderr)));
    }
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    feed(dev, "kubectl", &apply, &crd.stdout)?;
    let none = "admissionPolicy.reservePods=false";
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/koco");
    let policy =
        run(dev, "helm", &["template", "koco", chart, "--show-only", "templates/admission.yaml", "--set", none])?;
    feed(dev, "kubectl", &apply, policy.as_bytes())?;
    let crds = ["crd/agentjobs.kodosumi.io", "crd/agentruns.kodosumi.io"];
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", crds[0], crds[1]];
    run(dev, "kubectl", &wait)?;
    policy_in_force(dev)
}

/// The API server takes a moment to see a new policy: waits until a change that only it refuses is refused.
fn policy_in_force(dev: &Path) -> Result<(), String> {
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
            other if began.elapsed() > Duration::from_secs(30) => {
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
    // ctr is told its socket by a wrapper; the others are called directly, as we are inside already.
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
    run(&get().dev, "kubectl", args)
}

/// A port that nobody has and that no outgoing connection gets by chance, so that a server may come back to it.
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
