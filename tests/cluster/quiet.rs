//! A job that runs and does nothing new causes no writes.

use std::time::Duration;

use crate::harness::{MODES, Phase, Test, agent, audit, job::With, wait::always};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_running_job_is_not_written() {
    let (test, _roles) = Test::with_operator().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("sleep?seconds=600").mode(mode).heartbeat("2s")).await);
    }
    for job in &jobs {
        job.running_pod().await;
        job.phase(Phase::Running).await;
    }
    // What follows from the start has been written once two looks in a row see the same.
    for job in &jobs {
        let mut last = String::new();
        crate::harness::within(Duration::from_secs(30), "the status to settle", async || {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let now = job.get().await.metadata.resource_version.unwrap_or_default();
            let same = now == last;
            last = now;
            if same { Ok(()) } else { Err(last.clone()) }
        })
        .await;
    }
    let (mut before, writes) = (Vec::new(), audit::status_writes(&test.namespace));
    for job in &jobs {
        before.push(job.get().await.metadata.resource_version);
    }
    // Five heartbeat time-outs.
    always(Duration::from_secs(10), "nothing is written", async || {
        for (job, before) in jobs.iter().zip(&before) {
            let now = job.get().await.metadata.resource_version;
            if now != *before {
                return Err((job.name.clone(), now));
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(audit::status_writes(&test.namespace), writes);
}
