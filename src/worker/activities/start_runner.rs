//! `start_runner`: claims the epoch, collects what earlier ones left, creates the pod.

use temporalio_sdk::activities::ActivityContext;
use tokio::time::Instant;

use super::{Activities, Trouble, pause, to_delete};
use crate::{
    api::{AgentJob, Claim, DesiredState, names},
    platform::status,
    pods::{CreateOutcome, collect, ending, template},
    protocol::workflow::{StartRunner, StartedRunner},
};

/// What the job's claim means for the epoch that is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// It is behind, or there is none: claim the epoch.
    Free,
    /// An earlier try of this activity has claimed it: go on with it.
    Ours(i32),
    /// It is further than the workflow knows, which was reset: take the epoch after it, if this task still counts.
    Ahead(i32),
    /// The workflow has gone on meanwhile.
    Late,
}

fn place(claim: Option<&Claim>, asked: i32, run_id: Option<&str>, hint: Option<i32>) -> Place {
    let Some(claim) = claim.filter(|c| c.epoch >= asked) else { return Place::Free };
    match &claim.permit {
        None if claim.epoch == asked || hint == Some(claim.epoch) => Place::Ours(claim.epoch),
        Some(permit) if claim.epoch == asked && permit.run_id.as_deref() == run_id => Place::Late,
        _ => Place::Ahead(claim.epoch.saturating_add(1)),
    }
}

/// The claim of a new epoch.
fn claim(job: &AgentJob, input: &StartRunner, epoch: i32) -> Claim {
    let status = job.status.as_ref();
    let before = status.and_then(|s| s.claim.as_ref()).filter(|_| input.resumed);
    let ended = status.and_then(|s| s.outcome.as_ref());
    let active = before.map_or(0, |b| {
        let last = ended.filter(|o| o.epoch == b.epoch).map_or(0, |o| o.active_millis);
        b.active_millis.saturating_add(last)
    });
    Claim {
        epoch,
        attempt: input.attempt,
        resumed: input.resumed,
        pod_name: names::pod(&input.job.name, &input.job.uid, epoch),
        pod_uid: None,
        active_millis: active,
        refusal: None,
        permit: None,
    }
}

/// No pod is made for a job that is going or to be cancelled.
fn wanted(job: &AgentJob) -> Result<(), Trouble> {
    if job.metadata.deletion_timestamp.is_some() {
        return Err(Trouble::JobGone("the AgentJob is being deleted"));
    }
    if job.spec.desired_state == DesiredState::Cancelled {
        return Err(Trouble::JobGone("the AgentJob is to be cancelled"));
    }
    Ok(())
}

fn mine(status: Option<&Claim>, epoch: i32) -> Result<&Claim, Trouble> {
    status.filter(|c| c.epoch == epoch).ok_or(Trouble::Superseded("the claim has gone on to another epoch"))
}

