//! `logs`: the agent's log, or another container's, of the newest run, of all, or of one attempt. Follows it from run to
//! run until the job ends. [`reader`] reads that of one pod.

mod reader;

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use anyhow::{anyhow, bail};
use clap::Args;
use futures::{Stream, TryStreamExt};

use super::{
    connect::{Session, job_name},
    output::reference,
    text::say,
    watch::{self, RunChange},
};
use crate::api::{AgentJob, AgentRun, Seconds};
use reader::{Container, Reader, has_container, state};

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob
    #[arg(value_parser = job_name)]
    name: String,
    /// Follow the log, also of later runs' pods, until the job ends
    #[arg(short, long)]
    follow: bool,
    /// The logs of all runs whose pods are kept, the oldest first
    #[arg(long, conflicts_with = "attempt")]
    all: bool,
    /// The log of this attempt
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<i32>,
    /// Another container of the pod, such as a sidecar. Default: the agent's
    #[arg(short, long)]
    container: Option<String>,
    /// Only lines that are not older, such as 90s or 1h
    #[arg(long, value_name = "DURATION", value_parser = Seconds::parse)]
    since: Option<Duration>,
    /// Only the last lines of the existing log, of each pod
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Prefix each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Prefix each line with its pod and container
    #[arg(long)]
    prefix: bool,
}

impl Arguments {
    /// All of a job's log, until its end.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.into(),
            follow: true,
            all: true,
            attempt: None,
            container: None,
            since: None,
            tail: None,
            timestamps: false,
            prefix: false,
        }
    }

    /// Whether the log of a run is asked for, if it is not only that of the newest.
    fn wants(&self, run: &AgentRun) -> bool {
        pod_of(run).is_some() && self.attempt.is_none_or(|attempt| run.spec.identity.attempt == attempt)
    }

    /// The runs whose logs are asked for, of all, by number.
    fn chosen<'r>(&self, runs: impl Iterator<Item = &'r AgentRun>) -> Vec<&'r AgentRun> {
        let mut chosen: Vec<_> = runs.filter(|run| self.wants(run)).collect();
        if !self.all && self.attempt.is_none() {
            chosen.drain(..chosen.len().saturating_sub(1));
        }
        chosen
    }
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let job = session.job(&arguments.name).await?;
    let container = arguments.container.clone().unwrap_or_else(|| job.agent_container());
    if container.is_empty() {
        bail!("spec.template names no container");
    }
    let reader = || Reader::new(session, arguments, &container);
    if arguments.follow {
        return follow(session, arguments, reader).await;
    }
    let runs = session.runs_of(&job).await.map_err(|e| session.explain(e, &arguments.name))?;
    let chosen = arguments.chosen(runs.iter());
    let mut problem = match arguments.attempt {
        Some(attempt) => anyhow!("{} has no attempt {attempt} on record", reference(&arguments.name)),
        None => anyhow!("{} has no run yet", reference(&arguments.name)),
    };
    let (many, mut read) = (chosen.len() > 1, false);
    for run in chosen {
        match there(session, run, &container).await? {
            Ok(pod) => {
                if many {
                    say(format_args!("--- pod {pod}"));
                }
                reader().read(&pod, false).await?;
                read = true;
            }
            Err(why) if many => say(format_args!("--- {why}")),
            Err(why) => problem = why,
        }
    }
    match (read, many) {
        (true, _) => Ok(()),
        (false, true) => Err(anyhow!("none of the runs' pods has a log any more")),
        (false, false) => Err(problem),
    }
}

