//! A job's events, newest last, from either API's fields. Read by [`super::status`].

use k8s_openapi::{api::core::v1::Event, jiff::Timestamp};
use kube::api::ListParams;

use super::connect::Session;

/// One event, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Happened {
    pub at: Timestamp,
    pub kind: String,
    pub reason: String,
    pub message: String,
    pub count: i32,
}

/// The selector of a job's events; the API server takes this selector for the core API only.
pub(super) fn selector(uid: &str) -> String {
    format!("involvedObject.uid={uid}")
}

/// The events of a job.
pub(super) async fn of(session: &Session, uid: &str) -> Result<Vec<Happened>, kube::Error> {
    let found = session.events().list(&ListParams::default().fields(&selector(uid))).await?;
    let mut events: Vec<_> = found.items.iter().filter_map(read).collect();
    events.sort_by_key(|e| e.at);
    Ok(events)
}

/// The shown part of an event; `None` without a time.
pub(super) fn read(event: &Event) -> Option<Happened> {
    let series = event.series.as_ref();
    let last = series.and_then(|s| s.last_observed_time.as_ref()).or(event.event_time.as_ref()).map(|t| t.0);
    let older = event.last_timestamp.as_ref().or(event.first_timestamp.as_ref()).map(|t| t.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|t| t.0);
    Some(Happened {
        at: last.or(older).or(created)?,
        kind: event.type_.clone().unwrap_or_default(),
        reason: event.reason.clone().unwrap_or_default(),
        message: event.message.clone().unwrap_or_default(),
        count: series.and_then(|s| s.count).or(event.count).unwrap_or(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_time_is_that_of_the_last_occurrence() {
        let event = |json| serde_json::from_value::<Event>(json).unwrap();
        let first = "2026-01-01T00:00:00.000000Z";
        let mut e =
            json!({ "metadata": {}, "involvedObject": {}, "eventTime": first, "reason": "R", "type": "Normal" });
        assert_eq!(read(&event(e.clone())).unwrap().at, first.parse().unwrap());
        e["series"] = json!({ "count": 3, "lastObservedTime": "2026-01-01T00:01:00.000000Z" });
        let read = read(&event(e)).unwrap();
        assert_eq!((read.at, read.count), ("2026-01-01T00:01:00Z".parse().unwrap(), 3));
    }
}
