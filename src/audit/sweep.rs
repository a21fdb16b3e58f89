//! Compares lists, page by page: what is kept of an object are a few bytes, whatever its size, and the names of
//! suspects alone. The order is jobs, runs, pods, workflows: each is judged as it comes, by what was kept of those
//! before. What was created meanwhile is a suspect, too, and fits when it is looked at.

use std::collections::{BTreeSet, HashMap};

use sha2::{Digest, Sha256};

/// An object that may not fit, with what is needed to read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suspect {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An AgentRun.
    Run {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An AgentJob, because of the number of its runs.
    Job {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An open workflow.
    Workflow {
        /// Its id.
        id: String,
        /// The UID of its job, from the id.
        job_uid: String,
    },
}

/// What a list shows of an AgentRun.
#[derive(Clone, Copy, Debug)]
pub struct RunRow<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// The name of its job.
    pub job: &'a str,
    /// The UID of its job, if the list shows it.
    pub job_uid: Option<&'a str>,
    /// Its number.
    pub number: i32,
    /// Whether it is open.
    pub is_open: bool,
}

/// What a list shows of a pod that is an agent's by its label or its owner.
#[derive(Clone, Copy, Debug)]
pub struct PodRow<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The UID of the AgentRun that owns it, if one does.
    pub run_uid: Option<&'a str>,
    /// The name of its job, if it is known.
    pub job: Option<&'a str>,
    /// Whether its phase is not final.
    pub is_live: bool,
}

/// A UID in 16 bytes.
type Key = u128;

fn key(uid: &str) -> Key {
    let digest: [u8; 32] = Sha256::digest(uid).into();
    digest.iter().take(16).fold(0, |key, byte| key << 8 | Key::from(*byte))
}

/// What is kept of a job: whether it has ended, and the numbers of an open run and of a run with a live pod, 0 if there
/// is none.
#[derive(Clone, Copy, Debug, Default)]
struct JobKey {
    ended: bool,
    open_run: i32,
    live_pod: i32,
}

/// What is kept of a run.
#[derive(Clone, Copy, Debug)]
struct RunKey {
    job: Key,
    number: i32,
    is_open: bool,
}

/// How many objects were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// AgentJobs.
    pub jobs: usize,
    /// AgentRuns.
    pub runs: usize,
    /// Pods of agents.
    pub pods: usize,
    /// Open workflows.
    pub workflows: usize,
}

/// A comparison in progress. A page that comes twice changes nothing but the counts.
#[derive(Debug, Default)]
pub struct Sweep {
    jobs: HashMap<Key, JobKey>,
    runs: HashMap<Key, RunKey>,
    suspects: BTreeSet<Suspect>,
    counts: Counts,
}

impl Sweep {
    /// Takes a job.
    pub fn job(&mut self, uid: &str, ended: bool) {
        self.counts.jobs += 1;
        self.jobs.insert(key(uid), JobKey { ended, ..JobKey::default() });
    }

    /// Takes a run, after all jobs.
    pub fn run(&mut self, run: RunRow<'_>) {
        self.counts.runs += 1;
        let job_key = run.job_uid.map(key);
        let job = job_key.and_then(|key| self.jobs.get_mut(&key));
        let job_ended = job.as_ref().is_none_or(|job| job.ended);
        let is_second = run.is_open && job.is_some_and(|job| is_another(&mut job.open_run, run.number));
        let named = |name: &str| (run.namespace.to_string(), name.to_string());
        // No job, or one that has ended while the run is open.
        if job_key.is_none_or(|key| !self.jobs.contains_key(&key)) || (run.is_open && job_ended) {
            let (namespace, name) = named(run.name);
            self.suspects.insert(Suspect::Run { namespace, name });
        }
        if is_second {
            let (namespace, name) = named(run.job);
            self.suspects.insert(Suspect::Job { namespace, name });
        }
        let job = job_key.unwrap_or_default();
        self.runs.insert(key(run.uid), RunKey { job, number: run.number, is_open: run.is_open });
    }

    /// Takes a pod, after all runs.
    pub fn pod(&mut self, pod: PodRow<'_>) {
        self.counts.pods += 1;
        let run = pod.run_uid.and_then(|uid| self.runs.get(&key(uid))).copied();
        let job = run.and_then(|run| self.jobs.get_mut(&run.job));
        let fits = run.is_some_and(|run| !pod.is_live || (run.is_open && job.as_ref().is_none_or(|job| !job.ended)));
        let number = run.map_or(0, |run| run.number);
        let is_second = pod.is_live && job.is_some_and(|job| is_another(&mut job.live_pod, number));
        if !fits {
            let (namespace, name) = (pod.namespace.to_string(), pod.name.to_string());
            self.suspects.insert(Suspect::Pod { namespace, name });
        }
        if let Some(job) = pod.job.filter(|_| is_second) {
            let (namespace, name) = (pod.namespace.to_string(), job.to_string());
            self.suspects.insert(Suspect::Job { namespace, name });
        }
    }

    /// Takes an open workflow, after all pods.
    pub fn workflow(&mut self, id: &str, job_uid: &str) {
        self.counts.workflows += 1;
        // One without a live pod may have an activity that waits for one.
        let fits = self.jobs.get(&key(job_uid)).is_some_and(|job| !job.ended && job.live_pod != 0);
        if !fits {
            self.suspects.insert(Suspect::Workflow { id: id.into(), job_uid: job_uid.into() });
        }
    }

