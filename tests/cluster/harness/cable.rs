//! A connection that can be cut: what is sent meanwhile arrives afterwards or, if the connection ends before, never.
//! Neither side is told, and new connections are taken and hear nothing: as of a network that drops packets.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::cluster::NODE_IP;

/// Leads to one address, from one of its own, while it is kept.
pub struct Cable {
    pub address: String,
    whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Cable {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind((NODE_IP, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (whole, watched) = watch::channel(true);
        let target = target.to_string();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target.clone(), watched.clone()));
            }
        });
        Self { address, whole, task }
    }

    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, target: String, mut whole: watch::Receiver<bool>) {
    if whole.wait_for(|whole| *whole).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(pass(from_client, to_server, whole.clone()), pass(from_server, to_client, whole));
}

/// One direction, until it ends. The end, too, passes only through a whole cable.
async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut whole: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if whole.wait_for(|whole| *whole).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
