//! A running job without changes causes no writes of job or run.

use std::time::Duration;

use crate::harness::{Job, MODES, Phase, Test, agent, audit, job::With, wait::always};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_running_job_is_not_written() {
    let (test, _roles) = Test::with_operator().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("sleep?seconds=600").mode(mode).heartbeat("10s")).await);
    }
    for job in &jobs {
        job.running_pod().await;
        job.phase(Phase::Running).await;
    }
    // The writes of the start are done once two reads in a row are equal.
    for job in &jobs {
        let mut last = Vec::new();
        crate::harness::within(crate::harness::DEADLINE, "the status to settle", async || {
            tokio::time::sleep(Duration::from_secs(6)).await;
            let now = versions(job).await;
            let same = now == last;
            last = now;
            if same { Ok(()) } else { Err(last.clone()) }
        })
        .await;
    }
    let writes = || (audit::status_writes(&test.namespace), audit::run_writes(&test.namespace));
    let (mut before, written) = (Vec::new(), writes());
    for job in &jobs {
        before.push(versions(job).await);
    }
    // Five heartbeat time-outs.
    always(Duration::from_secs(50), "nothing is written", async || {
        for (job, before) in jobs.iter().zip(&before) {
            let now = versions(job).await;
            if now != *before {
                return Err((job.name.clone(), now));
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(writes(), written);
}

/// The versions of a job and of its runs: each write makes a new one.
async fn versions(job: &Job<'_>) -> Vec<Option<String>> {
    let runs = job.runs().await.into_iter().map(|run| run.metadata.resource_version);
    [job.get().await.metadata.resource_version].into_iter().chain(runs).collect()
}
