//! What the tests of this folder share.

use std::path::PathBuf;

use serde_json::json;

use super::super::connect::{Session, Target};

/// A folder with files, which goes with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("koco-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Writes a file, and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let file = self.0.join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    /// The namespace `n` of an API server.
    pub async fn session(&self, url: &str) -> Session {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let context = json!({ "cluster": "c", "user": "u", "namespace": "n" });
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": url } }],
            "contexts": [{ "name": "c", "context": context }], "users": [{ "name": "u", "user": {} }],
        });
        let kubeconfig = Some(self.file("kubeconfig", &config.to_string()).into());
        Target { kubeconfig, ..Target::default() }.connect().await.unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
