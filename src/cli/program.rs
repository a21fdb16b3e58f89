//! The command line of `koco`: parses it, and starts the roles. Called by the binary of that name alone.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::{before_uninstall, check_inputs, crd, man, openapi, plugin, roles};

/// Runs AI agents as jobs on Kubernetes, with durable execution by Temporal.
#[derive(Parser)]
#[command(name = "koco", version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconcile AgentJobs: submit workflows, write status, collect garbage. One leads, others stand by
    Controller(Box<roles::Controller>),
    /// Run AgentWorkflow and its activities. Any number, on any task queue
    TemporalWorker(Box<roles::Worker>),
    /// Serve runner pods: the only role that they talk to. Any number
    Gateway(Box<roles::Gateway>),
    /// Keep what became of AgentJobs, and let those read it who may. One with SQLite, any number with PostgreSQL
    Server(Box<roles::Server>),
    /// Controller, worker and gateway in one process: for small installs and for trying out
    Operator(Box<roles::Operator>),
    /// Print the CustomResourceDefinitions as YAML
    Crd(crd::Arguments),
    /// Print the description of the server's API, in OpenAPI, as YAML
    Openapi,
    /// Write the manual pages of the kubectl plugin
    Man(man::Arguments),
    /// Judge inputs by a JSON Schema, both from standard input: for the controller, which calls it in a process of its own
    #[command(hide = true)]
    CheckInputs,
    /// Fail while AgentJobs live that nothing would control any more: for the chart, before an uninstall
    #[command(hide = true)]
    BeforeUninstall(Box<before_uninstall::Arguments>),
    /// The plugin's commands, for `helm test`, whose pod has no other program than this
    #[command(hide = true)]
    Kubectl(Box<plugin::Plugin>),
}

/// Parses the command line and runs it to its end.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::CheckInputs => match check_inputs::run() {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Controller(role) => roles::run(*role),
        Command::TemporalWorker(role) => roles::run(*role),
        Command::Gateway(role) => roles::run(*role),
        Command::Server(role) => roles::serve(*role),
        Command::Operator(role) => roles::run(*role),
        Command::Crd(arguments) => crd::print(&arguments),
        Command::Openapi => openapi::print(),
        Command::Man(arguments) => man::write(&arguments),
        Command::BeforeUninstall(arguments) => before_uninstall::run(&arguments),
        Command::Kubectl(plugin) => return plugin::run(*plugin),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("koco: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helm_test_calls_is_there() {
        let template = include_str!("../../charts/koco/templates/test.yaml");
        let list = template.lines().find_map(|line| line.trim().strip_prefix("args: [")?.strip_suffix(']')).unwrap();
        let words = list.split(',').map(|word| if word.contains("{{") { "x" } else { word.trim() });
        let parsed = Cli::try_parse_from(["koco"].into_iter().chain(words));
        assert!(matches!(parsed.map(|line| line.command), Ok(Command::Kubectl(_))), "{list}");
    }
}
