//! Completion for kubectl: `kubectl_complete-koco WORDS... LAST` prints the candidates for the last
//! word, one a line with its description after a tab, and then `:4` (no files) or `:0` (files), as Cobra has it.
//! Called by [`super::main`] under that name.

use std::{process::ExitCode, time::Duration};

use clap::{Command, CommandFactory};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Resource, api::ListParams, config::Kubeconfig};

use super::{
    Cli,
    connect::Target,
    select::{in_phases, phase},
    tables,
};
use crate::api::{AgentJob, Phase};

/// The time-out for the API server: a user is waiting at the prompt.
const PATIENCE: Duration = Duration::from_secs(3);

/// The positional arguments that are jobs' names.
const JOBS: [&str; 2] = ["name", "names"];

/// What the last word may be.
#[derive(Debug, PartialEq)]
enum Wanted {
    /// One of these, with a description.
    Words(Vec<(String, String)>),
    /// A job, for this command.
    Job(String),
    Namespace,
    Context,
    File,
}

/// Prints the candidates, and never fails: a shell has no use for an error.
pub(super) fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", &[][..]),
    };
    let (wanted, target) = wanted(before, last);
    let mut directive = 4;
    let found = match wanted {
        Wanted::Words(words) => words,
        Wanted::File => {
            directive = 0;
            Vec::new()
        }
        Wanted::Context => Kubeconfig::read()
            .map_or_else(|_| Vec::new(), |k| k.contexts.into_iter().map(|c| (c.name, String::new())).collect()),
        Wanted::Job(command) => ask(jobs(&target, &command)),
        Wanted::Namespace => ask(namespaces(&target)),
    };
    for (word, about) in found.iter().filter(|(word, _)| word.starts_with(last)) {
        println!("{word}\t{about}");
    }
    println!(":{directive}");
    ExitCode::SUCCESS
}

type Found = Vec<(String, String)>;

fn ask(question: impl Future<Output = anyhow::Result<Found>>) -> Found {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.map(|r| r.block_on(async { tokio::time::timeout(PATIENCE, question).await }));
    answer.ok().and_then(Result::ok).and_then(Result::ok).unwrap_or_default()
}

async fn jobs(target: &Target, command: &str) -> anyhow::Result<Found> {
    let session = target.connect().await?;
    let phases: Vec<Phase> = Phase::ALL.into_iter().filter(|phase| fits(command, *phase)).collect();
    let params = ListParams::default().fields(&in_phases(&phases));
    let (mut found, url) = (Vec::new(), AgentJob::url_path(&(), Some(&session.namespace)));
    tables::each(&session.client(), &url, params, |job| {
        found.push((job.meta().name.clone().unwrap_or_default(), phase(job).as_str().into()));
    })
    .await?;
    Ok(found)
}

/// Whether a command has to do with jobs in this phase.
fn fits(command: &str, phase: Phase) -> bool {
    match command {
        "retry" | "result" => phase.is_terminal(),
        "pause" | "resume" | "cancel" | "wait" => !phase.is_terminal(),
        _ => true,
    }
}

async fn namespaces(target: &Target) -> anyhow::Result<Found> {
    let all: Api<Namespace> = Api::all(target.connect().await?.client());
    let names = all.list(&ListParams::default()).await?.items.into_iter().filter_map(|n| n.metadata.name);
    Ok(names.map(|n| (n, String::new())).collect())
}

/// What the last word may be after those before it, and the cluster that they name.
fn wanted(before: &[String], last: &str) -> (Wanted, Target) {
    let root = Cli::command();
    let (mut command, mut target, mut names) = (&root, Target::default(), 0);
    let mut pending: Option<&str> = None;
    for word in before {
        if let Some(flag) = pending.take() {
            take(&mut target, flag, word);
        } else if let Some((flag, value)) = word.split_once('=').filter(|_| word.starts_with("--")) {
            take(&mut target, flag, value);
        } else if word.starts_with('-') {
            let takes = |f: &&clap::Arg| f.get_action().takes_values() && !f.is_require_equals_set();
            pending = flag(&root, command, word).filter(takes).map(|_| word.as_str());
        } else if command.has_subcommands() {
            command = command.find_subcommand(word).unwrap_or(command);
        } else {
            names += 1;
        }
    }
    let wanted = match pending {
        Some("-n" | "--namespace") => Wanted::Namespace,
        Some("--context") => Wanted::Context,
        Some("--kubeconfig") => Wanted::File,
        Some("-f" | "--filename" | "--token-file" | "--server-ca") => Wanted::File,
        Some("--for") => words(["finished", "paused"]),
        Some("--phase") => words(Phase::ALL.map(Phase::as_str)),
        Some(name) => Wanted::Words(flag(&root, command, name).map(values).unwrap_or_default()),
        None if last.starts_with('-') => Wanted::Words(flags(&root, command)),
        None if command.has_subcommands() => {
            let all = command.get_subcommands().filter(|c| !c.is_hide_set());
            Wanted::Words(all.map(|c| (c.get_name().into(), about(c.get_about()))).collect())
        }
        None => match command.get_positionals().find(|p| names == 0 || p.get_num_args().is_some_and(many)) {
            Some(positional) if JOBS.contains(&positional.get_id().as_str()) => Wanted::Job(command.get_name().into()),
            Some(positional) => Wanted::Words(values(positional)),
            None => words([]),
        },
    };
    (wanted, target)
}

