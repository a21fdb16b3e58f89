//! Which installation of koco a worker serves. The cluster's id is read when it is first needed: with a task queue that
//! is configured, a worker starts without Kubernetes.

use std::sync::Arc;

use kube::Client;
use tokio::sync::OnceCell;

use super::ActivityFailure;
use crate::{api::names, platform::kubernetes};

/// The installation that a worker serves.
#[derive(Clone)]
pub struct Installation {
    client: Client,
    namespace: String,
    id: Arc<OnceCell<String>>,
}

impl Installation {
    /// The release in `namespace`, of the configured cluster, or else of the one that `client` asks.
    pub fn new(client: Client, cluster: Option<String>, namespace: String) -> Self {
        let id = cluster.map(|cluster| names::installation(&cluster, &namespace));
        Self { client, namespace, id: Arc::new(OnceCell::new_with(id)) }
    }

    /// Its id, read once.
    pub(super) async fn id(&self) -> Result<&str, ActivityFailure> {
        let known = self.known(kubernetes::ask_cluster(&self.client)).await;
        known.map_err(|e| ActivityFailure::Unavailable(format!("get Namespace kube-system: {e}")))
    }

    /// Its task queue. Retries without limit: the caller can't start without the answer.
    pub(in crate::worker) async fn task_queue(&self) -> Result<String, kube::Error> {
        Ok(names::task_queue(self.known(kubernetes::cluster(&self.client)).await?))
    }

    async fn known(&self, ask: impl Future<Output = Result<String, kube::Error>>) -> Result<&str, kube::Error> {
        let id = self.id.get_or_try_init(|| async { Ok(names::installation(&ask.await?, &self.namespace)) }).await;
        id.map(String::as_str)
    }
}
