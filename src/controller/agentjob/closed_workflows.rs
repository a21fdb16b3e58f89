//! Finds workflows that were closed from outside, such as by termination: one list call for all jobs.

use std::{sync::Arc, time::Duration};

use super::Context;
use crate::{api::names, platform::clock};

const EVERY: Duration = Duration::from_secs(10);
/// Visibility lags and clocks differ: each call looks back beyond the last, and now and then one looks back further.
const OVERLAP: Duration = Duration::from_secs(120);
const LONG_OVERLAP: Duration = Duration::from_secs(3600);
/// Every how manieth does.
const LONG_ONE: u32 = 30;
const MOST: usize = 10_000;

/// Polls for ever.
pub(super) async fn run(context: Arc<Context>) {
    let mut since = clock::now();
    for call in 0_u32.. {
        tokio::time::sleep(EVERY).await;
        // Also forgets the jobs that are gone.
        let open = context.open_jobs();
        if open.is_empty() {
            continue;
        }
        let began = clock::now();
        let from = since - if call % LONG_ONE == 0 { LONG_OVERLAP } else { OVERLAP };
        let prefix = names::workflow(&context.installation, "");
        match context.temporal.closed_since(&context.task_queue, &from.to_string(), MOST).await {
            Ok(closed) => {
                since = began;
                for workflow in closed {
                    let Some(job) = workflow.id.strip_prefix(&prefix).and_then(|uid| open.get(uid)) else { continue };
                    context.workflows.reset_backoff(&job.uid);
                    context.workflows.poll(job.clone(), workflow.id);
                }
            }
            Err(error) => tracing::debug!(%error, "listing closed workflows"),
        }
    }
}
