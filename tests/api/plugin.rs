//! `kubectl koco` against a real API server: which jobs it chooses, what it asks for, and with which rights.

use std::process::Stdio;

use futures::{StreamExt, stream};
use k8s_openapi::api::{
    core::v1::Namespace,
    rbac::v1::{Role, RoleBinding},
};
use koco::api::{AgentJob, names};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener, process::Command};

use crate::{
    archive::fid,
    harness::{
        DEADLINE, DesiredState, Job, Phase, Test, agent,
        by_hand::{bare_pod, create_run, patch_status, run_of},
        cluster::PLUGIN,
        job::manifest,
        within,
    },
};

/// Exit code and all output of a command, in the test's namespace.
pub async fn plugin(test: &Test, line: &str) -> (i32, String, String) {
    fed(test, line, "").await
}

/// The same with something on its stdin.
async fn fed(test: &Test, line: &str, stdin: &str) -> (i32, String, String) {
    let mut command = Command::new(PLUGIN);
    command.args(["-n", &test.namespace]).args(line.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.env_remove("TEMPORAL_ADDRESS").spawn().expect("koco");
    let mut input = child.stdin.take().expect("stdin");
    // A command that doesn't read it may have ended.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let done = tokio::time::timeout(5 * DEADLINE, child.wait_with_output()).await.expect("it ends").expect("output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (done.status.code().unwrap_or(-1), text(done.stdout), text(done.stderr))
}

/// What a command prints that must succeed.
pub async fn says(test: &Test, line: &str) -> String {
    let (code, out, err) = plugin(test, line).await;
    assert_eq!((code, err.as_str()), (0, ""), "{line}: {out}");
    out
}

/// A job of a team that no controller sees, in this phase; without one it has no status.
async fn job_of<'t>(test: &'t Test, team: &str, phase: Option<&str>) -> Job<'t> {
    let job = test.apply(agent("anything")).await;
    job.patch(json!({ "metadata": { "labels": { "team": team } } })).await;
    if let Some(phase) = phase {
        patch_status(test, "agentjob", &job.name, json!({ "phase": phase })).await;
    }
    job
}

