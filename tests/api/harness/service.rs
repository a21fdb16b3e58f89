//! What a Service is to those who connect to it: one address, for whichever servers the test has put behind it, or none.

use std::sync::Arc;

use kube::config::Kubeconfig;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{Role, Roles, Test, cluster::NODE_IP};

/// Leads there while it is kept.
pub struct Service {
    pub address: String,
    target: Arc<watch::Sender<Vec<String>>>,
    silence: Arc<watch::Sender<()>>,
    task: JoinHandle<()>,
}

impl Service {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind((NODE_IP, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let target = Arc::new(watch::channel(vec![target.to_string()]).0);
        let silence = Arc::new(watch::channel(()).0);
        let (to, silent) = (target.clone(), silence.clone());
        let task = tokio::spawn(async move {
            for turn in 0_usize.. {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                let (mut changes, mut silent) = (to.subscribe(), silent.subscribe());
                tokio::spawn(async move {
                    let all = changes.borrow_and_update().clone();
                    let Some(at) = turn.checked_rem(all.len()) else { return };
                    let Ok(mut server) = TcpStream::connect(&all[at]).await else { return };
                    // Both ends are dropped when it leads elsewhere.
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = changes.changed() => {}
                        // Both stay open.
                        _ = silent.changed() => drop(changes.changed().await),
                    }
                });
            }
        });
        Self { address, target, silence, task }
    }

    /// Between runners and the gateway of these roles, for pods that they make after their next start.
    pub async fn before(roles: &mut Roles) -> Self {
        let service = Self::to(&gateway(roles)).await;
        roles.set("KOCO_GATEWAY_URL", &format!("https://{}", service.address));
        service
    }

    /// Between a role and Temporal, from the role's next start on. One that stands still keeps its polls open, and
    /// Temporal would give it one task after the other, each lost until its time-out: freeze it, then [`Service::cut`].
    pub async fn to_temporal(test: &Test, role: &mut Role) -> Self {
        let service = Self::to(&test.cluster.temporal).await;
        role.process.set("TEMPORAL_ADDRESS", Some(service.address.clone()));
        service
    }

    /// Breaks all connections; new ones go to the gateway of these roles.
    pub fn lead_to(&self, roles: &Roles) {
        self.mend(&gateway(roles));
    }

    /// Breaks all connections; new ones go to each of these in turn.
    #[allow(dead_code)] // benches/jobs asks
    pub fn lead_to_all(&self, targets: &[String]) {
        self.target.send_replace(targets.to_vec());
    }

    /// Between these roles and the API server, from their next start on.
    pub async fn to_api_server(test: &Test, roles: &mut Roles) -> Self {
        let file = std::env::var("KUBECONFIG").expect("KUBECONFIG");
        let mut config = Kubeconfig::read_from(file).expect("a kubeconfig");
        let server = config.clusters[0].cluster.as_mut().and_then(|c| c.server.as_mut()).expect("a server");
        let service = Self::to(server.trim_start_matches("https://")).await;
        *server = format!("https://{}", service.address);
        let file = test.cluster.dev.join(format!("data/tests/kubeconfig-{}", service.address.replace(':', "-")));
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, serde_json::to_string(&config).expect("JSON")).expect("a kubeconfig");
        roles.set("KUBECONFIG", &file.display().to_string());
        service
    }

    /// On all connections of now nothing arrives any more, either way, and nobody is told; new ones work.
    pub fn silence(&self) {
        self.silence.send_replace(());
    }

    /// Breaks all connections, and takes no new ones.
    pub fn cut(&self) {
        self.target.send_replace(Vec::new());
    }

    /// Takes connections again.
    pub fn mend(&self, target: &str) {
        self.lead_to_all(&[target.to_string()]);
    }
}

fn gateway(roles: &Roles) -> String {
    format!("{NODE_IP}:{}", roles.gateway_port)
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}
