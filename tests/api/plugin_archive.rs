//! `kubectl koco events` and `archive` against a real server: what is read, by whom, and over which connections. The way by a
//! port-forward ends here at the API server: there is no kubelet.

use std::process::Stdio;

use k8s_openapi::api::{
    core::v1::{ConfigMap, ServiceAccount},
    discovery::v1::EndpointSlice,
    rbac::v1::{Role, RoleBinding},
};
use koco::api::{RunnerState, names};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    archive::{Reader, account, fid, owner},
    events::{lines, roles, told},
    harness::{
        DEADLINE, Kubelet, Roles, Server, Service, Test, agent,
        by_hand::{bare_pod, started, succeeds_with},
        cluster::{NODE_IP, PLUGIN},
        within,
    },
    plugin::{plugin, says},
};

/// The flags for a server at an address, as its account `owner` or another.
async fn flags(test: &Test, address: &str, account: &str) -> String {
    let maps: Api<ConfigMap> = Api::namespaced(test.client.clone(), &test.namespace);
    let ca = maps.get(names::SERVER_CA).await.expect("the server's CA").data.expect("data")["ca.crt"].clone();
    let file = test.log.with_extension("ca");
    std::fs::write(&file, ca).expect("the CA's file");
    let (file, name) = (file.display(), names::SERVER_TLS_NAME);
    format!("--server https://{address} --server-ca {file} --server-name {name} --service-account {account}")
}

fn address(roles: &Roles) -> String {
    format!("{NODE_IP}:{}", roles.server_port)
}

/// A command that is read while it runs.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(test: &Test, line: &str) -> Self {
        let mut command = Command::new(PLUGIN);
        command.args(["-n", &test.namespace]).args(line.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("koco");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> Option<String> {
        tokio::time::timeout(DEADLINE, self.lines.next_line()).await.expect("a line in time").expect("text")
    }

    async fn code(&mut self) -> Option<i32> {
        tokio::time::timeout(DEADLINE, self.child.wait()).await.expect("it ends").expect("a code").code()
    }
}

