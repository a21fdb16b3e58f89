//! `open`: the page of a job in a browser: Temporal's of its workflow, or the panel's. [`address`] knows Temporal's
//! addresses, [`panel`] leads to the panel, [`browser`] starts what shows it.

mod address;
mod browser;
#[cfg(test)]
mod fixtures;
mod panel;

use std::io::{self, Write};

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    archive::find::{self, Found},
    connect::{Session, job_name},
    server::{Access, Server},
    text::{plain, say},
};
use crate::api::{AgentJob, WorkflowStatus, names};

pub(super) const HELP: &str = "\
The address is printed, and opened with $BROWSER, or with what the system has for it, if there is one.

Temporal's UI is where --temporal-ui says, or else the annotation kodosumi.io/temporal-ui of the job's namespace.

The panel is shown at an address of this machine for as long as the command runs: it passes on what a browser reads to \
koco's server, over a port-forward, as the service account that --service-account names. The address has a key in it: \
who does not have that reads nothing. With --server URL the panel's own address is opened instead.";

#[derive(Args)]
pub(super) struct Arguments {
    /// The AgentJob, which may be gone
    #[arg(value_parser = job_name, required_unless_present = "fid", conflicts_with = "fid")]
    name: Option<String>,
    /// Its execution, by its fid instead
    #[arg(long, value_name = "FID", value_parser = find::fid)]
    fid: Option<String>,
    /// Which page. Default: Temporal's, if the job has a workflow and the address of Temporal's UI is known; else the panel's
    #[arg(long = "in", value_name = "PAGE", value_enum)]
    page: Option<Page>,
    /// Open no browser
    #[arg(long)]
    print: bool,
    /// URL of Temporal's UI, such as https://temporal.example.com
    #[arg(long, value_name = "URL", env = "KOCO_TEMPORAL_UI", value_parser = address::ui)]
    temporal_ui: Option<Url>,
    /// Port of this machine that the panel is shown at; 0: any
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    #[command(flatten)]
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Page {
    /// Temporal's page of the job's workflow.
    Temporal,
    /// The panel's page of the job.
    Panel,
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.page != Some(Page::Panel)
        && let Some(address) = temporal(session, arguments).await?
    {
        return show(&address, arguments.print);
    }
    let mut server = Server::find(session, &arguments.access).await?;
    let found = execution(session, arguments, &mut server).await?;
    if let Some(url) = arguments.access.url() {
        return show(&address::panel(url, &found.fid), arguments.print);
    }
    match server.get(&path(&found), &[]).await {
        // The page of a job that is new comes as soon as it is archived.
        Err(trouble) if found.is_there && trouble.is_unknown() => {
            say(format_args!("its page may not be there yet: {trouble}"))
        }
        answered => drop(answered?),
    }
    let gate = panel::Gate::bind(arguments.port).await?;
    show(&gate.address(&found.fid)?, arguments.print)?;
    say("The panel is shown there until this command is ended, as by Ctrl-C");
    gate.serve(server).await
}

/// Prints an address, and opens it.
fn show(address: &Url, print: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", plain(address.as_str()))?;
    out.flush()?;
    if !print {
        browser::open(address.as_str());
    }
    Ok(())
}

async fn execution(session: &Session, arguments: &Arguments, server: &mut Server) -> anyhow::Result<Found> {
    match (&arguments.fid, &arguments.name) {
        (Some(fid), _) => Ok(Found { fid: fid.clone(), is_there: false }),
        (None, name) => find::by_name(session, server, name.as_deref().unwrap_or_default()).await,
    }
}

/// Where the server has an execution.
fn path(found: &Found) -> String {
    format!("/api/v1/executions/{}", found.fid)
}

/// The address of Temporal's page of the job's workflow. `None`: there is none, and it wasn't asked for.
async fn temporal(session: &Session, arguments: &Arguments) -> anyhow::Result<Option<Url>> {
    let is_asked = arguments.page == Some(Page::Temporal);
    let job = match &arguments.name {
        Some(name) => session.jobs().get_opt(name).await.map_err(|e| session.explain(e, name))?,
        None => None,
    };
    let (namespace, workflow) = match job {
        Some(job) => (session.namespace.clone(), workflow(job)),
        None if is_asked => archived(session, arguments).await?,
        None => return Ok(None),
    };
    let Some(workflow) = workflow else {
        let why = "it has no workflow: it is executed in Direct mode, or has not been started yet";
        return if is_asked { Err(anyhow!(why)) } else { Ok(None) };
    };
    let ui = match &arguments.temporal_ui {
        Some(ui) => Ok(ui.clone()),
        None => annotated(session, &namespace).await,
    };
    match ui {
        Ok(ui) => Ok(Some(address::workflow(&ui, &workflow))),
        Err(Unknown::NotSaid) if !is_asked => Ok(None),
        Err(why) if !is_asked => {
            say(format_args!("Temporal's page is not opened: {why}"));
            Ok(None)
        }
        Err(why) => Err(anyhow!("{why}")),
    }
}

fn workflow(job: AgentJob) -> Option<WorkflowStatus> {
    job.status.and_then(|status| status.workflow)
}

/// Namespace and workflow of an execution whose job is gone.
async fn archived(session: &Session, arguments: &Arguments) -> anyhow::Result<(String, Option<WorkflowStatus>)> {
    let mut server = Server::find(session, &arguments.access).await?;
    let found = execution(session, arguments, &mut server).await?;
    Ok(read(&server.get(&path(&found), &[]).await?))
}

/// Namespace and workflow in the server's answer.
fn read(execution: &Value) -> (String, Option<WorkflowStatus>) {
    let workflow = WorkflowStatus::deserialize(&execution["job"]["status"]["workflow"]).ok();
    let namespace = execution["namespace"].as_str().unwrap_or_default();
    (namespace.into(), workflow.filter(|workflow| !workflow.id.is_empty()))
}

/// Why the address of Temporal's UI isn't known.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error(
        "where Temporal's UI is isn't known: say it with --temporal-ui URL, or for all with kubectl annotate namespace \
         NAMESPACE {name}=URL",
        name = names::ANNOTATION_TEMPORAL_UI
    )]
    NotSaid,
    #[error("the annotation {name} of the namespace: {0}", name = names::ANNOTATION_TEMPORAL_UI)]
    Wrong(String),
    #[error("where Temporal's UI is can't be read from the namespace, say it with --temporal-ui URL: {0}")]
    Unread(kube::Error),
}

