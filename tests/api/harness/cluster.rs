//! The servers that `tests/api/run` has started: where they are, and under which names the shared harness knows things.

use std::{path::PathBuf, sync::OnceLock};

pub use super::tools::{feed, kubectl, port, run};
use super::{kubelet, tools::policy_in_force};

/// Where the roles listen, and runners reach the gateway.
pub const NODE_IP: &str = "127.0.0.1";
/// What servers of a test listen at.
pub const SERVER_IP: &str = NODE_IP;
/// Whether the servers do, and all that is in them: what a namespace's deletion costs is half of what a test does.
pub const END_WITH_THE_TESTS: bool = true;
/// No image is ever pulled.
pub const IMAGE: &str = "localhost/koco:none";
pub const AGENT_IMAGE: &str = "localhost/agent:none";
pub const KOCO: &str = env!("CARGO_BIN_EXE_koco");
/// The kubectl plugin.
pub const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-koco");

pub struct Cluster {
    /// The servers' folder: `log`, `data`, `tools`.
    pub dev: PathBuf,
    /// The shared Temporal server.
    pub temporal: String,
}

/// The servers, once the API server enforces all that it should.
pub fn get() -> &'static Cluster {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    match CLUSTER.get_or_init(prepare) {
        Ok(cluster) => cluster,
        Err(why) => {
            panic!("{why}\nThese tests bring servers of their own: `make api-test ARGS=NAME`, or `tests/api/run NAME`.")
        }
    }
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set."))
}

fn prepare() -> Result<Cluster, String> {
    let cluster = Cluster { dev: variable("KOCO_DEV_DIR")?.into(), temporal: variable("TEMPORAL_ADDRESS")? };
    variable("KUBECONFIG")?;
    policy_in_force(&cluster.dev)?;
    let node = kubelet::node(kubelet::NODE, "True").to_string();
    feed(&cluster.dev, "kubectl", &["apply", "--server-side", "-f", "-"], node.as_bytes())?;
    Ok(cluster)
}
