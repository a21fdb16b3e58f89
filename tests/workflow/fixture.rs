//! The steps of a simulated runner, gateway and controller, and the workers that the tests share, with a real Temporal
//! server.

use std::{fmt::Display, sync::OnceLock, time::Duration};

use koco::{
    api::*,
    protocol::{error_types, workflow::*},
    temporal::{Closed, Heartbeat, Settings, Temporal, TemporalError},
    worker::AgentWorkflow,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use temporalio_client::{
    UntypedSignal, UntypedWorkflow, WorkflowDescribeOptions, WorkflowExecutionInfo, WorkflowFetchHistoryOptions,
    WorkflowHandle, WorkflowSignalOptions,
};
use temporalio_common::{
    data_converters::RawValue,
    protos::temporal::api::{history::v1::HistoryEvent, workflow::v1::PendingWorkflowTaskInfo},
};
use temporalio_sdk::{
    Runtime, Worker, WorkerOptions,
    runtime::{
        RuntimeOptions,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder},
    },
};

use crate::cluster::{Record, Records, Simulated};

struct Environment {
    temporal: Temporal,
    task_queue: String,
    records: Records,
}

/// A worker that keeps little in its cache: most tasks replay the whole history, so that code that isn't
/// deterministic fails. Not without any: a workflow that falls from it while a local activity runs has to begin its
/// task again, after the task's time-out. And more than the worker's five polls, each of which takes one of as many places.
fn uncached_worker() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| start_worker(8))
}

/// A worker with a cache, for long histories.
fn cached_worker() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| start_worker(1000))
}

/// Starts a worker, which all tests of this process share, on a thread that outlives each of them.
fn start_worker(cached: usize) -> Environment {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let queue = format!("koco-test-{}-{cached}-{}", std::process::id(), k8s_openapi::jiff::Timestamp::now());
            let settings = Settings::from_env("test").unwrap();
            assert!(
                settings.is_some(),
                "these tests need a Temporal server: `deploy/dev/enter cargo test --test workflow` in a cluster that is \
                 up, or TEMPORAL_ADDRESS=http://host:port cargo test --test workflow"
            );
            let temporal = Temporal::new(settings);
            let client = tokio::time::timeout(Duration::from_secs(20), temporal.connected())
                .await
                .expect("the Temporal server at TEMPORAL_ADDRESS answers")
                .unwrap();
            let records = Records::default();
            let sdk = RuntimeOptions::builder().heartbeat_interval(None).build().unwrap();
            let sdk = Runtime::from_current_tokio(sdk).unwrap();
            let starts = WorkerOptions::new(names::start_task_queue(&queue))
                .register_activities(Simulated { records: records.clone() })
                .max_heartbeat_throttle_interval(Duration::from_secs(2))
                .build();
            let options = WorkerOptions::new(queue.clone())
                .register_workflow::<AgentWorkflow>()
                .unwrap()
                .register_activities(Simulated { records: records.clone() })
                .max_cached_workflows(cached)
                .tuner(slots())
                .max_heartbeat_throttle_interval(Duration::from_secs(2))
                .build();
            let mut starts = Worker::new(&sdk, client.clone(), starts).unwrap();
            let mut worker = Worker::new(&sdk, client, options).unwrap();
            tell.send(Environment { temporal, task_queue: queue, records }).unwrap();
            tokio::try_join!(worker.run(), starts.run()).unwrap();
        });
    });
    told.recv().expect("the worker starts: see the panic above")
}

/// A slot for a local activity of each workflow task, as koco's worker has them.
fn slots() -> TunerHolder {
    TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(100))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(100))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(100))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build()
}

/// What a workflow is started with: 3 attempts 1 s apart, heartbeat 60 s, grace 0.
pub fn input(name: &str) -> Input {
    let uid = format!("{name}-{}", k8s_openapi::jiff::Timestamp::now());
    Input {
        job: JobRef { namespace: "ns".into(), name: name.into(), uid },
        retry_policy: ResolvedRetryPolicy {
            maximum_attempts: 3,
            initial_interval: seconds("1s"),
            backoff_coefficient: 1.0,
            maximum_interval: seconds("1s"),
            non_retryable_error_types: vec!["Fatal".into()],
        },
        timeouts: ResolvedTimeouts { heartbeat: seconds("60s"), execution: None, pending: seconds("10m") },
        disruption_policy: DisruptionPolicy::Count,
        pause_policy: PausePolicy::Freeze,
        grace_seconds: 0,
        shape: Shape::default(),
        progress: Progress::default(),
    }
}

/// One job, its workflow and its simulated runner.
pub struct Job {
    environment: &'static Environment,
    name: &'static str,
    pub id: String,
    uid: String,
}

pub fn seconds(text: &str) -> Seconds {
    text.parse().unwrap()
}

/// How long a test waits for anything. No machine is so slow that what takes longer would come.
const PATIENCE: Duration = Duration::from_secs(150);

pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    until_ok(what, || async { look().await.ok_or("not yet") }).await
}

