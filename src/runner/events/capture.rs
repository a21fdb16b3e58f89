//! Passes on what the agent prints: first, unchanged, to where the runner's own output goes, then to the [`Recorder`]. A
//! thread for each stream, because its disk may stand still: then the agent waits, as it would without a runner in between,
//! and nothing else does. Started by [`super`].

use std::{
    convert::Infallible,
    fs::File,
    io::{self, ErrorKind, IsTerminal, PipeReader, PipeWriter, Read, Write, pipe},
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::Duration,
};

use futures::executor::block_on;
use tokio::sync::{mpsc, watch};

use super::{
    Phase,
    recorder::{Recorder, Stream},
};

/// How many bytes are read at once: all that a pipe holds, so that what was written in one piece is passed on in one.
const BUFFER: usize = 64 * 1024;
/// The wait for an output that is full and doesn't wait itself.
const FULL: Duration = Duration::from_millis(5);

/// Passes on bytes.
type PassOn = Box<dyn FnMut(&[u8]) + Send>;

/// Where the agent prints to: pipes, or what the runner has, if `None`.
#[derive(Debug, Default)]
pub struct Output {
    pub stdout: Option<PipeWriter>,
    pub stderr: Option<PipeWriter>,
}

/// Makes the pipes, and the threads that read them once the agent runs; each keeps its `open` until it has read all. A terminal
/// stays the agent's: programs look for one.
pub fn start(
    recorder: &Arc<Recorder>,
    phase: &watch::Receiver<Phase>,
    open: &mpsc::Sender<Infallible>,
) -> io::Result<Output> {
    let mut output = Output::default();
    let spawn = |stream: Stream, pipe: PipeReader, mut to: PassOn| {
        let (recorder, mut phase, open) = (recorder.clone(), phase.clone(), open.clone());
        let name = stream.kind().as_str().into();
        let read = move || {
            if block_on(phase.wait_for(|phase| *phase != Phase::Starting)).is_ok() {
                read(pipe, |bytes| {
                    to(bytes);
                    recorder.printed(stream, bytes);
                });
            }
            recorder.printed_all(stream);
            drop(open);
        };
        thread::Builder::new().name(name).spawn(read).map(drop)
    };
    if !io::stdout().is_terminal() {
        let (reader, writer) = pipe()?;
        let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        spawn(Stream::Stdout, reader, Box::new(move |bytes| pass_on(&mut stdout, bytes)))?;
        output.stdout = Some(writer);
    }
    if !io::stderr().is_terminal() {
        let (reader, writer) = pipe()?;
        // Under the lock that the runner's own lines take, so that they don't get into the agent's.
        spawn(Stream::Stderr, reader, Box::new(|bytes| pass_on(&mut io::stderr().lock(), bytes)))?;
        output.stderr = Some(writer);
    }
    Ok(output)
}

/// Calls `take` with what comes, until all who could write have closed it.
fn read(mut from: impl Read, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => take(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Writes all, or drops it where nothing will take it any more.
fn pass_on(to: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return,
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes, then is full, and is interrupted in between.
    struct Slow(Vec<u8>, u8);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 % 3 {
                0 => Err(ErrorKind::WouldBlock.into()),
                1 => Err(ErrorKind::Interrupted.into()),
                _ => {
                    let count = bytes.len().min(7);
                    self.0.extend_from_slice(&bytes[..count]);
                    Ok(count)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_left_out_because_an_output_is_slow() {
        let mut slow = Slow(vec![], 0);
        pass_on(&mut slow, b"twenty-two bytes in all");
        assert_eq!(slow.0, b"twenty-two bytes in all");
    }

    #[test]
    fn an_output_that_is_closed_holds_up_nothing() {
        let (reader, mut writer) = pipe().unwrap();
        drop(reader);
        pass_on(&mut writer, &[0; 100_000]);
    }
}