pub async fn run(a: &Activities, ctx: &ActivityContext, input: StartRunner) -> Result<StartedRunner, Trouble> {
    let jobs = a.jobs(&input.job);
    let seen = status::read(&jobs, &input.job).await?;
    wanted(&seen)?;
    let seen_claim = seen.status.as_ref().and_then(|s| s.claim.as_ref());
    // Best effort: without it another epoch is begun, and no harm done.
    let hint = ctx.heartbeat_details().deserialize::<i32>().ok().flatten();
    let epoch = match place(seen_claim, input.epoch, ctx.info().workflow_run_id.as_deref(), hint) {
        Place::Free => input.epoch,
        Place::Ours(epoch) => epoch,
        Place::Late => return Err(Trouble::Superseded("the epoch has its permit already")),
        Place::Ahead(epoch) => {
            // After the read: if the task counts now, then nobody but us may replace the claim that was read.
            a.still_ours(ctx).await?;
            epoch
        }
    };

    // The claim comes before the collecting: it is what keeps a worker that was frozen from going on with an older one, and
    // the runners of older epochs from delivering.
    let before = seen_claim.map(|c| c.epoch);
    let job = status::modify(&jobs, &input.job, Some(seen.clone()), |job, status| {
        wanted(job)?;
        match status.claim.as_ref().map(|c| c.epoch) {
            found if found == Some(epoch) => Ok(()),
            found if found == before => {
                status.claim = Some(claim(job, &input, epoch));
                Ok(())
            }
            _ => Err(Trouble::Superseded("the claim has gone on to another epoch")),
        }
    })
    .await?;
    let claim = mine(job.status.as_ref().and_then(|s| s.claim.as_ref()), epoch)?.clone();
    if claim.pod_uid.is_some() {
        return Ok(StartedRunner { epoch });
    }

    let outcome = ending::leaving(job.status.as_ref().and_then(|s| s.outcome.as_ref()));
    collect_before(a, ctx, &input, epoch, outcome).await?;

    // Anew: collecting may have taken hours.
    let job = status::read(&jobs, &input.job).await?;
    wanted(&job)?;
    mine(job.status.as_ref().and_then(|s| s.claim.as_ref()), epoch)?;
    let settings = a.runners.settings().await?;
    let pods = a.pods_in(&input.job);
    let made = match pods.create(template::build(&job, &claim, &settings), &input.job.uid).await {
        Ok(made) => made,
        Err(e) => {
            if e.needs_a_person() {
                refuse(a, &input, epoch, &e.to_string()).await?;
            }
            return Err(e.into());
        }
    };
    if matches!(made, CreateOutcome::Created(_)) {
        a.metrics.pods_created.inc();
    }
    let recorded = status::modify(&jobs, &input.job, None, |_, status| {
        mine(status.claim.as_ref(), epoch)?;
        match status.claim.as_mut() {
            Some(c) if c.pod_uid.as_deref().is_none_or(|uid| uid == made.uid()) => {
                (c.pod_uid, c.refusal) = (Some(made.uid().into()), None);
                Ok(())
            }
            _ => Err(Trouble::Superseded("the epoch has another pod")),
        }
    })
    .await;
    match recorded {
        Ok(_) => Ok(StartedRunner { epoch }),
        Err(e) => {
            // Nobody's pod: a worker that was frozen has made it, or its job has gone meanwhile.
            if !e.is_retryable() {
                pods.delete(&claim.pod_name, made.uid()).await?;
            }
            Err(e)
        }
    }
}

/// Ends the pods of lower epochs and waits until nothing of them runs. For as long as Kubernetes can't say that.
async fn collect_before(
    a: &Activities,
    ctx: &ActivityContext,
    input: &StartRunner,
    epoch: i32,
    outcome: Option<i32>,
) -> Result<(), Trouble> {
    let pods = a.pods_in(&input.job);
    let since = Instant::now();
    loop {
        // The epoch is the hint for the next try.
        ctx.record_heartbeat(epoch).await.map_err(|e| Trouble::Unavailable(e.to_string()))?;
        let found = pods.of_job(&input.job.uid).await?;
        let left = collect::before_epoch(&found, epoch);
        if left.is_empty() {
            return Ok(());
        }
        for pod in to_delete(&left, outcome, since.elapsed()) {
            tracing::info!(namespace = input.job.namespace, pod = pod.name, "deleting the pod of an earlier epoch");
            pods.delete(&pod.name, &pod.uid).await?;
        }
        pause(ctx).await?;
    }
}

/// Leaves the API server's words for the controller to show.
async fn refuse(a: &Activities, input: &StartRunner, epoch: i32, words: &str) -> Result<(), Trouble> {
    let jobs = a.jobs(&input.job);
    let written = status::modify(&jobs, &input.job, None, |_, status| {
        mine(status.claim.as_ref(), epoch)?;
        if let Some(claim) = status.claim.as_mut() {
            claim.refusal = Some(words.into());
        }
        Ok::<_, Trouble>(())
    });
    written.await.map(|_| ())
}

#[cfg(test)]
mod tests;
