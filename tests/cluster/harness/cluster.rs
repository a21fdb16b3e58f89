//! The dev cluster that is up, and what the tests need of it once a run.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::tools::policy_in_force;
pub use super::tools::{feed, kubectl, port, run};

/// The node's address in the cluster's network, which pods reach us at.
pub const NODE_IP: &str = "10.244.0.1";
/// The address of a test's servers: Temporal's services only work on it.
pub const SERVER_IP: &str = "0.0.0.0";
/// Whether the servers do, and all that is in them: it stays up.
pub const END_WITH_THE_TESTS: bool = false;
pub const IMAGE: &str = "localhost/koco:dev";
pub const AGENT_IMAGE: &str = "localhost/koco-test-agent:dev";
pub const KOCO: &str = env!("CARGO_BIN_EXE_koco");
/// The kubectl plugin.
pub const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-koco");

const HOW: &str = "These tests run inside the dev cluster: `make up INSTALL=0`, then `make cluster-test ARGS=NAME`, or
`deploy/dev/enter cargo test --test cluster -- NAME`.";

pub struct Cluster {
    /// The dev cluster's folder.
    pub dev: PathBuf,
    /// The shared Temporal server.
    pub temporal: String,
}

/// The cluster, prepared by the first caller.
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
            // The kubelet reports images only now and then; the runtime has the current list.
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

/// The CRDs of this build, and the chart's policy for what the CRDs' rules don't cover. Not the one that reserves pods:
/// it is for an installed release, and [`super::chart`] installs it where a test asks for it.
fn install_crd(dev: &Path) -> Result<(), String> {
    let crd = Command::new(KOCO).arg("crd").output().map_err(|e| e.to_string())?;
    if !crd.status.success() {
        return Err(format!("koco crd: {}", String::from_utf8_lossy(&crd.stderr)));
    }
    // What is there already stays its owner's: Helm's, of an installed release, which would conflict with us later.
    let apply = |objects: &[u8]| {
        let with = |verb| feed(dev, "kubectl", &[verb, "--server-side", "--force-conflicts", "-f", "-"], objects);
        with("diff").or_else(|_| with("apply"))
    };
    apply(&crd.stdout)?;
    let none = "admissionPolicy.reservePods=false";
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/koco");
    let policy =
        run(dev, "helm", &["template", "koco", chart, "--show-only", "templates/admission.yaml", "--set", none])?;
    apply(policy.as_bytes())?;
    let crds = ["crd/agentjobs.kodosumi.io", "crd/agentruns.kodosumi.io"];
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", crds[0], crds[1]];
    run(dev, "kubectl", &wait)?;
    policy_in_force(dev)
}
