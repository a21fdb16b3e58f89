//! Requeues objects because of changes to other objects, routed to the loop of their namespace.

use std::sync::Arc;

use futures::{StreamExt, channel::mpsc::UnboundedSender, stream::BoxStream};
use kube::{Resource, runtime::reflector::ObjectRef};

/// The queue of each namespace's loop (`None`: of all).
type Routes<K> = Vec<(Option<String>, UnboundedSender<ObjectRef<K>>)>;

/// Requeues objects. Cheap to clone.
pub struct Requeue<K: Resource<DynamicType = ()>> {
    routes: Arc<Routes<K>>,
}

impl<K: Resource<DynamicType = ()>> Clone for Requeue<K> {
    fn clone(&self) -> Self {
        Self { routes: self.routes.clone() }
    }
}

impl<K: Resource<DynamicType = ()>> Requeue<K> {
    /// Requeues an object.
    pub fn ask(&self, namespace: &str, name: &str) {
        let theirs = self.routes.iter().find(|(n, _)| n.as_ref().is_none_or(|n| n == namespace));
        if let Some((_, route)) = theirs {
            // A closed stream means that the loop has ended.
            let _ = route.unbounded_send(ObjectRef::new(name).within(namespace));
        }
    }
}

/// A router, and a stream for each namespace (`None`: for all), in the same order.
pub fn requeue_router<K>(namespaces: &[Option<String>]) -> (Requeue<K>, Vec<BoxStream<'static, ObjectRef<K>>>)
where
    K: Resource<DynamicType = ()> + 'static,
{
    let mut streams = Vec::new();
    let routes = namespaces.iter().map(|namespace| {
        let (tx, rx) = futures::channel::mpsc::unbounded();
        streams.push(rx.boxed());
        (namespace.clone(), tx)
    });
    let routes = Arc::new(routes.collect());
    (Requeue { routes }, streams)
}
