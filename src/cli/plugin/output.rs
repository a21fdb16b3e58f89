//! Objects as `-o` wants them, and the words of `--dry-run`. Used by what creates, changes and lists jobs.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{text, yaml};

/// The field manager of what the plugin writes. Not `kubectl-`: Flux takes the fields back that managers of such names have
/// written.
pub(super) const MANAGER: &str = "koco";

/// How to print an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Its kind and name.
    Name,
    /// The whole object.
    Json,
    /// The whole object.
    Yaml,
}

/// Whether something is done, or only tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum DryRun {
    /// It is done.
    #[default]
    None,
    /// Nothing is sent.
    Client,
    /// It is sent, checked by the API server, and not stored.
    Server,
}

impl DryRun {
    /// What is printed behind what would have been done, as kubectl does.
    pub fn remark(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

/// How changes are made and printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Change {
    /// Change nothing: `client` prints what would be done, `server` lets the API server check it
    #[arg(long, value_enum, value_name = "HOW", default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: DryRun,
    /// Print this of each object instead of what was done
    #[arg(short, long, value_enum)]
    pub output: Option<Output>,
}

impl Change {
    /// Whether the whole object is printed.
    pub fn whole(self) -> bool {
        matches!(self.output, Some(Output::Json | Output::Yaml))
    }

    /// Prints what was done to a job; `object` is the job if [`Self::whole`].
    pub fn print(self, name: &str, done: &str, object: &Value) -> io::Result<()> {
        let (mut out, object) = (io::stdout().lock(), &shown(object));
        match self.output {
            None => writeln!(out, "{} {done}{}", reference(name), self.dry_run.remark()),
            Some(Output::Name) => writeln!(out, "{}", reference(name)),
            Some(Output::Json) => writeln!(out, "{}", text::pretty_json(object)),
            Some(Output::Yaml) => write!(out, "---\n{}", yaml::document(object)),
        }
    }
}

/// What became of the lines that were printed. An error is kept for the end: a closed stdout doesn't stop changes half-way.
#[derive(Default)]
pub(super) struct Printed(Option<io::Error>);

impl Printed {
    pub fn note(&mut self, printed: io::Result<()>) {
        if let Err(error) = printed {
            self.0.get_or_insert(error);
        }
    }

    /// Whether stdout takes no more.
    pub fn failed(&self) -> bool {
        self.0.is_some()
    }

    /// The first error, if there was one.
    pub fn end(self) -> io::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// An object without what kubectl doesn't show either.
pub(super) fn shown(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    object
}

/// The name of a job that was made, or the beginning of one that the API server would make up.
pub(super) fn name_of(object: &Value) -> String {
    let word = |at: &str| object.pointer(at).and_then(Value::as_str).filter(|word| !word.is_empty());
    match word("/metadata/name") {
        Some(name) => name.into(),
        None => format!("{}...", word("/metadata/generateName").unwrap_or_default()),
    }
}

/// A job as `-o name` prints it.
pub(super) fn reference(name: &str) -> String {
    format!("agentjob.kodosumi.io/{}", text::plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_stdout_is_kept_until_the_end() {
        let mut printed = Printed::default();
        printed.note(Err(io::ErrorKind::BrokenPipe.into()));
        printed.note(Ok(()));
        printed.note(Err(io::ErrorKind::StorageFull.into()));
        assert!(printed.failed());
        assert_eq!(printed.end().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(Printed::default().end().is_ok());
    }
}
