//! What tests of this tier look for in requests about AgentRuns, and pods by the number of their run.

use k8s_openapi::api::core::v1::Pod;
use koco::api::names;

use super::{Job, hold::Asked, within};

/// Whether it is the write that lets a Temporal job's agent start.
pub fn grants(asked: &Asked) -> bool {
    asked.words() == "update agentruns" && asked.body.contains("\"grant\"")
}

/// Whether it is a write of how a run ended.
pub fn records_the_end(asked: &Asked) -> bool {
    asked.words() == "update agentruns/status" && asked.body.contains("\"termination\"")
}

/// Which run a pod is of.
pub fn number(pod: &Pod) -> i32 {
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(names::LABEL_RUN_NUMBER));
    label.and_then(|n| n.parse().ok()).unwrap_or(0)
}

impl Job<'_> {
    /// Waits for the pod of the job's run of that number.
    pub async fn pod(&self, run: i32) -> Pod {
        within(super::DEADLINE, &format!("the pod of run {run} of {}", self.name), async || {
            let found = self.pods().await.into_iter().find(|p| number(p) == run);
            found.ok_or("no such pod")
        })
        .await
    }
}
