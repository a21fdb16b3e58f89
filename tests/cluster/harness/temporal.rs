//! Temporal servers that tests may disturb, and workflows as Temporal's own CLI shows them.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use tokio::net::TcpStream;

use super::{
    cluster::{self, NODE_IP, SERVER_IP, port, run},
    process::Process,
    wait::within,
};

/// A dev server of a test's own, with its data in a folder of its own.
pub struct TemporalServer {
    pub address: String,
    pub process: Process,
    pub folder: PathBuf,
}

impl TemporalServer {
    /// A server that is not started yet.
    pub fn new(name: &str) -> Self {
        let dev = &cluster::get().dev;
        let folder = dev.join(format!("data/tests/temporal-{name}-{}", port()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (port, ui, metrics) = (port().to_string(), port().to_string(), port().to_string());
        let db = folder.join("temporal.db").display().to_string();
        let args = [
            "server",
            "start-dev",
            "--headless",
            "--log-level",
            "error",
            "--ip",
            SERVER_IP,
            "--port",
            &port,
            "--db-filename",
            &db,
            "--http-port",
            &ui,
            "--metrics-port",
            &metrics,
        ];
        let log = dev.join(format!("log/tests/{name}.temporal.log"));
        let process = Process::new("temporal", dev.join("tools/temporal"), &args, &[], &log);
        Self { address: format!("{NODE_IP}:{port}"), process, folder }
    }

    pub async fn start(&mut self) {
        self.process.start();
        // Minutes: a busy machine that kills and freezes it beside much else may take as long.
        within(Duration::from_secs(300), "the Temporal server to answer", async || {
            TcpStream::connect(&self.address).await.map_err(|e| e.to_string())?;
            let describe = ["operator", "namespace", "describe", "default", "--address", &self.address];
            run(&cluster::get().dev, "temporal", &describe)
        })
        .await;
    }

    /// SIGKILL, as an outage.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

impl Drop for TemporalServer {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The `temporal` CLI against a server.
pub fn cli(address: &str, args: &[&str]) -> Result<String, String> {
    run(&cluster::get().dev, "temporal", &[args, &["--address", address]].concat())
}

/// A workflow's history, as the CLI exports it, with readable payloads.
pub fn export(address: &str, id: &str) -> String {
    cli(address, &["workflow", "show", "-w", id, "-o", "json"]).expect("the history")
}

/// A workflow's events.
pub fn events(address: &str, id: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(&export(address, id)).expect("JSON");
    all["events"].as_array().cloned().expect("events")
}

/// A workflow's status: `RUNNING`, `COMPLETED`, `FAILED`, `CANCELED`, ...
pub fn state(address: &str, id: &str) -> String {
    let text = cli(address, &["workflow", "describe", "-w", id, "-o", "json"]).expect("describe");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let status = all["workflowExecutionInfo"]["status"].as_str().unwrap_or_default();
    status.trim_start_matches("WORKFLOW_EXECUTION_STATUS_").to_string()
}

/// The types of the activities that were scheduled, in order.
pub fn activities(events: &[Value]) -> Vec<String> {
    let scheduled =
        events.iter().filter_map(|e| e["activityTaskScheduledEventAttributes"]["activityType"]["name"].as_str());
    scheduled.map(str::to_string).collect()
}

/// The signals that arrived, in order.
pub fn signals(events: &[Value]) -> Vec<String> {
    let signals = events.iter().filter_map(|e| e["workflowExecutionSignaledEventAttributes"]["signalName"].as_str());
    signals.map(str::to_string).collect()
}

/// The error types with which activities failed, in order.
pub fn failures(events: &[Value]) -> Vec<String> {
    let failed = events
        .iter()
        .filter_map(|e| e["activityTaskFailedEventAttributes"]["failure"]["applicationFailureInfo"]["type"].as_str());
    failed.map(str::to_string).collect()
}
