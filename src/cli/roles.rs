//! Starts roles: one process with one Kubernetes client and one connection to Temporal for any number of roles.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{self, agentjob::Defaults},
    gateway,
    platform::{
        self,
        health::{self, Ready},
        kubernetes,
        metrics::Metrics,
        settings::Common,
        shutdown, telemetry, trace,
    },
    pods::{PodConfig, PodSettings},
    server,
    temporal::{self, Codec, Temporal},
    worker,
};

#[derive(Args)]
pub(super) struct Controller {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pods: PodSettings,
    #[command(flatten)]
    defaults: Defaults,
    #[command(flatten)]
    controller: controller::ControllerSettings,
}

#[derive(Args)]
pub(super) struct Worker {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pods: PodSettings,
    #[command(flatten)]
    worker: worker::WorkerSettings,
}

#[derive(Args)]
pub(super) struct Gateway {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    gateway: gateway::Settings,
}

#[derive(Args)]
pub(super) struct Server {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    server: server::Settings,
    #[command(subcommand)]
    copy: Option<server::CopyCommand>,
}

#[derive(Args)]
pub(super) struct Operator {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pods: PodSettings,
    #[command(flatten)]
    defaults: Defaults,
    #[command(flatten)]
    controller: controller::ControllerSettings,
    #[command(flatten)]
    worker: worker::WorkerSettings,
    #[command(flatten)]
    gateway: gateway::Settings,
}

/// What the roles of a process share.
pub(super) struct Process {
    client: kube::Client,
    temporal: Temporal,
    codec: Option<Codec>,
    metrics: Metrics,
    ready: Ready,
    stop: CancellationToken,
}

/// A running role.
pub(super) type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// A set of roles that one command starts.
pub(super) trait Roles {
    fn common(&self) -> &Common;
    fn start(self, process: &Process) -> Vec<Running>;
}

impl Roles for Controller {
    fn common(&self) -> &Common {
        &self.common
    }
    fn start(self, process: &Process) -> Vec<Running> {
        vec![controller(self.common, self.pods, self.defaults, self.controller, process)]
    }
}

impl Roles for Worker {
    fn common(&self) -> &Common {
        &self.common
    }
    fn start(self, process: &Process) -> Vec<Running> {
        let ready = process.ready.role();
        vec![worker(self.common, self.pods, self.worker, ready, process)]
    }
}

impl Roles for Gateway {
    fn common(&self) -> &Common {
        &self.common
    }
    fn start(self, process: &Process) -> Vec<Running> {
        vec![gateway(self.common, self.gateway, process)]
    }
}

impl Roles for Server {
    fn common(&self) -> &Common {
        &self.common
    }
    fn start(self, process: &Process) -> Vec<Running> {
        vec![server(self.common, self.server, process)]
    }
}

impl Roles for Operator {
    fn common(&self) -> &Common {
        &self.common
    }
    fn start(self, process: &Process) -> Vec<Running> {
        let mut running = vec![
            gateway(self.common.clone(), self.gateway, process),
            controller(self.common.clone(), self.pods.clone(), self.defaults, self.controller, process),
        ];
        // Without Temporal there is nothing for a worker to do, and Direct jobs need none.
        // While Temporal is unavailable the worker isn't ready, but the process is: Direct jobs need its gateway.
        if process.temporal.is_configured() {
            running.push(worker(self.common, self.pods, self.worker, Arc::default(), process));
        }
        running
    }
}

fn controller(
    common: Common,
    pods: PodSettings,
    defaults: Defaults,
    settings: controller::ControllerSettings,
    process: &Process,
) -> Running {
    let parts = controller::Parts {
        client: process.client.clone(),
        temporal: process.temporal.clone(),
        common,
        pods,
        defaults,
        settings,
        metrics: process.metrics.clone(),
        ready: process.ready.role(),
    };
    let stop = process.stop.clone();
    Box::pin(async move {
        crds(&parts.client, false, &stop).await;
        controller::run(parts, stop).await.context("controller")
    })
}

