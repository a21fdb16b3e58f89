//! What a Temporal job is measured against: workflows without Kubernetes, on the same server, with the same SDK and
//! the same options of the worker. Two of them:
//!
//! - the twin has the shape of a job's life: a local activity that does nothing, a signal that says the runner is
//!   ready, an activity that is completed asynchronously after the agent's second, and one long poll for the result;
//! - the other is what is least: one activity, which waits for that second.
//!
//! Their worker is a process of its own, the bench started again; it also sends the signal, as a gateway would.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, stream};
use koco::temporal::{Settings, Temporal};
use serde::{Deserialize, Serialize};
use temporalio_client::{
    ActivityIdentifier, Client, RpcOptions, UntypedSignal, UntypedWorkflow, WorkflowGetResultOptions,
    WorkflowSignalOptions, WorkflowStartOptions,
};
use temporalio_common::{
    RetryPolicy,
    data_converters::{PayloadConverter, RawValue},
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, LocalActivityOptions, Runtime, SyncWorkflowContext, Worker, WorkerOptions, WorkflowContext,
    WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::{
        RuntimeOptions,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder},
    },
};
use tokio::time::Instant;

use crate::{
    Times,
    objects::{CREATORS, LIMIT},
};

/// What the agent would take.
const SECOND: Duration = Duration::from_secs(1);
/// As long as the heartbeat time-out of jobs that say nothing.
const HEARTBEAT: Duration = Duration::from_secs(120);
/// As long as the input of a job's workflow.
const INPUT: usize = 700;
const AGENT: &str = "execute_agent-1";

/// When an agent would have run, in milliseconds of this machine's clock.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Ran {
    began: f64,
    ended: f64,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

#[workflow]
#[derive(Default)]
struct Twin {
    ready: bool,
}

#[workflow_methods]
impl Twin {
    #[run(name = "Twin")]
    async fn run(ctx: &mut WorkflowContext<Self>, input: String) -> WorkflowResult<Ran> {
        let start = LocalActivityOptions::builder()
            .activity_id("start_runner".to_string())
            .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
            .start_to_close_timeout(Duration::from_secs(5))
            .build();
        ctx.execute_local_activity(Activities::start_runner, input, start).await?;
        ctx.wait_condition(|s| s.ready).await?;
        Ok(ctx.execute_activity(Activities::execute_agent, "input".repeat(40), agent()).await?)
    }

    #[signal(name = "ready")]
    fn ready(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _run: i32) {
        self.ready = true;
    }
}

#[workflow]
#[derive(Default)]
struct OneActivity;

#[workflow_methods]
impl OneActivity {
    #[run(name = "OneActivity")]
    async fn run(ctx: &mut WorkflowContext<Self>, input: String) -> WorkflowResult<Ran> {
        Ok(ctx.execute_activity(Activities::wait, input, agent()).await?)
    }
}

fn agent() -> ActivityOptions {
    let again = RetryPolicy::builder()
        .initial_interval(Duration::from_secs(1))
        .maximum_interval(Duration::from_secs(5))
        .build();
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(86_400))
        .heartbeat_timeout(HEARTBEAT)
        .activity_id(AGENT)
        .retry_policy(again)
        .build()
}

struct Activities {
    client: Client,
}

#[activities]
impl Activities {
    #[activity]
    async fn start_runner(self: Arc<Self>, ctx: ActivityContext, _input: String) -> Result<(), ActivityError> {
        let id = ctx.info().workflow_id.clone().unwrap_or_default();
        // The runner comes later, whatever becomes of this task.
        tokio::spawn(async move {
            let run = RawValue::from_value(&1, &PayloadConverter::default());
            let options = WorkflowSignalOptions::default();
            let handle = self.client.get_workflow_handle::<UntypedWorkflow>(id);
            handle.signal(UntypedSignal::new("ready"), run, options).await.expect("a signal");
        });
        Ok(())
    }

