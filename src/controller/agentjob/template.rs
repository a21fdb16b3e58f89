//! Fills a job from its AgentTemplate, once, before anything else is decided about it; and wakes the jobs that wait for a
//! template that comes or changes. The job has all that it runs then, so nothing of a template is read later.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, PostParams},
    core::{NotUsed, Object, PartialObjectMeta, Request},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use serde_json::json;

use super::Context;
use crate::{
    api::{AgentJob, AgentTemplate, JobRef, RawJson, Reason, TemplateRef},
    controller::ControllerError,
    platform::{
        store::{self, StoreError},
        watch::{config, scoped},
    },
};

/// A job whose spec is read field by field: what is left out is not what is empty, and all of it is written as it was read.
type Fields = Object<BTreeMap<String, RawJson>, NotUsed>;

/// What became of a job that was to be filled.
pub(super) enum Filled {
    /// It is as it is stored now, whole.
    Job(Box<AgentJob>),
    /// It can't be filled yet: why.
    Waits(Reason, String),
}

/// The names of the jobs that wait for a template, by its namespace and name.
#[derive(Default)]
pub(super) struct Waiting(Mutex<HashMap<(String, String), HashSet<String>>>);

impl Waiting {
    fn add(&self, job: &JobRef, of: &TemplateRef) {
        let key = (job.namespace.clone(), of.name.clone());
        self.0.lock().entry(key).or_default().insert(job.name.clone());
    }

    fn remove(&self, job: &JobRef, of: &TemplateRef) {
        let (mut all, key) = (self.0.lock(), (job.namespace.clone(), of.name.clone()));
        if let Some(jobs) = all.get_mut(&key) {
            jobs.remove(&job.name);
            if jobs.is_empty() {
                all.remove(&key);
            }
        }
    }

    /// Those of a template that has come or changed. They are added again if they still wait.
    fn take(&self, namespace: &str, template: &str) -> HashSet<String> {
        self.0.lock().remove(&(namespace.into(), template.into())).unwrap_or_default()
    }
}

/// Fills a job that needs it.
pub(super) async fn fill(job: &AgentJob, context: &Context) -> Result<Option<Filled>, ControllerError> {
    let Some(of) = job.spec.unfilled() else { return Ok(None) };
    let reference = job.reference();
    if !job.may_start() {
        context.waiting.remove(&reference, of);
        return Ok(None);
    }
    // Before it is read: one that comes in between is seen.
    context.waiting.add(&reference, of);
    let templates: Api<AgentTemplate> = Api::namespaced(context.client.clone(), &reference.namespace);
    let what = || format!("get AgentTemplate {}/{}", reference.namespace, of.name);
    let read = templates.get_opt(&of.name).await.map_err(|e| StoreError::of(what(), e))?;
    let Some(template) = read else {
        let message =
            format!("there is no AgentTemplate {} in the namespace {}: create it", of.name, reference.namespace);
        return Ok(Some(Filled::Waits(Reason::TemplateNotFound, message)));
    };
    match write(job, of, &template, context).await {
        Ok(written) => {
            context.waiting.remove(&reference, of);
            context.has_version(&reference, store::version(&written));
            Ok(Some(Filled::Job(Box::new(written))))
        }
        Err(error) if error.is_refused() => {
            let message = format!("with what AgentTemplate {} gives, the job is refused: {error}", of.name);
            Ok(Some(Filled::Waits(Reason::TemplateInvalid, message)))
        }
        Err(error) => Err(error),
    }
}

/// Writes what the template adds to the newest version of the job.
async fn write(
    job: &AgentJob,
    of: &TemplateRef,
    template: &AgentTemplate,
    context: &Context,
) -> Result<AgentJob, ControllerError> {
    let reference = job.reference();
    let failed = |verb: &str, error: kube::Error| StoreError::of(store::what(verb, job), error);
    let resource = ApiResource::erase::<AgentJob>(&());
    let jobs: Api<Fields> = Api::namespaced_with(context.client.clone(), &reference.namespace, &resource);
    let mut whole = jobs.get(&reference.name).await.map_err(|e| failed("get", e))?;
    let known: Option<TemplateRef> = whole.spec.get("templateRef").and_then(|json| json.read().ok());
    if whole.metadata.uid.as_deref() != Some(job.uid()) || known.is_none_or(|known| known.revision.is_some()) {
        return Err(ControllerError::Behind);
    }
    let added = template.adds_to(&whole.spec);
    whole.spec.extend(added);
    let filled = json!({ "name": of.name, "revision": template.revision() });
    whole.spec.insert("templateRef".into(), filled.into());
    let body = serde_json::to_vec(&whole).map_err(|e| failed("fill", kube::Error::SerdeError(e)))?;
    let request = Request::new(AgentJob::url_path(&(), Some(&reference.namespace)));
    let request = request.replace(&reference.name, &PostParams::default(), body);
    let request = request.map_err(|e| failed("fill", kube::Error::BuildRequest(e)))?;
    Ok(context.client.request(request).await.map_err(|e| failed("fill", e))?)
}

/// Asks for the jobs that wait for each template that is there or changes.
pub(super) async fn watch(context: &Context, namespace: Option<&str>) {
    let api: Api<PartialObjectMeta<AgentTemplate>> = scoped(context.client.clone(), namespace);
    let mut changed = watcher(api, config()).default_backoff().touched_objects().boxed();
    while let Some(change) = changed.next().await {
        match change {
            Ok(template) => {
                let namespace = template.meta().namespace.clone().unwrap_or_default();
                for job in context.waiting.take(&namespace, &template.name_any()) {
                    context.requeue.ask(&namespace, &job);
                }
            }
            Err(error) => tracing::warn!(%error, kind = "AgentTemplate", "watching"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_are_told_once_for_each_change() {
        let waiting = Waiting::default();
        let job = |name: &str| JobRef { namespace: "n".into(), name: name.into(), uid: String::new() };
        let of = |name: &str| TemplateRef { name: name.into(), revision: None };
        waiting.add(&job("a"), &of("t"));
        waiting.add(&job("b"), &of("t"));
        waiting.add(&job("c"), &of("other"));
        waiting.remove(&job("b"), &of("t"));
        assert_eq!(waiting.take("n", "t"), HashSet::from(["a".to_string()]));
        assert!(waiting.take("n", "t").is_empty() && waiting.take("m", "other").is_empty());
        waiting.remove(&job("c"), &of("other"));
        assert!(waiting.0.lock().is_empty());
    }
}
