//! Watches the objects of a kind and reports which exist and which are gone, also those deleted while the watch was
//! interrupted.

use std::collections::HashMap;

use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::platform::watch::{Item, config, items};

/// What happened to an object.
pub enum Change<K> {
    /// It exists or was changed.
    Applied(Box<K>),
    /// It is gone; with at least namespace, name and UID.
    Gone(Box<ObjectMeta>),
    /// It exists, but can't be read.
    Unreadable(Box<ObjectMeta>, String),
}

/// Watches all objects of a kind in a namespace, or in all, for ever. `labels` may narrow it. Sets `synced` after the
/// first list.
pub async fn follow<K>(
    client: Client,
    namespace: Option<String>,
    labels: Option<String>,
    synced: watch::Sender<bool>,
    mut on: impl FnMut(Change<K>),
) where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + 'static,
{
    let api: Api<Item<K>> = items(client, namespace.as_deref());
    let config = labels.iter().fold(config(), |config, labels| config.labels(labels));
    let mut events = watcher(api, config).default_backoff().boxed();
    // After a relist, objects that are not in it are gone.
    let (mut known, mut listed) = (HashMap::<String, ObjectMeta>::new(), HashMap::new());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(item)) => {
                listed.insert(item.uid().unwrap_or_default(), head(&item));
                tell(item, &mut on);
            }
            Ok(watcher::Event::InitDone) => {
                for (uid, meta) in std::mem::replace(&mut known, std::mem::take(&mut listed)) {
                    if !known.contains_key(&uid) {
                        on(Change::Gone(Box::new(meta)));
                    }
                }
                synced.send_replace(true);
            }
            Ok(watcher::Event::Apply(item)) => {
                known.insert(item.uid().unwrap_or_default(), head(&item));
                tell(item, &mut on);
            }
            Ok(watcher::Event::Delete(item)) => {
                known.remove(&item.uid().unwrap_or_default());
                on(Change::Gone(Box::new(item.meta().clone())));
            }
            Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "watching"),
        }
    }
}

fn tell<K: Resource>(item: Item<K>, on: &mut impl FnMut(Change<K>)) {
    let meta = item.meta().clone();
    match item.object {
        Ok(object) => on(Change::Applied(Box::new(object))),
        Err(error) => on(Change::Unreadable(Box::new(meta), error)),
    }
}

/// What is kept of an object to report its deletion later.
fn head<K: Resource>(item: &Item<K>) -> ObjectMeta {
    let meta = item.meta();
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        owner_references: meta.owner_references.clone(),
        ..ObjectMeta::default()
    }
}
