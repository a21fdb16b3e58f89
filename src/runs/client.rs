//! The API calls for AgentRuns.

use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use parking_lot::Mutex;

use crate::{
    api::{AgentRun, AgentRunSpec, AgentRunStatus, JobRef, Termination, names},
    platform::store::{self, Round, StoreError, retry_conflicts},
};

/// Why a call for an AgentRun failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The request failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object of the run's name exists that is not this job's run.
    #[error("AgentRun {0} exists and is not this job's: delete it")]
    Foreign(String),
    /// The system's random number generator failed.
    #[error("no random numbers: {0}")]
    Random(String),
}

impl RunError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(e) => e.reason(),
            Self::Foreign(_) => "RunNameTaken",
            Self::Random(_) => "Random",
        }
    }

    /// Whether retrying is pointless until a user or administrator changes something.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Foreign(_) | Self::Store(StoreError::Invalid { .. }))
    }
}

/// The AgentRuns of a namespace.
#[derive(Clone)]
pub struct Runs {
    client: Client,
    api: Api<AgentRun>,
}

impl Runs {
    /// The AgentRuns of a namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), client }
    }

    /// Reads a run from the API server; `None` if it doesn't exist.
    pub async fn get(&self, job: &JobRef, number: i32) -> Result<Option<AgentRun>, RunError> {
        let found = self.named(&names::run(&job.name, &job.uid, number)).await?;
        found.map(|run| ours(run, job, number)).transpose()
    }

    /// The run of this name; `None` if there is none. Only koco's: its name is that of its job and number.
    pub async fn named(&self, name: &str) -> Result<Option<AgentRun>, RunError> {
        let found = self.api.get_opt(name).await;
        let what = || format!("get AgentRun {}/{name}", self.api.namespace().unwrap_or_default());
        let found = found.map_err(|e| StoreError::of(what(), e))?;
        found.map(|run| if run.has_its_name() { Ok(run) } else { Err(RunError::Foreign(name.into())) }).transpose()
    }

    /// All runs of a job, by number. Costs a list: only for callers that don't know the name.
    pub async fn list(&self, job: &JobRef) -> Result<Vec<AgentRun>, RunError> {
        let params = kube::api::ListParams::default().fields(&format!("spec.identity.jobName={}", job.name));
        let what = || format!("list AgentRuns of {}/{}", job.namespace, job.name);
        let found = self.api.list(&params).await.map_err(|e| StoreError::of(what(), e))?;
        let mut runs: Vec<_> = found.items.into_iter().filter(|r| r.job() == *job && r.has_its_name()).collect();
        runs.sort_by_key(AgentRun::number);
        Ok(runs)
    }

    /// Creates a run, or reads the existing one of its number. Also returns whether it is new.
    pub async fn create(&self, run: &AgentRun) -> Result<(AgentRun, bool), RunError> {
        let what = store::what("create", run);
        match self.api.create(&PostParams::default(), run).await {
            Ok(made) => Ok((made, true)),
            Err(kube::Error::Api(e)) if e.code == 409 && e.reason == "AlreadyExists" => {
                // Deleted in between: the next try creates it.
                let there = self.get(&run.job(), run.number()).await?;
                there.map(|run| (run, false)).ok_or(RunError::Store(StoreError::Conflict { what }))
            }
            Err(e) => Err(StoreError::of(what, e).into()),
        }
    }

    /// Changes the spec of an open run: applies `change` to `known`, or to the API server's version, and again after
    /// each conflict. Writes only if something changes. Returns the run after the write; a closed run is returned
    /// unchanged.
    pub async fn modify_spec<E, F>(&self, known: AgentRun, change: F) -> Result<AgentRun, E>
    where
        F: Fn(&AgentRun, &mut AgentRunSpec) -> Result<(), E>,
        E: From<StoreError> + From<RunError>,
    {
        self.modify(known, |run| {
            let mut new = run.clone();
            change(run, &mut new.spec)?;
            Ok((new.spec != run.spec).then_some(Change::Spec(Box::new(new))))
        })
        .await
    }

    /// The same for the status.
    pub async fn modify_status<E, F>(&self, known: AgentRun, change: F) -> Result<AgentRun, E>
    where
        F: Fn(&AgentRun, &mut AgentRunStatus) -> Result<(), E>,
        E: From<StoreError> + From<RunError>,
    {
        self.modify(known, |run| {
            let old = run.status.clone().unwrap_or_default();
            let mut new = old.clone();
            change(run, &mut new)?;
            Ok((new != old).then_some(Change::Status(Box::new(new))))
        })
        .await
    }

    /// Closes a run, unless it is closed already. Returns the closed run with the termination that was first.
    pub async fn close(
        &self,
        known: AgentRun,
        termination: impl Fn(&AgentRun) -> Termination,
    ) -> Result<AgentRun, RunError> {
        self.modify_status(known, |run, status| {
            status.termination = Some(termination(run));
            Ok(())
        })
        .await
    }

    async fn modify<E>(
        &self,
        known: AgentRun,
        decide: impl Fn(&AgentRun) -> Result<Option<Change>, E>,
    ) -> Result<AgentRun, E>
    where
        E: From<StoreError> + From<RunError>,
    {
        let (job, number) = (known.job(), known.number());
        let known = Mutex::new(Some(known));
        let round = || async {
            let cached = known.lock().take();
            let current = match cached {
                Some(run) => run,
                None => match self.get(&job, number).await {
                    Ok(Some(run)) => run,
                    Ok(None) => {
                        let what =
                            format!("get AgentRun {}/{}", job.namespace, names::run(&job.name, &job.uid, number));
                        return Err(Round::Store(StoreError::Gone { what }));
                    }
                    Err(RunError::Store(e)) => return Err(Round::Store(e)),
                    Err(e) => return Err(Round::Refused(e.into())),
                },
            };
            if current.is_closed() {
                return Ok(current);
            }
            match decide(&current).map_err(Round::Refused)? {
                None => Ok(current),
                Some(Change::Status(status)) => {
                    store::put_status(&self.client, &current, &status).await.map_err(Round::Store)
                }
                Some(Change::Spec(new)) => {
                    let written = self.api.replace(current.name(), &PostParams::default(), &new).await;
                    written.map_err(|e| Round::Store(StoreError::of(store::what("update", &current), e)))
                }
            }
        };
        retry_conflicts(round).await
    }

    /// Deletes a run, identified by its UID, and with it its pod. Succeeds if it is gone already.
    pub async fn delete(&self, name: &str, uid: &str) -> Result<(), RunError> {
        let deleted = store::delete(&self.api, name, uid, DeleteParams::background()).await;
        deleted.map_err(|e| StoreError::of(format!("delete AgentRun {name}"), e).into())
    }
}

enum Change {
    Spec(Box<AgentRun>),
    Status(Box<AgentRunStatus>),
}

/// Checks that a run is the job's. Names derive from the job's UID, so only a forged object can fail this.
fn ours(run: AgentRun, job: &JobRef, number: i32) -> Result<AgentRun, RunError> {
    let id = &run.spec.identity;
    if id.job_uid == job.uid && id.number == number { Ok(run) } else { Err(RunError::Foreign(run.name().into())) }
}
