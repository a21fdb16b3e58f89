//! Settings: flags and environment, the same for every role that has them. `docs/settings.md` has the table.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::telemetry::LogFormat;

/// The settings of every role.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// What to log, such as `info` or `koco=debug,info`
    #[arg(long, env = "KOCO_LOG", default_value = "info", global = true)]
    pub log: String,
    /// Format of log lines
    #[arg(long, env = "KOCO_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "KOCO_HEALTH_ADDR", default_value = "127.0.0.1:8080")]
    pub health_addr: SocketAddr,
    /// Namespace that the operator itself runs in
    #[arg(long, env = "KOCO_NAMESPACE", default_value = "koco-system")]
    pub namespace: String,
    /// Unique name of this process; the pod's name in a cluster
    #[arg(long, env = "KOCO_IDENTITY", default_value_t = identity())]
    pub identity: String,
    /// Namespaces to watch, separated by commas; empty: all
    #[arg(long, env = "KOCO_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Temporal's task queue; unset: one of this cluster and namespace
    #[arg(long, env = "KOCO_TASK_QUEUE", value_parser = set)]
    pub task_queue: Option<String>,
    /// The cluster's id in workflow ids and in the task queue; unset: from the UID of kube-system
    #[arg(long, env = "KOCO_CLUSTER", value_parser = set)]
    pub cluster: Option<String>,
    /// Folder of the keys that encrypt what Temporal gets: each file is one, 32 bytes in Base64, its name the key's id.
    /// Unset: nothing is encrypted
    #[arg(long, env = "KOCO_PAYLOAD_KEYS", requires = "payload_key")]
    pub payload_keys: Option<PathBuf>,
    /// The id of the key that encrypts; the others decrypt what they have encrypted
    #[arg(long, env = "KOCO_PAYLOAD_KEY", requires = "payload_keys")]
    pub payload_key: Option<String>,
}

impl Common {
    /// The namespaces to watch; one `None` stands for all.
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let mut named: Vec<_> = self.watch_namespaces.iter().filter(|n| !n.is_empty()).cloned().map(Some).collect();
        named.sort();
        named.dedup();
        if named.is_empty() { vec![None] } else { named }
    }
}

/// An empty variable would be a task queue of all installations.
fn set(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("it is empty: leave it out") } else { Ok(text.into()) }
}

fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