/// Number and payload of an event in JSON.
fn read(line: &str) -> (i64, String) {
    let event: Value = serde_json::from_str(line).expect("JSON");
    (event["row"].as_i64().expect("a row"), event["payload"].as_str().expect("a payload").into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_followed_over_a_broken_connection_to_the_end_and_read_when_the_job_is_gone() {
    let test = Test::new().await;
    let mut roles = roles(&test, Server::None).await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    let service = Service::to(&address(&roles)).await;
    let flags = flags(&test, &service.address, "owner").await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything")).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;
    assert_eq!(told(&runner, 1, 1, &lines(1, 2)).await, 2);

    let mut following = Running::start(&test, &format!("events {} -f -o json {flags}", job.name));
    let mut next = async || following.line().await.map(|line| read(&line));
    for row in 1..=2 {
        assert_eq!(next().await, Some((row, format!("line {row}"))));
    }
    // The way there is cut, and then the server starts anew.
    service.cut();
    assert_eq!(told(&runner, 3, 3, &lines(3, 4)).await, 4);
    service.mend(&address(&roles));
    for row in 3..=4 {
        assert_eq!(next().await, Some((row, format!("line {row}"))));
    }
    roles.role("server").kill();
    roles.start_again().await;
    assert_eq!(told(&runner, 5, 5, &["\u{1b}[2J\u{202e}".into()]).await, 5);
    assert_eq!(next().await, Some((5, "\u{1b}[2J\u{202e}".into())));
    runner.heartbeat(RunnerState::Running, 0).await.expect("204");
    succeeds_with(&kubelet, &job, &pod, &runner, json!({ "a": 1 }), Some(5)).await;
    assert_eq!(next().await, None, "it ends with the job");
    assert_eq!(following.code().await, Some(0));

    let id = fid(&job).await;
    job.delete(DeleteParams::default()).await;
    job.gone(DEADLINE).await;
    reader.until(&id, &token, "its deletion", |found| found["deletionTime"].is_string()).await;
    for how in [job.name.clone(), format!("--fid {id}"), format!("{} --since 1h --run 1 --kind stdout,final", job.name)]
    {
        let out = says(&test, &format!("events {how} {flags}")).await;
        let shown: Vec<&str> = out.lines().collect();
        assert_eq!(shown.len(), 5, "{how}: {out}");
        assert!(shown[0].ends_with("  1  stdout  line 1") && shown[4].ends_with(r"\u{1b}[2J\u{202e}"), "{out}");
        assert!(!out.contains('\u{1b}'), "{out}");
    }
    for none in ["--kind result", "--run 2"] {
        let (code, out, err) = plugin(&test, &format!("events {} {none} {flags}", job.name)).await;
        assert_eq!((code, out, err), (0, String::new(), format!("No events found of the execution {id}\n")), "{none}");
    }
    let (code, _, err) = plugin(&test, &format!("events no-such-job {flags}")).await;
    assert!(code == 1 && err.contains("no execution of that name in the archive"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_jobs_is_listed_shown_and_deleted() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["server"]);
    roles.start().await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    let flags = flags(&test, &address(&roles), "owner").await;
    let (one, two) = (test.apply(agent("anything")).await, test.apply(agent("other")).await);
    let error = json!({ "type": "AgentFailed", "message": "exit\u{1b} code 1" });
    crate::harness::by_hand::patch_status(&test, "agentjob", &two.name, json!({ "phase": "Failed", "error": error }))
        .await;
    let (first, second) = (fid(&one).await, fid(&two).await);
    reader.until(&first, &token, "the first job", |_| true).await;
    reader.until(&second, &token, "the end of the second", |found| found["phase"] == "Failed").await;
    let all = [format!("execution/{first}\n"), format!("execution/{second}\n")];
    let mut newest_first = all.clone();
    newest_first.sort_by(|a, b| b.cmp(a));

    assert_eq!(says(&test, &format!("archive list -o name {flags}")).await, newest_first.concat());
    assert_eq!(says(&test, &format!("archive list -o name --phase failed {flags}")).await, all[1]);
    assert_eq!(says(&test, &format!("archive list -o name --entry-point anything --since 1h {flags}")).await, all[0]);
    let table = says(&test, &format!("archive list {flags}")).await;
    assert!(table.starts_with("NAME ") && table.lines().count() == 3 && table.contains("AgentFailed"), "{table}");
    let (code, page, err) = plugin(&test, &format!("archive list -o name --limit 1 {flags}")).await;
    assert_eq!((code, &page), (0, &newest_first[0]));
    let next = err.split_whitespace().find(|word| word.trim_end_matches(',').len() == 24).expect("where it goes on");
    let rest = format!("archive list -o name --continue {} {flags}", next.trim_end_matches(','));
    assert_eq!(says(&test, &rest).await, newest_first[1]);
    let list: Value = serde_json::from_str(&says(&test, &format!("archive list -o json {flags}")).await).expect("JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    let (code, out, err) = plugin(&test, &format!("archive list -A {flags}")).await;
    assert!(code == 1 && out.is_empty() && err.contains("--service-account"), "{out}{err}");

    let shown = says(&test, &format!("archive get {} {flags}", two.name)).await;
    assert!(shown.contains("Phase:       Failed\n") && shown.contains(r"AgentFailed: exit\u{1b} code 1"), "{shown}");
    let whole: Value =
        serde_json::from_str(&says(&test, &format!("archive get {first} -o json {flags}")).await).expect("JSON");
    assert_eq!((&whole["name"], &whole["job"]["spec"]["entryPoint"]), (&json!(one.name), &json!("anything")));

    let delete = format!("archive delete {first} {flags}");
    let (code, _, err) = plugin(&test, &format!("{delete} --yes")).await;
    assert!(code == 1 && err.contains("delete it first"), "{err}");
    one.delete(DeleteParams::default()).await;
    one.gone(DEADLINE).await;
    reader.until(&first, &token, "its deletion", |found| found["deletionTime"].is_string()).await;
    assert!(
        says(&test, &format!("archive get {} {flags}", one.name)).await.contains("Gone:"),
        "by name, as it is gone"
    );
    let (code, out, err) = plugin(&test, &delete).await;
    assert!(code == 2 && out.is_empty() && err.contains("--yes"), "who can't be asked is not: {code} {err}");
    let out = says(&test, &format!("{delete} --dry-run")).await;
    assert_eq!(out, format!("execution/{first} of {}/{} deleted (dry run)\n", test.namespace, one.name));
    // One that can't be deleted doesn't hold up the others.
    let (code, out, err) = plugin(&test, &format!("{delete} {second} --yes")).await;
    assert_eq!((code, out), (1, format!("execution/{first} deleted\n")), "{err}");
    assert!(err.contains(&second) && err.lines().count() == 1, "{err}");
    assert_eq!(says(&test, &format!("archive list -o name {flags}")).await, all[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_asked_only_if_it_is_the_right_one_and_with_a_right() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["server"]);
    roles.start().await;
    owner(&test).await;
    account(&test, &test.namespace, "stranger", &[], &[]).await;
    let right = flags(&test, &address(&roles), "owner").await;
    assert_eq!(plugin(&test, &format!("archive list {right}")).await.0, 0);
    let other = test.log.with_extension("other-ca");
    std::fs::write(&other, rcgen::generate_simple_self_signed(["koco-server".to_string()]).expect("a CA").cert.pem())
        .expect("a file");
    let ca = test.log.with_extension("ca").display().to_string();
    let cases = [
        (right.replace(&ca, &other.display().to_string()), "--server-ca"),
        (right.replace("--server-name koco-server", "--server-name koco-gateway"), "--server-name"),
        (right.replace(&format!("--server-ca {ca}"), ""), "--server-ca"),
        (right.replace("https:", "http:"), "https"),
        (right.replace("--service-account owner", "--service-account stranger"), "stranger may not do that"),
        (right.replace("--service-account owner", "--service-account none"), "there is no service account"),
        (right.replace("--service-account owner", "--token-file /none"), "/none"),
    ];
    for (flags, words) in cases {
        let (code, out, err) = plugin(&test, &format!("archive list {flags}")).await;
        assert!(code != 0 && out.is_empty() && err.contains(words), "{flags}: {words}: {code} {out}{err}");
    }
    // A token for the API server is none for it.
    let token = crate::harness::gateway_client::token_of(&test.client, &test.namespace, "owner", None, None).await;
    let file = test.log.with_extension("token");
    std::fs::write(&file, token).expect("a file");
    let flags = right.replace("--service-account owner", &format!("--token-file {}", file.display()));
    let (code, _, err) = plugin(&test, &format!("archive list {flags}")).await;
    assert!(code == 1 && err.contains("--audience koco"), "{err}");
}

/// What `docs/plugin.md` says that it takes to reach the server, as rules of a role.
fn rules() -> Vec<Value> {
    let text = include_str!("../../docs/plugin.md");
    let rows = text.lines().skip_while(|line| *line != "| right in koco's namespace | what for |").skip(2);
    let rule = |row: &str| {
        let cell = row.trim_matches('|').split('|').next().expect("a cell").trim();
        let (words, name) =
            cell.split_once('`').and_then(|(verb, rest)| Some((verb, rest.split_once('`')?))).expect("a right");
        let (resource, name) = (name.0, name.1.trim().trim_matches('`'));
        let group = if resource == "endpointslices" { "discovery.k8s.io" } else { "" };
        let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": [words.trim()] });
        if !name.is_empty() {
            rule["resourceNames"] = json!([name]);
        }
        rule
    };
    rows.take_while(|line| line.starts_with('|')).map(rule).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_the_server_takes_the_rights_that_are_documented() {
    let test = Test::new().await;
    let ns = test.namespace.as_str();
    let mut server = Roles::of(&test, Server::None, &["server"]);
    server.start().await;
    let user = format!("koco-test-{ns}-reader");
    let line = format!("archive list --operator-namespace {ns} --as {user} --as-group system:authenticated");
    let accounts: Api<ServiceAccount> = Api::namespaced(test.client.clone(), ns);
    let account = serde_json::from_value(json!({ "metadata": { "name": names::ARCHIVE_READER } })).expect("an account");
    accounts.create(&PostParams::default(), &account).await.expect("an account");
    bare_pod(&test, "server-1", json!({})).await;
    let slices: Api<EndpointSlice> = Api::namespaced(test.client.clone(), ns);
    let slice = json!({
        "metadata": { "name": "server", "labels": { "app.kubernetes.io/part-of": "koco", "app.kubernetes.io/component": "server" } },
        "addressType": "IPv4", "ports": [{ "name": "server", "port": 8445 }],
        "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "name": "server-1", "namespace": ns } }],
    });
    slices.create(&PostParams::default(), &serde_json::from_value(slice).expect("a slice")).await.expect("a slice");

    let (roles, bindings): (Api<Role>, Api<RoleBinding>) =
        (Api::namespaced(test.client.clone(), ns), Api::namespaced(test.client.clone(), ns));
    // Each further right leads one step further, and none is more than it takes.
    let rules = rules();
    assert_eq!(rules.len(), 5, "{rules:?}");
    for (n, rule) in rules.iter().enumerate() {
        let what = rule["resources"][0].as_str().expect("a resource").to_string();
        let (code, out, err) = plugin(&test, &line).await;
        // Only later API servers ask for the second right to a port-forward.
        let is_second = rule["verbs"][0] == "create" && what == "pods/portforward";
        let said = match what.as_str() {
            "configmaps" => {
                err.contains("you may not read koco-server-ca") && err.contains("--role koco-archive-access")
            }
            "serviceaccounts/token" => {
                err.contains("you may not create tokens") && err.contains("--role koco-archive-reader")
            }
            "endpointslices" => err.contains("the endpoints of the server's Service") && err.contains("you may not"),
            _ => is_second || err.contains("you may not read pods/portforward of server-1"),
        };
        assert!(code == 1 && out.is_empty() && said, "without {what}: {err}");
        let name = format!("r{n}");
        let role = json!({ "metadata": { "name": name }, "rules": [rule] });
        let binding = json!({ "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }] });
        roles.create(&PostParams::default(), &serde_json::from_value(role).expect("a role")).await.expect("a role");
        let binding = serde_json::from_value(binding).expect("a binding");
        bindings.create(&PostParams::default(), &binding).await.expect("a binding");
        within(DEADLINE, &format!("the right to {what}"), async || {
            let (_, _, next) = plugin(&test, &line).await;
            if next == err && !is_second { Err(next) } else { Ok(()) }
        })
        .await;
    }
    // The way is free; the pod runs nowhere.
    let (code, _, err) = plugin(&test, &line).await;
    assert!(code == 1 && err.contains("can't be reached") && err.contains("server-1"), "{err}");
}
