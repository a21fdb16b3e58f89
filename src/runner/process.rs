//! The agent's processes: start, signals, scan, reaping. Called by [`super::supervisor`] alone.
//!
//! The runner is its container's first process: it inherits and reaps every process that loses its parent, and a signal
//! to -1 reaches all but itself. Where it isn't (`tests/`, a mutated pod) it only knows its child's process group.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{self, SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    ending::Exit,
    events::Output,
    log::say,
    procfs::{self, Process},
};
use crate::protocol::runner::env;

/// How long to wait for killed processes to exit.
const BURIAL: Duration = Duration::from_secs(2);

/// What the reaper found.
#[derive(Clone, Debug, PartialEq)]
pub enum Reaped {
    /// The agent's main process ended.
    Agent(Exit),
    /// The agent's main process is stopped.
    AgentStopped,
    /// Another process ended.
    Other,
}

/// The processes below the runner.
#[derive(Debug)]
pub struct Processes {
    me: i32,
    /// The signal mask for the agent: the runner's own blocks the stop signals.
    mask: SigSet,
    agent: Option<Pid>,
}

impl Processes {
    pub fn new(mask: SigSet) -> Self {
        Self { me: nix::unistd::getpid().as_raw(), mask, agent: None }
    }

    /// Whether all of the container's processes are below this one.
    pub fn is_first(&self) -> bool {
        self.me == 1
    }

    /// Why the agent can't be frozen, if so.
    pub fn freeze_refusal(&self) -> Option<String> {
        if !self.is_first() {
            let me = self.me;
            return Some(format!(
                "the runner is not the first process of its container (its pid is {me}), so that it can't stop them all"
            ));
        }
        match procfs::hides_processes() {
            Ok(false) => None,
            Ok(true) => {
                Some("/proc is mounted with hidepid, so that not every process can be seen to stand still".into())
            }
            Err(error) => Some(format!("whether /proc shows every process is unknown: {error}")),
        }
    }

    /// Starts the agent, in a process group of its own: signals that it sends to its own group don't reach the runner.
    /// It prints to `output`.
    pub fn start(
        &mut self,
        program: &OsString,
        args: &[OsString],
        kodo: &[(&str, OsString)],
        output: Output,
    ) -> io::Result<i32> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).process_group(0);
        output.stdout.map(|pipe| command.stdout(pipe));
        output.stderr.map(|pipe| command.stderr(pipe));
        for name in env::ALL.into_iter().chain(env::SOMETIMES) {
            command.env_remove(name);
        }
        let mask = self.mask;
        // SAFETY: between fork and exec only async-signal-safe functions may be called; pthread_sigmask is one.
        unsafe { command.pre_exec(move || Ok(mask.thread_set_mask()?)) };
        command.envs(kodo.iter().map(|(name, value)| (name, value)));
        let pid = command.spawn()?.id() as i32;
        self.agent = Some(Pid::from_raw(pid));
        Ok(pid)
    }

    /// Signals the agent's main process only, as the kubelet would signal a container's first process. An error if it is
    /// another user's. That it has ended is none: the reaper reports it.
    pub fn signal_agent(&self, signal: Signal) -> nix::Result<()> {
        match self.agent.map_or(Ok(()), |agent| signal::kill(agent, signal)) {
            Err(Errno::ESRCH) => Ok(()),
            sent => sent,
        }
    }

    /// Signals every process but this one. The kernel doesn't say which of them are other users' and were not reached:
    /// the scan shows which remain.
    pub fn signal_all(&self, signal: Signal) {
        match self.agent {
            _ if self.is_first() => drop(signal::kill(Pid::from_raw(-1), signal)),
            Some(agent) => drop(signal::killpg(agent, signal)),
            None => {}
        }
    }

    /// Stops every process and returns those that are not stopped. See [`super::machine::Action::Freeze`].
    pub fn freeze(&self, resume_vfork_children: bool) -> Result<Vec<Process>, String> {
        self.signal_all(Signal::SIGSTOP);
        let survey = procfs::survey(Path::new("/proc"), self.me).map_err(|e| e.to_string())?;
        if resume_vfork_children {
            for (pid, parent) in &survey.stopped {
                if survey.blocked.contains(parent) {
                    let _ = signal::kill(Pid::from_raw(*pid), Signal::SIGCONT);
                }
            }
        }
        Ok(survey.moving)
    }

    /// Reaps all ended children. To be called on SIGCHLD.
    pub fn reap(&mut self) -> Vec<Reaped> {
        let mut found = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(pid, code)) => found.push(self.ended(pid, Exit::Code(code))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    let exit = Exit::Signal { name: signal.as_str().to_owned(), number: signal as i32 };
                    found.push(self.ended(pid, exit));
                }
                Ok(WaitStatus::Stopped(pid, _)) if Some(pid) == self.agent => found.push(Reaped::AgentStopped),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return found,
                Ok(_) | Err(Errno::EINTR) => {}
                // nix has no name for the real-time signal that ended a process, and doesn't say which process.
                Err(Errno::EINVAL) => match self.agent {
                    Some(agent) if signal::kill(agent, None) == Err(Errno::ESRCH) => {
                        let exit = Exit::Signal { name: "a real-time signal".into(), number: nix::libc::SIGRTMIN() };
                        found.push(self.ended(agent, exit));
                    }
                    _ => found.push(Reaped::Other),
                },
                Err(_) => return found,
            }
        }
    }

    fn ended(&mut self, pid: Pid, exit: Exit) -> Reaped {
        if Some(pid) == self.agent { Reaped::Agent(exit) } else { Reaped::Other }
    }

    /// Kills all processes that the agent left, as the kernel does when a container's first process exits.
    pub async fn kill_remaining(&mut self) {
        let end = Instant::now() + BURIAL;
        loop {
            self.signal_all(Signal::SIGKILL);
            self.reap();
            let left = match self.is_first() {
                true => procfs::survey(Path::new("/proc"), self.me)
                    .is_ok_and(|s| !s.moving.is_empty() || !s.stopped.is_empty()),
                false => self.agent.is_some_and(|agent| signal::killpg(agent, None).is_ok()),
            };
            if !left || Instant::now() > end {
                if left {
                    say(format_args!("processes are left that outlive SIGKILL: other users' end with this container"));
                }
                self.agent = None;
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The signal of a pause notice.
pub fn notice_signal(name: &str) -> Option<Signal> {
    name.parse().ok().filter(|signal| matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2))
}