    /// How many objects were compared.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many entries are kept now.
    pub fn kept(&self) -> usize {
        self.jobs.len() + self.runs.len() + self.suspects.len()
    }

    /// The suspects. All else is dropped.
    pub fn suspects(self) -> BTreeSet<Suspect> {
        self.suspects
    }
}

/// Whether another number is known than this one; remembers this one if none is.
fn is_another(known: &mut i32, number: i32) -> bool {
    if *known == 0 {
        *known = number;
    }
    *known != number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(uid: &'a str, job: &'a str, number: i32, is_open: bool) -> RunRow<'a> {
        RunRow { namespace: "n", name: uid, uid, job, job_uid: Some(job), number, is_open }
    }

    fn pod<'a>(name: &'a str, run_uid: Option<&'a str>, is_live: bool) -> PodRow<'a> {
        PodRow { namespace: "n", name, run_uid, job: Some("j"), is_live }
    }

    fn suspected(fill: impl FnOnce(&mut Sweep)) -> Vec<String> {
        let mut sweep = Sweep::default();
        fill(&mut sweep);
        let word = |suspect: Suspect| match suspect {
            Suspect::Pod { name, .. } => format!("pod {name}"),
            Suspect::Run { name, .. } => format!("run {name}"),
            Suspect::Job { name, .. } => format!("job {name}"),
            Suspect::Workflow { id, .. } => format!("workflow {id}"),
        };
        sweep.suspects().into_iter().map(word).collect()
    }

    #[test]
    fn what_fits_is_no_suspect() {
        let found = suspected(|s| {
            s.job("open", false);
            s.job("ended", true);
            s.run(run("r1", "open", 1, false));
            s.run(run("r2", "open", 2, true));
            s.run(run("r3", "ended", 1, false));
            s.pod(pod("p1", Some("r1"), false));
            s.pod(pod("p2", Some("r2"), true));
            s.pod(pod("p3", Some("r3"), false));
            s.workflow("w", "open");
        });
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn each_finding_is_suspected() {
        let found = suspected(|s| s.pod(pod("p", Some("gone"), true)));
        assert_eq!(found, ["pod p"], "a pod without its run");
        assert_eq!(suspected(|s| s.pod(pod("p", None, false))), ["pod p"], "nor an owner");
        assert_eq!(suspected(|s| s.run(run("r", "gone", 1, false))), ["run r"], "a run without its job");
        let open = |s: &mut Sweep, ended| {
            s.job("j", ended);
            s.run(run("j-0-1", "j", 1, true));
        };
        let found = suspected(|s| {
            open(s, false);
            s.run(run("j-0-2", "j", 2, true));
            s.run(run("j-0-3", "j", 3, true));
        });
        assert_eq!(found, ["job j"], "more than one open run");
        let found = suspected(|s| {
            s.job("j", false);
            s.run(run("r1", "j", 1, true));
            s.run(run("r2", "j", 2, true));
            s.suspects.clear();
            s.pod(pod("p1", Some("r1"), true));
            s.pod(pod("p2", Some("r2"), true));
        });
        assert_eq!(found, ["job j"], "two live pods");
        assert_eq!(suspected(|s| open(s, true)), ["run j-0-1"], "an open run of a job that has ended");
        let found = suspected(|s| {
            s.job("j", true);
            s.run(run("r", "j", 1, false));
            s.pod(pod("p", Some("r"), true));
        });
        assert_eq!(found, ["pod p"], "a live pod of a job that has ended");
        assert_eq!(suspected(|s| s.workflow("w", "gone")), ["workflow w"], "an open workflow without its job");
        let found = suspected(|s| {
            s.job("j", true);
            s.workflow("w", "j");
        });
        assert_eq!(found, ["workflow w"], "an open workflow of a job that has ended");
        let found = suspected(|s| {
            open(s, false);
            s.workflow("w", "j");
        });
        assert_eq!(found, ["workflow w"], "no live pod: what does its activity wait for");
    }

    #[test]
    fn a_page_that_comes_twice_changes_nothing() {
        let found = suspected(|s| {
            for _ in 0..2 {
                s.job("j", false);
                s.run(run("r", "j", 1, true));
                s.pod(pod("p", Some("r"), true));
            }
        });
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn ten_thousand_jobs_are_a_few_bytes_each() {
        let mut sweep = Sweep::default();
        for n in 0..10_000 {
            sweep.job(&format!("j{n}"), n % 2 == 0);
        }
        for n in 0..10_000 {
            let (uid, job) = (format!("r{n}"), format!("j{n}"));
            sweep.run(run(&uid, &job, 1, n % 2 == 1));
        }
        for n in 0..10_000 {
            let (name, uid) = (format!("p{n}"), format!("r{n}"));
            sweep.pod(pod(&name, Some(&uid), n % 2 == 1));
            assert_eq!(sweep.kept(), 20_000, "nothing is kept of pods, nor of workflows");
        }
        for n in (1..10_000).step_by(2) {
            sweep.workflow("w", &format!("j{n}"));
        }
        assert_eq!(sweep.kept(), 20_000);
        assert_eq!(sweep.counts(), Counts { jobs: 10_000, runs: 10_000, pods: 10_000, workflows: 5_000 });
        let each = size_of::<(Key, JobKey)>() + size_of::<(Key, RunKey)>();
        assert!(each <= 96, "{each}");
        assert!(sweep.suspects().is_empty());
    }
}
