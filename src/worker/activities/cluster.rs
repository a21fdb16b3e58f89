//! The cluster's id, read when it is first needed: a worker starts without Kubernetes.

use std::sync::Arc;

use kube::Client;
use tokio::sync::OnceCell;

use super::ActivityFailure;
use crate::platform::kubernetes;

/// The id of the cluster that a worker serves.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    id: Arc<OnceCell<String>>,
}

impl Cluster {
    /// With the configured id, or else the one derived from the cluster.
    pub fn new(client: Client, configured: Option<String>) -> Self {
        Self { client, id: Arc::new(OnceCell::new_with(configured)) }
    }

    /// The id, read once.
    pub(super) async fn id(&self) -> Result<&str, ActivityFailure> {
        let asked = self.id.get_or_try_init(|| kubernetes::ask_cluster(&self.client)).await;
        asked.map(String::as_str).map_err(|e| ActivityFailure::Unavailable(format!("get Namespace kube-system: {e}")))
    }
}
