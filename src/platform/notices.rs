//! Warnings about single objects, each at most once an interval, because objects change as often as users like. Used by
//! the roles for objects that they ignore.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kube::api::ObjectMeta;
use parking_lot::Mutex;

/// How long nothing more is said about an object.
const INTERVAL: Duration = Duration::from_secs(600);
/// How many objects are remembered.
const MOST: usize = 10_000;

/// Which objects were warned about, and when.
#[derive(Default)]
pub struct Notices {
    said: Mutex<HashMap<String, Instant>>,
}

impl Notices {
    /// Warns that an object can't be read and is skipped. Returns whether that was due.
    pub fn unreadable(&self, kind: &str, meta: &ObjectMeta, error: &str) -> bool {
        let due = self.is_due(meta);
        if due {
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
            tracing::warn!(kind, namespace, name, error, "an object that can't be read is skipped");
        }
        due
    }

    /// Warns that an object is not koco's although it looks like it.
    pub fn foreign(&self, kind: &str, meta: &ObjectMeta, what: &str) {
        if self.is_due(meta) {
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
            tracing::warn!(kind, namespace, name, "{what}");
        }
    }

    fn is_due(&self, meta: &ObjectMeta) -> bool {
        let (mut said, uid) = (self.said.lock(), meta.uid.clone().unwrap_or_default());
        if said.get(&uid).is_some_and(|at| at.elapsed() < INTERVAL) {
            return false;
        }
        if said.len() >= MOST {
            said.clear();
        }
        said.insert(uid, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_is_warned_about_once() {
        let notices = Notices::default();
        let meta = |uid: &str| ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() };
        let said = ["a", "a", "b", "a"].map(|uid| notices.unreadable("Pod", &meta(uid), "why"));
        assert_eq!(said, [true, false, true, false]);
    }
}