fn references(jobs: &[&Job<'_>]) -> String {
    jobs.iter().map(|job| format!("agentjob.kodosumi.io/{}\n", job.name)).collect()
}

async fn desired(job: &Job<'_>) -> DesiredState {
    job.get().await.spec.desired_state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_reaches_those_that_are_chosen_and_no_others() {
    let test = Test::new().await;
    let running = job_of(&test, "a", Some("Running")).await;
    let new = job_of(&test, "a", None).await;
    let done = job_of(&test, "a", Some("Succeeded")).await;
    let other = job_of(&test, "b", Some("Running")).await;
    let both = references(&[&running, &new]);
    for how in ["client", "server"] {
        assert_eq!(says(&test, &format!("pause -l team=a --dry-run={how} -o name")).await, both, "{how}");
        assert_eq!(desired(&running).await, DesiredState::Running, "{how}: nothing is stored");
    }
    let shown = says(&test, &format!("pause {} --dry-run=client -o yaml", running.name)).await;
    assert!(shown.contains("\n  desiredState: Paused\n") && shown.contains("/control-request: "), "{shown}");
    let out = says(&test, &format!("pause aj/{} --dry-run=server", running.name)).await;
    assert_eq!(out, format!("agentjob.kodosumi.io/{} pause requested (server dry run)\n", running.name));

    let out = says(&test, "pause -l team=a").await;
    assert_eq!(out, both.replace('\n', " pause requested\n"));
    assert_eq!((desired(&running).await, desired(&new).await), (DesiredState::Paused, DesiredState::Paused));
    assert_eq!((desired(&done).await, desired(&other).await), (DesiredState::Running, DesiredState::Running));

    let managers = running.get().await.metadata.managed_fields.expect("managed fields");
    let is_ours = |manager: Option<&str>| manager == Some("koco");
    assert!(managers.iter().any(|m| is_ours(m.manager.as_deref())), "one whose fields Flux leaves alone: {managers:?}");

    // One that can't be asked doesn't hold up the others.
    let (code, out, err) = plugin(&test, &format!("cancel none {} {} -o name", done.name, other.name)).await;
    assert_eq!((code, out), (1, references(&[&other])), "{err}");
    assert!(
        err.contains("there is no AgentJob none in the namespace") && err.contains("has finished already"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 2, "{err}");
    assert_eq!((desired(&other).await, desired(&done).await), (DesiredState::Cancelled, DesiredState::Running));

    // What is being cancelled is left alone, unless it is named.
    patch_status(&test, "agentjob", &other.name, json!({ "phase": "Cancelling" })).await;
    assert_eq!(says(&test, "resume --all -o name").await, both);
    let (code, _, err) = plugin(&test, &format!("resume {}", other.name)).await;
    assert!(code == 1 && err.contains("is being cancelled, which is final"), "{err}");
    let (code, out, err) = plugin(&test, "pause -l team=none").await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "No AgentJobs found\n"));
    assert_eq!(plugin(&test, "pause").await.0, 2, "nothing is chosen by default");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_are_made_of_those_that_failed() {
    let test = Test::new().await;
    let failed = job_of(&test, "a", Some("Failed")).await;
    let done = job_of(&test, "a", Some("Succeeded")).await;
    let prefix = format!("{}-retry-", failed.name);
    assert_eq!(says(&test, "retry --all --dry-run=client").await, format!("{prefix}... (dry run)\n"));
    let out = says(&test, "retry --all -o name").await;
    assert!(out.starts_with(&format!("agentjob.kodosumi.io/{prefix}")) && out.lines().count() == 1, "{out}");
    let (code, out, err) = plugin(&test, "retry --all").await;
    assert!(code == 0 && out.is_empty() && err.contains("1 of 1 were left alone"), "{err}");
    let out = says(&test, &format!("retry {} {}", failed.name, done.name)).await;
    assert!(out.lines().nth(1).is_some_and(|line| line.starts_with(&format!("{}-retry-", done.name))), "{out}");
    assert_eq!(test.jobs().list(&ListParams::default()).await.expect("jobs").items.len(), 5);
}

/// With the controller, and no node: no agent starts, so a pause needs no runner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_is_for_all_that_were_asked() {
    let (test, _roles) = Test::with_operator().await;
    for _ in 0..3 {
        test.apply(agent("anything")).await;
    }
    let lines = |out: &str| {
        let mut lines: Vec<_> = out.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    let of = |words: &[&str]| {
        let job = |n: usize| words.iter().map(move |word| format!("agentjob.kodosumi.io/job{n} {word}"));
        (1..=3).flat_map(job).collect::<Vec<_>>()
    };
    let out = says(&test, "pause --all --wait --timeout 60s").await;
    assert_eq!(lines(&out), of(&["Paused", "pause requested"]));
    let out = says(&test, "resume job1 job2 job3 --wait --timeout 60s").await;
    assert_eq!(lines(&out), of(&["Pending", "resume requested"]));
    // None starts, so none ends.
    let (code, _, err) = plugin(&test, "result job1 --wait --timeout 1s").await;
    assert!(code == 124 && err.contains("timed out waiting for agentjob.kodosumi.io/job1"), "{err}");
    let out = says(&test, "cancel -l !none --wait -o name").await;
    assert_eq!(lines(&out).len(), 3, "-o name prints names alone: {out}");
    for job in ["job1", "job2", "job3"] {
        let phase = test.jobs().get(job).await.expect("a job").status.and_then(|s| s.phase);
        assert_eq!(phase, Some(Phase::Cancelled), "{job}");
    }
    let (code, _, err) = plugin(&test, "result job1").await;
    assert!(code == 1 && err.contains("was cancelled"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_the_servers_and_has_what_is_asked_for() {
    let test = Test::new().await;
    let running = job_of(&test, "a", Some("Running")).await;
    let new = job_of(&test, "b", None).await;
    let failed = job_of(&test, "a", Some("Failed")).await;
    let out = says(&test, "list").await;
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "PHASE", "REASON", "ATTEMPT", "PROGRESS", "AGE"]);
    assert_eq!((rows.len(), &rows[1][..2]), (4, &[running.name.as_str(), "Running"][..]));
    assert!(says(&test, "list -o wide").await.lines().next().is_some_and(|head| head.contains("WORKFLOW")));
    for (flags, wanted) in [
        ("--phase Running", vec![&running]),
        ("--phase pending", vec![&new]),
        ("--phase Failed,Running", vec![&running, &failed]),
        ("-l team=a --phase Failed", vec![&failed]),
        ("--since 1h", vec![&running, &new, &failed]),
    ] {
        assert_eq!(says(&test, &format!("list -o name {flags}")).await, references(&wanted), "{flags}");
    }
    let shown: Value = serde_json::from_str(&says(&test, "list -o json -l team=a").await).expect("JSON");
    assert_eq!((&shown["kind"], shown["items"].as_array().map(Vec::len)), (&json!("List"), Some(2)));
    assert_eq!(shown["items"][0]["spec"]["entryPoint"], "anything");
    let everywhere = says(&test, "list -A --no-headers").await;
    assert!(everywhere.lines().any(|line| line.starts_with(&test.namespace)), "{everywhere}");
    // The only thing older than nothing.
    let (code, out, err) = plugin(&test, "list --phase Paused").await;
    assert_eq!((code, out, err), (0, String::new(), format!("No AgentJobs found in {} namespace.\n", test.namespace)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_are_listed_and_asked() {
    const JOBS: usize = 505;
    let test = Test::new().await;
    let make = async |number: usize| {
        let job: AgentJob = serde_json::from_value(manifest(&format!("j{number:03}"), agent("e"))).expect("a job");
        test.jobs().create(&PostParams::default(), &job).await.expect("a job");
    };
    stream::iter(0..JOBS).map(make).buffer_unordered(32).collect::<Vec<_>>().await;
    let all: String = (0..JOBS).map(|number| format!("agentjob.kodosumi.io/j{number:03}\n")).collect();
    assert_eq!(says(&test, "list -o name").await, all);
    assert_eq!(says(&test, "list").await.lines().count(), JOBS + 1, "one head");
    let shown: Value = serde_json::from_str(&says(&test, "list -o json").await).expect("JSON");
    assert_eq!(shown["items"].as_array().map(Vec::len), Some(JOBS));
    assert_eq!(says(&test, "pause --all --dry-run=client -o name").await, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_created_as_they_are_written_and_set() {
    let test = Test::new().await;
    let text = manifest("x", agent("e")).to_string();
    let created = "agentjob.kodosumi.io/x created";
    for (how, remark) in [("client", " (dry run)"), ("server", " (server dry run)")] {
        let (code, out, err) = fed(&test, &format!("create -f - --dry-run={how}"), &text).await;
        assert_eq!((code, out, err), (0, format!("{created}{remark}\n"), String::new()));
    }
    assert!(test.jobs().get_opt("x").await.expect("get").is_none(), "nothing is stored");
    let set = "--set inputs.n=3 --set inputs.t=rain --set-string inputs.v=1.10 --set metadata.labels.team=a";
    let (code, out, err) = fed(&test, &format!("create -f - {set}"), &text).await;
    assert_eq!((code, out, err), (0, format!("{created}\n"), String::new()));
    let job = test.jobs().get("x").await.expect("a job");
    let inputs: Value = serde_json::from_str(job.spec.inputs.get()).expect("JSON");
    assert_eq!(inputs, json!({ "n": 3, "t": "rain", "v": "1.10" }));
    assert_eq!(job.metadata.labels.expect("labels")["team"], "a");

    for (flags, text, reason) in [
        ("", text.as_str(), "already exists"),
        ("--set pausePolicies=Evict --set metadata.name=y", &text, "unknown field"),
        ("--set entryPoint= --set metadata.name=y", &text, "spec.entryPoint"),
        ("", "kind: Pod", "kubectl create"),
        ("--set metadata.namespace=elsewhere", &text, "--namespace says"),
    ] {
        let (code, out, err) = fed(&test, &format!("create -f - {flags}"), text).await;
        assert!(code == 1 && out.is_empty() && err.contains(reason), "{flags}: {code} {out}{err}");
    }

    let out = says(&test, "run localhost/Some_Agent:1 --env A=b -o name -- /agent --flag").await;
    let name = out.trim().trim_start_matches("agentjob.kodosumi.io/");
    assert!(name.starts_with("some-agent-"), "{out}");
    let job = test.jobs().get(name).await.expect("a job");
    assert_eq!(job.spec.entry_point, "/agent --flag");
    let (code, _, err) = plugin(&test, "run image --name y --wait --timeout 1s -- /agent").await;
    assert!(code == 124 && err.contains("timed out waiting for agentjob.kodosumi.io/y"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_has_an_exit_code() {
    let test = Test::new().await;
    let job = job_of(&test, "a", None).await;
    let line = format!("result {}", job.name);
    let (code, out, err) = plugin(&test, &line).await;
    assert!(code == 3 && out.is_empty() && err.contains("has not ended"), "{code} {out}{err}");
    patch_status(
        &test,
        "agentjob",
        &job.name,
        json!({ "phase": "Succeeded", "result": { "a": "x\u{1b}[2J\u{202e}" } }),
    )
    .await;
    assert_eq!(says(&test, &line).await, "{\"a\":\"x\\u001b[2J\\u202e\"}\n");
    let job = job_of(&test, "a", None).await;
    let error = json!({ "type": "AgentFailed", "message": "exit\u{1b} code 1" });
    patch_status(&test, "agentjob", &job.name, json!({ "phase": "Failed", "error": error })).await;
    let (code, out, err) = plugin(&test, &format!("result {} --wait", job.name)).await;
    let said = format!("error: agentjob.kodosumi.io/{} has failed: AgentFailed: exit\\u{{1b}} code 1\n", job.name);
    assert_eq!((code, out.as_str(), err), (1, "", said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_a_job_have_addresses() {
    let test = Test::new().await;
    let job = job_of(&test, "a", Some("Running")).await;
    let open = |flags: &str| format!("open {} --print {flags}", job.name);
    let (code, out, err) = plugin(&test, &open("--in temporal --temporal-ui https://t.example.com")).await;
    assert!(code == 1 && out.is_empty() && err.contains("it has no workflow"), "{code} {out}{err}");
    let server = "--server https://koco.example.com/a --token-file none";
    let panel = format!("https://koco.example.com/a/jobs/{}\n", fid(&job).await);
    assert_eq!(says(&test, &open(server)).await, panel, "where there is no workflow");

    let workflow = json!({ "id": "w 1", "runID": "r", "namespace": "team" });
    patch_status(&test, "agentjob", &job.name, json!({ "workflow": workflow })).await;
    let page = |base: &str| format!("{base}/namespaces/team/workflows/w%201/r/history\n");
    assert_eq!(says(&test, &open("--temporal-ui https://t.example.com/")).await, page("https://t.example.com"));
    let (code, out, err) = plugin(&test, &open("--in temporal")).await;
    assert!(code == 1 && out.is_empty() && err.contains("kubectl annotate namespace"), "{code} {out}{err}");
    assert_eq!(says(&test, &open(server)).await, panel, "where Temporal's UI is not known");

    let namespaces: Api<Namespace> = Api::all(test.client.clone());
    let annotate = async |url: &str| {
        let patch = json!({ "metadata": { "annotations": { names::ANNOTATION_TEMPORAL_UI: url } } });
        namespaces.patch(&test.namespace, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a namespace");
    };
    annotate("http://localhost:8233/ui").await;
    assert_eq!(says(&test, &open("")).await, page("http://localhost:8233/ui"));
    assert_eq!(says(&test, &open("--temporal-ui http://other")).await, page("http://other"));
    assert_eq!(says(&test, &open(&format!("--in panel {server}"))).await, panel);
    // Who may annotate the namespace has nothing but pages opened.
    annotate("javascript:alert(1)").await;
    let (code, out, err) = plugin(&test, &open("--in temporal")).await;
    assert!(code == 1 && out.is_empty() && err.contains(names::ANNOTATION_TEMPORAL_UI), "{code} {out}{err}");
    let (code, out, err) = plugin(&test, &open(server)).await;
    assert!(code == 0 && out == panel && err.contains("Temporal's page is not opened"), "{code} {out}{err}");
}

/// The commands with flags for which they ask for all that they may ask for, but what only a node can answer.
const LINES: [(&str, &str); 14] = [
    ("list", "list"),
    ("status", "status job1"),
    ("result", "result job1 --wait"),
    ("wait", "wait job1"),
    ("logs", "logs job1 -f"),
    ("events", "events job1 --server https://127.0.0.1:9 --token-file none"),
    ("archive", "archive get job1 --server https://127.0.0.1:9 --token-file none"),
    ("open", "open job1 --in temporal"),
    ("create", "create -f - --wait --timeout 1s"),
    ("run", "run image --wait --timeout 1s -- /agent"),
    ("pause, resume, cancel", "pause -l team=b --wait"),
    ("retry", "retry -l team=a"),
    ("top", "top"),
    ("audit", "audit --grace 1s"),
];

/// What `docs/plugin.md` says of a command's rights, as rules of a role.
fn rules(command: &str) -> Value {
    let text = include_str!("../../docs/plugin.md");
    let row = text.lines().find_map(|line| line.strip_prefix(&format!("| {command} | "))?.strip_suffix(" |"));
    let rule = |part: &str| {
        let (verbs, resource) = part.trim_end_matches('`').split_once(" `").expect("verbs and a resource");
        let group = if resource.starts_with("agent") { "kodosumi.io" } else { "" };
        json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs.split(", ").collect::<Vec<_>>() })
    };
    row.unwrap_or_else(|| panic!("{command}: no row")).split("; ").map(rule).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_needs_the_rights_that_are_documented_and_no_more() {
    let test = Test::new().await;
    let ns = test.namespace.as_str();
    let job = job_of(&test, "a", Some("Failed")).await;
    patch_status(&test, "agentjob", &job.name, json!({ "workflow": { "id": "w", "namespace": "default" } })).await;
    create_run(
        &test.runs(),
        &run_of(&job, 1, 1),
        Some(crate::harness::by_hand::end(koco::api::TerminationType::Failed)),
    )
    .await;
    let paused = job_of(&test, "b", Some("Paused")).await;
    patch_status(&test, "agentjob", &paused.name, json!({ "observedGeneration": 1000 })).await;
    bare_pod(&test, "stray", json!({ names::LABEL_COMPONENT: names::RUNNER_COMPONENT })).await;
    let (roles, bindings): (Api<Role>, Api<RoleBinding>) =
        (Api::namespaced(test.client.clone(), ns), Api::namespaced(test.client.clone(), ns));
    let text = manifest("made", agent("e")).to_string();
    for (n, (command, line)) in LINES.into_iter().enumerate() {
        let (name, user) = (format!("user{n}"), format!("koco-test-{ns}-{n}"));
        let line = format!("--as {user} --as-group system:authenticated {line}");
        let forbidden = |err: &str| err.contains("cannot ") || err.contains("forbidden");
        let (code, _, err) = fed(&test, &line, &text).await;
        assert!(code != 0 && forbidden(&err), "{line}: without rights: {code} {err}");
        let role = json!({ "metadata": { "name": name }, "rules": rules(command) });
        let binding = json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
        });
        roles.create(&PostParams::default(), &serde_json::from_value(role).expect("a role")).await.expect("a role");
        let binding = serde_json::from_value(binding).expect("a binding");
        bindings.create(&PostParams::default(), &binding).await.expect("a binding");
        within(DEADLINE, &format!("the rights of {command}"), async || {
            let (code, out, err) = fed(&test, &line, &text).await;
            // `doctor` aside, no command passes over what it may not read without a word.
            if forbidden(&err) { Err((code, out, err)) } else { Ok(()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_what_is_there_and_what_is_not() {
    let test = Test::new().await;
    // Of the chart there is all but what a node would run.
    let (code, out, err) = plugin(&test, "doctor -o json").await;
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    let lines: Vec<Value> = serde_json::from_str(&out).expect("JSON");
    let verdict = |subject: &str| {
        let line = lines.iter().find(|line| line["subject"] == subject).unwrap_or_else(|| panic!("{subject}: {out}"));
        line["verdict"].as_str().expect("a word").to_string()
    };
    for subject in ["API server", "CRD agentjobs.kodosumi.io", "policy agentjobs.kodosumi.io", "policy koco-namespaces"]
    {
        assert_eq!(verdict(subject), "ok", "{subject}: {out}");
    }
    assert_eq!(
        (verdict("roles"), verdict("leader"), verdict("you: create")),
        ("wrong".into(), "wrong".into(), "ok".into())
    );
    let advised =
        |line: &Value| line["verdict"] == "ok" || line["advice"].as_str().is_some_and(|advice| !advice.is_empty());
    assert!(lines.iter().all(advised), "{out}");

    let (code, out, err) = plugin(&test, "doctor --as koco-test-nobody --as-group system:authenticated").await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for line in ["ok       CRD agentjobs.kodosumi.io", "unknown  roles", "warn     you: pause, resume, cancel"] {
        assert!(out.lines().any(|found| found.starts_with(line)), "{line}: {out}");
    }
    assert!(out.contains("create rolebinding NAME --clusterrole edit") && !out.contains('\u{1b}'), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_given_up() {
    let test = Test::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let file = test.log.with_extension("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{}", silent.local_addr().expect("a port")) } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(&file, config.to_string()).expect("a kubeconfig");
    let (code, out, err) = plugin(&test, &format!("list --kubeconfig {} --request-timeout 1", file.display())).await;
    assert!(code == 1 && out.is_empty() && err.contains("no answer within 1s"), "{code} {out}{err}");
}
