//! An agent's events, on their way to the server. They have places, bytes and rates of their own: however slow the server
//! is and however much an agent writes, no other request waits for it. Called by [`crate::gateway::server`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;

use super::Admitted;
use crate::{
    api::{AgentJob, AgentRun, fid},
    gateway::{Gateway, archive::Answer, server::Refusal},
    platform::{
        http::limits::{Buckets, Place, Shares},
        recent::Recent,
    },
    protocol::{events::MAX_BODY_BYTES, key::PublicKey, runner::RunPath},
};

/// How many batches are on their way at a time, of them of one namespace and of one run.
const BATCHES: usize = 512;
const NAMESPACE: usize = BATCHES / 2;
const RUN: usize = 2;
/// How many bytes of batches, and of them of one namespace.
const BYTES: usize = 64 * 1024 * 1024;
const NAMESPACE_BYTES: usize = BYTES / 2;
/// How many KiB a run may send: burst, and a second. A batch counts as much as this, at least.
const RATE: (u32, f64) = (16 * 1024, 4.0 * 1024.0);
const LEAST: usize = 64 * 1024;
/// How long a closed run is known without a look at the API server.
const CLOSED: Duration = Duration::from_secs(10);
/// How long a run's fid is known: it never changes.
const FID: Duration = Duration::from_secs(3600);
/// How many of both.
const CAPACITY: usize = 16_384;

/// The limits, and what is known of runs that send events.
pub struct Events {
    namespaces: Arc<Shares<String>>,
    runs: Arc<Shares<String>>,
    bytes: Arc<Shares<String>>,
    rates: Buckets<String>,
    /// Runs that are closed and their runners' keys. The copies of the watch are only of open ones.
    closed: Recent<(RunPath, PublicKey), Arc<AgentRun>>,
    /// The fids of runs' jobs, by the runs' UIDs.
    fids: Recent<String, String>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            namespaces: Shares::new(BATCHES, NAMESPACE),
            runs: Shares::new(usize::MAX, RUN),
            bytes: Shares::new(BYTES, NAMESPACE_BYTES),
            rates: Buckets::new(RATE.0, RATE.1),
            closed: Recent::new(CAPACITY),
            fids: Recent::new(CAPACITY),
        }
    }
}

impl Events {
    /// A batch's places, kept until it is answered.
    pub fn enter(&self, namespace: &str, uid: &str) -> Result<[Place<String>; 2], Refusal> {
        let run = self.runs.enter(uid.into()).ok_or(Refusal::TooOften)?;
        let namespace = self.namespaces.enter(namespace.into()).ok_or(Refusal::TooOften)?;
        Ok([run, namespace])
    }

    /// A body of so many bytes by its head, and its room, which is kept until it is handed on. What has not arrived takes
    /// none, so that a client that is slow keeps it from no other.
    pub async fn body(&self, run: &AgentRun, length: usize, body: Body) -> Result<(Bytes, Place<String>), Refusal> {
        if length > MAX_BODY_BYTES {
            return Err(Refusal::TooLarge);
        }
        let cost = length.max(LEAST) as f64 / 1024.0;
        self.rates.take_many(run.uid().into(), cost, Instant::now()).map_err(|_| Refusal::TooOften)?;
        let namespace = run.metadata.namespace.clone().unwrap_or_default();
        let mut room = self.bytes.enter_with(namespace, 0).ok_or(Refusal::TooOften)?;
        let (mut chunks, mut whole) = (body.into_data_stream(), Vec::new());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Refusal::Malformed("the body doesn't arrive".into()))?;
            if chunk.len() > MAX_BODY_BYTES - whole.len() {
                return Err(Refusal::TooLarge);
            }
            if !room.grow(chunk.len()) {
                return Err(Refusal::TooOften);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok((whole.into(), room))
    }

    /// A closed run that was read a short while ago, if this is its runner's key.
    pub fn closed(&self, run: &RunPath, key: &PublicKey) -> Option<Arc<AgentRun>> {
        self.closed.get(&(run.clone(), *key))
    }

    /// Remembers a closed run, whose runner was identified by this key.
    pub fn note_closed(&self, path: &RunPath, key: &PublicKey, run: &AgentRun) {
        let mut run = run.clone();
        run.metadata = ObjectMeta { managed_fields: None, annotations: None, labels: None, ..run.metadata };
        if let Some(termination) = run.status.as_mut().and_then(|status| status.termination.as_mut()) {
            termination.result = None;
        }
        self.closed.insert((path.clone(), *key), Arc::new(run), CLOSED);
    }

