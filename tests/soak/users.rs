//! The users of a soak: each applies a job and asks of it what the plan says, and asks again while the API server is away.

use std::{path::Path, time::Duration};

use koco::api::AgentJob;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{
    plan::{JobPlan, LARGE_RESULT, MAXIMUM_ATTEMPTS, Request, TICK_MILLIS},
    watch::Watch,
};
use crate::harness::{Test, agent, agent_log::now, job::With};

/// Where agents see the ledger's folder.
const LEDGER: &str = "/ledger";
const AGAIN: Duration = Duration::from_millis(200);
/// The most jobs that have not ended: on a machine that can't keep up with the plan, users wait before they apply.
const MOST_OPEN: usize = 60;

/// Lets users apply jobs in the order of the plan, as others end.
pub struct Door<'w> {
    watch: &'w Watch,
    /// After it nothing is applied any more.
    closes: Instant,
    applied: Mutex<usize>,
}

impl<'w> Door<'w> {
    pub fn new(watch: &'w Watch, closes: Instant) -> Self {
        Self { watch, closes, applied: Mutex::new(0) }
    }

    /// Whether a job may be applied now; waits for it.
    async fn opens(&self) -> bool {
        let mut applied = self.applied.lock().await;
        while *applied >= self.watch.seen.lock().ended() + MOST_OPEN {
            if Instant::now() >= self.closes {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
        *applied += 1;
        true
    }
}

/// A job's spec.
pub fn spec(plan: &JobPlan, ledger: &Path) -> Value {
    let JobPlan { name, ticks, failures, ignores_sigterm, large_result, .. } = plan;
    let bytes = if *large_result { LARGE_RESULT } else { 0 };
    let behaviour = format!(
        "ledger?file={LEDGER}/{name}&ticks={ticks}&every_ms={TICK_MILLIS}&failures={failures}&bytes={bytes}&ignoreTerm={ignores_sigterm}"
    );
    let mut spec = agent(&behaviour).mode(plan.mode).heartbeat("10s").grace(3).with(json!({
        "pausePolicy": plan.pause_policy,
        "disruptionPolicy": plan.disruption_policy,
        "retryPolicy": { "maximumAttempts": MAXIMUM_ATTEMPTS, "initialInterval": "500ms", "maximumInterval": "2s" },
        // A busy node takes as long as it takes: a job that is lost shows at the end.
        "timeouts": { "pending": "24h" },
        "runHistoryLimit": 100,
        "failedPodsHistoryLimit": 0,
    }));
    let pod = &mut spec["template"]["spec"];
    pod["volumes"] = json!([{ "name": "ledger", "hostPath": { "path": ledger, "type": "Directory" } }]);
    pod["containers"][0]["volumeMounts"] = json!([{ "name": "ledger", "mountPath": LEDGER }]);
    spec
}

/// Lives through a job's part of the plan; answers what was asked, and when each request was first sent. `None` if there
/// was no time left to apply it.
pub async fn user(
    test: &Test,
    plan: &JobPlan,
    ledger: &Path,
    began: Instant,
    door: &Door<'_>,
) -> Option<Vec<(u64, Request)>> {
    let jobs = test.jobs();
    tokio::time::sleep_until(began + plan.at).await;
    if !door.opens().await {
        return None;
    }
    let manifest = crate::harness::job::manifest(&plan.name, spec(plan, ledger));
    let job: AgentJob = serde_json::from_value(manifest).expect("a job");
    until_answered(async || match jobs.create(&PostParams::default(), &job).await {
        // The answer to an earlier try was lost.
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
        other => other.map(drop),
    })
    .await;
    let applied = Instant::now();
    let mut asked = Vec::new();
    for (after, request) in &plan.requests {
        tokio::time::sleep_until(applied + *after).await;
        asked.push((now(), *request));
        until_answered(async || ask(&jobs, &plan.name, *request).await).await;
    }
    Some(asked)
}

/// Asks once.
async fn ask(jobs: &Api<AgentJob>, name: &str, request: Request) -> kube::Result<()> {
    match request {
        Request::Want(state) => {
            let patch = Patch::Merge(json!({ "spec": { "desiredState": state } }));
            jobs.patch(name, &PatchParams::default(), &patch).await.map(drop)
        }
        Request::Delete => match jobs.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
            other => other.map(drop),
        },
    }
}

/// Tries again until the API server has taken it. What it refuses is an error of the test.
pub async fn until_answered(mut ask: impl AsyncFnMut() -> kube::Result<()>) {
    loop {
        match ask().await {
            Ok(()) => return,
            Err(kube::Error::Api(e)) if matches!(e.code, 400 | 403 | 404 | 422) => panic!("refused: {e}"),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}
