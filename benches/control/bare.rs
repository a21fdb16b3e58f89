//! The measure of the server: one workflow that starts an activity for each signal, nothing else, on a worker in this
//! process. Timed from the call that signals until the activity's first line.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use koco::temporal::{Settings, Temporal};
use temporalio_client::{UntypedWorkflow, WorkflowStartOptions};
use temporalio_common::data_converters::RawValue;
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, Runtime, SyncWorkflowContext, Worker, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::RuntimeOptions,
};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

#[workflow]
#[derive(Default)]
struct BareWorkflow {
    asked: u64,
}

#[workflow_methods]
impl BareWorkflow {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let mut done = 0;
        loop {
            ctx.wait_condition(|s| s.asked > done).await?;
            done += 1;
            let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
            ctx.execute_activity(BareActivities::arrive, done, options).await?;
        }
    }

    #[signal]
    fn go(&mut self, _ctx: &mut SyncWorkflowContext<Self>, round: u64) {
        self.asked = round;
    }
}

struct BareActivities {
    arrived: mpsc::UnboundedSender<(u64, Instant)>,
}

#[activities]
impl BareActivities {
    #[activity]
    async fn arrive(self: Arc<Self>, _ctx: ActivityContext, round: u64) -> Result<(), ActivityError> {
        // The receiver is gone only at the end.
        let _ = self.arrived.send((round, Instant::now()));
        Ok(())
    }
}

/// The workflow, and where its activities report.
pub struct Bare {
    temporal: Temporal,
    id: String,
    stop: Box<dyn Fn() + Send + Sync>,
    worker: JoinHandle<()>,
    state: Mutex<(u64, mpsc::UnboundedReceiver<(u64, Instant)>)>,
}

impl Bare {
    /// Starts a worker on a task queue of that name, and the workflow.
    pub async fn start(name: &str) -> anyhow::Result<Self> {
        let settings = Settings::from_env(name).map_err(|e| anyhow::anyhow!("{e}"))?;
        let settings = settings.context("TEMPORAL_ADDRESS is not set")?;
        let temporal = Temporal::new(Some(settings));
        let client =
            tokio::time::timeout(Duration::from_secs(20), temporal.connected()).await.context("no Temporal")??;
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let options = WorkerOptions::new(name)
            .register_workflow::<BareWorkflow>()?
            .register_activities(BareActivities { arrived })
            .build();
        let runtime = Runtime::from_current_tokio(RuntimeOptions::builder().build().map_err(anyhow::Error::msg)?)?;
        let mut worker = Worker::new(&runtime, client.clone(), options)?;
        let stop = Box::new(worker.shutdown_handle());
        let handle = tokio::runtime::Handle::current();
        let worker = tokio::task::spawn_blocking(move || {
            if let Err(e) = handle.block_on(worker.run()) {
                eprintln!("the bare worker: {e}");
            }
        });
        let options = WorkflowStartOptions::new(name, name).build();
        client.start_workflow(UntypedWorkflow::new("BareWorkflow"), RawValue::new(vec![]), options).await?;
        Ok(Self { temporal, id: name.into(), stop, worker, state: Mutex::new((0, arrivals)) })
    }

    /// One round trip, in milliseconds.
    pub async fn round(&self) -> anyhow::Result<f64> {
        let mut state = self.state.lock().await;
        state.0 += 1;
        let round = state.0;
        let began = Instant::now();
        self.temporal.signal(&self.id, "go", &round).await?;
        let arrived = crate::within("a bare round trip", async {
            loop {
                let (arrived, at) = state.1.recv().await.context("no worker")?;
                // An earlier one is of a round that was given up.
                if arrived == round {
                    return Ok(at);
                }
            }
        });
        Ok((arrived.await? - began).as_secs_f64() * 1000.0)
    }

    /// Ends the workflow and the worker.
    pub async fn end(self) {
        if let Err(e) = self.temporal.cancel(&self.id, "the bench is over").await {
            eprintln!("the bare workflow stays: {e}");
        }
        (self.stop)();
        if tokio::time::timeout(Duration::from_secs(20), self.worker).await.is_err() {
            eprintln!("the bare worker does not end");
        }
    }
}