/// The same, which says at the end what it saw last.
async fn until_ok<T, E: Display, F: Future<Output = Result<T, E>>>(what: &str, look: impl Fn() -> F) -> T {
    let since = std::time::Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) if since.elapsed() > PATIENCE => panic!("it never came to this: {what}: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// A closed run.
fn ended(number: i32, kind: TerminationType, error: Option<&str>) -> AgentRun {
    let time = k8s_openapi::jiff::Timestamp::now();
    let mut run = json!({
        "apiVersion": names::API_VERSION, "kind": "AgentRun", "metadata": { "name": "simulated" },
        "spec": {
            "identity": { "jobName": "j", "jobUID": "u", "number": number, "attempt": 1, "podName": "p",
                "executionMode": "Temporal", "heartbeat": "60s" },
            "grant": { "time": time, "binding": 0 },
        },
        "status": { "readyTime": time, "termination": {
            "type": kind, "source": "Runner", "time": time, "started": true,
            "result": (kind == TerminationType::Succeeded).then_some("done"),
        } },
    });
    if let Some(kind) = error {
        run["status"]["termination"]["error"] = json!({ "type": kind, "message": "simulated" });
    }
    serde_json::from_value(run).unwrap()
}

/// One try of `execute_agent`, and the number of its run.
#[derive(Clone)]
pub struct Bound {
    number: i32,
    task: Vec<u8>,
}

impl Job {
    /// Starts a workflow; `change` its [`input`].
    pub async fn start(name: &'static str, change: impl FnOnce(&mut Input)) -> Self {
        Self::prepare(name, change, |_| {}).await
    }

    /// The same, with results to return.
    pub async fn prepare(
        name: &'static str,
        change: impl FnOnce(&mut Input),
        answers: impl FnOnce(&mut Record),
    ) -> Self {
        Self::begin(uncached_worker(), name, change, answers).await
    }

    /// The same, for one with a long history.
    pub async fn long(name: &'static str, change: impl FnOnce(&mut Input), answers: impl FnOnce(&mut Record)) -> Self {
        Self::begin(cached_worker(), name, change, answers).await
    }

    async fn begin(
        environment: &'static Environment,
        name: &'static str,
        change: impl FnOnce(&mut Input),
        answers: impl FnOnce(&mut Record),
    ) -> Self {
        let mut input = input(name);
        change(&mut input);
        let uid = input.job.uid.clone();
        answers(environment.records.lock().unwrap().entry(uid.clone()).or_default());
        let id = names::workflow("test", &uid);
        environment.temporal.start(&id, &environment.task_queue, &input).await.unwrap();
        Self { environment, name, id, uid }
    }

    pub fn record<R>(&self, look: impl FnOnce(&mut Record) -> R) -> R {
        look(self.environment.records.lock().unwrap().entry(self.uid.clone()).or_default())
    }

    /// Waits for the job's record to fulfil a condition.
    pub async fn seen(&self, what: &str, condition: impl Fn(&Record) -> bool) {
        until(what, || async { self.record(|r| condition(r)).then_some(()) }).await;
    }

    pub async fn signal<T>(&self, signal: &'static str, payload: &T)
    where
        T: temporalio_common::data_converters::TemporalSerializable + Serialize + Send + Sync + 'static,
    {
        until("the signal is taken", || async {
            match self.environment.temporal.signal(&self.id, signal, payload).await {
                Ok(()) => Some(()),
                // It is continuing as new: the server requires a retry.
                Err(e) if e.is_transient() => None,
                Err(e) => panic!("{e}"),
            }
        })
        .await;
    }

    pub async fn ask(&self, signal: &'static str) {
        self.signal(signal, &Value::Null).await;
    }

    /// With payloads as they are, or none at all.
    pub async fn signal_raw(&self, signal: &'static str, payloads: RawValue) {
        let signal = UntypedSignal::new(signal);
        self.handle().signal(signal, payloads, WorkflowSignalOptions::default()).await.unwrap();
    }

    fn handle(&self) -> WorkflowHandle<temporalio_client::Client, UntypedWorkflow> {
        self.environment.temporal.client().unwrap().get_workflow_handle::<UntypedWorkflow>(&self.id)
    }

    pub async fn query<T: DeserializeOwned + 'static>(&self, query: &'static str) -> T {
        // The worker may be busy replaying; a query waits 3 s at most.
        until_ok("the query is answered", || async {
            match self.environment.temporal.query(&self.id, query).await {
                Ok(answer) => Ok(answer),
                Err(e @ TemporalError::Answer(_)) => panic!("{e}"),
                Err(e) => Err(format!("{e}, with the workflow task {:?}", self.workflow_task().await)),
            }
        })
        .await
    }

    /// The pending workflow task, as the server knows it.
    async fn workflow_task(&self) -> Option<PendingWorkflowTaskInfo> {
        let described = self.handle().describe(WorkflowDescribeOptions::default()).await.ok()?;
        described.raw().pending_workflow_task
    }

    pub async fn status(&self) -> StatusAnswer {
        self.query(QUERY_STATUS).await
    }

    pub async fn stage(&self, stage: Stage) -> StatusAnswer {
        until(stage.as_str(), || async { Some(self.status().await).filter(|s| s.status == stage) }).await
    }

    /// The runner of a run is ready, once its pod is created.
    pub async fn ready(&self, run: i32) {
        self.seen("start_runner", |r| r.starts.iter().any(|s| s.run == run)).await;
        self.signal(SIGNAL_RUNNER_READY, &RunnerReady { run }).await;
    }

    /// The `n`th `execute_agent`, from 1.
    pub async fn bound(&self, n: usize) -> (ExecuteAgent, Bound) {
        self.seen("execute_agent", |r| r.binds.len() >= n).await;
        let (input, task) = self.record(|r| r.binds[n - 1].clone());
        let number = input.run;
        (input, Bound { number, task })
    }

    /// A ready runner, bound as the `n`th.
    pub async fn run(&self, run: i32, n: usize) -> Bound {
        self.ready(run).await;
        let (input, bound) = self.bound(n).await;
        assert_eq!(input.run, run);
        bound
    }

    /// Completes the activity of a run by its number, whichever try is pending.
    pub async fn deliver(&self, bound: &Bound, kind: TerminationType, error: Option<&str>) {
        let end = ended(bound.number, kind, error);
        until_ok("the end is taken", || async {
            match self.environment.temporal.complete(&self.id, &end).await {
                // It is continuing as new, and has no activity yet: a gateway tries again, too.
                Err(e @ TemporalError::NotFound(_)) => Err(e),
                other => {
                    other.unwrap();
                    Ok::<_, TemporalError>(())
                }
            }
        })
        .await;
    }

    pub async fn succeed(&self, bound: &Bound) {
        self.deliver(bound, TerminationType::Succeeded, None).await;
    }

    pub async fn fail(&self, bound: &Bound, error: &str) {
        self.deliver(bound, TerminationType::Failed, Some(error)).await;
    }

    /// Whether this try is pending.
    pub async fn is_current(&self, bound: &Bound) -> bool {
        self.environment.temporal.is_current(&bound.task).await.unwrap()
    }

    /// A heartbeat. Returns whether the activity is pending.
    pub async fn heartbeat(&self, number: i32) -> bool {
        self.environment.temporal.heartbeat(&self.id, number).await.unwrap() == Heartbeat::Alive
    }

    pub async fn native_cancel(&self) {
        self.environment.temporal.cancel(&self.id, "test").await.unwrap();
    }

    pub async fn run_id(&self) -> String {
        self.environment.temporal.describe(&self.id).await.unwrap().run_id
    }

    /// How the workflow was closed. Checks that it was cleaned up where the agent's own outcome was not on record, and
    /// then once, and that it still answers queries.
    pub async fn closed(&self) -> Closed {
        let closed =
            until("it is closed", || async { self.environment.temporal.describe(&self.id).await.ok()?.closed }).await;
        let cleanups = self.record(|r| r.cleanups.clone());
        let answer = self.status().await;
        let lost = |e: &ErrorStatus| [error_types::DISRUPTED, error_types::PENDING_TIMEOUT].contains(&&*e.kind);
        let recorded = match closed {
            Closed::Completed => true,
            Closed::Failed => !answer.error.as_ref().is_some_and(lost),
            _ => false,
        };
        assert_eq!(
            cleanups.iter().map(|c| c.run).collect::<Vec<_>>(),
            if recorded { vec![] } else { vec![answer.run] }
        );
        let stage = answer.status;
        assert!(!self.query::<bool>(QUERY_IS_PAUSED).await);
        let told = match stage {
            Stage::Completed => Closed::Completed,
            Stage::Failed => Closed::Failed,
            Stage::Cancelled => Closed::Cancelled,
            other => panic!("closed as {closed:?}, and says {other:?}"),
        };
        assert_eq!(closed, told);
        self.save(None, self.name).await;
        closed
    }

    /// The events of the newest run.
    pub async fn history(&self) -> Vec<HistoryEvent> {
        self.handle().fetch_history(WorkflowFetchHistoryOptions::default()).into_events().await.unwrap()
    }

    /// One run, or the newest.
    fn of_run(&self, run: Option<&str>) -> WorkflowHandle<temporalio_client::Client, UntypedWorkflow> {
        let info = WorkflowExecutionInfo::builder()
            .namespace(self.environment.temporal.namespace())
            .workflow_id(&self.id)
            .maybe_run_id(run)
            .build();
        WorkflowHandle::new(self.environment.temporal.client().unwrap(), info)
    }

    /// How many events a run has.
    pub async fn events(&self, run: &str) -> usize {
        let history = self.of_run(Some(run)).fetch_history(WorkflowFetchHistoryOptions::default());
        history.into_events().await.unwrap().len()
    }

    /// Saves a run's history for tests/replay.rs, if enabled.
    pub async fn save(&self, run: Option<&str>, name: &str) {
        if std::env::var_os("KOCO_RECORD_HISTORIES").is_none() {
            return;
        }
        let json = self.of_run(run).fetch_history(WorkflowFetchHistoryOptions::default()).to_json().await.unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories");
        std::fs::write(format!("{path}/{}.json", name.replace(' ', "-")), json).unwrap();
    }
}
