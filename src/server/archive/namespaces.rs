//! The UIDs of the namespaces that jobs were created in. Used by [`super`].

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{Api, Client};

use crate::platform::clock;

/// How long to wait before the API server is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// A namespace as it was read.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    uid: String,
    created: Timestamp,
    /// When it was asked for.
    read: Timestamp,
}

impl Known {
    /// Whether a job of that name's namespace that was created then must have been created in this one, rather than in one
    /// before or after it. Times have whole seconds.
    fn had(&self, created: Timestamp) -> bool {
        self.created <= created && created.as_second() < self.read.as_second()
    }
}

/// Reads namespaces as they are needed.
pub(super) struct Namespaces {
    api: Api<Namespace>,
    known: HashMap<String, Known>,
}

impl Namespaces {
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), known: HashMap::new() }
    }

    /// The UID of the namespace that a job was created in at a time, empty if that namespace is gone. Waits for the API
    /// server.
    pub async fn uid(&mut self, name: &str, created: Timestamp) -> String {
        if let Some(known) = self.known.get(name).filter(|known| known.had(created)) {
            return known.uid.clone();
        }
        loop {
            let read = clock::now();
            match self.api.get_metadata_opt(name).await {
                Ok(Some(found)) => {
                    let uid = found.metadata.uid.unwrap_or_default();
                    let Some(begun) = found.metadata.creation_timestamp else { return String::new() };
                    self.known.insert(name.into(), Known { uid: uid.clone(), created: begun.0, read });
                    return if begun.0 <= created { uid } else { String::new() };
                }
                Ok(None) => return String::new(),
                Err(error) => tracing::warn!(%error, namespace = name, "reading a namespace"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_had_the_jobs_that_were_created_after_it_and_before_it_was_read() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let known = Known { uid: "u".into(), created: at(10), read: at(20) };
        let had: Vec<_> = [9, 10, 19, 20, 21].map(|second| known.had(at(second))).into();
        assert_eq!(had, [false, true, true, false, false]);
    }
}