/// Whether an argument may be given several times.
fn many(number: clap::builder::ValueRange) -> bool {
    number.max_values() > 1
}

/// The values that an argument may have, if there is a list of them.
fn values(arg: &clap::Arg) -> Found {
    let all = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    all.map(|value| (value.get_name().into(), about(value.get_help()))).collect()
}

fn words<const N: usize>(words: [&str; N]) -> Wanted {
    Wanted::Words(words.map(|w| (w.into(), String::new())).to_vec())
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn take(target: &mut Target, flag: &str, value: &str) {
    match flag {
        "-n" | "--namespace" => target.namespace = Some(value.into()),
        "--context" => target.context = Some(value.into()),
        "--kubeconfig" => target.kubeconfig = Some(value.into()),
        _ => {}
    }
}

/// The flag that a word names, of a command or of all.
fn flag<'c>(root: &'c Command, command: &'c Command, word: &str) -> Option<&'c clap::Arg> {
    let long = |a: &clap::Arg| a.get_long().is_some_and(|l| word.strip_prefix("--") == Some(l));
    let short = |a: &clap::Arg| a.get_short().is_some_and(|s| word.strip_prefix('-') == Some(s.to_string().as_str()));
    command.get_arguments().chain(root.get_arguments()).find(|a| long(a) || short(a))
}

fn flags(root: &Command, command: &Command) -> Found {
    let global = root.get_arguments().filter(|a| a.is_global_set());
    let all = command.get_arguments().filter(|a| !a.is_global_set()).chain(global);
    all.filter_map(|a| Some((format!("--{}", a.get_long()?), about(a.get_help())))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(line: &str) -> (Wanted, Target) {
        let words: Vec<String> = line.split(' ').map(str::to_string).collect();
        let (last, before) = words.split_last().unwrap();
        wanted(before, last)
    }

    #[test]
    fn each_place_has_its_words() {
        let Wanted::Words(commands) = after("").0 else { panic!() };
        assert!(commands.iter().any(|(c, about)| c == "pause" && !about.is_empty()), "{commands:?}");
        assert_eq!(after("retry ").0, Wanted::Job("retry".into()));
        assert_eq!(after("logs -f x").0, Wanted::Job("logs".into()));
        assert_eq!(after("logs x ").0, words([]));
        assert_eq!(after("pause x ").0, Wanted::Job("pause".into()));
        assert_eq!(after("pause --dry-run ").0, Wanted::Job("pause".into()), "its value follows after =");
        let Wanted::Words(shells) = after("completion ").0 else { panic!() };
        assert!(shells.iter().any(|(shell, _)| shell == "bash"), "{shells:?}");
        let Wanted::Words(outputs) = after("pause x -o ").0 else { panic!() };
        assert_eq!(outputs.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>(), ["name", "json", "yaml"]);
        assert_eq!(after("wait x --for ").0, words(["finished", "paused"]));
        assert_eq!(after("audit ").0, words([]));
        let Wanted::Words(commands) = after("archive ").0 else { panic!() };
        assert_eq!(commands.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>(), ["list", "get", "delete"]);
        let Wanted::Words(flags) = after("archive list --").0 else { panic!() };
        assert!(["--search", "--namespace"].iter().all(|f| flags.iter().any(|(name, _)| name == f)), "{flags:?}");
        assert_eq!(after("archive list --token-file ").0, Wanted::File);
        assert_eq!(after("events -f ").0, Wanted::Job("events".into()), "of events it follows");
        let Wanted::Words(kinds) = after("events x --kind ").0 else { panic!() };
        assert!(kinds.iter().any(|(kind, _)| kind == "final"), "{kinds:?}");
        let Wanted::Words(outputs) = after("audit -o ").0 else { panic!() };
        assert_eq!(outputs.len(), 2, "{outputs:?}");
        assert_eq!(after("status -n ").0, Wanted::Namespace);
        assert_eq!(after("status --kubeconfig ").0, Wanted::File);
        let Wanted::Words(flags) = after("status x --").0 else { panic!() };
        assert!(["--watch", "--namespace"].iter().all(|f| flags.iter().any(|(name, _)| name == f)), "{flags:?}");
    }

    #[test]
    fn the_cluster_is_the_one_that_the_line_names() {
        let (wanted, target) = after("pause -n a --context=c --kubeconfig k x");
        assert_eq!(wanted, Wanted::Job("pause".into()));
        assert_eq!((target.namespace.as_deref(), target.context.as_deref()), (Some("a"), Some("c")));
        assert_eq!(target.kubeconfig.unwrap().to_str(), Some("k"));
    }
}
