//! A reference to a job, for messages between processes.

use serde::{Deserialize, Serialize};

/// Names a job. The UID distinguishes it from an older one of the same name.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct JobRef {
    /// The namespace of the AgentJob.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}
