//! A simulated cluster: fake activities, which record their inputs and return what a test sets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use koco::{
    api::*,
    protocol::{error_types, workflow::*},
};
use temporalio_macros::activities;
use temporalio_sdk::{
    ApplicationFailure,
    activities::{ActivityContext, ActivityError},
};

/// The recorded inputs for one job, and the results to return.
#[derive(Default, Clone)]
pub struct Record {
    pub starts: Vec<StartRunner>,
    /// With the task that each was, as Temporal knows it.
    pub binds: Vec<(ExecuteAgent, Vec<u8>)>,
    pub controls: Vec<ControlRunner>,
    pub cleanups: Vec<Cleanup>,
    /// The number that `start_runner` finds the newest run to have.
    pub newest: i32,
    /// `start_runner` waits until it is cancelled, and is left to the server.
    pub stuck: bool,
    /// The local `start_runner` waits until it is cancelled.
    pub hangs: bool,
    /// How many local `start_runner`s there were.
    pub local: usize,
    /// How many `start_runner`s were cancelled.
    pub stopped: usize,
    /// The error type that `start_runner` returns.
    pub refuse: Option<String>,
    /// `control_runner` fails.
    pub command_fails: bool,
}

/// By the job's UID.
pub type Records = Arc<Mutex<HashMap<String, Record>>>;

/// The activities of the simulated cluster.
pub struct Simulated {
    pub records: Records,
}

impl Simulated {
    fn note<R>(&self, job: &JobRef, change: impl FnOnce(&mut Record) -> R) -> R {
        change(self.records.lock().unwrap().entry(job.uid.clone()).or_default())
    }
}

impl Simulated {
    /// What a local activity leaves to the server.
    async fn start_locally(&self, ctx: &ActivityContext, job: &JobRef) -> Result<(), ActivityError> {
        self.note(job, |r| r.local += 1);
        while self.note(job, |r| r.hangs) {
            tokio::select! {
                () = ctx.cancelled() => return Err(fail(error_types::API_SERVER)),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        let left = self.note(job, |r| r.stuck || r.newest > 0);
        if left { Err(fail(error_types::NOT_LOCAL)) } else { Ok(()) }
    }
}

fn fail(kind: &str) -> ActivityError {
    ActivityError::application(
        ApplicationFailure::builder(anyhow::anyhow!("simulated"))
            .type_name(kind.to_string())
            .non_retryable(kind != error_types::API_SERVER)
            .build(),
    )
}

#[activities]
impl Simulated {
    #[activity(name = "start_runner")]
    /// See `worker::calls`.
    pub async fn start_runner(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: StartRunner,
    ) -> Result<StartedRunner, ActivityError> {
        if ctx.info().is_local {
            self.start_locally(&ctx, &input.job).await?;
        }
        let answer = self.note(&input.job, |r| {
            r.starts.push(input.clone());
            r.refuse.clone().map_or(Ok(input.run.max(r.newest)), Err)
        });
        while self.note(&input.job, |r| r.stuck) {
            ctx.record_heartbeat(()).await?;
            tokio::select! {
                () = ctx.cancelled() => {
                    self.note(&input.job, |r| r.stopped += 1);
                    return Err(fail(error_types::API_SERVER));
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        answer.map(|run| StartedRunner { run }).map_err(|kind| fail(&kind))
    }

    #[activity(name = "execute_agent")]
    /// See `worker::calls`.
    pub async fn execute_agent(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ExecuteAgent,
    ) -> Result<AgentResult, ActivityError> {
        let task = ctx.info().task_token.clone();
        self.note(&input.job, |r| r.binds.push((input.clone(), task)));
        Err(ActivityError::WillCompleteAsync)
    }

    #[activity(name = "control_runner")]
    /// See `worker::calls`.
    pub async fn control_runner(
        self: Arc<Self>,
        _ctx: ActivityContext,
        input: ControlRunner,
    ) -> Result<ControlledRunner, ActivityError> {
        let generation = input.generation;
        let fails = self.note(&input.job, |r| {
            r.controls.push(input.clone());
            r.command_fails
        });
        if fails { Err(fail("CommandFails")) } else { Ok(ControlledRunner { generation }) }
    }

    #[activity(name = "cleanup")]
    /// See `worker::calls`.
    pub async fn cleanup(self: Arc<Self>, _ctx: ActivityContext, input: Cleanup) -> Result<(), ActivityError> {
        self.note(&input.job, |r| r.cleanups.push(input.clone()));
        Ok(())
    }
}