/// The address that the namespace's annotation has.
async fn annotated(session: &Session, namespace: &str) -> Result<Url, Unknown> {
    let namespaces: Api<Namespace> = Api::all(session.client());
    let found = namespaces.get_metadata_opt(namespace).await.map_err(Unknown::Unread)?;
    let annotations = found.and_then(|namespace| namespace.metadata.annotations).unwrap_or_default();
    let text = annotations.get(names::ANNOTATION_TEMPORAL_UI).ok_or(Unknown::NotSaid)?;
    address::ui(text).map_err(Unknown::Wrong)
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, extract::Path, http::StatusCode, routing::get};
    use clap::Parser;
    use serde_json::json;

    use super::{fixtures::Folder, *};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let line = Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        line.map(|line| line.arguments)
    }

    /// An API server with a job that has a workflow and one that has none, and with a namespace, or without the right to it.
    async fn api_server(namespace: Option<Value>) -> String {
        let refused = |code: u16, reason: &str| {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": reason, "message": reason });
            (StatusCode::from_u16(code).unwrap(), Json(status))
        };
        let job = move |Path(name): Path<String>| async move {
            let workflow = json!({ "id": "w", "namespace": "t", "runID": "r" });
            let status = match name.as_str() {
                "durable" => json!({ "workflow": workflow }),
                "direct" => json!({}),
                _ => return refused(404, "NotFound"),
            };
            let template = json!({ "spec": { "containers": [{ "image": "i" }] } });
            let job = json!({ "apiVersion": names::API_VERSION, "kind": "AgentJob", "metadata": { "name": name },
                "spec": { "entryPoint": "e", "template": template }, "status": status });
            (StatusCode::OK, Json(job))
        };
        let of_namespace = move || async move {
            match namespace {
                Some(annotations) => {
                    let meta = json!({ "name": "n", "annotations": annotations });
                    let kind = "PartialObjectMetadata";
                    (StatusCode::OK, Json(json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": meta })))
                }
                None => refused(403, "Forbidden"),
            }
        };
        let jobs = format!("/apis/{}/namespaces/n/agentjobs/{{name}}", names::API_VERSION);
        let app = Router::new().route(&jobs, get(job)).route("/api/v1/namespaces/n", get(of_namespace));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    #[tokio::test]
    async fn temporals_page_is_where_it_is_said_to_be() {
        let folder = Folder::new("open");
        let said = json!({ names::ANNOTATION_TEMPORAL_UI: "https://t.example.com/" });
        let wrong = json!({ names::ANNOTATION_TEMPORAL_UI: "javascript:alert(1)" });
        let all = [Some(said), Some(json!({})), Some(wrong), None];
        let mut sessions = Vec::new();
        for namespace in all {
            sessions.push(folder.session(&api_server(namespace).await).await);
        }
        let page = "https://t.example.com/namespaces/t/workflows/w/r/history";
        let other = "http://other/namespaces/t/workflows/w/r/history";
        let none: Result<Option<&str>, &str> = Ok(None);
        // The last column: where it was asked for.
        for (n, line, found, asked) in [
            (0, "durable", Ok(Some(page)), Ok(Some(page))),
            (3, "durable --temporal-ui http://other", Ok(Some(other)), Ok(Some(other))),
            (1, "durable", none, Err("kubectl annotate namespace")),
            (2, "durable", none, Err(names::ANNOTATION_TEMPORAL_UI)),
            (3, "durable", none, Err("--temporal-ui")),
            (0, "direct", none, Err("it has no workflow")),
            (0, "gone", none, Err("server")),
        ] {
            for (flag, wanted) in [("", found), (" --in temporal", asked)] {
                let arguments = parse(&format!("{line}{flag}")).unwrap();
                let answer = temporal(&sessions[n], &arguments).await.map(|page| page.map(String::from));
                match (&answer, wanted) {
                    (Ok(page), Ok(wanted)) => assert_eq!(page.as_deref(), wanted, "{n} {line}{flag}"),
                    (Err(error), Err(words)) if error.to_string().contains(words) => {}
                    _ => panic!("{n} {line}{flag}: {answer:?}, and not {wanted:?}"),
                }
            }
        }
    }

    #[test]
    fn a_page_is_named_in_one_way() {
        let fid = "6740c100aabbccddeeff0011";
        for right in
            ["x", "aj/x --in temporal --temporal-ui http://localhost:8233 --print", &format!("--fid {fid} --in panel")]
        {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in ["", &format!("x --fid {fid}"), "x --in other", "x --temporal-ui javascript:alert(1)", "x y"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_archive_knows_the_workflow_of_a_job_that_is_gone() {
        let found = json!({ "namespace": "n", "job": { "status": { "workflow": { "id": "w", "namespace": "t" } } } });
        let (namespace, workflow) = read(&found);
        assert_eq!((namespace.as_str(), workflow.map(|w| (w.id, w.namespace))), ("n", Some(("w".into(), "t".into()))));
        for none in
            [json!({}), json!({ "job": { "status": null } }), json!({ "job": { "status": { "workflow": {} } } })]
        {
            assert_eq!(read(&none).1, None, "{none}");
        }
    }
}