/// The pod of a run, if it has a log; else why not.
async fn there(session: &Session, run: &AgentRun, container: &str) -> anyhow::Result<Result<String, anyhow::Error>> {
    let pod = run.spec.identity.pod_name.as_str();
    let Some(found) = session.pods().get_opt(pod).await? else {
        return Ok(Err(match run.is_ready() || run.is_closed() {
            true => anyhow!("the pod {pod} is gone, and its log with it"),
            false => anyhow!("there is no pod {pod} yet"),
        }));
    };
    has_container(&found, container)?;
    Ok(match state(&found, container) {
        Container::Waiting(why) => Err(anyhow!("the container {container} in pod {pod} has not started: {why}")),
        _ => Ok(pod.into()),
    })
}

/// A job and its runs, as they change.
struct Followed<J, R> {
    jobs: J,
    changes: R,
    job: AgentJob,
    runs: BTreeMap<i32, AgentRun>,
}

impl<J, R> Followed<J, R>
where
    J: Stream<Item = anyhow::Result<AgentJob>> + Unpin,
    R: Stream<Item = anyhow::Result<RunChange>> + Unpin,
{
    /// Waits for the next change.
    async fn changed(&mut self) -> anyhow::Result<()> {
        let ended = || anyhow!("the watch has ended");
        tokio::select! {
            job = self.jobs.try_next() => self.job = job?.ok_or_else(ended)?,
            change = self.changes.try_next() => match change?.ok_or_else(ended)? {
                RunChange::Now(run) => drop(self.runs.insert(run.number(), *run)),
                // Its number is remembered as read.
                RunChange::Gone(_) => {}
            },
        }
        Ok(())
    }

    /// The first run after that number whose log is asked for; at first, where nothing is said, the newest.
    fn after(&self, read: Option<i32>, arguments: &Arguments) -> Option<AgentRun> {
        match read {
            Some(read) => self.runs.values().find(|r| r.number() > read && arguments.wants(r)).cloned(),
            None => arguments.chosen(self.runs.values()).first().map(|run| (*run).clone()),
        }
    }

    /// Whether no later run can be asked for: its attempt is over.
    fn is_past(&self, arguments: &Arguments) -> bool {
        arguments.attempt.is_some_and(|attempt| self.runs.values().any(|run| run.spec.identity.attempt > attempt))
    }

    /// Whether that run's pod writes nothing more: the run is closed, there is a later one, or the job has ended.
    fn is_over(&self, number: i32) -> bool {
        let closed = self.runs.get(&number).is_none_or(AgentRun::is_closed);
        closed || watch::finished(&self.job) || self.runs.keys().any(|n| *n > number)
    }
}

async fn follow<'a>(
    session: &'a Session,
    arguments: &'a Arguments,
    reader: impl Fn() -> Reader<'a>,
) -> anyhow::Result<()> {
    let mut jobs = watch::job(session, &arguments.name).await?;
    let job = jobs.try_next().await?.ok_or_else(|| anyhow!("the watch has ended"))?;
    let live = async |job: &AgentJob| {
        let runs = session.runs_of(job).await.map_err(|e| session.explain(e, &arguments.name))?;
        anyhow::Ok(runs.into_iter().map(|r| (r.number(), r)).collect::<BTreeMap<_, _>>())
    };
    let runs = live(&job).await?;
    let mut followed = Followed { changes: watch::runs(session, &job), jobs, job, runs };
    let mut read: Option<i32> = None;
    loop {
        if let Some(run) = followed.after(read, arguments) {
            let mut reader = reader();
            if read.replace(run.number()).is_some() {
                reader.tail = arguments.tail.filter(|_| arguments.all);
                say(format_args!("--- pod {}", run.spec.identity.pod_name));
            }
            one(session, &mut followed, reader, &run).await?;
        } else if watch::finished(&followed.job) || followed.is_past(arguments) {
            // The job's end may be seen before its last run.
            followed.runs = live(&followed.job).await?;
            match (followed.after(read, arguments), arguments.attempt) {
                (Some(_), _) => {}
                (None, Some(attempt)) if read.is_none() => {
                    bail!("{} has no attempt {attempt} on record", reference(&arguments.name))
                }
                (None, _) => return Ok(()),
            }
        } else {
            followed.changed().await?;
        }
    }
}

