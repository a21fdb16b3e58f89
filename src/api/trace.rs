//! The trace of a job, as W3C Trace Context has it: all that happens for a job is one trace, from what applied it to its
//! agents. It is named by an annotation of the job, or follows from the job's UID, so that each role computes the same
//! one and nothing has to be stored. Spans that others name as their parent have ids that follow from a UID, too.

use sha2::{Digest, Sha256};

use super::{AgentJob, AgentRun, names};

/// The id of a span.
pub type SpanId = [u8; 8];

/// The trace of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace's id.
    pub trace_id: [u8; 16],
    /// The span that the job is a part of, if the annotation names one.
    pub parent: Option<SpanId>,
    /// Whether spans are to be recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// By the annotation's value, where it is valid; else by the job's UID.
    fn of(annotation: Option<&String>, job_uid: &str) -> Self {
        let derived = || {
            let mut trace_id = [0; 16];
            trace_id.copy_from_slice(&Sha256::digest(format!("trace {job_uid}"))[..16]);
            Self { trace_id, parent: None, sampled: true }
        };
        annotation.and_then(|text| Self::parse(text)).unwrap_or_else(derived)
    }

    /// That of a job.
    pub fn of_job(job: &AgentJob) -> Self {
        Self::of(job.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_TRACEPARENT)), job.uid())
    }

    /// That of a run's job, by the copy of the job's annotation in the run.
    pub fn of_run(run: &AgentRun) -> Self {
        let annotation = run.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_TRACEPARENT));
        Self::of(annotation, &run.spec.identity.job_uid)
    }

    /// Reads `VERSION-TRACE-SPAN-FLAGS`, of any version.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let mut part = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length && !part.contains(|c: char| c.is_uppercase()));
            hex::decode(part?).ok()
        };
        let (version, trace_id, parent, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let named = version != [0xff] && (version != [0] || parts.next().is_none());
        let (trace_id, parent) = (trace_id.try_into().ok()?, parent.try_into().ok()?);
        (named && trace_id != [0; 16] && parent != [0; 8]).then_some(Self {
            trace_id,
            parent: Some(parent),
            sampled: flags[0] & 1 == 1,
        })
    }

    /// The annotation of the job's runs: what doesn't follow from its UID.
    pub fn annotation(&self) -> Option<String> {
        self.parent.map(|parent| self.traceparent(parent))
    }

    /// The id of the trace, in hex digits.
    pub fn id(&self) -> String {
        hex::encode(self.trace_id)
    }

    /// For a child of a span: `TRACEPARENT`.
    pub fn traceparent(&self, span: SpanId) -> String {
        format!("00-{}-{}-{:02x}", self.id(), hex::encode(span), u8::from(self.sampled))
    }
}

fn span(what: &str, uid: &str) -> SpanId {
    let mut id = [0; 8];
    id.copy_from_slice(&Sha256::digest(format!("{what} {uid}"))[..8]);
    id
}

/// The span of a job, from its creation to its end.
pub fn job_span(job_uid: &str) -> SpanId {
    span("job", job_uid)
}

/// The span of a job's workflow.
pub fn workflow_span(job_uid: &str) -> SpanId {
    span("workflow", job_uid)
}

/// The span of a run, which is its agent's parent.
pub fn run_span(run_uid: &str) -> SpanId {
    span("run", run_uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_job_has_the_trace_that_it_names() {
        let context = TraceContext::of(Some(&GIVEN.into()), "u");
        assert_eq!((context.id().as_str(), context.sampled), ("0af7651916cd43dd8448eb211c80319c", true));
        assert_eq!(context.annotation().as_deref(), Some(GIVEN));
        assert!(!TraceContext::of(Some(&GIVEN.replace("-01", "-00")), "u").sampled);
        let newer = format!("{}-more", GIVEN.replacen("00", "01", 1));
        assert_eq!(TraceContext::of(Some(&newer), "u"), context, "of a later version");
    }

    #[test]
    fn without_a_valid_name_it_follows_from_the_uid() {
        let derived = TraceContext::of(None, "u");
        assert_eq!(derived, TraceContext::of(None, "u"));
        assert_ne!(derived.trace_id, TraceContext::of(None, "v").trace_id);
        assert_eq!((derived.parent, derived.sampled), (None, true));
        let zero = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        for bad in ["", "00", "ff-x", &zero, &format!("{GIVEN}-more"), &GIVEN.to_uppercase(), &GIVEN[1..]] {
            let context = TraceContext::of(Some(&bad.to_string()), "u");
            assert_eq!((context, context.annotation()), (derived, None), "{bad}: no run takes it over");
        }
    }
}
