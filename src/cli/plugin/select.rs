//! Which jobs a command is about: by name, by label, or all. Used by the commands that change jobs.

use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, api::ListParams};
use serde_json::Value;

use super::{
    connect::{Session, job_name},
    tables::{Listed, Tables},
};
use crate::api::{AgentJob, Phase};

/// Which jobs.
#[derive(Args)]
pub(super) struct Selection {
    /// The AgentJobs
    #[arg(value_name = "NAME", value_parser = job_name, required_unless_present_any = ["selector", "all"])]
    names: Vec<String>,
    /// Those with these labels, such as team=x,tier!=y
    #[arg(short = 'l', long, conflicts_with = "names", value_parser = selector)]
    pub selector: Option<String>,
    /// All of the namespace
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// With --selector or --all: of all namespaces
    #[arg(short = 'A', long, conflicts_with = "names")]
    pub all_namespaces: bool,
}

/// Reads a label selector. The API server takes an empty one for all jobs, and a script's empty variable makes one.
fn selector(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => Err("an empty selector is all jobs: say --all".into()),
        false => Ok(text.into()),
    }
}

/// A job that was chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chosen {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub phase: Phase,
    pub created: Option<Time>,
}

impl Selection {
    /// The names that were given; empty if jobs are chosen otherwise.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Those in one of these phases, page by page.
    pub fn pages(&self, session: &Session, phases: &[Phase]) -> Chosens {
        let namespace = (!self.all_namespaces).then_some(session.namespace.as_str());
        let mut params = ListParams::default().fields(&in_phases(phases));
        params.label_selector = self.selector.clone();
        Chosens(Tables::new(session.client(), AgentJob::url_path(&(), namespace), params))
    }
}

/// Jobs that come page by page.
pub(super) struct Chosens(Tables);

impl Chosens {
    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Chosen>>, kube::Error> {
        Ok(self.0.next().await?.map(|table| table.listed().map(chosen).collect()))
    }
}

fn chosen(listed: Listed<'_>) -> Chosen {
    let ObjectMeta { namespace, name, uid, creation_timestamp, .. } = listed.meta().clone();
    Chosen {
        namespace: namespace.unwrap_or_default(),
        name: name.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        phase: phase(listed),
        created: creation_timestamp,
    }
}

/// The phase of a listed job; Pending without a status.
pub(super) fn phase(listed: Listed<'_>) -> Phase {
    let word = listed.cell("Phase").cloned().unwrap_or(Value::Null);
    serde_json::from_value(word).unwrap_or_default()
}

/// Reads a phase, in small or capital letters.
pub(super) fn parse_phase(text: &str) -> Result<Phase, String> {
    Phase::ALL.into_iter().find(|phase| phase.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
        let all = Phase::ALL.map(Phase::as_str).join(", ");
        format!("no phase; there are {all}")
    })
}

/// The field selector of jobs in these phases. Terms of a selector are all to hold, so it names the other phases. A job
/// without a status is Pending.
pub(super) fn in_phases(phases: &[Phase]) -> String {
    let others = Phase::ALL.into_iter().filter(|phase| !phases.contains(phase));
    let mut terms: Vec<String> = others.map(|phase| format!("status.phase!={}", phase.as_str())).collect();
    if !phases.contains(&Phase::Pending) {
        terms.push("status.phase!=".into());
    }
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        selection: Selection,
    }

    #[test]
    fn jobs_are_chosen_in_one_way() {
        let parse = |line: &str| Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        assert_eq!(parse("a aj/b").unwrap_or_else(|e| panic!("{e}")).selection.names(), ["a", "b"]);
        for right in ["-l a=b", "--all", "--all -A", "-A -l a=b", "--all -l a=b"] {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in ["", "a -l a=b", "a --all", "-A", "a -A", "pod/a", "../a"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for empty in ["", " "] {
            assert!(Line::try_parse_from(["x", "-l", empty]).is_err(), "an empty selector is all jobs");
        }
    }

    #[test]
    fn phases_are_read_in_small_letters_too() {
        assert_eq!((parse_phase("running"), parse_phase("Failed")), (Ok(Phase::Running), Ok(Phase::Failed)));
        assert!(parse_phase("done").unwrap_err().contains("Pending, Running"));
    }

    #[test]
    fn phases_are_selected_by_the_server() {
        assert_eq!(in_phases(&Phase::ALL), "");
        let running = in_phases(&[Phase::Running]);
        assert!(
            !running.contains("Running") && running.ends_with("status.phase!=Cancelled,status.phase!="),
            "{running}"
        );
        let open = in_phases(&[Phase::Pending, Phase::Running, Phase::Paused, Phase::Retrying, Phase::Cancelling]);
        assert_eq!(open, "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled");
    }
}
