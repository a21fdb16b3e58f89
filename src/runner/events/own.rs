//! What the runner itself has to say about its run, as events. Pure. Used by the supervisor by way of [`super`].

use serde_json::{Value, json};

use crate::{
    api::RawJson,
    protocol::{events::Kind, runner::AgentEnd},
};

/// The status of an agent that is about to be started.
pub const STARTING: &str = "starting";
/// The status of one that was started.
pub const RUNNING: &str = "running";

/// The job's inputs, which are an object.
pub fn inputs(inputs: &RawJson) -> String {
    format!(r#"{{"dict":{}}}"#, inputs.get())
}

/// The last events of a run: its error, if it failed, and how it ended, without the result.
pub fn last(ending: &AgentEnd) -> Vec<(Kind, String)> {
    let error = ending.error.as_ref().map(|error| (Kind::Error, format!("{}: {}", error.kind, error.message)));
    let end = AgentEnd { result: None, ..ending.clone() };
    // It always serializes.
    let end = serde_json::to_value(end).unwrap_or(Value::Null);
    let end = json!({ "koco": { "end": end } }).to_string();
    error.into_iter().chain([(Kind::Debug, end)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::ending::{cancelled_before_start, not_started};

    #[test]
    fn inputs_are_passed_on_as_they_are() {
        assert_eq!(inputs(&json!({"b": 1.5, "a": [null]}).into()), r#"{"dict":{"a":[null],"b":1.5}}"#);
        assert_eq!(inputs(&RawJson::default()), r#"{"dict":{}}"#);
    }

    #[test]
    fn the_end_is_the_last_event() {
        let mut failed = not_started("no node");
        failed.result = Some(json!("never"));
        let [(Kind::Error, error), (Kind::Debug, end)] = &last(&failed)[..] else { panic!("{:?}", last(&failed)) };
        assert_eq!(error, "NotStarted: no node");
        let end: Value = serde_json::from_str(end).unwrap();
        assert_eq!(end["koco"]["end"]["kind"], "Failed");
        assert_eq!(end["koco"]["end"]["error"]["message"], "no node");
        assert_eq!(end["koco"]["end"]["result"], Value::Null);
        assert_eq!(last(&cancelled_before_start()).len(), 1, "a cancel is no error");
    }
}
