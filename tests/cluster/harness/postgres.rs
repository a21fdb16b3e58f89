//! Databases of a test's own on the PostgreSQL that `deploy/dev/with-postgres` has started.

use std::process::Command;

/// The URL of the database of this name, which the first to ask creates.
pub fn database(name: &str) -> String {
    let server = std::env::var("KOCO_TEST_POSTGRES").expect("run it by `make`, which starts PostgreSQL");
    let create = format!("CREATE DATABASE \"{name}\"");
    let created = Command::new("psql").args(["-qXd", &server, "-c", &create]).output().expect("psql");
    let said = String::from_utf8_lossy(&created.stderr);
    assert!(created.status.success() || said.contains("already exists"), "{said}");
    server.replace("/postgres?", &format!("/{name}?"))
}
