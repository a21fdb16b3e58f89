//! Leaks, as far as the caches show them: what [`crate::audit`] names, once it has lasted. A metric says how many there
//! are, and an event about each says that it is there. Costs no requests but those of events.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};

use super::{
    Context, JobItem,
    index::readable,
    publish::{self, about},
};
use crate::{
    api::{AgentJob, AgentRun},
    audit::{Finding, Kind, Look, PodRow, RunRow, Suspect, Suspicion, Sweep, judge},
    platform::clock,
    pods::PodView,
};

/// How often the caches are compared, unless the grace period is short.
const EVERY: Duration = Duration::from_secs(15);
const SHORTEST: Duration = Duration::from_secs(1);
/// What the caches show.
const KINDS: [Kind; 6] = [
    Kind::PodWithoutRun,
    Kind::RunWithoutJob,
    Kind::TwoLiveRuns,
    Kind::OpenRunOfEndedJob,
    Kind::LivePodOfEndedJob,
    Kind::LivePodOfClosedRun,
];

/// Looks for leaks for ever. `loops` is the number of control loops, `grace` how long what doesn't fit must last.
pub(super) async fn run(context: Arc<Context>, loops: usize, grace: Duration) {
    let (began, mut watched) = (Instant::now(), Watched::default());
    loop {
        tokio::time::sleep(EVERY.min(grace / 4).max(SHORTEST)).await;
        let Some(jobs) = context.jobs.all(loops) else { continue };
        let seen = look(&context, &jobs);
        let (leaks, new) = watched.take(seen, began.elapsed(), grace);
        for kind in KINDS {
            let count = leaks.iter().filter(|k| **k == kind).count();
            context.metrics.leaks.of([kind.name()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for seen in new {
            let Finding { kind, message, .. } = &seen.finding;
            let (object, namespace) = (&seen.object.name, &seen.object.namespace);
            tracing::warn!(namespace, object, %kind, "{message}");
            let named = format!("{} {}: {message}", word(&seen.object.kind), word(object));
            publish::warning(&context, seen.about, kind.name(), &named);
        }
    }
}

fn word(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// Something that doesn't fit now.
struct Seen {
    suspect: Suspect,
    finding: Finding,
    object: ObjectReference,
    /// What an event is about: the job, if it exists.
    about: ObjectReference,
}

/// What doesn't fit, and since when.
#[derive(Default)]
struct Watched {
    known: HashMap<Suspect, (Suspicion, bool)>,
}

impl Watched {
    /// Takes all that doesn't fit now. Returns the kinds of all that has lasted, and what is new of it.
    fn take(&mut self, seen: Vec<Seen>, at: Duration, grace: Duration) -> (Vec<Kind>, Vec<Seen>) {
        let mut before = std::mem::take(&mut self.known);
        let (mut kinds, mut new) = (Vec::new(), Vec::new());
        for seen in seen {
            let (mut suspicion, was_told) =
                before.remove(&seen.suspect).unwrap_or_else(|| (Suspicion::of(seen.suspect.clone()), false));
            let lasts = matches!(suspicion.look(Some(seen.finding.clone()), at, grace), Look::Finding(_));
            self.known.insert(seen.suspect.clone(), (suspicion, was_told || lasts));
            if lasts {
                kinds.push(seen.finding.kind);
                if !was_told {
                    new.push(seen);
                }
            }
        }
        (kinds, new)
    }
}

/// Compares the caches: first all that there is by a few bytes each, then the suspects.
fn look(context: &Context, jobs: &[Arc<JobItem>]) -> Vec<Seen> {
    let mut sweep = Sweep::default();
    for job in jobs {
        let ended = readable(job).is_ok_and(judge::has_ended);
        sweep.job(word(&kube::Resource::meta(&**job).uid), ended);
    }
    context.runs.each(|run| sweep.run(row(run)));
    context.pods.each(|namespace, pod| {
        let run_uid = pod.run_uid.as_deref();
        let job = run_uid.and_then(|uid| context.runs.job_of(uid)).map(|job| job.name);
        sweep.pod(PodRow { namespace, name: &pod.name, run_uid, job: job.as_deref(), is_live: !pod.ended });
    });
    let suspects = sweep.suspects();
    if suspects.is_empty() {
        return Vec::new();
    }
    let mut pods = Vec::new();
    context.pods.each(|namespace, pod| {
        let suspect = Suspect::Pod { namespace: namespace.into(), name: pod.name.clone() };
        if suspects.contains(&suspect) {
            pods.push((suspect, namespace.to_string(), pod.clone()));
        }
    });
    let mut runs = Vec::new();
    context.runs.each(|run| {
        let namespace = word(&run.metadata.namespace).to_string();
        let suspect = Suspect::Run { namespace, name: run.name().into() };
        if suspects.contains(&suspect) {
            runs.push((suspect, run.clone()));
        }
    });
    let pods = pods.into_iter().filter_map(|(suspect, namespace, pod)| of_pod(context, suspect, &namespace, &pod));
    let runs = runs.into_iter().filter_map(|(suspect, run)| of_run(context, suspect, &run));
    let jobs = suspects.iter().filter_map(|suspect| of_job(context, suspect));
    pods.chain(runs).chain(jobs).collect()
}

fn row(run: &AgentRun) -> RunRow<'_> {
    let id = &run.spec.identity;
    RunRow {
        namespace: word(&run.metadata.namespace),
        name: run.name(),
        uid: run.uid(),
        job: &id.job_name,
        job_uid: Some(&id.job_uid),
        number: id.number,
        is_open: !run.is_closed(),
    }
}

/// The job of this name, if it can be read.
fn job(context: &Context, namespace: &str, name: &str) -> Option<AgentJob> {
    let item = context.jobs.named(namespace, name)?;
    readable(&item).ok().cloned()
}

/// Whether there is a job of this name that can't be read, so that nothing can be said of what is its.
fn is_unreadable(context: &Context, namespace: &str, name: &str) -> bool {
    context.jobs.named(namespace, name).is_some_and(|item| readable(&item).is_err())
}

fn of_pod(context: &Context, suspect: Suspect, namespace: &str, pod: &PodView) -> Option<Seen> {
    let run = pod.run_uid.as_deref().and_then(|uid| context.runs.get(uid));
    let job = run.as_ref().and_then(|run| job(context, namespace, &run.spec.identity.job_name));
    let finding = judge::pod(pod, run.as_ref(), job.as_ref(), &Time(clock::now()))?;
    let object = about("Pod", namespace, &pod.name, &pod.uid);
    Some(seen(suspect, finding, object, job.as_ref()))
}

fn of_run(context: &Context, suspect: Suspect, run: &AgentRun) -> Option<Seen> {
    let (namespace, name) = (word(&run.metadata.namespace), &run.spec.identity.job_name);
    if is_unreadable(context, namespace, name) {
        return None;
    }
    let job = job(context, namespace, name);
    let finding = judge::run(run, job.as_ref())?;
    let object = about("AgentRun", namespace, run.name(), run.uid());
    Some(seen(suspect, finding, object, job.as_ref()))
}

fn of_job(context: &Context, suspect: &Suspect) -> Option<Seen> {
    let Suspect::Job { namespace, name } = suspect else { return None };
    let job = job(context, namespace, name)?;
    let runs = context.runs.of(&job.reference());
    let pods: Vec<_> = runs.iter().flat_map(|run| context.pods.of(namespace, run.uid())).collect();
    let finding = judge::job(&job, &runs, &pods)?;
    let object = about("AgentJob", namespace, name, job.uid());
    Some(seen(suspect.clone(), finding, object, Some(&job)))
}

fn seen(suspect: Suspect, finding: Finding, object: ObjectReference, job: Option<&AgentJob>) -> Seen {
    let job = job.filter(|_| finding.kind != Kind::RunWithoutJob).map(AgentJob::reference);
    let about = job.map_or_else(|| object.clone(), |job| about("AgentJob", &job.namespace, &job.name, &job.uid));
    Seen { suspect, finding, object, about }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stray(name: &str) -> Seen {
        let finding = Finding { kind: Kind::PodWithoutRun, message: "m".into(), is_garbage: false };
        let suspect = Suspect::Pod { namespace: "n".into(), name: name.into() };
        seen(suspect, finding, about("Pod", "n", name, "u"), None)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_leak_lasts_and_is_told_once() {
        let mut watched = Watched::default();
        let mut take = |seconds, seen| {
            let (kinds, new) = watched.take(seen, at(seconds), at(60));
            (kinds.len(), new.len())
        };
        assert_eq!(take(0, vec![stray("a")]), (0, 0));
        assert_eq!(take(45, vec![stray("a"), stray("b")]), (0, 0));
        assert_eq!(take(60, vec![stray("a"), stray("b")]), (1, 1));
        assert_eq!(take(75, vec![stray("a"), stray("b")]), (1, 0));
        assert_eq!(take(90, vec![stray("a")]), (1, 0));
        assert_eq!(take(105, vec![stray("b")]), (0, 0), "it was away in between");
        assert_eq!(take(120, vec![stray("a")]), (0, 0));
    }
}