    /// Remembers the fid of a run's job.
    pub fn note_fid(&self, run: &AgentRun, fid: &str) {
        self.fids.insert(run.uid().into(), fid.into(), FID);
    }
}

impl Gateway {
    /// Hands on a batch of the events of a runner's agent, open run or closed. Whose they are, the objects tell.
    pub(in crate::gateway) async fn events(&self, runner: &Admitted, body: Bytes) -> Result<Answer, Refusal> {
        let fid = self.fid(&runner.run).await?;
        self.archive.append(&fid, runner.run.number(), body).await
    }

    async fn fid(&self, run: &AgentRun) -> Result<String, Refusal> {
        if let Some(fid) = self.limits.events.fids.get(&run.uid().to_string()) {
            return Ok(fid);
        }
        let job = run.job();
        let api = Api::<AgentJob>::namespaced(self.client.clone(), &job.namespace);
        let found = api.get_metadata_opt(&job.name).await.map_err(|error| {
            tracing::warn!(%error, "a job could not be read");
            Refusal::ApiServer
        })?;
        let meta = found.map(|found| found.metadata).filter(|meta| meta.uid.as_ref() == Some(&job.uid));
        let created = meta.and_then(|meta| meta.creation_timestamp).ok_or(Refusal::Gone)?;
        let fid = fid(created.0.as_second(), &job.uid);
        self.limits.events.note_fid(run, &fid);
        Ok(fid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures::{key, run, termination};

    /// Another run of the same namespace.
    fn another(n: usize) -> AgentRun {
        let mut other = run();
        other.metadata.uid = Some(format!("r{n}"));
        other
    }

    #[tokio::test]
    async fn neither_a_run_nor_a_namespace_takes_all_the_room() {
        let events = Events::default();
        let large = async |run: &AgentRun| {
            let body = Body::from(vec![b' '; MAX_BODY_BYTES]);
            events.body(run, MAX_BODY_BYTES, body).await.map(|(_, room)| room)
        };
        let too_large = events.body(&run(), 1, Body::from(vec![b' '; MAX_BODY_BYTES + 1])).await;
        assert_eq!(too_large.err(), Some(Refusal::TooLarge));
        assert_eq!(events.body(&another(9), MAX_BODY_BYTES + 1, Body::empty()).await.err(), Some(Refusal::TooLarge));
        let first = large(&run()).await.unwrap();
        assert_eq!(large(&run()).await.err(), Some(Refusal::TooOften), "its rate");
        let mut more = Vec::new();
        for n in 0..9 {
            more.extend(large(&another(n)).await);
        }
        assert_eq!(more.len(), 2, "the namespace's share");
        let mut other = another(10);
        other.metadata.namespace = Some("b".into());
        assert!(large(&other).await.is_ok(), "another namespace has its own");
        drop((first, more));
        assert_eq!(events.bytes.held(), 0);
    }

    #[tokio::test]
    async fn what_is_announced_and_does_not_arrive_takes_no_room() {
        let events = Events::default();
        let slow: Vec<_> = (0..20).map(another).collect();
        let slow = slow.iter().map(|run| {
            let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
            let body = Body::from_stream(first.chain(futures::stream::pending()));
            Box::pin(events.body(run, MAX_BODY_BYTES, body))
        });
        let mut slow: Vec<_> = slow.collect();
        for body in &mut slow {
            assert!(futures::poll!(body).is_pending());
        }
        assert_eq!(events.bytes.held(), 20);
        let other = events.body(&another(20), MAX_BODY_BYTES, Body::from(vec![b' '; MAX_BODY_BYTES])).await;
        assert!(other.is_ok());
        drop((slow, other));
        assert_eq!(events.bytes.held(), 0);
    }

    #[test]
    fn batches_have_places_of_their_own() {
        let events = Events::default();
        let one: Vec<_> = (0..9).map_while(|_| events.enter("a", "r").ok()).collect();
        assert_eq!(one.len(), RUN);
        let all: Vec<_> = (0..BATCHES).map_while(|n| events.enter("a", &n.to_string()).ok()).collect();
        assert_eq!(all.len(), NAMESPACE - RUN);
        assert!(events.enter("b", "s").is_ok());
    }

    #[test]
    fn a_closed_run_is_remembered_for_its_runner_alone() {
        let (events, mut closed) = (Events::default(), run());
        closed.status.as_mut().unwrap().termination = Some(termination());
        let path = RunPath { namespace: "a".into(), name: closed.name().into() };
        events.note_closed(&path, &key(1), &closed);
        assert!(events.closed(&path, &key(1)).is_some_and(|run| run.is_closed()));
        assert!(events.closed(&path, &key(2)).is_none());
    }
}
