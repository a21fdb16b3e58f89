//! `kubectl koco`: users' commands for jobs, with the rights of their own kubeconfig, and under the name
//! `kubectl_complete-koco` their completion. It talks to the API server, and needs just the CRDs; `events`, `archive` and
//! `open` ask koco's server, and `audit` talks to Temporal, too, if it is told to. Called by the binary `kubectl-koco`
//! alone; `koco man` writes its manual.

mod agent_events;
mod archive;
mod audit;
mod complete;
mod connect;
mod control;
mod create;
mod doctor;
mod events;
mod list;
mod logs;
mod object;
mod open;
mod output;
pub(super) mod paging;
mod render;
mod result;
mod retry;
mod rights;
mod select;
mod server;
mod settle;
mod status;
mod tables;
mod text;
mod top;
mod wait;
mod watch;
mod yaml;

use std::{ffi::OsStr, io, path::Path, process::ExitCode};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::api::DesiredState;

const COMPLETION: &str = "\
With `kubectl koco` on Kubernetes 1.26 or later, kubectl's own completion asks the plugin, names of jobs included. \
It finds it under another name, beside the plugin in PATH:

  ln -s kubectl-koco \"$(dirname \"$(command -v kubectl-koco)\")/kubectl_complete-koco\"

This command is for calls by the plugin's own name, without kubectl:

  source <(kubectl koco completion bash)      # kubectl-koco pau<TAB>";

/// The plugin's command line, by its own name.
#[derive(Parser)]
#[command(
    name = "kubectl-koco",
    bin_name = "kubectl koco",
    version,
    about = "Create, list, pause, resume, cancel and watch agent jobs"
)]
#[command(max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    plugin: Plugin,
}

/// The plugin's arguments.
#[derive(Args)]
pub(super) struct Plugin {
    #[command(flatten)]
    target: connect::Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create jobs from files
    #[command(after_help = create::HELP)]
    Create(create::FromFiles),
    /// Create a job from an image and a command
    #[command(after_help = create::HELP)]
    Run(create::FromImage),
    /// Pause agents
    #[command(after_help = control::HELP)]
    Pause(control::Arguments),
    /// Resume them, also after a pause through Temporal
    #[command(after_help = control::HELP)]
    Resume(control::Arguments),
    /// End jobs. Final
    #[command(after_help = control::HELP)]
    Cancel(control::Arguments),
    /// Create new jobs like those that have finished, and print their names
    #[command(after_help = retry::HELP)]
    Retry(retry::Arguments),
    /// List jobs
    List(list::Arguments),
    /// Print the result of a job, or why there is none
    #[command(after_help = result::EXIT_CODES)]
    Result(result::Arguments),
    /// Show the status of a job
    Status(status::Arguments),
    /// Print the agent's log
    Logs(logs::Arguments),
    /// Print what agents tell while they run: their output and their results, also of jobs that are gone
    #[command(after_help = agent_events::HELP)]
    Events(Box<agent_events::Arguments>),
    /// What became of jobs, also of those that are gone
    #[command(subcommand, after_help = archive::HELP)]
    Archive(Box<archive::Command>),
    /// Open the page of a job: Temporal's of its workflow, or the panel's
    #[command(after_help = open::HELP)]
    Open(Box<open::Arguments>),
    /// Wait until a job has finished, is paused, or has reached a phase
    #[command(after_help = wait::EXIT_CODES)]
    Wait(wait::Arguments),
    /// Show how long agents were active and how far they are, by job or by namespace
    #[command(after_help = top::HELP)]
    Top(top::Arguments),
    /// Compare jobs, runs, pods and workflows, and print what doesn't fit
    #[command(after_help = audit::HELP)]
    Audit(audit::Arguments),
    /// Show whether koco can work, what you may do, and what to do about what is wrong
    #[command(after_help = doctor::HELP)]
    Doctor(Box<doctor::Arguments>),
    /// Print a completion script
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// The plugin's command line, for its manual.
pub fn command() -> clap::Command {
    Cli::command().name("kubectl-koco").bin_name("kubectl koco")
}

/// The plugin, and under the name that kubectl looks for its completion.
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    // Without `.exe`.
    match Path::new(&called).file_stem().and_then(OsStr::to_str) {
        Some("kubectl_complete-koco") => complete::main(),
        _ => run(Cli::parse().plugin),
    }
}

