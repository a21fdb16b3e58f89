//! The runner pods as the watch shows them, by job: so that a reconcile costs the pods of one job and not of all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::mpsc::UnboundedSender;

use super::Context;
use crate::{
    api::{JobRef, names},
    pods::PodView,
};

/// Pods by the UID of their job, then by their own.
#[derive(Default)]
pub(super) struct Index {
    jobs: Mutex<HashMap<String, HashMap<String, PodView>>>,
}

impl Index {
    /// The pods of a job, as far as the watch has come.
    pub(super) fn of(&self, job_uid: &str) -> Vec<PodView> {
        let jobs = self.jobs.lock().map(|j| j.get(job_uid).cloned()).ok().flatten();
        jobs.map(|pods| pods.into_values().collect()).unwrap_or_default()
    }

    /// Whether anything that decisions need has changed.
    fn put(&self, job_uid: &str, view: PodView) -> bool {
        let Ok(mut jobs) = self.jobs.lock() else { return true };
        let pods = jobs.entry(job_uid.into()).or_default();
        let changed = pods.get(&view.uid) != Some(&view);
        pods.insert(view.uid.clone(), view);
        changed
    }

    fn remove(&self, job_uid: &str, uid: &str) {
        let Ok(mut jobs) = self.jobs.lock() else { return };
        if let Some(pods) = jobs.get_mut(job_uid) {
            pods.remove(uid);
            if pods.is_empty() {
                jobs.remove(job_uid);
            }
        }
    }
}

/// Follows the pods of a namespace, or of all, for ever.
pub(super) async fn watch(context: Arc<Context>, namespace: Option<String>, trigger: UnboundedSender<JobRef>) {
    let api: Api<Pod> = match &namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let ours = format!("{}={}", names::LABEL_COMPONENT, names::RUNNER_COMPONENT);
    let mut events = watcher(api, watcher::Config::default().labels(&ours)).default_backoff().boxed();
    // The job of each pod that this watch has shown: after a new list, what it does not name is gone.
    let (mut known, mut listed) = (HashMap::new(), HashMap::new());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some(job) = owner(&pod) {
                    listed.insert(uid(&pod), job.clone());
                    tell(&context, &trigger, job, PodView::of(&pod));
                }
            }
            Ok(watcher::Event::InitDone) => {
                for (uid, job) in std::mem::replace(&mut known, std::mem::take(&mut listed)) {
                    if !known.contains_key(&uid) {
                        gone(&context, &trigger, job, &uid);
                    }
                }
            }
            Ok(watcher::Event::Apply(pod)) => {
                if let Some(job) = owner(&pod) {
                    known.insert(uid(&pod), job.clone());
                    tell(&context, &trigger, job, PodView::of(&pod));
                }
            }
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(job) = owner(&pod) {
                    known.remove(&uid(&pod));
                    gone(&context, &trigger, job, &uid(&pod));
                }
            }
            Err(error) => tracing::warn!(%error, "watching pods"),
        }
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn gone(context: &Context, trigger: &UnboundedSender<JobRef>, job: JobRef, uid: &str) {
    context.pods.remove(&job.uid, uid);
    let _ = trigger.send(job);
}

fn tell(context: &Context, trigger: &UnboundedSender<JobRef>, job: JobRef, view: PodView) {
    if context.pods.put(&job.uid, view) {
        let _ = trigger.send(job);
    }
}

fn owner(pod: &Pod) -> Option<JobRef> {
    let owner = pod.metadata.owner_references.as_ref()?.iter().find(|o| o.kind == "AgentJob")?;
    let namespace = pod.metadata.namespace.clone()?;
    Some(JobRef { namespace, name: owner.name.clone(), uid: owner.uid.clone() })
}
