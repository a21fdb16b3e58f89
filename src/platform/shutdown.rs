//! The shutdown signal of the process.

use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGTERM or SIGINT: roles then drain and return.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let ours = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("shutting down");
        ours.cancel();
    });
    Ok(token)
}
