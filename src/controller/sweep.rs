//! Workflows that were closed without anybody telling us, terminated by hand for one: found by one question for all jobs.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;

use super::Context;
use crate::api::names;

const EVERY: Duration = Duration::from_secs(10);
/// Visibility lags, clocks differ: each sweep looks back beyond the last.
const OVERLAP: Duration = Duration::from_secs(120);
const MOST: usize = 10_000;

/// Sweeps for ever.
pub(super) async fn run(context: Arc<Context>) {
    let mut since = Timestamp::now();
    loop {
        tokio::time::sleep(EVERY).await;
        if context.open.lock().map_or(true, |o| o.is_empty()) {
            continue;
        }
        let began = Timestamp::now();
        let from = since - OVERLAP;
        match context.temporal.closed_since(&from.to_string(), MOST).await {
            Ok(closed) => {
                since = began;
                for workflow in closed {
                    look(&context, &workflow.id);
                }
            }
            Err(error) => tracing::debug!(%error, "sweeping for closed workflows"),
        }
    }
}

fn look(context: &Context, id: &str) {
    let prefix = names::workflow(&context.cluster, "");
    let Some(uid) = id.strip_prefix(&prefix) else { return };
    let job = context.open.lock().ok().and_then(|o| o.get(uid).cloned());
    if let Some(job) = job {
        context.mirror.hurry(uid);
        context.mirror.ask(job, id.to_string());
    }
}
