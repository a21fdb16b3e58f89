//! Completion for kubectl: `kubectl_complete-koco WORDS... LAST` prints the candidates for the last
//! word, one a line with its description after a tab, and then `:4` (no files) or `:0` (files), as Cobra has it.
//! Called by [`crate::cli`] under that name.

use std::{process::ExitCode, time::Duration};

use clap::{Command, CommandFactory};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::ListParams, config::Kubeconfig};

use super::{Cli, connect::Target, watch};

/// The time-out for the API server: a user is waiting at the prompt.
const PATIENCE: Duration = Duration::from_secs(3);

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
pub fn main() -> ExitCode {
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
    let fits = |finished: bool| match command {
        "retry" => finished,
        "pause" | "resume" | "cancel" | "wait" => !finished,
        _ => true,
    };
    let jobs = session.jobs().list(&ListParams::default()).await?.items;
    let fitting = jobs.into_iter().filter(|j| fits(watch::finished(j)));
    Ok(fitting.map(|j| (j.metadata.name.clone().unwrap_or_default(), format!("{:?}", watch::phase(&j)))).collect())
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
            pending = flag(&root, command, word).filter(|f| f.get_action().takes_values()).map(|_| word.as_str());
        } else if command.get_name() == root.get_name() {
            command = root.find_subcommand(word).unwrap_or(&root);
        } else {
            names += 1;
        }
    }
    let at_root = command.get_name() == root.get_name();
    let wanted = match pending {
        Some("-n" | "--namespace") => Wanted::Namespace,
        Some("--context") => Wanted::Context,
        Some("--kubeconfig") => Wanted::File,
        Some("--for") => words(["finished", "paused"]),
        Some("-o" | "--output") => words(["table", "json"]),
        Some(_) => words([]),
        None if last.starts_with('-') => Wanted::Words(flags(&root, command)),
        None if at_root => {
            let all = root.get_subcommands().filter(|c| !c.is_hide_set());
            Wanted::Words(all.map(|c| (c.get_name().into(), about(c.get_about()))).collect())
        }
        None if command.get_name() == "completion" => words(["bash", "elvish", "fish", "powershell", "zsh"]),
        None if command.get_name() == "audit" => words([]),
        None if names == 0 => Wanted::Job(command.get_name().into()),
        None => words([]),
    };
    (wanted, target)
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
        assert_eq!(after("wait x --for ").0, words(["finished", "paused"]));
        assert_eq!(after("audit ").0, words([]));
        assert_eq!(after("audit -o ").0, words(["table", "json"]));
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
