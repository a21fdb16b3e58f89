//! `audit`: compares AgentJobs, AgentRuns, pods and, if it is told where, Temporal's open workflows. [`pages`] lists,
//! [`look`] reads suspects one by one, [`repair`] asks the controller to repair, [`report`] prints; what fits is decided in [`crate::audit`].

mod look;
mod pages;
mod repair;
mod report;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use super::{connect::Session, text::Progress};
use crate::{
    api::{Seconds, names},
    audit::{Look, Suspicion, Sweep},
    temporal::{Settings, Temporal},
};

use look::{Found, Reader};

pub(super) const HELP: &str = "\
What a list shows is looked at again by reading the objects themselves, and once more after --grace: only what is \
the same both times is printed. So it takes no longer than the lists if all fits, and that time otherwise.

Workflows are compared if --temporal-address is given; from outside of the cluster, through a port forward:

  kubectl -n temporal port-forward svc/temporal-frontend 7233 &
  kubectl koco audit -A --temporal-address localhost:7233

TLS and credentials for Temporal are read from the environment as koco's roles read them: TEMPORAL_API_KEY, \
TEMPORAL_TLS, TEMPORAL_TLS_CLIENT_CERT_PATH, ...

--repair annotates the job of each finding, or the run or pod if there is no job. koco's controller then does what is \
safe, and says what it did by an event (Repaired, NotRepaired, NothingToRepair), at a job also in the annotation \
kodosumi.io/repair-result. The cancellation of a workflow whose job is gone is requested from Temporal directly.

Exit codes:
  0    all fits
  1    something doesn't fit, also if its repair was requested
  2    wrong usage, or not all could be compared, or asked about";

/// The exit code if not all could be compared.
pub(super) const TROUBLE: u8 = 2;

/// How many suspects are read at a time.
const AT_ONCE: usize = 8;
/// How long to wait for a connection to Temporal.
const CONNECT: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(super) struct Arguments {
    /// Compare all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to print what doesn't fit
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// How long what doesn't fit must last before it is printed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = Seconds::parse)]
    grace: Duration,
    /// Ask koco's controller to repair what is safe to repair
    #[arg(long)]
    repair: bool,
    /// Temporal's frontend, such as localhost:7233; without it, workflows are not compared
    #[arg(long, value_name = "ADDRESS", env = "TEMPORAL_ADDRESS")]
    temporal_address: Option<String>,
    /// Temporal's namespace; default: `default`
    #[arg(long, value_name = "NAMESPACE", env = "TEMPORAL_NAMESPACE")]
    temporal_namespace: Option<String>,
    /// Namespace that koco runs in: it is in the ids of workflows
    #[arg(long, value_name = "NAMESPACE", env = "KOCO_NAMESPACE", default_value = "koco-system")]
    operator_namespace: String,
    /// The cluster's id in workflow ids; default: as koco has it, from the UID of kube-system
    #[arg(long, value_name = "ID", env = "KOCO_CLUSTER")]
    cluster: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let namespace = (!arguments.all_namespaces).then_some(session.namespace.as_str());
    let temporal = temporal(session, arguments).await?;
    let (mut sweep, mut progress) = (Sweep::default(), Progress::new());
    progress.show("listing jobs, runs and pods");
    pages::sweep(&session.client(), namespace, &mut sweep).await?;
    if let Some((temporal, installation)) = &temporal {
        progress.show("listing Temporal's workflows");
        pages::workflows(temporal, installation, &mut sweep).await.context("listing Temporal's workflows")?;
    }
    let counts = sweep.counts();
    let reader = Reader::new(session.client(), namespace.map(str::to_string), temporal.map(|(temporal, _)| temporal));
    let suspicions = sweep.suspects().into_iter().map(Suspicion::of).collect();
    let found = lasting(&reader, suspicions, arguments.grace, &mut progress).await?;
    progress.clear();
    let asked =
        if arguments.repair { Some(repair::ask(&session.client(), reader.temporal(), &found).await) } else { None };
    report::print(&found, counts, reader.temporal().is_some(), asked.as_ref(), arguments.output == Output::Json)?;
    Ok(match asked {
        Some(asked) if asked.values().any(Option::is_some) => TROUBLE.into(),
        _ if found.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Looks at suspects until each fits or has been seen for long enough. Returns the latter.
async fn lasting(
    reader: &Reader,
    suspicions: Vec<Suspicion>,
    grace: Duration,
    progress: &mut Progress,
) -> anyhow::Result<Vec<Found>> {
    let (began, mut found) = (Instant::now(), Vec::new());
    let mut due: Vec<(Duration, Suspicion)> = suspicions.into_iter().map(|s| (Duration::ZERO, s)).collect();
    while let Some(next) = due.iter().map(|(at, _)| *at).min() {
        progress.show(format_args!("{} found that may not fit, looking again", due.len() + found.len()));
        tokio::time::sleep(next.saturating_sub(began.elapsed())).await;
        let now = began.elapsed();
        let (ready, later): (Vec<_>, Vec<_>) = due.into_iter().partition(|(at, _)| *at <= now);
        due = later;
        let looked = stream::iter(ready).map(async |(_, suspicion)| {
            let seen = reader.look(&suspicion.suspect).await?;
            anyhow::Ok((suspicion, seen, began.elapsed()))
        });
        let looked: Vec<_> = looked.buffer_unordered(AT_ONCE).try_collect().await?;
        for (mut suspicion, seen, at) in looked {
            match (suspicion.look(seen.as_ref().map(|s| s.finding.clone()), at, grace), seen) {
                (Look::Again(wait), _) => due.push((at + wait, suspicion)),
                (Look::Finding(_), Some(seen)) => found.push(seen),
                _ => {}
            }
        }
    }
    found.sort_by(|a, b| a.order().cmp(&b.order()));
    Ok(found)
}

/// The connection to Temporal, if it is wanted, and the installation's id in it.
async fn temporal(session: &Session, arguments: &Arguments) -> anyhow::Result<Option<(Temporal, String)>> {
    let Some(address) = arguments.temporal_address.as_deref().filter(|a| !a.is_empty()) else { return Ok(None) };
    let namespace = arguments.temporal_namespace.as_deref().filter(|n| !n.is_empty());
    let settings = Settings::at(address, namespace, "kubectl-koco").map_err(|e| anyhow!("Temporal's settings: {e}"))?;
    let cluster = match &arguments.cluster {
        Some(cluster) => cluster.clone(),
        None => {
            let found = Api::<Namespace>::all(session.client()).get("kube-system").await;
            let found =
                found.context("reading the namespace kube-system for the cluster's id: give it as --cluster")?;
            names::cluster(found.metadata.uid.as_deref().unwrap_or_default())
        }
    };
    let temporal = Temporal::new(Some(settings));
    let connected = tokio::time::timeout(CONNECT, temporal.connected()).await;
    connected.map_err(|_| anyhow!("Temporal can't be reached at {address}"))??;
    Ok(Some((temporal, names::installation(&cluster, &arguments.operator_namespace))))
}
