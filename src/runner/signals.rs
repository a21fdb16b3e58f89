//! The signals that end a pod. Only the kubelet's count: the agent may send signals to process 1, too. Used by
//! [`super::supervisor`] and, for the agent's own mask, by [`super::process`].

use std::{io, thread};

use nix::{
    libc::SI_USER,
    sys::{
        signal::{SigSet, SigmaskHow, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use tokio::sync::mpsc;

use super::log::say;

/// SIGTERM, and what an image may name as its STOPSIGNAL instead.
const STOP: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGPWR,
];

/// Blocks the stop signals, so that they are read from a file descriptor, which tells who sent them. To be called before
/// any thread is started. Returns the mask as it was, for the agent.
pub fn block() -> nix::Result<SigSet> {
    let set: SigSet = STOP.into_iter().collect();
    set.thread_swap_mask(SigmaskHow::SIG_BLOCK)
}

/// The stop signals.
pub struct StopSignals(mpsc::UnboundedReceiver<()>);

impl StopSignals {
    /// After [`block`]. As its container's first process the runner tells the kubelet's signals from the agent's: a
    /// sender outside of its process namespace has no id.
    pub fn listen(first_process: bool) -> io::Result<Self> {
        let fd = SignalFd::with_flags(&STOP.into_iter().collect(), SfdFlags::SFD_CLOEXEC)?;
        let (tell, told) = mpsc::unbounded_channel();
        // A thread, because tokio can't wait for a signalfd without `unsafe`. It ends with the process.
        thread::Builder::new().name("signals".into()).spawn(move || {
            while let Ok(Some(signal)) = fd.read_signal() {
                let from_outside = signal.ssi_code == SI_USER && signal.ssi_pid == 0;
                if !from_outside && first_process {
                    let (number, sender) = (signal.ssi_signo, signal.ssi_pid);
                    say(format_args!("signal {number} of process {sender} is ignored: only the kubelet ends a pod"));
                } else if tell.send(()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(told))
    }

    /// Waits for one.
    pub async fn recv(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
