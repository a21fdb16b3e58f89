//! `create` and `run`: jobs from files, or one from an image and a command. The API server checks all fields, unknown
//! ones too.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use http::{Request, header::CONTENT_TYPE};
use kube::Resource;
use serde_json::Value;

use super::{
    Usage,
    connect::{Session, job_name},
    logs,
    object::{self, Setting},
    output::{Change, DryRun, MANAGER, Printed, name_of, reference},
    settle::{self, Asked, Goal},
    text::say,
};
use crate::api::{AgentJob, Seconds};

pub(super) const HELP: &str = "\
A path of --set begins at the spec, or with `metadata` or `spec` at the object; [0] is the first item of a list, and \\. a dot
in a name. A value that is JSON is taken as that, all else as a string. All of --set come before those of --set-string:

  --set inputs.topic=octopuses --set inputs.depth=3 --set 'inputs.tags=[\"a\",\"b\"]' --set-string inputs.version=1.10
  --set template.spec.containers[0].resources.limits.memory=1Gi --set metadata.labels.team=x

Exit codes:
  0    created; with --wait or --logs: each has succeeded
  1    not created, or ended otherwise: the reason is on stderr
  2    wrong usage
  124  the time is over (--timeout); the jobs go on";

/// What is changed before it is created, and what comes after.
#[derive(Args)]
struct Options {
    /// Set a field, such as inputs.x=y; may be given several times
    #[arg(long, value_name = "PATH=VALUE", value_parser = Setting::parse)]
    set: Vec<Setting>,
    /// The same, but take the value as a string
    #[arg(long, value_name = "PATH=VALUE", value_parser = Setting::parse_string)]
    set_string: Vec<Setting>,
    #[command(flatten)]
    change: Change,
    /// Wait until each has ended
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Print the agent's log until its end; of one job only
    #[arg(long, conflicts_with = "dry_run")]
    logs: bool,
    /// With --wait or --logs: how long, such as 90s. Default: without limit
    #[arg(long, value_name = "DURATION", value_parser = Seconds::parse)]
    timeout: Option<Duration>,
}

#[derive(Args)]
pub(super) struct FromFiles {
    /// A file with AgentJobs, YAML or JSON; - is stdin. May be given several times
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
pub(super) struct FromImage {
    /// The image
    image: String,
    /// The agent's command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
    /// The job's name. Default: made up, from the image's
    #[arg(long, value_parser = job_name)]
    name: Option<String>,
    /// A variable of the agent's environment; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = object::variable)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    options: Options,
}

pub(super) async fn from_files(session: &Session, arguments: &FromFiles) -> anyhow::Result<ExitCode> {
    let mut objects = Vec::new();
    for path in &arguments.filename {
        let name = path.display();
        let text = read(path).with_context(|| name.to_string())?;
        objects.extend(object::documents(&text).with_context(|| name.to_string())?);
    }
    all(session, objects, &arguments.options).await
}

fn read(path: &PathBuf) -> std::io::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

pub(super) async fn from_image(session: &Session, arguments: &FromImage) -> anyhow::Result<ExitCode> {
    let FromImage { image, command, name, env, options } = arguments;
    all(session, vec![object::of_image(name.as_deref(), image, command, env)], options).await
}

async fn all(session: &Session, mut objects: Vec<Value>, options: &Options) -> anyhow::Result<ExitCode> {
    ensure!(
        !options.logs || objects.len() == 1,
        Usage("--logs prints the log of one job, and there are several or none: use `kubectl koco logs`")
    );
    ensure!(
        options.timeout.is_none() || options.logs || options.wait,
        Usage("--timeout is how long --wait or --logs last: there is neither")
    );
    // All or none, as far as that can be known here.
    for object in &mut objects {
        for setting in options.set.iter().chain(&options.set_string) {
            setting.apply(object).map_err(|e| anyhow!("--set: {e}"))?;
        }
        place(object, session)?;
    }
    let (mut created, mut failed, mut printed) = (Vec::new(), false, Printed::default());
    for object in objects {
        match one(session, object, options.change.dry_run).await {
            Ok(object) => {
                let name = name_of(&object);
                match options.logs && options.change.output.is_none() {
                    // Stdout is the log's.
                    true => say(format_args!("{} created", reference(&name))),
                    false => printed.note(options.change.print(&name, "created", &object)),
                }
                created.push(asked(&object));
            }
            Err(error) => {
                failed = true;
                say(format_args!("error: {error:#}"));
            }
        }
    }
    let code = match created.first().cloned() {
        Some(job) if options.logs => log(session, job, options).await?,
        Some(_) if options.wait => {
            let quiet = options.change.output.is_some() || printed.failed();
            settle::all(session, created, Goal::Succeeded, None, options.timeout, quiet).await?
        }
        _ => ExitCode::SUCCESS,
    };
    printed.end()?;
    Ok(if failed { ExitCode::FAILURE } else { code })
}

/// Gives an object its namespace, unless it has another one than was asked for.
fn place(object: &mut Value, session: &Session) -> anyhow::Result<()> {
    let there = object.pointer("/metadata/namespace").and_then(Value::as_str);
    match there {
        Some(there) if session.chosen && there != session.namespace => bail!(
            "{} is in the namespace {there}, and --namespace says {}: leave one of them out",
            reference(&name_of(object)),
            session.namespace
        ),
        Some(_) => Ok(()),
        None => {
            let name = name_of(object);
            let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
            let Some(metadata) = metadata.filter(|_| name != "...") else {
                bail!("metadata.name or metadata.generateName is required")
            };
            metadata.insert("namespace".into(), session.namespace.clone().into());
            Ok(())
        }
    }
}

fn asked(object: &Value) -> Asked {
    let word = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_string();
    Asked {
        namespace: word("/metadata/namespace"),
        name: name_of(object),
        uid: word("/metadata/uid"),
        generation: None,
    }
}

/// Creates one, and returns it as the API server has it.
async fn one(session: &Session, object: Value, dry_run: DryRun) -> anyhow::Result<Value> {
    if dry_run == DryRun::Client {
        return Ok(object);
    }
    let Asked { namespace, name, .. } = asked(&object);
    let all = AgentJob::url_path(&(), Some(&namespace));
    let tried = if dry_run == DryRun::Server { "&dryRun=All" } else { "" };
    let request = Request::post(format!("{all}?fieldManager={MANAGER}&fieldValidation=Strict{tried}"));
    let request = request.header(CONTENT_TYPE, "application/json").body(serde_json::to_vec(&object)?)?;
    session.client().request(request).await.map_err(|e| session.within(&namespace).explain(e, &name))
}

/// Prints the log until the job's end, which makes the exit code.
async fn log(session: &Session, job: Asked, options: &Options) -> anyhow::Result<ExitCode> {
    let session = session.within(&job.namespace);
    let printed = async {
        logs::run(&session, &logs::Arguments::of(&job.name)).await?;
        settle::all(&session, vec![job.clone()], Goal::Succeeded, None, None, true).await
    };
    match tokio::time::timeout(options.timeout.unwrap_or(Duration::MAX), printed).await {
        Ok(code) => {
            std::io::stdout().flush()?;
            code
        }
        Err(_) => {
            say(format_args!("error: timed out waiting for {}", reference(&job.name)));
            Ok(settle::TIME_IS_OVER.into())
        }
    }
}
