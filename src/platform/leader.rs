//! Leader election by a Lease: one controller is active, the others stand by. It only avoids double work: correctness
//! doesn't depend on it.
//!
//! The Lease is replaced with the resourceVersion that was read, so two can't acquire it at the same time; it expires
//! by the local clock, counted from the last observed change, so clocks may differ; a process that loses it exits.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams};
use tokio_util::sync::CancellationToken;

use super::clock;

/// The duration of the lease.
const LEASE: Duration = Duration::from_secs(15);
/// How often the leader renews it and standbys read it.
const RENEW: Duration = Duration::from_secs(4);

/// A candidate.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
}

impl Election {
    /// A candidate for the Lease `name` in `namespace`; identities must differ.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.into(), identity: identity.into() }
    }

    /// Waits until this process leads, or `stop`. Whether it leads.
    pub async fn won(&self, stop: &CancellationToken) -> bool {
        let mut seen: Option<(String, Instant)> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "leader election"),
            }
            tokio::select! { () = stop.cancelled() => return false, () = tokio::time::sleep(RENEW / 2) => {} }
        }
    }

    /// Renews until `stop` or until the lease is lost.
    pub async fn hold(&self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        let mut seen = None;
        loop {
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(RENEW) => {} }
            let asked = Instant::now();
            match tokio::time::timeout(RENEW, self.attempt(&mut seen)).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "renewing the leader's lease"),
                Err(_) => tracing::warn!("renewing the leader's lease took too long"),
            }
            if renewed.elapsed() > LEASE - RENEW {
                return;
            }
        }
    }

    /// Gives the lease back, so that a standby needn't wait until it has expired.
    pub async fn release(&self) {
        match tokio::time::timeout(RENEW, self.give_back()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "releasing the leader's lease"),
            Err(_) => tracing::warn!("releasing the leader's lease took too long"),
        }
    }

    /// Acquires or renews the lease, if it is held by this process, free, or unchanged for [`LEASE`].
    async fn attempt(&self, seen: &mut Option<(String, Instant)>) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return taken(self.api.create(&PostParams::default(), &self.lease(None, true)).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            match seen {
                Some((last, at)) if *last == version => {
                    if at.elapsed() < LEASE {
                        return Ok(false);
                    }
                }
                _ => {
                    *seen = Some((version, Instant::now()));
                    return Ok(false);
                }
            }
        }
        taken(self.api.replace(&self.name, &PostParams::default(), &self.lease(Some(&lease), true)).await)
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        if let Some(lease) = self.api.get_opt(&self.name).await?
            && lease.spec.as_ref().and_then(|s| s.holder_identity.as_ref()) == Some(&self.identity)
        {
            self.api.replace(&self.name, &PostParams::default(), &self.lease(Some(&lease), false)).await?;
        }
        Ok(())
    }

    fn lease(&self, old: Option<&Lease>, hold: bool) -> Lease {
        let now = MicroTime(clock::machine());
        let spec = old.and_then(|l| l.spec.clone()).unwrap_or_default();
        let same = spec.holder_identity.as_ref() == Some(&self.identity);
        let mut lease = old.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(if hold { self.identity.clone() } else { String::new() }),
            lease_duration_seconds: Some(LEASE.as_secs() as i32),
            acquire_time: if same { spec.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!same)),
            ..spec
        });
        lease
    }
}

/// Lost a race: not an error.
fn taken(answer: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(false),
        Err(e) => Err(e),
    }
}