    #[activity]
    async fn execute_agent(self: Arc<Self>, ctx: ActivityContext, _input: String) -> Result<Ran, ActivityError> {
        let (began, id) = (now(), ctx.info().workflow_id.clone().unwrap_or_default());
        tokio::spawn(async move {
            tokio::time::sleep(SECOND).await;
            let agent = self.client.get_async_activity_handle(ActivityIdentifier::by_id_workflow(id, "", AGENT));
            agent.complete(Some(Ran { began, ended: now() }), RpcOptions::default()).await.expect("an end");
        });
        Err(ActivityError::WillCompleteAsync)
    }

    #[activity]
    async fn wait(self: Arc<Self>, _ctx: ActivityContext, _input: String) -> Result<Ran, ActivityError> {
        let began = now();
        tokio::time::sleep(SECOND).await;
        Ok(Ran { began, ended: now() })
    }
}

async fn connect() -> Client {
    let settings = Settings::from_env("bench-jobs").expect("settings").expect("TEMPORAL_ADDRESS is set");
    Temporal::new(Some(settings)).connected().await.expect("a connection")
}

/// Runs the worker of both until it is killed: a worker's settings as koco's are, but with a slot for each activity
/// that waits.
pub async fn worker(task_queue: &str, waiting: usize) {
    let client = connect().await;
    let slots = TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(100))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(waiting.max(100)))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(100))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build();
    let options = WorkerOptions::new(task_queue)
        .register_workflow::<Twin>()
        .and_then(|o| o.register_workflow::<OneActivity>())
        .expect("workflows")
        .register_activities(Activities { client: client.clone() })
        .tuner(slots)
        .max_cached_workflows(1000_usize)
        .build();
    let runtime = RuntimeOptions::builder().heartbeat_interval(None).build().expect("options");
    let runtime = Runtime::from_current_tokio(runtime).expect("a runtime");
    let mut worker = Worker::new(&runtime, client, options).expect("a worker");
    worker.run().await.expect("it runs on");
}

/// Starts workflows of a type and waits for their results.
pub struct Bare {
    client: Client,
    task_queue: String,
}

impl Bare {
    pub async fn new(task_queue: &str) -> Self {
        Self { client: connect().await, task_queue: task_queue.into() }
    }

    /// Runs so many workflows, and returns when all have ended.
    pub async fn run(&self, kind: &'static str, prefix: &str, jobs: usize) -> Times {
        let start = async |n: usize| {
            let input = RawValue::from_value(&"x".repeat(INPUT), &PayloadConverter::default());
            let options = WorkflowStartOptions::new(&self.task_queue, format!("{prefix}-{n}")).build();
            let applied = (Instant::now(), now());
            let handle = self.client.start_workflow(UntypedWorkflow::new(kind), input, options).await;
            let handle = handle.expect("a workflow");
            let result = tokio::spawn(async move {
                let result = handle.get_result(WorkflowGetResultOptions::default()).await.expect("a result");
                let done = (Instant::now(), now());
                let ran: Ran = serde_json::from_slice(&result.payloads[0].data).expect("a result");
                (done, ran)
            });
            (applied, result)
        };
        let started: Vec<_> = stream::iter(0..jobs).map(start).buffer_unordered(CREATORS).collect().await;
        let first_create = started.iter().map(|((at, _), _)| *at).min().expect("jobs");
        let mut times = Times { to_first_line: Vec::new(), to_done: Vec::new(), seconds: 0.0 };
        let all = async {
            for ((_, applied), result) in started {
                let ((at, done), ran) = result.await.expect("a result");
                times.seconds = times.seconds.max((at - first_create).as_secs_f64());
                times.to_first_line.push(ran.began - applied);
                times.to_done.push(done - ran.ended);
            }
        };
        tokio::time::timeout(LIMIT, all).await.expect("all workflows in time");
        times
    }
}
