//! Whether a request is the claim's runner's. Pure; every request passes here before anything is told or written.

use super::{auth::Caller, error::Refusal};
use crate::{
    api::{AgentJob, Phase},
    protocol::runner::Sender,
};

/// Whether the request may name this job at all: before anything is read for it.
pub fn may_ask(sender: &Sender, caller: &Caller) -> Result<(), Refusal> {
    if sender.job.namespace != caller.namespace {
        return Err(Refusal::ForeignNamespace);
    }
    // The name becomes a part of a path on the API server: nothing but a name may come through.
    let name = &sender.job.name;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) || name.contains("..") {
        return Err(Refusal::Malformed("job name".into()));
    }
    if sender.job.uid.is_empty() || sender.job.uid.len() > 64 {
        return Err(Refusal::Malformed("job uid".into()));
    }
    Ok(())
}

/// Whether the caller is the runner of this job's claim.
pub fn authorise(job: &AgentJob, sender: &Sender, caller: &Caller) -> Result<(), Refusal> {
    may_ask(sender, caller)?;
    if job.reference() != sender.job {
        return Err(Refusal::Gone);
    }
    let status = job.status.as_ref();
    if status.and_then(|s| s.phase).is_some_and(Phase::is_terminal) {
        return Err(Refusal::Over);
    }
    let Some(claim) = status.and_then(|s| s.claim.as_ref()) else { return Err(Refusal::NotClaimed) };
    match claim.epoch.cmp(&sender.epoch) {
        std::cmp::Ordering::Less => return Err(Refusal::NotClaimed),
        std::cmp::Ordering::Greater => return Err(Refusal::Superseded),
        std::cmp::Ordering::Equal => {}
    }
    match &claim.pod_uid {
        None => Err(Refusal::NotClaimed),
        Some(uid) if uid.is_empty() || *uid != caller.pod_uid => Err(Refusal::NotTheRunner),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures::{caller, job, sender};

    #[test]
    fn the_claims_pod_passes_and_nobody_else() {
        assert_eq!(authorise(&job(), &sender(2), &caller()), Ok(()));
        let other = Caller { pod_uid: "other".into(), ..caller() };
        assert_eq!(authorise(&job(), &sender(2), &other), Err(Refusal::NotTheRunner));
        let foreign = Caller { namespace: "b".into(), ..caller() };
        assert_eq!(authorise(&job(), &sender(2), &foreign), Err(Refusal::ForeignNamespace));
    }

    #[test]
    fn an_earlier_epoch_is_superseded_and_a_later_one_not_yet_known() {
        assert_eq!(authorise(&job(), &sender(1), &caller()), Err(Refusal::Superseded));
        assert_eq!(authorise(&job(), &sender(3), &caller()), Err(Refusal::NotClaimed));
    }

    #[test]
    fn a_claim_without_pod_is_not_ready() {
        let mut job = job();
        job.status.as_mut().unwrap().claim.as_mut().unwrap().pod_uid = None;
        assert_eq!(authorise(&job, &sender(2), &caller()), Err(Refusal::NotClaimed));
        job.status.as_mut().unwrap().claim.as_mut().unwrap().pod_uid = Some(String::new());
        let nobody = Caller { pod_uid: String::new(), ..caller() };
        assert_eq!(authorise(&job, &sender(2), &nobody), Err(Refusal::NotTheRunner));
        job.status = None;
        assert_eq!(authorise(&job, &sender(2), &caller()), Err(Refusal::NotClaimed));
    }

    #[test]
    fn a_terminal_job_and_a_newer_one_of_the_same_name_are_over() {
        let mut over = job();
        over.status.as_mut().unwrap().phase = Some(Phase::Cancelled);
        assert_eq!(authorise(&over, &sender(2), &caller()), Err(Refusal::Over));
        let mut newer = job();
        newer.metadata.uid = Some("another".into());
        assert_eq!(authorise(&newer, &sender(2), &caller()), Err(Refusal::Gone));
    }

    #[test]
    fn a_name_is_no_path() {
        for name in ["../../b/agentjobs/x", "x/status", "", "x?y", "..", "A"] {
            let mut s = sender(2);
            s.job.name = name.into();
            assert!(matches!(may_ask(&s, &caller()), Err(Refusal::Malformed(_))), "{name}");
        }
    }

    #[test]
    fn an_object_of_another_namespace_is_not_the_job() {
        let mut elsewhere = job();
        elsewhere.metadata.namespace = Some("b".into());
        assert_eq!(authorise(&elsewhere, &sender(2), &caller()), Err(Refusal::Gone));
    }
}