fn worker(
    common: Common,
    pods: PodSettings,
    settings: worker::WorkerSettings,
    ready: Arc<AtomicBool>,
    process: &Process,
) -> Running {
    let (client, stop) = (process.client.clone(), process.stop.clone());
    let activities = worker::Activities {
        temporal: process.temporal.clone(),
        pods: PodConfig::follow(client.clone(), &common.namespace, pods),
        metrics: process.metrics.clone(),
        installation: worker::Installation::new(client.clone(), common.cluster, common.namespace),
        local_slots: worker::LocalSlots::new(&settings),
        client,
    };
    Box::pin(async move {
        // A worker that needn't ask for its task queue also serves workflows while Kubernetes is unavailable.
        crds(&activities.client, true, &stop).await;
        worker::run(settings, common.task_queue, activities, ready, stop).await.context("worker")
    })
}

fn gateway(common: Common, settings: gateway::Settings, process: &Process) -> Running {
    let parts = gateway::Parts {
        client: process.client.clone(),
        common,
        settings,
        temporal: process.temporal.clone(),
        metrics: process.metrics.clone(),
        ready: process.ready.role(),
    };
    let stop = process.stop.clone();
    Box::pin(async move {
        crds(&parts.client, false, &stop).await;
        gateway::run(parts, stop).await.context("gateway")
    })
}

fn server(common: Common, settings: server::Settings, process: &Process) -> Running {
    let parts = server::Parts {
        client: process.client.clone(),
        common,
        settings,
        metrics: process.metrics.clone(),
        codec: process.codec.clone(),
        ready: process.ready.role(),
    };
    let stop = process.stop.clone();
    Box::pin(async move {
        crds(&parts.client, false, &stop).await;
        server::run(parts, stop).await.context("server")
    })
}

/// Waits for the CRDs, or for `stop`.
async fn crds(client: &kube::Client, guess: bool, stop: &CancellationToken) {
    tokio::select! {
        () = platform::crds::ready(client, guess) => {}
        () = stop.cancelled() => {}
    }
}

/// Runs a set of roles until a signal, or until one of them fails.
pub(super) fn run(roles: impl Roles) -> anyhow::Result<()> {
    let common = roles.common().clone();
    telemetry::init(&common.log, common.log_format);
    // Every TLS of this process is rustls with ring; a provider that is installed already is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async move {
        let stop = shutdown::on_signal()?;
        trace::init(&common.identity);
        let settings = temporal::Settings::from_env(&common.identity)
            .map_err(|e| anyhow::anyhow!("Temporal's settings in the environment: {e}"))?;
        let codec = match (&common.payload_keys, &common.payload_key) {
            (Some(keys), Some(key)) => Some(Codec::read(keys, key).context("the keys of Temporal's payloads")?),
            _ => None,
        };
        let sdk = temporal::SdkMetrics::default();
        let metrics = Metrics::new(vec![Box::new(sdk.clone())]);
        let process = Process {
            client: kubernetes::client(&metrics.requests)
                .await
                .context("no way to reach Kubernetes: neither in a pod nor a kubeconfig")?,
            temporal: Temporal::new(settings.map(|settings| settings.with_metrics(&sdk).with_codec(codec.clone()))),
            codec,
            metrics,
            ready: Ready::default(),
            stop: stop.clone(),
        };
        let running = roles.start(&process);
        let served = health::serve(common.health_addr, process.metrics.clone(), process.ready.clone(), stop.clone());
        let served = async { served.await.with_context(|| format!("serving {}", common.health_addr)) };
        // The first role that ends, ends the process: it must not run on with a part of its roles.
        let ended = running.into_iter().map(|role| {
            let stop = stop.clone();
            async move {
                let done = role.await;
                stop.cancel();
                done
            }
        });
        let (roles, served) = tokio::join!(futures::future::join_all(ended), async {
            let done = served.await;
            stop.cancel();
            done
        });
        trace::flush().await;
        roles.into_iter().chain([served]).collect::<anyhow::Result<Vec<()>>>().map(drop)
    })
}

/// Runs a server, or copies its database.
pub(super) fn serve(mut role: Server) -> anyhow::Result<()> {
    match role.copy.take() {
        Some(copy) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(copy.run(&role.server))?)
        }
        None => run(role),
    }
}
