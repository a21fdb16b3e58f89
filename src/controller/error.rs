//! Why a reconcile failed.

use std::time::Duration;

use crate::{
    api::names,
    platform::store::StoreError,
    pods::{NoGateway, PodError},
    runs::RunError,
};

/// Why a reconcile failed, or the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A resource of koco's could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run could not be read or written.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A pod could not be read, created or deleted.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The cluster's id could not be read.
    #[error("get Namespace kube-system: {0}")]
    Cluster(#[from] kube::Error),
    /// The NetworkPolicy of agents' pods could not be applied: no pod is created without it.
    #[error("apply NetworkPolicy {name}: {0}", name = names::AGENT_NETWORK_POLICY)]
    NetworkPolicy(kube::Error),
    /// The gateway's certificate authority is not known yet.
    #[error(transparent)]
    NoGateway(#[from] NoGateway),
    /// Other jobs' starts take longer than usual.
    #[error("other jobs' pods take long to be created")]
    NoStartSlot,
    /// The process that judges inputs could not be started, or did not end by itself.
    #[error("koco check-inputs: {0}")]
    InputsCheck(String),
    /// The cached job is stale.
    #[error("the cached AgentJob is stale")]
    Behind,
    /// Another process leads now: this one exits, and restarts as a standby.
    #[error("another controller leads now")]
    LostLead,
    /// A reconcile took too long.
    #[error("the reconcile took too long")]
    TimedOut,
}

impl ControllerError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(e) | Self::Run(RunError::Store(e)) => e.reason(),
            Self::Run(e) => e.reason(),
            Self::Pod(e) => e.reason(),
            Self::Cluster(_) => "ApiServer",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::NoGateway(_) => "NoGateway",
            Self::NoStartSlot => "NoStartSlot",
            Self::InputsCheck(_) => "InputsCheck",
            Self::Behind => "Conflict",
            Self::LostLead => "LostLead",
            Self::TimedOut => "TimedOut",
        }
    }

    /// Whether it is a conflict, which is expected in normal operation.
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    /// Whether the API server refuses the request, as for want of rights or because its store takes no object of that
    /// size: it helps only that somebody changes that.
    pub fn is_refused(&self) -> bool {
        let forbidden = |e: &kube::Error| match e {
            kube::Error::Api(status) => {
                matches!(status.code, 400 | 403) || status.message.contains("request is too large")
            }
            _ => false,
        };
        match self {
            Self::Store(StoreError::Invalid { .. }) | Self::Run(RunError::Store(StoreError::Invalid { .. })) => true,
            Self::Store(StoreError::Api { source, .. })
            | Self::Run(RunError::Store(StoreError::Api { source, .. }))
            | Self::Pod(PodError::Api(_, source))
            | Self::Cluster(source)
            | Self::NetworkPolicy(source) => forbidden(source),
            _ => false,
        }
    }

    /// The wait before a retry after `failures` failures in a row of the same object; `None` if a retry is pointless.
    pub fn retry_after(&self, failures: u32) -> Option<Duration> {
        let first = match self {
            Self::Store(StoreError::Gone { .. }) | Self::LostLead => return None,
            // The newer version is on its way through the watch.
            e if e.is_conflict() => Duration::from_millis(20),
            Self::NoGateway(_) | Self::NoStartSlot => Duration::from_secs(1),
            _ => Duration::from_secs(5),
        };
        let soon = self.is_conflict() || matches!(self, Self::NoStartSlot);
        let longest = Duration::from_secs(if soon { 5 } else { 60 });
        Some(first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_too_large_is_refused() {
        let said = |code: u16, message: &str| {
            let status = serde_json::from_value(serde_json::json!({ "code": code, "message": message })).unwrap();
            ControllerError::NetworkPolicy(kube::Error::Api(status)).is_refused()
        };
        assert!(said(500, "etcdserver: request is too large") && said(403, "no"));
        assert!(!said(500, "etcdserver: leader changed"));
    }

    #[test]
    fn the_same_failure_is_tried_ever_less_often() {
        let conflict = ControllerError::Store(StoreError::Conflict { what: "w".into() });
        let waits: Vec<_> = [1, 2, 3, 9, 99].map(|n| conflict.retry_after(n).unwrap().as_millis()).into();
        assert_eq!(waits, [20, 40, 80, 5000, 5000]);
        let invalid = ControllerError::Store(StoreError::Invalid { what: "w".into(), words: "x".into() });
        assert_eq!(invalid.retry_after(1), Some(Duration::from_secs(5)));
        assert_eq!(invalid.retry_after(50), Some(Duration::from_secs(60)));
        assert_eq!(ControllerError::Store(StoreError::Gone { what: "w".into() }).retry_after(1), None);
    }
}
