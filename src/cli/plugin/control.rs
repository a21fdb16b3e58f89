//! `pause`, `resume`, `cancel`: one merge patch of the spec. Each is a new request (the annotation), so that it also
//! takes effect if the spec has that state already but a signal through Temporal has changed it.

use std::io::Write;

use anyhow::bail;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::connect::Session;
use crate::api::{AgentJob, DesiredState, Phase, names};

/// Requests a state. Returns once that is written, not when it is reached: `kubectl koco wait` does that.
pub(super) async fn ask(session: &Session, name: &str, state: DesiredState) -> anyhow::Result<()> {
    let job = session.job(name).await?;
    if let Some(why) = refusal(&job, state) {
        bail!("agentjob.kodosumi.io/{name} {why}");
    }
    let patch = Patch::Merge(patch(&job, state, &fresh_id()?));
    // Not `kubectl-`: Flux takes the fields back that managers of such names have written.
    let params = PatchParams { field_manager: Some("koco".into()), ..PatchParams::default() };
    session.jobs().patch(name, &params, &patch).await.map_err(|e| session.explain(e, name))?;
    let word = match state {
        DesiredState::Running => "resume requested",
        DesiredState::Paused => "pause requested",
        DesiredState::Cancelled => "cancel requested",
    };
    writeln!(std::io::stdout(), "agentjob.kodosumi.io/{name} {word}")?;
    Ok(())
}

/// Bound to the object's UID, not its version: concurrent writes don't matter.
fn patch(job: &AgentJob, state: DesiredState, id: &str) -> Value {
    json!({
        "metadata": { "uid": job.uid(), "annotations": { names::ANNOTATION_REQUEST: id } },
        "spec": { "desiredState": state },
    })
}

/// Why a state can't be requested of a job, if so.
fn refusal(job: &AgentJob, state: DesiredState) -> Option<String> {
    let phase = job.status.as_ref().and_then(|s| s.phase);
    match phase.filter(|p| p.is_terminal()) {
        Some(Phase::Cancelled) if state == DesiredState::Cancelled => None,
        Some(phase) => Some(format!("has finished already: {phase:?}")),
        None if job.spec.desired_state == DesiredState::Cancelled && state != DesiredState::Cancelled => {
            Some("is being cancelled, which is final".into())
        }
        None => None,
    }
}

/// 64 random bits.
fn fresh_id() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::AgentJobStatus;

    fn job(phase: Phase, spec: DesiredState) -> AgentJob {
        let mut job = AgentJob::default();
        job.spec.desired_state = spec;
        job.status = Some(AgentJobStatus { phase: Some(phase), ..AgentJobStatus::default() });
        job
    }

    #[test]
    fn what_has_ended_is_left_alone_and_cancel_is_final() {
        use DesiredState::{Cancelled, Paused, Running};
        assert!(refusal(&job(Phase::Succeeded, Running), Paused).unwrap().contains("Succeeded"));
        assert!(refusal(&job(Phase::Cancelling, Cancelled), Running).unwrap().contains("final"));
        assert_eq!(refusal(&job(Phase::Cancelled, Cancelled), Cancelled), None, "cancelling again is no error");
        assert_eq!(refusal(&job(Phase::Running, Running), Running), None, "the spec may say so already");
    }

    #[test]
    fn ids_are_fresh() {
        assert_ne!(fresh_id().unwrap(), fresh_id().unwrap());
    }
}
