//! The watch of a kind of object: reports which exist and which are gone, also those that were deleted while the watch
//! was interrupted. Used by the controllers and the gateway for what they keep copies of.

use std::{collections::HashSet, fmt::Debug};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Client, Resource, ResourceExt,
    api::ObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;

use super::watch::{Item, config, items};

/// What happened to an object.
pub enum Change<K> {
    /// It exists or was changed.
    Applied(Box<K>),
    /// The one of this UID is gone.
    Gone(String),
    /// It exists, but can't be read.
    Unreadable(Box<ObjectMeta>, String),
}

impl<K: Resource> Change<K> {
    fn of(item: Item<K>) -> Self {
        let metadata = Box::new(item.meta().clone());
        match item.object {
            Ok(object) => Self::Applied(Box::new(object)),
            Err(error) => Self::Unreadable(metadata, error),
        }
    }
}

/// Watches all objects of a kind in a namespace, or in all, for ever. `labels` may narrow it. Calls `synced` after each
/// complete list.
pub async fn follow<K>(
    client: Client,
    namespace: Option<&str>,
    labels: Option<&str>,
    synced: impl Fn(),
    mut on: impl FnMut(Change<K>),
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + Send + 'static,
{
    let config = labels.iter().fold(config(), |config, labels| config.labels(labels));
    let mut events = watcher(items::<K>(client, namespace), config).default_backoff().boxed();
    let mut known = Known::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if known.take(event, &mut on) {
                    synced();
                }
            }
            Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "watching"),
        }
    }
}

/// The UIDs of the objects that exist, readable or not, by the events of one watch.
#[derive(Default)]
struct Known {
    now: HashSet<String>,
    /// Those of a list that is not complete yet.
    listed: HashSet<String>,
}

impl Known {
    /// Reports what an event means. Returns whether it completes a list.
    fn take<K: Resource>(&mut self, event: watcher::Event<Item<K>>, on: &mut impl FnMut(Change<K>)) -> bool {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(item) => {
                self.listed.insert(item.uid().unwrap_or_default());
                on(Change::of(item));
            }
            watcher::Event::InitDone => {
                let before = std::mem::replace(&mut self.now, std::mem::take(&mut self.listed));
                for uid in before.into_iter().filter(|uid| !self.now.contains(uid)) {
                    on(Change::Gone(uid));
                }
                return true;
            }
            watcher::Event::Apply(item) => {
                self.now.insert(item.uid().unwrap_or_default());
                on(Change::of(item));
            }
            watcher::Event::Delete(item) => {
                let uid = item.uid().unwrap_or_default();
                self.now.remove(&uid);
                on(Change::Gone(uid));
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn item(uid: &str, data: serde_json::Value) -> Item<ConfigMap> {
        serde_json::from_value(json!({ "metadata": { "name": uid, "uid": uid }, "data": data })).unwrap()
    }

    fn good(uid: &str) -> Item<ConfigMap> {
        item(uid, json!({}))
    }

    /// What the events mean, and whether the last completed a list.
    fn told(known: &mut Known, events: Vec<watcher::Event<Item<ConfigMap>>>) -> (Vec<String>, bool) {
        let (mut told, mut complete) = (Vec::new(), false);
        for event in events {
            complete = known.take(event, &mut |change| {
                told.push(match change {
                    Change::Applied(map) => format!("{} is there", map.uid().unwrap()),
                    Change::Gone(uid) => format!("{uid} is gone"),
                    Change::Unreadable(meta, _) => format!("{} is unreadable", meta.uid.unwrap()),
                });
            });
        }
        (told, complete)
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut known = Known::default();
        let first = told(&mut known, vec![Init, InitApply(good("a")), InitApply(good("b")), InitDone]);
        assert_eq!(first, (vec!["a is there".into(), "b is there".into()], true));
        let then = told(&mut known, vec![Apply(good("c")), Delete(good("b"))]);
        assert_eq!(then, (vec!["c is there".into(), "b is gone".into()], false));
        // A list that breaks off says nothing.
        let broken = told(&mut known, vec![Init, InitApply(good("d"))]);
        assert_eq!(broken, (vec!["d is there".into()], false));
        let again = told(&mut known, vec![Init, InitApply(good("c")), InitDone]);
        assert_eq!(again, (vec!["c is there".into(), "a is gone".into()], true));
    }

    #[test]
    fn one_that_cannot_be_read_is_not_gone() {
        use watcher::Event::{Apply, Init, InitApply, InitDone};
        let bad = || item("a", json!(7));
        let mut known = Known::default();
        told(&mut known, vec![Apply(good("a"))]);
        let listed = told(&mut known, vec![Init, InitApply(bad()), InitDone]);
        assert_eq!(listed, (vec!["a is unreadable".into()], true));
        assert_eq!(told(&mut known, vec![Init, InitDone]), (vec!["a is gone".into()], true));
    }
}
