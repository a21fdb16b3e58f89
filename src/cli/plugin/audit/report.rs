//! What was found, as a table for people or as JSON for programs.

use std::io::Write;

use serde_json::{Value, json};

use super::{
    look::Found,
    repair::{Asked, target},
};
use crate::{
    audit::{Counts, Kind},
    cli::plugin::text,
};

/// Prints all. `asked` is what became of the requests to repair, if any were made.
pub(super) fn print(
    found: &[Found],
    counts: Counts,
    temporal: bool,
    asked: Option<&Asked>,
    as_json: bool,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        return writeln!(out, "{}", text::json(&document(found, counts, temporal, asked)));
    }
    for line in text::table(&rows(found)) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", summary(found.len(), counts, temporal))?;
    for (target, failed) in asked.into_iter().flatten() {
        match failed {
            None => writeln!(out, "{}", text::plain(&format!("{target}: repair requested")))?,
            Some(why) => text::say(format_args!("error: {target}: {why}")),
        }
    }
    Ok(())
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

fn document(found: &[Found], counts: Counts, temporal: bool, asked: Option<&Asked>) -> Value {
    let repair = |f: &Found| {
        let failed = asked?.get(&target(f))?;
        Some(failed.as_ref().map_or("requested".to_string(), |why| format!("error: {why}")))
    };
    let one = |f: &Found| {
        json!({
            "type": f.finding.kind.name(),
            "object": { "kind": f.kind, "namespace": f.namespace, "name": f.name, "uid": f.uid },
            "job": f.job,
            "message": f.finding.message,
            "toDo": advice(f),
            "repair": repair(f),
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
        Kind::PodWithoutRun => format!("--repair, or kubectl -n {namespace} delete pod {name}"),
        Kind::RunWithoutJob => format!("--repair, or kubectl -n {namespace} delete agentrun {name}"),
        Kind::LivePodOfEndedJob | Kind::LivePodOfClosedRun => {
            "--repair. Is koco's controller up, and the pod's node?".into()
        }
        Kind::TwoLiveRuns | Kind::OpenRunOfEndedJob => "--repair. Is koco's controller up?".into(),
        Kind::WorkflowWithoutJob => format!("--repair, or temporal workflow cancel -w {name}"),
        Kind::OpenWorkflowOfEndedJob => format!("--repair, or temporal workflow terminate -w {name}"),
        Kind::ActivityWithoutRunner => "--repair. Are koco's worker and controller up?".into(),
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
        let shown =
            r"n          pod/p\u{202e}  PodWithoutRun  a\u{1b}[2J\nb  --repair, or kubectl -n n delete pod p\u{202e}";
        assert_eq!(lines[1], shown);
        assert!(rows(&[]).is_empty());
    }

    #[test]
    fn a_document_has_the_same() {
        let counts = Counts { jobs: 2, runs: 3, pods: 4, workflows: 0 };
        let document = document(&[evil()], counts, false, None);
        assert_eq!(document["findings"][0]["type"], "PodWithoutRun");
        assert_eq!(document["findings"][0]["object"]["uid"], "u");
        assert_eq!(document["findings"][0]["repair"], Value::Null);
        assert_eq!(document["compared"], json!({ "jobs": 2, "runs": 3, "pods": 4, "workflows": null }));
        assert_eq!(summary(0, counts, false), "Compared 2 jobs, 3 runs, 4 pods and no workflows: all fits");
    }
}
