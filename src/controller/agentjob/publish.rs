//! Events, told in the background: nothing rests on them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, api::ObjectMeta, runtime::events};

use super::{
    Context,
    plan::{Event, Level},
};
use crate::api::{AgentJob, AgentJobStatus, names};

/// Tells of a job's transitions.
pub(super) fn transitions(context: &Context, job: &AgentJob, status: &AgentJobStatus, list: Vec<Event>) {
    if list.is_empty() {
        return;
    }
    // Events of one kind are counted together unless they relate to different objects.
    let pod = status.runner_pod.clone().map(|name| ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: job.metadata.namespace.clone(),
        uid: status.runner_pod_uid.clone(),
        name: Some(name),
        ..Default::default()
    });
    let list = list.into_iter().map(|event| events::Event {
        type_: match event.level {
            Level::Normal => events::EventType::Normal,
            Level::Warning => events::EventType::Warning,
        },
        action: event.reason.clone(),
        reason: event.reason,
        note: Some(event.message),
        secondary: pod.clone(),
    });
    publish(context.recorder.clone(), job.object_ref(&()), list.collect());
}

/// Tells of an object that can't be read.
pub(super) fn unreadable(context: &Context, kind: &str, meta: &ObjectMeta, error: &str) {
    let note = format!("koco can't read this {kind} and skips it: {error}");
    let uid = meta.uid.clone().unwrap_or_default();
    let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default());
    let about = about(kind, namespace.unwrap_or_default(), name, &uid);
    warning(context, about, "Unreadable", &note);
}

/// Names an object that events are about.
pub(super) fn about(kind: &str, namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(if kind == "Pod" { "v1".into() } else { names::API_VERSION.into() }),
        kind: Some(kind.into()),
        namespace: Some(namespace.into()),
        name: Some(name.into()),
        uid: Some(uid.into()),
        ..Default::default()
    }
}

/// Warns about an object.
pub(super) fn warning(context: &Context, about: ObjectReference, reason: &str, note: &str) {
    told(context, about, events::EventType::Warning, reason, note);
}

/// Tells something about an object.
pub(super) fn told(context: &Context, about: ObjectReference, type_: events::EventType, reason: &str, note: &str) {
    let note: String = note.chars().take(1000).collect();
    let event =
        events::Event { type_, reason: reason.into(), note: Some(note), action: reason.into(), secondary: None };
    publish(context.recorder.clone(), about, vec![event]);
}

fn publish(recorder: events::Recorder, about: ObjectReference, list: Vec<events::Event>) {
    tokio::spawn(async move {
        for event in list {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::debug!(%error, "an event could not be published");
            }
        }
    });
}
