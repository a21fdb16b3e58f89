//! Forwards heartbeats to Temporal: one at a time for each run, and at most four in an interval.

use std::sync::{Arc, atomic::Ordering};

use super::granted_workflow;
use crate::{
    api::AgentRun,
    gateway::{Gateway, requests::heartbeat_interval, sessions::Session},
    temporal::Heartbeat,
};

impl Gateway {
    /// Forwards a heartbeat of a run's runner, unless one is in flight or was forwarded just now.
    pub(in crate::gateway) fn forward_heartbeat(self: &Arc<Self>, run: &Arc<AgentRun>, session: &Arc<Session>) {
        let Some(workflow) = granted_workflow(run).map(str::to_string) else { return };
        if session.beating.swap(true, Ordering::AcqRel) {
            return;
        }
        if !session.may_forward(heartbeat_interval(run)) {
            session.beating.store(false, Ordering::Release);
            return;
        }
        let (gateway, run, session) = (self.clone(), run.clone(), session.clone());
        self.background.spawn(async move {
            match gateway.temporal.heartbeat(&workflow, run.number()).await {
                Ok(Heartbeat::Alive) => {}
                // In back-off between two tries, reset, or closed.
                Ok(Heartbeat::Unknown) => gateway.find_closed(&workflow, &run, &session).await,
                Err(error) => tracing::debug!(%error, "forwarding a heartbeat failed"),
            }
            session.beating.store(false, Ordering::Release);
        });
    }
}
