//! What doesn't fit among jobs, runs, pods and workflows. Pure: [`Sweep`] takes the little that lists show of each
//! object, page by page, and names suspects; [`judge`] decides on a suspect by whole objects that were read anew;
//! [`Suspicion`] tells what lasts from what passes. Used by the kubectl plugin's `audit`.
//!
//! No list is a snapshot, and several lists even less. So what a sweep finds is never reported: it only says where to
//! look. What is reported has been read live at least twice, the same both times and a grace period apart, and every
//! state that koco or Kubernetes may take time to leave fits for as long as that may take.

pub mod judge;
mod lasting;
mod sweep;

use std::fmt;

pub use lasting::{Look, Suspicion};
pub use sweep::{Counts, PodRow, RunRow, Suspect, Sweep};

/// What may not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A pod of an agent, and no AgentRun that it is the pod of.
    PodWithoutRun,
    /// An AgentRun, and no AgentJob that it is a run of.
    RunWithoutJob,
    /// Two runs of a job are open, or two of its pods are live.
    TwoLiveRuns,
    /// The job has ended, and a run of it is open.
    OpenRunOfEndedJob,
    /// The job has ended, and a pod of it lives on.
    LivePodOfEndedJob,
    /// The run is closed, and its pod lives on.
    LivePodOfClosedRun,
    /// A workflow is open, and its job is gone.
    WorkflowWithoutJob,
    /// The job has ended, and its workflow is open.
    OpenWorkflowOfEndedJob,
    /// An activity waits for the end of a run that has no live pod.
    ActivityWithoutRunner,
}

impl Kind {
    /// Its name, which is stable.
    pub fn name(self) -> &'static str {
        match self {
            Self::PodWithoutRun => "PodWithoutRun",
            Self::RunWithoutJob => "RunWithoutJob",
            Self::TwoLiveRuns => "TwoLiveRuns",
            Self::OpenRunOfEndedJob => "OpenRunOfEndedJob",
            Self::LivePodOfEndedJob => "LivePodOfEndedJob",
            Self::LivePodOfClosedRun => "LivePodOfClosedRun",
            Self::WorkflowWithoutJob => "WorkflowWithoutJob",
            Self::OpenWorkflowOfEndedJob => "OpenWorkflowOfEndedJob",
            Self::ActivityWithoutRunner => "ActivityWithoutRunner",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that doesn't fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// The same in words. It names the objects by UID where another of the name would be another finding, and no time
    /// that passes: two looks at the same state have the same message.
    pub message: String,
    /// Whether Kubernetes' garbage collection is to remove the object, which takes its time after many deletions.
    pub is_garbage: bool,
}

impl Finding {
    fn new(kind: Kind, message: String) -> Self {
        Self { kind, message, is_garbage: false }
    }
}
