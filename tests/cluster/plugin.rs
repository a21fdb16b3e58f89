//! `kubectl koco`, called through kubectl, which finds it in PATH.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use koco::api::names;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::harness::{
    DEADLINE, DesiredState, ExecutionMode, Job, MODES, Phase, Roles, Server, Test, agent,
    cluster::{AGENT_IMAGE, NODE_IP, PLUGIN, feed},
    gateway_client::token_of,
    job::With,
    temporal, within,
};

/// A folder for PATH in which the plugin has the names that kubectl looks for.
struct Plugin<'t> {
    test: &'t Test,
    path: PathBuf,
}

impl<'t> Plugin<'t> {
    fn new(test: &'t Test) -> Self {
        let path = test.cluster.dev.join("data/tests").join(format!("plugin-{}", test.namespace));
        std::fs::create_dir_all(&path).expect("a folder");
        for name in ["kubectl-koco", "kubectl_complete-koco"] {
            std::os::unix::fs::symlink(PLUGIN, path.join(name)).expect("a link");
        }
        Self { test, path }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let path = format!("{}:{}", self.path.display(), std::env::var("PATH").expect("PATH"));
        command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn kubectl(&self) -> PathBuf {
        self.test.cluster.dev.join("tools/kubectl")
    }

    /// Starts `kubectl koco ARGS -n NAMESPACE`.
    fn start(&self, args: &str) -> Child {
        let mut command = self.command(&self.kubectl());
        command.arg("koco").args(args.split(' ')).args(["-n", &self.test.namespace]);
        command.spawn().expect("kubectl")
    }

    /// Its exit code, standard output and standard error.
    async fn run(&self, args: &str) -> (i32, String, String) {
        ended(self.start(args)).await
    }

    /// The same for what must succeed.
    async fn says(&self, args: &str) -> String {
        let (code, out, err) = self.run(args).await;
        assert_eq!(code, 0, "{args}: {out}{err}");
        out
    }

    /// What kubectl's completion makes of a command line.
    async fn completes(&self, words: &[&str]) -> String {
        let mut command = self.command(&self.kubectl());
        command.args(["__complete", "koco"]).args(words);
        ended(command.spawn().expect("kubectl")).await.1
    }
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

async fn ended(child: Child) -> (i32, String, String) {
    let all = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").expect("output");
    let Output { status, stdout, stderr } = all;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jobs_life_by_the_plugin() {
    let (test, _roles) = Test::with_operator().await;
    let plugin = Plugin::new(&test);
    for mode in MODES {
        let job = test.apply(agent("count?every_ms=50").mode(mode)).await;
        job.counts().await;
        let name = &job.name;
        assert_eq!(
            plugin.says(&format!("pause {name}")).await,
            format!("agentjob.kodosumi.io/{name} pause requested\n")
        );
        plugin.says(&format!("wait {name} --for paused --timeout 180s")).await;
        assert_eq!(job.status().await.phase, Some(Phase::Paused));
        let shown = plugin.says(&format!("status {name}")).await;
        for word in ["Phase:     Paused", "acknowledged  Frozen", "Runs:", "not yet (Frozen)", "Events:"] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        if mode == ExecutionMode::Temporal {
            outside(&plugin, &job).await;
        }
        plugin.says(&format!("resume {name}")).await;
        plugin.says(&format!("wait {name} --for Running --timeout 180s")).await;
        job.counts_on(3).await;
        let (code, out, err) = plugin.run(&format!("retry {name}")).await;
        assert!(code == 1 && out.is_empty() && err.contains("has not finished"), "{err}");

        plugin.says(&format!("cancel {name}")).await;
        let (code, out, _) = plugin.run(&format!("wait {name}")).await;
        assert_eq!((code, out), (1, format!("agentjob.kodosumi.io/{name} Cancelled\n")));
        let (code, _, err) = plugin.run(&format!("resume {name}")).await;
        assert!(code == 1 && err.contains("has finished already: Cancelled"), "{err}");

        let again = plugin.says(&format!("retry {name}")).await;
        let again = again.trim();
        assert!(again.starts_with(&format!("{name}-retry-")), "{again}");
        plugin.says(&format!("wait {again} --for Running --timeout 180s")).await;
    }
}

/// The spec says Running, and the workflow was paused by a signal: `resume` requests it again.
async fn outside(plugin: &Plugin<'_>, job: &Job<'_>) {
    plugin.says(&format!("resume {}", job.name)).await;
    job.phase(Phase::Running).await;
    let workflow = job.workflow().await;
    temporal::cli(&job.temporal, &["workflow", "signal", "-w", &workflow, "--name", "pause"]).expect("signal");
    job.phase(Phase::Paused).await;
    assert_eq!(job.get().await.spec.desired_state, DesiredState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_followed_from_pod_to_pod() {
    let (test, _roles) = Test::with_operator().await;
    let plugin = Plugin::new(&test);
    let retries = json!({ "retryPolicy": { "maximumAttempts": 3, "initialInterval": "8s", "backoffCoefficient": 1 } });
    for mode in MODES {
        let job = test.apply(agent("fail-until?attempt=3").mode(mode).with(retries.clone())).await;
        // From before there is a pod until the job's end.
        let (code, out, err) = plugin.run(&format!("logs -f {}", job.name)).await;
        assert_eq!(code, 0, "{err}");
        let started = |n: u32| out.find(&format!("agent started (attempt {n},"));
        let order = [started(1), started(2), started(3)];
        assert!(order.is_sorted() && order[0].is_some(), "{out}{err}");
        assert_eq!(err.matches("--- pod ").count(), 2, "each new pod is named: {err}");
        for n in 1..=3 {
            assert_eq!(out.matches(&format!("agent started (attempt {n},")).count(), 1, "nothing twice: {out}");
        }
        // What is still there, without -f: the last pod's.
        let last = plugin.says(&format!("logs {} --tail 100", job.name)).await;
        assert!(last.contains("attempt 3") && !last.contains("attempt 2"), "{last}");
        // And each run's end.
        let shown = plugin.says(&format!("status {}", job.name)).await;
        assert_eq!(shown.matches("Failed (AgentFailed)").count(), 2, "{shown}");
        assert!(shown.contains("Succeeded"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_watched_on_a_terminal_and_in_a_pipe() {
    let (test, _roles) = Test::with_operator().await;
    let plugin = Plugin::new(&test);
    let job = test.apply(agent("count?every_ms=50").mode(ExecutionMode::Temporal)).await;
    job.counts().await;
    let line = format!("kubectl koco status {} --watch -n {}", job.name, test.namespace);
    // A terminal of its own, 24 rows of 80 columns.
    let mut terminal = plugin.command(Path::new("script"));
    let screen = plugin.path.join("screen");
    terminal.args(["--quiet", "--flush", "--return", "--command"]);
    terminal.arg(format!("stty rows 24 cols 80; exec {line}")).arg(&screen);
    let tools = test.cluster.dev.join("tools");
    terminal.env("PATH", format!("{}:{}:{}", plugin.path.display(), tools.display(), std::env::var("PATH").unwrap()));
    let terminal = terminal.spawn().expect("script");
    let mut pipe = plugin.start(&format!("status {} --watch", job.name));
    let mut piped = BufReader::new(pipe.stdout.take().expect("stdout")).lines();
    let mut piped = async || tokio::time::timeout(DEADLINE, piped.next_line()).await.expect("in time").expect("text");
    let mut lines = String::new();
    while !lines.contains("Running") {
        lines += &(piped().await.expect("a line") + "\n");
    }

    let shown = async |word: &str| {
        within(DEADLINE, &format!("{word} on the screen"), async || {
            let text = std::fs::read_to_string(&screen).unwrap_or_default();
            if text.contains(word) { Ok(()) } else { Err(text) }
        })
        .await;
    };
    shown("Phase:     Running").await;
    job.want(DesiredState::Paused).await;
    shown("Phase:     Paused").await;
    job.want(DesiredState::Cancelled).await;
    let (code, out, err) = ended(terminal).await;
    assert_eq!(code, 0, "{out}{err}");
    shown("Phase:     Cancelled").await;
    let text = std::fs::read_to_string(&screen).expect("the screen");
    for view in text.split("\x1b[H").skip(1) {
        let rows: Vec<_> = view.split("\x1b[K").collect();
        assert!(rows.len() <= 24, "it would scroll: {rows:?}");
        assert!(rows.iter().all(|r| r.trim().chars().count() <= 80 || r.contains("[J")), "{rows:?}");
    }
    while let Some(line) = piped().await {
        lines += &(line + "\n");
    }
    let (code, _, err) = ended(pipe).await;
    assert_eq!(code, 0, "{err}");
    let at = |word: &str| lines.find(word).unwrap_or_else(|| panic!("{word}: {lines}"));
    assert!(at("Running") < at("Paused") && at("Paused") < at("Cancelled"), "{lines}");
    assert!(at("event Normal Paused") > 0 && !lines.contains('\x1b'), "{lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_its_job_or_with_its_time() {
    let (test, _roles) = Test::with_operator().await;
    let plugin = Plugin::new(&test);
    let job = test.apply(agent("count?every_ms=50").mode(ExecutionMode::Direct)).await;
    job.counts().await;
    let (code, _, err) = plugin.run(&format!("wait {} --timeout 1s", job.name)).await;
    assert_eq!(code, 124, "{err}");
    let found = plugin.completes(&["pause", "-n", &test.namespace, ""]).await;
    assert!(found.contains(&format!("{}\tRunning", job.name)), "{found}");
    assert!(plugin.completes(&["pau"]).await.contains("pause\t"));

    let waiting = plugin.start(&format!("wait {}", job.name));
    job.delete(Default::default()).await;
    let (code, _, err) = ended(waiting).await;
    assert!(code == 1 && (err.contains("was deleted") || err.contains("there is no AgentJob")), "{code}: {err}");
    let (code, _, err) = plugin.run("pause no-such-job").await;
    assert!(code == 1 && err.contains("there is no AgentJob no-such-job in the namespace"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_run_from_an_image_to_its_result() {
    let (test, _roles) = Test::with_operator().await;
    let plugin = Plugin::new(&test);
    let retries = "--set retryPolicy.maximumAttempts=2 --set retryPolicy.initialInterval=1s";
    let line = format!(
        "run {AGENT_IMAGE} --name x --set entryPoint=fail-until?attempt=2 {retries} --logs -n {} -- /test-agent",
        test.namespace
    );
    // The namespace stands before what is the agent's.
    let mut command = plugin.command(&plugin.kubectl());
    let (code, out, err) = ended(command.arg("koco").args(line.split(' ')).spawn().expect("kubectl")).await;
    assert_eq!(code, 0, "{out}{err}");
    let started = |out: &str, n: u32| out.matches(&format!("agent started (attempt {n},")).count();
    assert_eq!((started(&out, 1), started(&out, 2)), (1, 1), "each attempt's log: {out}{err}");
    assert!(err.contains("agentjob.kodosumi.io/x created"), "{err}");
    assert_eq!(plugin.says("result x").await, "{\"attempt\":2}\n");

    let all = plugin.says("logs x --all --prefix").await;
    assert_eq!((started(&all, 1), started(&all, 2)), (1, 1), "{all}");
    assert!(all.lines().all(|line| line.starts_with("[pod/x-") && line.contains("/agent] ")), "{all}");
    let first = plugin.says("logs x --attempt 1 -f").await;
    assert_eq!((started(&first, 1), started(&first, 2)), (1, 0), "{first}");
    plugin.says("logs x -c koco-install --since 1h").await;
    let (code, _, err) = plugin.run("logs x -c none").await;
    assert!(code == 1 && err.contains("has no container none: it has agent, koco-install"), "{err}");
    let (code, _, err) = plugin.run("logs x --attempt 3").await;
    assert!(code == 1 && err.contains("no attempt 3"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_stand_still_once_the_wait_says_so() {
    let (test, _roles) = Test::with_operator().await;
    let plugin = Plugin::new(&test);
    let mut jobs = Vec::new();
    for mode in MODES {
        let job = test.apply(agent("count?every_ms=50").mode(mode)).await;
        job.counts().await;
        jobs.push(job);
    }
    plugin.says("pause --all --wait --timeout 180s").await;
    for job in &jobs {
        assert_eq!(job.status().await.phase, Some(Phase::Paused), "{}", job.name);
    }
    plugin.says("resume --all --wait --timeout 180s").await;
    for job in &jobs {
        assert_eq!(job.status().await.phase, Some(Phase::Running), "{}", job.name);
        job.counts_on(3).await;
    }
    plugin.says("cancel --all --wait --timeout 180s").await;
    for job in &jobs {
        assert_eq!(job.status().await.phase, Some(Phase::Cancelled), "{}", job.name);
    }
}

/// What leads to the test's server as the chart's objects lead to one: a Service's slice, and the account that reads. The server
/// is a process on the node, so a pod with the node's network stands for its pod: a port-forward to it ends there.
fn way_to_the_server(test: &Test, port: u16) {
    let ns = &test.namespace;
    let (reader, rbac) = (names::ARCHIVE_READER, "rbac.authorization.k8s.io");
    let labels = json!({ "app.kubernetes.io/part-of": "koco", "app.kubernetes.io/component": "server" });
    let objects = json!([
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "gateway", "namespace": ns } },
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": reader, "namespace": ns } },
        { "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": { "name": reader, "namespace": ns },
            "rules": [{ "apiGroups": ["kodosumi.io"], "resources": ["agentjobs/events"], "verbs": ["get"] }] },
        { "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": { "name": reader, "namespace": ns },
            "roleRef": { "apiGroup": rbac, "kind": "Role", "name": reader },
            "subjects": [{ "kind": "ServiceAccount", "name": reader, "namespace": ns }] },
        { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "server", "namespace": ns },
            "spec": { "hostNetwork": true, "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "server", "image": "localhost/busybox:dev", "command": ["sleep", "600"] }] } },
        { "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "server", "namespace": ns, "labels": labels },
            "addressType": "IPv4", "ports": [{ "name": "server", "port": port }],
            "endpoints": [{ "addresses": [NODE_IP], "conditions": { "ready": true },
                "targetRef": { "kind": "Pod", "name": "server", "namespace": ns } }] },
    ]);
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    feed(&test.cluster.dev, "kubectl", &["apply", "-f", "-"], list.as_bytes()).expect("kubectl apply");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_the_archive_come_through_a_port_forward() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["operator", "server"]);
    let (ns, port) = (&test.namespace, roles.server_port);
    way_to_the_server(&test, port);
    let file = test.log.with_extension("token");
    std::fs::write(&file, token_of(&test.client, ns, "gateway", Some(names::SERVER_AUDIENCE), None).await)
        .expect("a file");
    roles.set("KOCO_SERVER_ADDR", &format!("0.0.0.0:{port}"));
    roles.set("KOCO_SERVER_URL", &format!("https://{NODE_IP}:{port}"));
    roles.set("KOCO_SERVER_TOKEN_FILE", &file.display().to_string());
    roles.set("KOCO_SERVER_GATEWAYS", &format!("system:serviceaccount:{ns}:gateway"));
    roles.start().await;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(test.client.clone(), ns);
    within(DEADLINE, "the pod that stands for the server's", async || {
        let phase = pods.get("server").await.expect("a pod").status.and_then(|status| status.phase);
        if phase.as_deref() == Some("Running") { Ok(()) } else { Err(phase) }
    })
    .await;
    let plugin = Plugin::new(&test);
    let way = format!("--operator-namespace {ns}");
    let job = test.apply(agent("count?every_ms=50&until=40").mode(ExecutionMode::Direct)).await;
    job.counts().await;
    // It follows from amidst the run to the job's end.
    let events = plugin.says(&format!("events {} -f {way}", job.name)).await;
    assert!(events.lines().filter(|line| line.contains("  1  stdout  ")).count() >= 40, "{events}");
    let shown = plugin.says(&format!("archive get {} {way}", job.name)).await;
    assert!(shown.contains("Phase:       Succeeded\n"), "{shown}");
    let found = plugin.says(&format!("archive list -o name {way}")).await;
    assert_eq!((found.lines().count(), found.starts_with("execution/")), (1, true), "{found}");
    // The panel shows the job's page to whom has the address that is printed.
    let mut open = plugin.start(&format!("open {} --print {way}", job.name));
    let mut lines = BufReader::new(open.stdout.take().expect("stdout")).lines();
    let address =
        tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time").expect("text").expect("a line");
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let page = address.split('?').next().expect("a page");
    assert_eq!(browser.get(page).send().await.expect("an answer").status(), 403);
    let entered = browser.get(&address).send().await.expect("an answer");
    let cookie = entered.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("a cookie");
    let shown = browser.get(page).header("cookie", cookie).send().await.expect("an answer");
    assert_eq!(shown.status(), 200);
    assert!(shown.text().await.expect("text").contains(&job.name));
    open.kill().await.expect("its end");
    // Where nothing listens it says so, and doesn't hang.
    roles.kill_all();
    let (code, out, err) = plugin.run(&format!("archive list {way}")).await;
    assert!(code == 1 && out.is_empty() && err.contains("can't be reached"), "{code}: {out}{err}");
}
