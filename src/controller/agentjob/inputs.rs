//! Whether a new job's inputs fit its schema. The schema is a user's: it is asked in a process of its own, so that one that
//! takes all time or memory, or a library's fault, ends that process and not the controller. One at a time, so that memory
//! has a bound, and one job of each namespace waits for that, so that others' jobs don't wait for all of a tenant's.

use std::{collections::HashSet, os::unix::process::ExitStatusExt, process::Stdio};

use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt, process::Command, sync::Semaphore};

use super::{Context, execute};
use crate::{
    api::AgentJob,
    controller::ControllerError,
    protocol::check_inputs::{MEMORY_BYTES, PANICKED, PROCESSOR_SECONDS, Question, UNFIT},
};

/// What is known of a job's inputs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Judged {
    /// They fit, or nothing is to be judged.
    Fit,
    /// They don't, or the schema is none: why.
    Unfit(String),
    /// Those of another job in its namespace are being judged.
    Later,
}

/// Who is being judged.
pub(super) struct Judging {
    namespaces: Mutex<HashSet<String>>,
    one: Semaphore,
}

impl Default for Judging {
    fn default() -> Self {
        Self { namespaces: Mutex::default(), one: Semaphore::new(1) }
    }
}

/// Held by the one of its namespace.
struct Turn<'a>(&'a Judging, String);

impl Judging {
    fn begin(&self, namespace: &str) -> Option<Turn<'_>> {
        self.namespaces.lock().insert(namespace.into()).then(|| Turn(self, namespace.into()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.namespaces.lock().remove(&self.1);
    }
}

/// Judges a job's inputs, once, before it is accepted. What ConfigMaps and Secrets add, koco doesn't read: where there are
/// such, the runner judges.
pub(super) async fn judge(job: &AgentJob, context: &Context) -> Result<Judged, ControllerError> {
    let Some(schema) = job.spec.inputs_schema.as_ref().filter(|_| is_to_be_judged(job, context)) else {
        return Ok(Judged::Fit);
    };
    if let Some(known) = context.memory(job.uid()).inputs {
        return Ok(known);
    }
    let of = job.reference();
    let Some(_turn) = context.judging.begin(&of.namespace) else { return Ok(Judged::Later) };
    let is_trimmed = schema.is_trimmed() || job.spec.inputs.is_trimmed();
    let whole = if is_trimmed { Some(execute::read(job, context).await?) } else { None };
    let spec = &whole.as_ref().unwrap_or(job).spec;
    let question = Question { schema: spec.inputs_schema.clone().unwrap_or_default(), inputs: spec.inputs.clone() };
    let judged = {
        let _one = context.judging.one.acquire().await;
        ask(&question).await?
    };
    context.remember(&of, |memory| memory.inputs = Some(judged.clone()));
    Ok(judged)
}

fn is_to_be_judged(job: &AgentJob, context: &Context) -> bool {
    let is_accepted = job.status.as_ref().is_some_and(|s| s.resolved.is_some());
    let from_elsewhere = !job.spec.inputs_from.is_empty() || job.spec.unfilled().is_some();
    // Those are refused for their size.
    let limit = context.defaults.maximum_inputs_bytes;
    let is_too_large = limit > 0 && job.spec.inputs.size() > limit;
    job.may_start() && !is_accepted && !from_elsewhere && !is_too_large
}

async fn ask(question: &Question) -> Result<Judged, ControllerError> {
    let failed = |what: &str| ControllerError::InputsCheck(what.into());
    let text = serde_json::to_vec(question).map_err(|e| failed(&e.to_string()))?;
    let program = std::env::current_exe().map_err(|e| failed(&e.to_string()))?;
    let mut child = Command::new(program)
        .arg("check-inputs")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // The reconcile has a time limit: this one goes with it.
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(&e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end before it has read all: then its status says why.
        let _ = stdin.write_all(&text).await;
    }
    let done = child.wait_with_output().await.map_err(|e| failed(&e.to_string()))?;
    verdict(done.status.code(), done.status.signal(), &done.stdout)
}

/// What the end of the process means. One that somebody else has killed says nothing of the inputs.
fn verdict(code: Option<i32>, signal: Option<i32>, said: &[u8]) -> Result<Judged, ControllerError> {
    use nix::libc::{SIGABRT, SIGBUS, SIGSEGV, SIGXCPU};
    let unusable = |why: String| Ok(Judged::Unfit(format!("spec.inputsSchema can't be used: {why}")));
    match (code.map(u8::try_from), signal) {
        (Some(Ok(0)), _) => Ok(Judged::Fit),
        (Some(Ok(UNFIT)), _) => Ok(Judged::Unfit(String::from_utf8_lossy(said).trim_end().into())),
        (Some(Ok(PANICKED)), _) => unusable("it breaks what judges the inputs by it".into()),
        (_, Some(SIGXCPU | SIGABRT | SIGSEGV | SIGBUS)) => unusable(format!(
            "to judge the inputs by it takes more than {PROCESSOR_SECONDS} s or {} MiB",
            MEMORY_BYTES >> 20
        )),
        _ => Err(ControllerError::InputsCheck(format!("it ended with code {code:?}, signal {signal:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_schema_did_itself_is_held_against_it() {
        use nix::libc::{SIGKILL, SIGSEGV, SIGTERM, SIGXCPU};
        assert_eq!(verdict(Some(0), None, b"").unwrap(), Judged::Fit);
        assert_eq!(verdict(Some(3), None, b"spec.inputs: no\n").unwrap(), Judged::Unfit("spec.inputs: no".into()));
        for (code, signal) in [(None, Some(SIGXCPU)), (None, Some(SIGSEGV)), (Some(101), None)] {
            let judged = verdict(code, signal, b"").unwrap();
            assert!(matches!(judged, Judged::Unfit(why) if why.starts_with("spec.inputsSchema can't be used: ")));
        }
        for (code, signal) in [(Some(1), None), (None, Some(SIGKILL)), (None, Some(SIGTERM))] {
            assert!(verdict(code, signal, b"").unwrap_err().retry_after(1).is_some());
        }
    }

    #[test]
    fn one_at_a_time_for_each_namespace() {
        let judging = Judging::default();
        let first = judging.begin("a");
        assert!(first.is_some() && judging.begin("a").is_none() && judging.begin("b").is_some());
        drop(first);
        assert!(judging.begin("a").is_some());
    }
}
