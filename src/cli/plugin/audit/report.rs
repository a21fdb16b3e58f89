//! What was found, as a table for people or as JSON for programs.

use std::io::Write;

use serde_json::{Value, json};

use super::look::Found;
use crate::{
    audit::{Counts, Kind},
    cli::plugin::text,
};

pub(super) fn print(found: &[Found], counts: Counts, temporal: bool, as_json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        return writeln!(out, "{}", text::json(&document(found, counts, temporal)));
    }
    for line in text::table(&rows(found)) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", summary(found.len(), counts, temporal))
}

fn rows(found: &[Found]) -> Vec<[String; 5]> {
    if found.is_empty() {
        return Vec::new();
    }
    let head = ["NAMESPACE", "OBJECT", "FINDING", "WHAT", "TO DO"].map(str::to_string);
    let row = |f: &Found| {
        let object = format!("{}/{}", f.kind.to_lowercase(), f.name);
        [f.namespace.clone(), object, f.finding.kind.name().into(), f.finding.message.clone(), advice(f)]
    };
    [head].into_iter().chain(found.iter().map(row)).collect()
}

fn summary(found: usize, counts: Counts, temporal: bool) -> String {
    let Counts { jobs, runs, pods, workflows } = counts;
    let workflows = if temporal { format!("{workflows} open workflows") } else { "no workflows".into() };
    let result = match found {
        0 => "all fits".to_string(),
        1 => "1 finding".into(),
        n => format!("{n} findings"),
    };
    format!("Compared {jobs} jobs, {runs} runs, {pods} pods and {workflows}: {result}")
}

fn document(found: &[Found], counts: Counts, temporal: bool) -> Value {
    let one = |f: &Found| {
        json!({
            "type": f.finding.kind.name(),
            "object": { "kind": f.kind, "namespace": f.namespace, "name": f.name, "uid": f.uid },
            "job": f.job,
            "message": f.finding.message,
            "toDo": advice(f),
        })
    };
    json!({
        "findings": found.iter().map(one).collect::<Vec<_>>(),
        "compared": {
            "jobs": counts.jobs, "runs": counts.runs, "pods": counts.pods,
            "workflows": temporal.then_some(counts.workflows),
        },
    })
}

/// What to do about it.
fn advice(found: &Found) -> String {
    let Found { namespace, name, .. } = found;
    match found.finding.kind {
        Kind::PodWithoutRun => format!("kubectl -n {namespace} delete pod {name}"),
        Kind::RunWithoutJob => format!("kubectl -n {namespace} delete agentrun {name}"),
        Kind::LivePodOfEndedJob | Kind::LivePodOfClosedRun => {
            "is koco's controller up? Is the pod's node? Then delete the pod".into()
        }
        Kind::TwoLiveRuns | Kind::OpenRunOfEndedJob => "is koco's controller up? It closes the older run".into(),
        Kind::WorkflowWithoutJob => format!("temporal workflow cancel -w {name}"),
        Kind::OpenWorkflowOfEndedJob => format!("temporal workflow terminate -w {name}"),
        Kind::ActivityWithoutRunner => "are koco's worker and controller up? They complete it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Finding;

    fn evil() -> Found {
        let finding = Finding { kind: Kind::PodWithoutRun, message: "a\u{1b}[2J\nb".into(), is_garbage: false };
        let (namespace, name) = ("n".into(), "p\u{202e}".into());
        Found { kind: "Pod", namespace, name, uid: Some("u".into()), job: None, finding }
    }

    #[test]
    fn a_row_says_what_and_what_to_do() {
        let lines: Vec<_> = text::table(&rows(&[evil()])).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("NAMESPACE"), "{lines:?}");
        let shown = r"n          pod/p\u{202e}  PodWithoutRun  a\u{1b}[2J\nb  kubectl -n n delete pod p\u{202e}";
        assert_eq!(lines[1], shown);
        assert!(rows(&[]).is_empty());
    }

    #[test]
    fn a_document_has_the_same() {
        let counts = Counts { jobs: 2, runs: 3, pods: 4, workflows: 0 };
        let document = document(&[evil()], counts, false);
        assert_eq!(document["findings"][0]["type"], "PodWithoutRun");
        assert_eq!(document["findings"][0]["object"]["uid"], "u");
        assert_eq!(document["compared"], json!({ "jobs": 2, "runs": 3, "pods": 4, "workflows": null }));
        assert_eq!(summary(0, counts, false), "Compared 2 jobs, 3 runs, 4 pods and no workflows: all fits");
    }
}