/// The log of one run's pod. The job may go on meanwhile; a pod that never starts must not block then.
async fn one<J, R>(
    session: &Session,
    followed: &mut Followed<J, R>,
    mut reader: Reader<'_>,
    run: &AgentRun,
) -> anyhow::Result<()>
where
    J: Stream<Item = anyhow::Result<AgentJob>> + Unpin,
    R: Stream<Item = anyhow::Result<RunChange>> + Unpin,
{
    let pod = run.spec.identity.pod_name.as_str();
    let over = Cell::new(followed.is_over(run.number()));
    let whole = reader.whole(pod, &over);
    tokio::pin!(whole);
    loop {
        tokio::select! {
            biased;
            done = &mut whole => return done,
            change = followed.changed(), if !over.get() => {
                change?;
                over.set(followed.is_over(run.number()));
                // The rest is read, unless the container never started. The run is ready before the
                // kubelet reports its container as running.
                let registered = followed.runs.get(&run.number()).is_some_and(AgentRun::is_ready);
                if over.get() && !registered && !began(session, pod).await {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether a pod's containers have started, or the pod is gone.
async fn began(session: &Session, pod: &str) -> bool {
    let found = session.pods().get_opt(pod).await.ok().flatten();
    found.is_some_and(|p| p.status.and_then(|s| s.phase).is_some_and(|phase| phase != "Pending"))
}

/// The name of a run's pod; one that was created closed has none.
fn pod_of(run: &AgentRun) -> Option<&str> {
    (!run.spec.identity.tombstone).then_some(run.spec.identity.pod_name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(number: i32, termination: Value, tombstone: bool) -> AgentRun {
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r" },
            "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": number, "attempt": number, "tombstone": tombstone,
                "podName": format!("p-{number}"), "executionMode": "Direct", "heartbeat": "1s" } },
            "status": termination,
        }))
        .unwrap()
    }

    #[test]
    fn runs_are_read_in_order_from_the_newest_on() {
        let ended = json!({ "termination": { "type": "Failed", "source": "Runner", "time": "2026-01-01T00:00:00Z", "started": true } });
        let runs = [run(1, ended, false), run(2, json!({}), true), run(3, json!({}), false)];
        let empty = futures::stream::empty::<anyhow::Result<AgentJob>>();
        let mut followed = Followed {
            jobs: empty,
            changes: futures::stream::empty(),
            job: AgentJob::default(),
            runs: runs.into_iter().map(|r| (r.number(), r)).collect(),
        };
        let newest = Arguments { all: false, ..Arguments::of("j") };
        let number = |f: &Followed<_, _>, read, a| f.after(read, a).map(|r| r.number());
        assert_eq!(number(&followed, None, &newest), Some(3), "from the start the newest");
        assert_eq!(number(&followed, Some(1), &newest), Some(3), "a tombstone has no pod");
        assert_eq!(number(&followed, Some(3), &newest), None);
        assert!(followed.is_over(1) && !followed.is_over(3));
        let all = Arguments::of("j");
        assert_eq!((number(&followed, None, &all), number(&followed, Some(1), &all)), (Some(1), Some(3)));
        let first = Arguments { attempt: Some(1), ..Arguments { all: false, ..Arguments::of("j") } };
        assert_eq!((number(&followed, None, &first), number(&followed, Some(1), &first)), (Some(1), None));
        assert!(followed.is_past(&first) && !followed.is_past(&all));
        followed.runs.insert(4, run(4, json!({}), false));
        assert!(followed.is_over(3), "a later run");
        let numbers = |a: &Arguments| a.chosen(followed.runs.values()).iter().map(|r| r.number()).collect::<Vec<_>>();
        assert_eq!((numbers(&newest), numbers(&all), numbers(&first)), (vec![4], vec![1, 3, 4], vec![1]));
    }
}
