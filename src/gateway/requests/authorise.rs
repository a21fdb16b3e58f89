//! Checks that a request comes from the runner of the run that it names. Pure; applied to every request before anything
//! is returned or written.

use crate::{
    api::AgentRun,
    gateway::server::{Caller, Refusal},
    protocol::runner::Sender,
};

/// Whether the request may name this job at all: before anything is read for it.
pub fn may_ask(sender: &Sender, caller: &Caller) -> Result<(), Refusal> {
    if sender.job.namespace != caller.namespace {
        return Err(Refusal::ForeignNamespace);
    }
    // The name becomes a part of a path on the API server: it must be a valid name.
    let name = &sender.job.name;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) || name.contains("..") {
        return Err(Refusal::Malformed("job name".into()));
    }
    if sender.job.uid.is_empty() || sender.job.uid.len() > 64 {
        return Err(Refusal::Malformed("job uid".into()));
    }
    if sender.run < 1 {
        return Err(Refusal::Malformed("epoch".into()));
    }
    Ok(())
}

/// Whether the caller is the runner of this run, open or closed. Until it has registered a runner is identified by its
/// pod's name, which has a random part, and from then on by its pod's UID.
pub fn identify(run: &AgentRun, sender: &Sender, caller: &Caller) -> Result<(), Refusal> {
    may_ask(sender, caller)?;
    let identity = &run.spec.identity;
    if run.job() != sender.job || identity.number != sender.run {
        return Err(Refusal::ForeignRun);
    }
    let (registered, is_runner) = match run.status.as_ref().and_then(|s| s.pod_uid.as_ref()) {
        Some(uid) => (uid, *uid == caller.pod_uid),
        None => (&identity.pod_name, identity.pod_name == caller.pod_name),
    };
    if is_runner && !registered.is_empty() { Ok(()) } else { Err(Refusal::NotTheRunner) }
}

/// The same, and the run is open.
pub fn authorise(run: &AgentRun, sender: &Sender, caller: &Caller) -> Result<(), Refusal> {
    identify(run, sender, caller)?;
    if run.is_closed() { Err(Refusal::RunClosed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures::{caller, fresh_run, run, sender, termination};

    #[test]
    fn only_the_runs_pod_is_authorised() {
        assert_eq!(authorise(&run(), &sender(2), &caller()), Ok(()));
        let renamed = Caller { pod_name: "other".into(), ..caller() };
        assert_eq!(authorise(&run(), &sender(2), &renamed), Ok(()), "it is known by its UID");
        let other = Caller { pod_uid: "other".into(), ..caller() };
        assert_eq!(authorise(&run(), &sender(2), &other), Err(Refusal::NotTheRunner), "of the same name");
        let foreign = Caller { namespace: "b".into(), ..caller() };
        assert_eq!(authorise(&run(), &sender(2), &foreign), Err(Refusal::ForeignNamespace));
    }

    #[test]
    fn before_the_first_hello_the_pods_name_counts() {
        let another_uid = Caller { pod_uid: "other".into(), ..caller() };
        assert_eq!(authorise(&fresh_run(), &sender(2), &another_uid), Ok(()));
        let wrong_name = Caller { pod_name: "x-3".into(), ..caller() };
        assert_eq!(authorise(&fresh_run(), &sender(2), &wrong_name), Err(Refusal::NotTheRunner));
        let mut nameless = fresh_run();
        nameless.spec.identity.pod_name = String::new();
        let nobody = Caller { pod_name: String::new(), ..caller() };
        assert_eq!(authorise(&nameless, &sender(2), &nobody), Err(Refusal::NotTheRunner));
        let mut empty = run();
        empty.status.as_mut().unwrap().pod_uid = Some(String::new());
        let nobody = Caller { pod_uid: String::new(), ..caller() };
        assert_eq!(authorise(&empty, &sender(2), &nobody), Err(Refusal::NotTheRunner));
    }

    #[test]
    fn a_run_of_another_job_or_number_is_foreign() {
        assert_eq!(authorise(&run(), &sender(1), &caller()), Err(Refusal::ForeignRun));
        assert_eq!(authorise(&run(), &sender(3), &caller()), Err(Refusal::ForeignRun));
        let mut newer = run();
        newer.spec.identity.job_uid = "another".into();
        assert_eq!(authorise(&newer, &sender(2), &caller()), Err(Refusal::ForeignRun));
        let mut named = run();
        named.spec.identity.job_name = "y".into();
        assert_eq!(authorise(&named, &sender(2), &caller()), Err(Refusal::ForeignRun));
        let mut elsewhere = run();
        elsewhere.metadata.namespace = Some("b".into());
        assert_eq!(authorise(&elsewhere, &sender(2), &caller()), Err(Refusal::ForeignRun));
    }

    #[test]
    fn a_closed_run_is_closed_to_its_own_runner_only() {
        let mut ended = run();
        ended.status.as_mut().unwrap().termination = Some(termination());
        assert_eq!(authorise(&ended, &sender(2), &caller()), Err(Refusal::RunClosed));
        assert_eq!(identify(&ended, &sender(2), &caller()), Ok(()));
        let other = Caller { pod_uid: "other".into(), ..caller() };
        assert_eq!(authorise(&ended, &sender(2), &other), Err(Refusal::NotTheRunner));
        let mut tombstone = fresh_run();
        tombstone.spec.identity.tombstone = true;
        assert_eq!(authorise(&tombstone, &sender(2), &caller()), Err(Refusal::RunClosed));
    }

    #[test]
    fn a_name_is_no_path() {
        for name in ["../../b/agentruns/x", "x/status", "", "x?y", "..", "A"] {
            let mut s = sender(2);
            s.job.name = name.into();
            assert!(matches!(may_ask(&s, &caller()), Err(Refusal::Malformed(_))), "{name}");
        }
        assert!(matches!(may_ask(&sender(0), &caller()), Err(Refusal::Malformed(_))));
    }
}
