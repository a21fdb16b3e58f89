//! The controller role: one process leads, and reconciles each kind of resource that has a folder here. [`runtime`] is
//! shared and knows no kind; [`agentjob`] reconciles AgentJobs. Another kind is a folder and a line in [`run`]. Only
//! the command line starts it; the other roles never call it.

pub mod agentjob;
mod error;
mod runtime;
mod settings;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    api::names,
    platform::{kubernetes, leader::Election, metrics::Metrics, settings::Common},
    pods::PodSettings,
    temporal::Temporal,
};

use agentjob::Defaults;
pub use error::ControllerError;
pub use settings::ControllerSettings;

/// How long reconciles that are under way may take to end.
const DRAIN: Duration = Duration::from_secs(10);

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

/// Runs until `stop`: waits to lead, if there is an election, then reconciles. Returns early only if the lead is lost.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), ControllerError> {
    let ready = parts.ready.clone();
    // A standby is ready, too: ready to take over.
    ready.store(true, Ordering::Relaxed);
    let done = lead(parts, stop).await;
    ready.store(false, Ordering::Relaxed);
    done
}

async fn lead(parts: Parts, stop: CancellationToken) -> Result<(), ControllerError> {
    let (client, common, leader) = (parts.client.clone(), parts.common.clone(), parts.metrics.leader.clone());
    leader.of([]).set(0);
    let election = parts
        .settings
        .leader_elect
        .then(|| Election::new(client, &common.namespace, "koco-controller", &common.identity));
    if let Some(election) = &election {
        if !election.won(&stop).await {
            return Ok(());
        }
        tracing::info!("leading");
    }
    leader.of([]).set(1);
    let lost = async {
        match &election {
            Some(election) => election.hold(&stop).await,
            None => stop.cancelled().await,
        }
        if stop.is_cancelled() {
            tokio::time::sleep(DRAIN).await;
        }
    };
    let worked = tokio::select! {
        worked = work(parts, stop.clone()) => worked,
        () = lost => Ok(()),
    };
    if !stop.is_cancelled() {
        return worked.and(Err(ControllerError::LostLead));
    }
    // After the last write: a standby leads at once, and not when the lease has run out.
    if let Some(election) = &election {
        election.release().await;
    }
    worked
}

/// Reconciles until `stop`.
async fn work(parts: Parts, stop: CancellationToken) -> Result<(), ControllerError> {
    let common = &parts.common;
    let cluster = kubernetes::cluster_unless_stopped(&parts.client, common, &stop).await?;
    let Some(cluster) = cluster else { return Ok(()) };
    let installation = names::installation(&cluster, &common.namespace);
    agentjob::run(parts, installation, stop).await;
    Ok(())
}
