//! Lists and watches that survive an object that can't be read: an item that doesn't match the Rust type becomes an
//! [`Item`] with its metadata and the error. Lists come in small pages: a page is held in memory as a whole.

use kube::{Api, Resource, api::ObjectMeta, runtime::watcher};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::value::RawValue;

/// How many objects a page of a list has.
const PAGE: u32 = 50;

/// An object from the API server, read or not.
#[derive(Clone, Debug)]
pub struct Item<K> {
    metadata: ObjectMeta,
    /// The object, or why it can't be read.
    pub object: Result<K, String>,
}

impl<K: Resource> Item<K> {
    /// One that can be read.
    pub fn of(object: K) -> Self {
        Self { metadata: object.meta().clone(), object: Ok(object) }
    }
}

/// The part that is still read of such an object.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Head {
    metadata: ObjectMeta,
}

impl<'de, K: Resource + DeserializeOwned> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As text first: finds the end of the object at any depth and for any contents.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str::<K>(text.get()) {
            Ok(object) => Ok(Self::of(object)),
            Err(error) => {
                let head: Head = serde_json::from_str(text.get()).unwrap_or_default();
                Ok(Self { metadata: head.metadata, object: Err(error.to_string()) })
            }
        }
    }
}

impl<K: Serialize> Serialize for Item<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.object {
            Ok(object) => object.serialize(serializer),
            Err(error) => Err(serde::ser::Error::custom(error)),
        }
    }
}

impl<K: Resource> Resource for Item<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The objects of a namespace, or of all.
pub fn items<K>(client: kube::Client, namespace: Option<&str>) -> Api<Item<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    scoped(client, namespace)
}

/// The same, as they are.
pub fn scoped<K>(client: kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

/// How to list and watch.
pub fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;
    use crate::api::{AgentJob, AgentRun};

    fn deep(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    fn job(name: &str, inputs: &str) -> String {
        format!(
            r#"{{"apiVersion":"kodosumi.io/v1alpha1","kind":"AgentJob","metadata":{{"name":"{name}","uid":"u"}},
            "spec":{{"entryPoint":"e","inputs":{{"a":{inputs}}},"template":{{"spec":{{"containers":[],"x":{inputs}}}}}}},
            "status":{{"result":{inputs}}}}}"#
        )
    }

    #[test]
    fn deep_json_of_users_is_read() {
        let list = format!(
            r#"{{"apiVersion":"v1","kind":"List","metadata":{{}},"items":[{},{}]}}"#,
            job("deep", &deep(5000)),
            job("flat", "1")
        );
        let list: ObjectList<Item<AgentJob>> = serde_json::from_str(&list).unwrap();
        assert!(list.items.iter().all(|item| item.object.is_ok()));
        let event = format!(r#"{{"type":"MODIFIED","object":{}}}"#, job("deep", &deep(200)));
        let event: WatchEvent<Item<AgentJob>> = serde_json::from_str(&event).unwrap();
        assert!(matches!(event, WatchEvent::Modified(item) if item.object.is_ok()));
    }

    #[test]
    fn an_unreadable_object_keeps_its_name_and_hides_no_other() {
        let bad = json!({ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
            "metadata": { "name": "bad", "namespace": "n", "uid": "u" }, "spec": { "identity": 7 } });
        let good = json!({ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "good" },
            "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": 1, "attempt": 1, "podName": "p",
                "executionMode": "Direct", "heartbeat": "1s" } } });
        let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": [bad, good] });
        let list: ObjectList<Item<AgentRun>> = serde_json::from_str(&list.to_string()).unwrap();
        assert_eq!(list.items[0].meta().name.as_deref(), Some("bad"));
        assert!(list.items[0].object.is_err() && list.items[1].object.is_ok());
    }
}
