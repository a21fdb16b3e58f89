//! The operator of a test: one process, or one for each role, which the test may kill, stop and start.

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    TemporalServer, Test,
    cluster::{IMAGE, KOCO, NODE_IP, port},
    postgres,
    process::Process,
    wait::{DEADLINE, within},
};

/// Which Temporal server an operator uses.
#[derive(Clone, Copy)]
pub enum Server<'a> {
    Shared,
    Own(&'a TemporalServer),
    /// An address without a server.
    Nobody,
    /// None is configured.
    None,
}

pub struct Role {
    pub name: &'static str,
    pub process: Process,
    pub health: u16,
}

pub struct Roles {
    pub gateway_port: u16,
    pub server_port: u16,
    pub list: Vec<Role>,
}

impl Roles {
    pub fn all_in_one(test: &Test, temporal: Server<'_>) -> Self {
        Self::of(test, temporal, &["operator"])
    }

    pub fn separate(test: &Test, temporal: Server<'_>) -> Self {
        Self::of(test, temporal, &["gateway", "controller", "temporal-worker"])
    }

    /// These roles, which share a gateway's address.
    pub fn of(test: &Test, temporal: Server<'_>, names: &[&'static str]) -> Self {
        let (gateway_port, server_port) = (port(), port());
        let list = names.iter().map(|name| role(test, temporal, name, gateway_port, server_port)).collect();
        Self { gateway_port, server_port, list }
    }

    /// Adds a process of a role; it is not started.
    pub fn add(&mut self, test: &Test, temporal: Server<'_>, name: &'static str) -> usize {
        self.list.push(role(test, temporal, name, self.gateway_port, self.server_port));
        self.list.len() - 1
    }

    /// Starts all, and waits until each is ready.
    pub async fn start(&mut self) {
        for role in &mut self.list {
            role.process.start();
        }
        for role in &mut self.list {
            role.ready().await;
        }
    }

    /// The role of that name; an operator in one process is each of them but the server.
    pub fn role(&mut self, name: &str) -> &mut Role {
        let found = self.list.iter_mut().find(|r| r.name == name || (r.name == "operator" && name != "server"));
        found.unwrap_or_else(|| panic!("no role {name}"))
    }

    pub fn kill_all(&mut self) {
        for role in &mut self.list {
            role.process.kill();
        }
    }

    /// Sets a variable for all, from their next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        for role in &mut self.list {
            role.process.set(name, Some(value.into()));
        }
    }

    /// Starts those that don't run.
    #[allow(dead_code)] // the API tests do
    pub async fn start_again(&mut self) {
        for role in self.list.iter_mut().filter(|role| !role.process.runs()) {
            role.process.start();
            role.ready().await;
        }
    }

    /// SIGKILL to all, and all started again.
    pub async fn restart(&mut self) {
        self.kill_all();
        self.start().await;
    }
}

impl Role {
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub async fn start(&mut self) {
        self.process.start();
        self.ready().await;
    }

    pub fn freeze(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    pub async fn ready(&mut self) {
        let (name, target) = (self.name, self.target());
        within(DEADLINE, &format!("{name} to be ready"), async || {
            self.process.check();
            get(&target, "/readyz").await
        })
        .await;
    }

    #[allow(dead_code)] // the API tests ask
    pub async fn is_ready(&self) -> bool {
        get(&self.target(), "/readyz").await.is_ok()
    }

    pub async fn metrics(&self) -> String {
        get(&self.target(), "/metrics").await.expect("metrics")
    }

    /// The value of a counter, for all its labels together: 0 before it has counted.
    #[allow(dead_code)] // the API tests ask
    pub async fn count(&self, name: &str) -> usize {
        let metrics = self.metrics().await;
        let lines = metrics.lines().filter(|l| l.strip_prefix(name).is_some_and(|l| l.starts_with([' ', '{'])));
        lines.map(|l| l.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a number")).sum()
    }

    /// Host and port of its health address.
    pub fn target(&self) -> String {
        format!("127.0.0.1:{}", self.health)
    }
}

/// The body of a 200.
async fn get(target: &str, path: &str) -> Result<String, String> {
    let asked = async {
        let mut stream = TcpStream::connect(target).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = asked.await.map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200") { Ok(body.into()) } else { Err(answer) }
}

/// With `STORE=postgresql` the URL of a database of the test's own.
fn database_url(namespace: &str) -> Option<String> {
    (std::env::var("STORE").as_deref() == Ok("postgresql")).then(|| postgres::database(namespace))
}

fn role(test: &Test, temporal: Server<'_>, name: &'static str, gateway_port: u16, server_port: u16) -> Role {
    let health = port();
    let ns = test.namespace.clone();
    let address = match temporal {
        Server::Shared => Some(test.cluster.temporal.clone()),
        Server::Own(server) => Some(server.address.clone()),
        Server::Nobody => Some(format!("{NODE_IP}:9")),
        Server::None => None,
    };
    let env = [
        // With it, the task queue is this test's, too.
        ("KOCO_NAMESPACE", Some(ns.clone())),
        ("KOCO_WATCH_NAMESPACES", Some(ns)),
        ("KOCO_HEALTH_ADDR", Some(format!("127.0.0.1:{health}"))),
        ("KOCO_GATEWAY_ADDR", Some(format!("{NODE_IP}:{gateway_port}"))),
        ("KOCO_GATEWAY_URL", Some(format!("https://{NODE_IP}:{gateway_port}"))),
        ("KOCO_SERVER_ADDR", Some(format!("{NODE_IP}:{server_port}"))),
        ("KOCO_SERVER_DATA", Some(test.cluster.dev.join("data/tests").join(&test.namespace).display().to_string())),
        ("KOCO_DATABASE_URL", if name == "server" { database_url(&test.namespace) } else { None }),
        ("KOCO_RUNNER_IMAGE", Some(IMAGE.into())),
        ("KOCO_LOG", Some(std::env::var("KOCO_LOG").unwrap_or_else(|_| "info,koco=debug".into()))),
        ("TEMPORAL_ADDRESS", address),
        ("TEMPORAL_NAMESPACE", None),
        ("KODO_EXECUTION_MODE", None),
    ];
    Role { name, process: Process::new(name, KOCO, &[name], &env, &test.log), health }
}
