//! The controller: reconciles AgentJobs. Observe (I/O), then [`plan`] (pure), then execute (I/O), then one status write.
//! Only the command line starts it; the other roles never call it.

mod error;
mod execute;
mod mirror;
pub mod plan;
mod pods;
mod reconcile;
mod settings;
mod sweep;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use kube::{
    Api, Client,
    runtime::{
        Controller, WatchStreamExt, controller, events,
        reflector::{self, ObjectRef},
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{AgentJob, JobRef},
    platform::{
        kubernetes,
        leader::Election,
        metrics::Metrics,
        settings::{Common, Defaults, PodSettings},
    },
    temporal::Temporal,
};

pub use error::ControllerError;
pub use settings::ControllerSettings;

/// What the controller needs of its process.
pub struct Parts {
    /// The Kubernetes client.
    pub client: Client,
    /// Temporal, configured or not.
    pub temporal: Temporal,
    /// What every role has.
    pub common: Common,
    /// What roles that create pods have.
    pub pods: PodSettings,
    /// What jobs take that leave it out.
    pub defaults: Defaults,
    /// Our own.
    pub settings: ControllerSettings,
    /// The process' metrics.
    pub metrics: Metrics,
    /// Set while this role is ready.
    pub ready: Arc<AtomicBool>,
}

/// What all reconciles share.
struct Context {
    client: Client,
    temporal: Temporal,
    defaults: Defaults,
    cluster: String,
    metrics: Metrics,
    pods: pods::Index,
    mirror: mirror::Mirror,
    recorder: events::Recorder,
    runners: kubernetes::Runners,
    /// The jobs whose workflows may close without telling us, by UID.
    open: Mutex<HashMap<String, JobRef>>,
}

/// Runs until `stop`: waits to lead, if there is an election, then reconciles. Returns early only if the lead is lost.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), ControllerError> {
    let Parts { client, temporal, common, pods, defaults, settings, metrics, ready } = parts;
    // A standby is ready, too: ready to take over.
    ready.store(true, Ordering::Relaxed);
    let election = settings
        .leader_elect
        .then(|| Election::new(client.clone(), &common.namespace, "koco-controller", &common.identity));
    if let Some(election) = &election {
        if !election.won(&stop).await {
            return Ok(());
        }
        tracing::info!("leading");
    }
    let cluster = match &common.cluster {
        Some(cluster) => cluster.clone(),
        None => tokio::select! {
            () = stop.cancelled() => return Ok(()),
            found = kubernetes::cluster(&client) => found?,
        },
    };
    let (trigger, triggered) = tokio::sync::mpsc::unbounded_channel();
    let triggers = Triggers::new(triggered, common.namespaces());
    let reporter = events::Reporter { controller: "koco".into(), instance: Some(common.identity.clone()) };
    let context = Arc::new(Context {
        client: client.clone(),
        mirror: mirror::Mirror::new(temporal.clone(), trigger.clone()),
        temporal,
        defaults,
        cluster,
        metrics,
        pods: pods::Index::default(),
        recorder: events::Recorder::new(client.clone(), reporter),
        runners: kubernetes::Runners::new(client, &common.namespace, pods),
        open: Mutex::default(),
    });
    let lost = CancellationToken::new();
    let ending = stop.child_token();
    let work = async {
        let running = common.namespaces().into_iter().zip(triggers.streams).map(|(namespace, triggered)| {
            let watch = pods::watch(context.clone(), namespace.clone(), trigger.clone());
            let control = control(context.clone(), namespace, settings.concurrency, triggered, ending.clone());
            async move {
                // The control loop drains on its own; the watch ends with it.
                tokio::select! { () = watch => {}, () = control => {} }
            }
        });
        join_all(running).await;
    };
    tokio::select! {
        () = work => {}
        () = async { if let Some(election) = &election { election.hold(&stop).await } else { stop.cancelled().await };
            if !stop.is_cancelled() { lost.cancel() }
            // Reconciles that are under way may end.
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_secs(10)).await;
        } => {}
        () = lost.cancelled() => {}
        () = sweep::run(context.clone()) => {}
        () = triggers.pump => {}
    }
    ready.store(false, Ordering::Relaxed);
    if lost.is_cancelled() { Err(ControllerError::LostLead) } else { Ok(()) }
}

/// One control loop for a namespace, or for all.
async fn control(
    context: Arc<Context>,
    namespace: Option<String>,
    concurrency: u16,
    triggered: impl futures::Stream<Item = ObjectRef<AgentJob>> + Send + 'static,
    stop: CancellationToken,
) {
    let api: Api<AgentJob> = match &namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let (reader, writer) = reflector::store();
    let jobs = watcher(api, watcher::Config::default().streaming_lists())
        .default_backoff()
        .modify(AgentJob::trim)
        .reflect(writer)
        .applied_objects();
    Controller::for_stream(jobs, reader)
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(triggered)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile::reconcile, reconcile::on_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

/// Jobs to look at again, told apart by namespace where several are watched.
struct Triggers<F> {
    streams: Vec<futures::stream::BoxStream<'static, ObjectRef<AgentJob>>>,
    pump: F,
}

impl Triggers<()> {
    fn new(
        mut triggered: tokio::sync::mpsc::UnboundedReceiver<JobRef>,
        namespaces: Vec<Option<String>>,
    ) -> Triggers<impl Future<Output = ()>> {
        let (mut senders, mut streams) = (Vec::new(), Vec::new());
        for namespace in namespaces {
            let (tx, rx) = futures::channel::mpsc::unbounded();
            senders.push((namespace, tx));
            streams.push(rx.boxed());
        }
        let pump = async move {
            while let Some(job) = triggered.recv().await {
                let theirs = senders.iter().find(|(n, _)| n.as_ref().is_none_or(|n| *n == job.namespace));
                if let Some((_, tx)) = theirs {
                    // A closed stream means that the loop has ended.
                    let _ = tx.unbounded_send(ObjectRef::new(&job.name).within(&job.namespace));
                }
            }
        };
        Triggers { streams, pump }
    }
}
