//! What the commands ask of the API server, and so of a user's roles. `doctor` checks it, the tests of the API tier give a
//! user no more, and `docs/plugin.md` shows it.

use std::collections::BTreeMap;

/// A right: verb, API group, resource with its subresource.
pub(super) type Right = (&'static str, &'static str, &'static str);

const JOBS: &str = "kodosumi.io";
const READ_JOB: Right = ("get", JOBS, "agentjobs");
const LIST_JOBS: Right = ("list", JOBS, "agentjobs");
const WATCH_JOBS: Right = ("watch", JOBS, "agentjobs");
const PATCH_JOB: Right = ("patch", JOBS, "agentjobs");
const CREATE_JOB: Right = ("create", JOBS, "agentjobs");
const READ_NAMESPACE: Right = ("get", "", "namespaces");
const READ_RUN: Right = ("get", JOBS, "agentruns");
const LIST_RUNS: Right = ("list", JOBS, "agentruns");
const WATCH_RUNS: Right = ("watch", JOBS, "agentruns");
const READ_POD: Right = ("get", "", "pods");
const LIST_PODS: Right = ("list", "", "pods");
const READ_LOG: Right = ("get", "", "pods/log");
const LIST_EVENTS: Right = ("list", "", "events");
const WATCH_EVENTS: Right = ("watch", "", "events");

/// The commands, and what each may ask for with any of its flags.
pub(super) const RIGHTS: [(&str, &[Right]); 14] = [
    ("list", &[LIST_JOBS]),
    ("status", &[READ_JOB, LIST_JOBS, WATCH_JOBS, LIST_RUNS, WATCH_RUNS, LIST_EVENTS, WATCH_EVENTS]),
    ("result", &[READ_JOB, LIST_JOBS, WATCH_JOBS]),
    ("wait", &[READ_JOB, LIST_JOBS, WATCH_JOBS]),
    ("logs", &[READ_JOB, LIST_JOBS, WATCH_JOBS, LIST_RUNS, WATCH_RUNS, READ_POD, READ_LOG]),
    ("events", &[READ_JOB]),
    ("archive", &[READ_JOB]),
    ("open", &[READ_JOB, READ_NAMESPACE]),
    ("create", &[CREATE_JOB, READ_JOB, LIST_JOBS, WATCH_JOBS, LIST_RUNS, WATCH_RUNS, READ_POD, READ_LOG]),
    ("run", &[CREATE_JOB, READ_JOB, LIST_JOBS, WATCH_JOBS, LIST_RUNS, WATCH_RUNS, READ_POD, READ_LOG]),
    ("pause, resume, cancel", &[READ_JOB, PATCH_JOB, LIST_JOBS, WATCH_JOBS]),
    ("retry", &[READ_JOB, CREATE_JOB, LIST_JOBS, WATCH_JOBS]),
    ("top", &[LIST_JOBS, LIST_RUNS]),
    ("audit", &[READ_JOB, LIST_JOBS, READ_RUN, LIST_RUNS, READ_POD, LIST_PODS]),
];

/// Each right once.
pub(super) fn all() -> Vec<Right> {
    let mut all: Vec<Right> = RIGHTS.iter().flat_map(|(_, rights)| rights.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Rights in words, such as `get, list agentjobs; get pods/log`.
pub(super) fn words(rights: &[Right]) -> String {
    let mut by_resource = BTreeMap::<&str, Vec<&str>>::new();
    for (verb, _, resource) in rights {
        by_resource.entry(resource).or_default().push(verb);
    }
    let words = by_resource.iter().map(|(resource, verbs)| format!("{} {resource}", verbs.join(", ")));
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names;

    /// What `events`, `archive` and `open` ask for in koco's namespace: where the server is and what its certificate is checked
    /// against, the way to it, and a token for the account that is asked as. With the object's name, where there is one.
    const REACH: [(Right, Option<&str>); 5] = [
        (("get", "", "configmaps"), Some(names::SERVER_CA)),
        (("list", "discovery.k8s.io", "endpointslices"), None),
        // As a GET; API servers from 1.35 on ask for the other, too.
        (("get", "", "pods/portforward"), None),
        (("create", "", "pods/portforward"), None),
        (("create", "", "serviceaccounts/token"), Some(names::ARCHIVE_READER)),
    ];

    #[test]
    fn the_documents_name_the_rights_of_each_command() {
        let text = include_str!("../../../docs/plugin.md");
        for (command, rights) in RIGHTS {
            let line = format!("| {command} | {} |", words(rights));
            let shown = text.lines().any(|row| row.replace('`', "") == line);
            assert!(shown, "docs/plugin.md lacks: {line}");
        }
    }

    #[test]
    fn the_documents_name_what_reaching_the_server_takes() {
        let text = include_str!("../../../docs/plugin.md").replace('`', "");
        for ((verb, _, resource), name) in REACH {
            let of = name.map(|name| format!(" {name}")).unwrap_or_default();
            let line = format!("| {verb} {resource}{of} |");
            assert!(text.lines().any(|row| row.starts_with(&line)), "docs/plugin.md lacks: {line}");
        }
    }

    /// The chart's roles are what users are told to have bound.
    #[test]
    fn the_chart_gives_what_reaching_the_server_takes() {
        let text = include_str!("../../../charts/koco/tests/golden/server.yaml");
        let role = text.split("---").find(|o| o.contains("kind: Role\n") && o.contains("name: koco-archive-reader\n"));
        let role: serde_json::Value = serde_yaml_ng::from_str(role.expect("a role")).unwrap();
        let rules = role["rules"].as_array().unwrap();
        let has =
            |list: &serde_json::Value, word: &str| list.as_array().is_some_and(|all| all.iter().any(|w| w == word));
        for ((verb, group, resource), name) in REACH {
            let gives = |rule: &&serde_json::Value| {
                has(&rule["apiGroups"], group)
                    && has(&rule["resources"], resource)
                    && has(&rule["verbs"], verb)
                    && rule["resourceNames"]
                        .as_array()
                        .is_none_or(|_| name.is_some_and(|n| has(&rule["resourceNames"], n)))
            };
            assert!(rules.iter().any(|rule| gives(&rule)), "{verb} {resource}: {role}");
        }
    }

    #[test]
    fn each_right_is_checked_once() {
        let all = all();
        assert!(all.contains(&READ_LOG) && all.iter().filter(|right| **right == LIST_JOBS).count() == 1);
        assert_eq!(words(&[READ_JOB, LIST_JOBS, READ_LOG]), "get, list agentjobs; get pods/log");
    }
}
