//! Task tokens. They are plain, unsigned protobuf: anyone who could choose one could finish another's workflow. So one is
//! used only after it was looked into.

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;

/// The part of the server's `token.v1.Task` that we look at.
#[derive(Clone, PartialEq, Message)]
struct Task {
    #[prost(string, tag = "2")]
    workflow_id: String,
    #[prost(string, tag = "3")]
    run_id: String,
    #[prost(int64, tag = "4")]
    scheduled_event_id: i64,
    #[prost(int32, tag = "5")]
    attempt: i32,
}

/// A task token that speaks of a given workflow.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskToken(Vec<u8>);

/// Why a token is not used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenRefused {
    /// Not base64, or not the protobuf that it should be.
    #[error("the task token can't be read")]
    Unreadable,
    /// It belongs to another workflow.
    #[error("the task token is another workflow's")]
    Foreign,
    /// Its run, event or attempt is empty, so it would match any.
    #[error("the task token names no run, event or attempt")]
    Unbound,
}

impl TaskToken {
    /// Takes a token from the claim, if it is one of `workflow_id` and bound to a run, an event and an attempt.
    pub fn from_claim(encoded: &str, workflow_id: &str) -> Result<Self, TokenRefused> {
        let bytes = STANDARD.decode(encoded).map_err(|_| TokenRefused::Unreadable)?;
        let task = Task::decode(bytes.as_slice()).map_err(|_| TokenRefused::Unreadable)?;
        if task.workflow_id != workflow_id {
            return Err(TokenRefused::Foreign);
        }
        if task.run_id.is_empty() || task.scheduled_event_id <= 0 || task.attempt <= 0 {
            return Err(TokenRefused::Unbound);
        }
        Ok(Self(bytes))
    }

    /// Whether a token in a claim is of a later try of the same run than `other`, which is a task's own.
    pub fn is_later(encoded: &str, other: &[u8]) -> bool {
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        match (Task::decode(bytes.as_slice()), Task::decode(other)) {
            (Ok(a), Ok(b)) => {
                a.run_id == b.run_id && (a.scheduled_event_id, a.attempt) > (b.scheduled_event_id, b.attempt)
            }
            _ => false,
        }
    }

    /// As it is written into the claim.
    pub fn encode(token: &[u8]) -> String {
        STANDARD.encode(token)
    }

    pub(super) fn into_inner(self) -> Vec<u8> {
        self.0
    }
}

impl std::fmt::Debug for TaskToken {
    // A token is a right to finish a task: it does not belong into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TaskToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(workflow: &str, run: &str, event: i64, attempt: i32) -> String {
        let task = Task { workflow_id: workflow.into(), run_id: run.into(), scheduled_event_id: event, attempt };
        TaskToken::encode(&task.encode_to_vec())
    }

    #[test]
    fn takes_only_a_bound_token_of_the_workflow() {
        assert!(TaskToken::from_claim(&token("w", "r", 5, 1), "w").is_ok());
        assert_eq!(TaskToken::from_claim(&token("x", "r", 5, 1), "w"), Err(TokenRefused::Foreign));
        assert_eq!(TaskToken::from_claim(&token("w", "", 5, 1), "w"), Err(TokenRefused::Unbound));
        assert_eq!(TaskToken::from_claim(&token("w", "r", 0, 1), "w"), Err(TokenRefused::Unbound));
        assert_eq!(TaskToken::from_claim(&token("w", "r", 5, 0), "w"), Err(TokenRefused::Unbound));
        assert_eq!(TaskToken::from_claim("%%%", "w"), Err(TokenRefused::Unreadable));
    }

    #[test]
    fn later_tries_are_told_from_earlier_ones() {
        let mine = STANDARD.decode(token("w", "r", 5, 2)).unwrap();
        assert!(TaskToken::is_later(&token("w", "r", 5, 3), &mine));
        assert!(!TaskToken::is_later(&token("w", "r", 5, 2), &mine));
        assert!(!TaskToken::is_later(&token("w", "r", 5, 1), &mine));
        assert!(!TaskToken::is_later(&token("w", "other", 9, 9), &mine), "another run's is no measure");
        assert!(!TaskToken::is_later("%%%", &mine));
    }
}
