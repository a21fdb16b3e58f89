//! What a Service is to runners: one address for whichever gateway the test has put behind it.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{Roles, cluster::NODE_IP};

/// Leads to a gateway while it is kept.
pub struct Service {
    port: u16,
    target: Arc<watch::Sender<u16>>,
    task: JoinHandle<()>,
}

impl Service {
    /// In front of the gateway of these roles, from their next start on.
    pub async fn before(roles: &mut Roles) -> Self {
        let listener = TcpListener::bind((NODE_IP, 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let target = Arc::new(watch::channel(roles.gateway_port).0);
        let to = target.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut runner, _)) = listener.accept().await else { continue };
                let mut changes = to.subscribe();
                tokio::spawn(async move {
                    let at = *changes.borrow_and_update();
                    let Ok(mut gateway) = TcpStream::connect((NODE_IP, at)).await else { return };
                    // Both ends are dropped when it leads elsewhere.
                    tokio::select! {
                        _ = copy_bidirectional(&mut runner, &mut gateway) => {}
                        _ = changes.changed() => {}
                    }
                });
            }
        });
        let service = Self { port, target, task };
        roles.set("KOCO_GATEWAY_URL", &service.url());
        service
    }

    /// Breaks all connections; new ones go to this gateway.
    pub fn lead_to(&self, roles: &Roles) {
        self.target.send_replace(roles.gateway_port);
    }

    pub fn url(&self) -> String {
        format!("https://{NODE_IP}:{}", self.port)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}
