//! The worker role: runs the `AgentWorkflow` and its activities, which create the runner pods. Used by the command line
//! only. Any number may run: they share nothing but Temporal's task queues, and no worker holds a job while its agent
//! runs. `start_runner` has a task queue, and thus slots, of its own; its first try is a local activity: see [`calls`].

mod activities;
mod attempts;
pub mod calls;
mod decide;
mod settings;
mod workflow;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use temporalio_common::telemetry::TelemetryOptions;
use temporalio_sdk::{
    Runtime, Worker, WorkerOptions,
    runtime::{
        RuntimeOptions,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder},
    },
};
use tokio_util::sync::CancellationToken;

pub use activities::{Activities, Installation, LocalSlots};
pub use settings::WorkerSettings;
pub use workflow::AgentWorkflow;

use crate::{api::names, temporal::TemporalError};

/// The graceful-shutdown period for activities; after that Temporal retries them on other workers.
const GRACE: Duration = Duration::from_secs(10);
/// The deadline of a hard shutdown, in case the SDK's worker doesn't end by itself.
const LIMIT: Duration = Duration::from_secs(20);
/// How long one of the SDK's workers lives: it never frees a task's cancellation token, so it is replaced now and then.
const RENEW: Duration = Duration::from_secs(12 * 3600);
/// After this time without a failure a worker counts as ready: it first reads its namespace, and fails if there is
/// none.
const SETTLED: Duration = Duration::from_secs(1);
/// How many polls for workflow tasks a worker has open, by the SDK's default. Each takes a slot, so that with no more slots
/// than polls these and tasks wait for each other.
const POLLS: usize = 5;
/// The wait before a failed worker is replaced.
const AGAIN: Duration = Duration::from_secs(5);

/// Why the worker can't run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No Temporal server is configured, or there is no connection.
    #[error(transparent)]
    Temporal(#[from] TemporalError),
    /// The cluster's id could not be read.
    #[error("get Namespace kube-system: {0}")]
    Cluster(#[from] kube::Error),
    /// The SDK rejects the settings.
    #[error("the Temporal worker can't be set up: {0}")]
    Setup(String),
    /// It failed while running.
    #[error("the Temporal worker failed: {0}")]
    Failed(String),
}

impl WorkerError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Temporal(e) => e.reason(),
            Self::Cluster(_) => "ApiServer",
            Self::Setup(_) => "WorkerSetup",
            Self::Failed(_) => "WorkerFailed",
        }
    }

    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Temporal(e) => e.is_transient(),
            Self::Setup(_) => false,
            Self::Cluster(_) | Self::Failed(_) => true,
        }
    }
}

/// Runs until `stop`, then ends in bounded time; other workers take over its tasks. `ready` is set while it works.
/// Returns early only if it can't be set up.
pub async fn run(
    settings: WorkerSettings,
    task_queue: Option<String>,
    activities: Activities,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) -> Result<(), WorkerError> {
    let temporal = activities.temporal.clone();
    let task_queue = match task_queue {
        Some(task_queue) => task_queue,
        None => tokio::select! {
            found = activities.installation.task_queue() => found?,
            () = stop.cancelled() => return Ok(()),
        },
    };
    let client = tokio::select! {
        client = temporal.connected() => client?,
        () = stop.cancelled() => return Ok(()),
    };
    let metrics = TelemetryOptions::builder().metrics(temporal.metrics().meter()).attach_service_name(false).build();
    let options = RuntimeOptions::builder().telemetry_options(metrics).heartbeat_interval(None).build();
    let options = options.map_err(setup)?;
    let runtime = Runtime::from_current_tokio(options).map_err(setup)?;
    tracing::info!(task_queue, "starting the Temporal worker");
    let up = Up { queues: Default::default(), ready };
    let poll = async |queue: Queue| {
        while !stop.is_cancelled() {
            let options = options_of(&settings, queue, &task_queue, &activities)?;
            let worker = Worker::new(&runtime, client.clone(), options).map_err(setup)?;
            if let Err(error) = serve(worker, queue, &up, &stop).await {
                tracing::error!(%error, reason = error.reason(), ?queue, "the Temporal worker failed, starting another");
                tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(AGAIN) => {} }
            }
        }
        Ok(())
    };
    tokio::try_join!(poll(Queue::Workflows), poll(Queue::Starts)).map(drop)
}

/// The task queues that a worker polls.
#[derive(Clone, Copy, Debug)]
enum Queue {
    /// That of the workflows and of all activities but one.
    Workflows,
    /// That of `start_runner`.
    Starts,
}

/// Which of the task queues are polled. The worker is ready if both are.
struct Up {
    queues: [AtomicBool; 2],
    ready: Arc<AtomicBool>,
}

impl Up {
    fn set(&self, queue: Queue, up: bool) {
        self.queues[queue as usize].store(up, Ordering::Relaxed);
        self.ready.store(self.queues.iter().all(|q| q.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

fn setup(e: impl std::fmt::Display) -> WorkerError {
    WorkerError::Setup(e.to_string())
}

fn options_of(
    settings: &WorkerSettings,
    queue: Queue,
    task_queue: &str,
    activities: &Activities,
) -> Result<WorkerOptions, WorkerError> {
    let workflow_slots = settings.worker_workflow_slots.max(POLLS + 1);
    let slots = TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(workflow_slots))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(settings.worker_activity_slots))
        // None waits for one of these: a task that waits holds up its workflow.
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(workflow_slots))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build();
    let options = match queue {
        Queue::Workflows => WorkerOptions::new(task_queue).register_workflow::<AgentWorkflow>().map_err(setup)?,
        Queue::Starts => WorkerOptions::new(names::start_task_queue(task_queue)),
    };
    Ok(options
        .register_activities(activities.clone())
        .tuner(slots)
        // One that falls from the cache while its local activity runs begins its task again, ten seconds later.
        .max_cached_workflows(settings.worker_cached_workflows.max(2 * workflow_slots))
        .graceful_shutdown_period(GRACE)
        .build())
}

/// Runs one of the SDK's workers on a thread of its own, because its future can't move between threads.
async fn serve(mut worker: Worker, queue: Queue, up: &Up, stop: &CancellationToken) -> Result<(), WorkerError> {
    let shut_down = worker.shutdown_handle();
    let (handle, (tell, mut ended)) = (tokio::runtime::Handle::current(), tokio::sync::oneshot::channel());
    std::thread::Builder::new()
        .name("temporal-worker".into())
        .spawn(move || {
            // The receiver is gone once the deadline has passed.
            let _ = tell.send(handle.block_on(worker.run()).map_err(|e| e.to_string()));
        })
        .map_err(setup)?;
    let (limit, settled, mut is_up) = (tokio::time::sleep(RENEW), tokio::time::sleep(SETTLED), false);
    tokio::pin!(limit, settled);
    let early = loop {
        tokio::select! {
            ended = &mut ended => break Some(ended),
            () = stop.cancelled() => break None,
            () = &mut limit => break None,
            () = &mut settled, if !is_up => {
                is_up = true;
                up.set(queue, true);
                tracing::info!(?queue, "the Temporal worker is running");
            }
        }
    };
    up.set(queue, false);
    let outcome = match early {
        Some(ended) => ended,
        None => {
            shut_down();
            match tokio::time::timeout(LIMIT, ended).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("the Temporal worker didn't stop in time");
                    return Ok(());
                }
            }
        }
    };
    outcome.unwrap_or_else(|_| Err("its thread panicked".into())).map_err(WorkerError::Failed)
}
