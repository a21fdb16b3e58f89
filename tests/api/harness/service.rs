//! What a Service is to those who connect to it: one address, for whichever server the test has put behind it, or none.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{Role, Roles, Test, cluster::NODE_IP};

/// Leads there while it is kept.
pub struct Service {
    address: String,
    target: Arc<watch::Sender<Option<String>>>,
    task: JoinHandle<()>,
}

impl Service {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind((NODE_IP, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let target = Arc::new(watch::channel(Some(target.to_string())).0);
        let to = target.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                let mut changes = to.subscribe();
                tokio::spawn(async move {
                    let Some(at) = changes.borrow_and_update().clone() else { return };
                    let Ok(mut server) = TcpStream::connect(at).await else { return };
                    // Both ends are dropped when it leads elsewhere.
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = changes.changed() => {}
                    }
                });
            }
        });
        Self { address, target, task }
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
        self.target.send_replace(Some(gateway(roles)));
    }

    /// Breaks all connections, and takes no new ones.
    pub fn cut(&self) {
        self.target.send_replace(None);
    }

    /// Takes connections again.
    pub fn mend(&self, target: &str) {
        self.target.send_replace(Some(target.to_string()));
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