/// A use of the command line that its parser can't tell is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(&'static str);

impl Command {
    /// Whether it changes jobs: who doesn't read to the end can't know that all went well.
    fn changes(&self) -> bool {
        use Command::{Archive, Cancel, Create, Pause, Resume, Retry, Run};
        match self {
            Archive(command) => command.changes(),
            command => matches!(command, Create(_) | Run(_) | Pause(_) | Resume(_) | Cancel(_) | Retry(_)),
        }
    }
}

/// Runs one command to its end.
pub(super) fn run(plugin: Plugin) -> ExitCode {
    // A provider that is installed already is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trouble = match plugin.command {
        Command::Audit(_) => audit::TROUBLE.into(),
        Command::Doctor(_) => doctor::TROUBLE.into(),
        _ => ExitCode::FAILURE,
    };
    let unread = if plugin.command.changes() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("a runtime");
    match runtime.and_then(|runtime| runtime.block_on(dispatch(plugin))) {
        Ok(code) => code,
        // The reader of stdout has closed it.
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => unread,
        Err(error) => {
            text::say(format_args!("error: {error:#}"));
            // As clap's own.
            if error.is::<Usage>() { ExitCode::from(2) } else { trouble }
        }
    }
}

async fn dispatch(plugin: Plugin) -> anyhow::Result<ExitCode> {
    if let Command::Completion { shell } = plugin.command {
        clap_complete::generate(shell, &mut Cli::command().bin_name("kubectl-koco"), "kubectl-koco", &mut io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let session = plugin.target.connect().await?;
    match plugin.command {
        Command::Create(arguments) => return create::from_files(&session, &arguments).await,
        Command::Run(arguments) => return create::from_image(&session, &arguments).await,
        Command::Pause(jobs) => return control::run(&session, &jobs, DesiredState::Paused).await,
        Command::Resume(jobs) => return control::run(&session, &jobs, DesiredState::Running).await,
        Command::Cancel(jobs) => return control::run(&session, &jobs, DesiredState::Cancelled).await,
        Command::Retry(arguments) => return retry::run(&session, &arguments).await,
        Command::List(arguments) => list::run(&session, &arguments).await?,
        Command::Result(arguments) => return result::run(&session, &arguments).await,
        Command::Status(arguments) => status::run(&session, &arguments).await?,
        Command::Logs(arguments) => logs::run(&session, &arguments).await?,
        Command::Events(arguments) => agent_events::run(&session, &arguments).await?,
        Command::Archive(command) => return archive::run(&session, &command).await,
        Command::Open(arguments) => open::run(&session, &arguments).await?,
        Command::Wait(arguments) => return wait::run(&session, &arguments).await,
        Command::Top(arguments) => top::run(&session, &arguments).await?,
        Command::Audit(arguments) => return audit::run(&session, &arguments).await,
        Command::Doctor(arguments) => return doctor::run(&session, &arguments).await,
        // Done above: it needs no cluster.
        Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_kubectl_work_after_the_command() {
        let cli = Cli::try_parse_from(["kubectl-koco", "status", "x", "-n", "n", "--context", "c", "-w"]).unwrap();
        assert_eq!(cli.plugin.target.namespace.as_deref(), Some("n"));
        assert_eq!(cli.plugin.target.context.as_deref(), Some("c"));
        assert!(matches!(cli.plugin.command, Command::Status(status::Arguments { watch: true, .. })));
    }
}
