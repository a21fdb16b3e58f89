//! The socket on which an agent sends events: lines as in [`super::message`], answered once they are in the spool. Runs on
//! the thread of [`super`].
//!
//! An agent may be hostile or slow: there is a limit of connections, and only one line at a time may be long. Who sends too
//! much waits; who doesn't read the answers loses some of them.

use std::{
    convert::Infallible,
    fs::{Permissions, remove_file, set_permissions},
    io::{self, ErrorKind},
    os::unix::{fs::PermissionsExt, net::UnixListener as StdListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    Phase,
    message::{self, MAX_LINE, Refusal},
    recorder::{Recorder, Untaken},
};

/// How many connections are served; more wait.
const CONNECTIONS: usize = 32;
/// What a connection may take of memory while others have a long line.
const SHORT: usize = 64 * 1024;
/// How much is read at once.
const CHUNK: usize = 16 * 1024;
/// How much memory a long line takes at once.
const STEP: usize = 1024 * 1024;
/// How many bytes of answers may wait.
const ANSWERS: usize = 64 * 1024;
/// How long an agent that has sent all may take to read its answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long to look for connections that were made before the agent's end.
const LAST_CONNECTIONS: Duration = Duration::from_millis(20);

/// Listens at this path, for all users of the container: an agent may become another one.
pub fn bind(path: &Path) -> io::Result<StdListener> {
    match remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(path)?;
    set_permissions(path, Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What all connections share.
#[derive(Clone)]
struct Server {
    /// `None` where no events are kept: they are acknowledged and dropped.
    recorder: Option<Arc<Recorder>>,
    places: Arc<Semaphore>,
    long_line: Arc<Semaphore>,
    open: mpsc::Sender<Infallible>,
}

/// Serves connections from the agent's start to its end; each keeps its `open` until all that was sent is taken.
pub async fn serve(
    listener: StdListener,
    recorder: Option<Arc<Recorder>>,
    mut phase: watch::Receiver<Phase>,
    open: mpsc::Sender<Infallible>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let (places, long_line) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(1)));
    let server = Server { recorder, places, long_line, open };
    if phase.wait_for(|phase| *phase != Phase::Starting).await.is_err() {
        return Ok(());
    }
    loop {
        let Ok(place) = server.places.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = ended(&mut phase) => {
                match timeout(LAST_CONNECTIONS, listener.accept()).await {
                    Ok(accepted) => accepted,
                    Err(_) => return Ok(()),
                }
            }
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(server.clone().converse(stream, place))),
            // Too many open files, most likely.
            Err(_) => sleep(LAST_CONNECTIONS).await,
        }
    }
}

async fn ended(phase: &mut watch::Receiver<Phase>) {
    drop(phase.wait_for(|phase| *phase != Phase::Running).await);
}

impl Server {
    async fn converse(self, stream: UnixStream, place: OwnedSemaphorePermit) {
        let answers = Answers::default();
        let mut connection = Connection { stream, input: Vec::new(), answered: 0, searched: 0, answers };
        // That the agent has closed it is no one's error.
        let _ = self.answer_all(&mut connection).await;
        drop((place, self.open));
    }

    async fn answer_all(&self, connection: &mut Connection) -> io::Result<()> {
        let mut long_line = None;
        loop {
            let more = connection.fill().await?;
            while let Some(line) = connection.next_line() {
                self.answer(connection, line).await?;
            }
            if connection.forget_answered() {
                long_line = None;
            }
            if !more {
                let rest = 0..connection.input.len();
                self.answer(connection, rest).await?;
                return timeout(LAST_ANSWERS, connection.write_answers(0)).await?;
            }
            if connection.input.len() > MAX_LINE {
                connection.answers.refused(&message::refused(None, &Refusal::TooLarge));
                return timeout(LAST_ANSWERS, connection.write_answers(0)).await?;
            }
            if connection.input.len() > SHORT && long_line.is_none() {
                connection.write_some();
                long_line = self.long_line.clone().acquire_owned().await.ok();
            }
        }
    }

    /// Takes a line of the input, and answers it.
    async fn answer(&self, connection: &mut Connection, at: std::ops::Range<usize>) -> io::Result<()> {
        let Connection { stream, input, answers, .. } = connection;
        let line = input.get(at).unwrap_or_default().trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        let refused = match message::read(line) {
            _ if line.len() > MAX_LINE => message::refused(None, &Refusal::TooLarge),
            Ok(event) => match self.take(&event, stream, answers).await {
                Ok(()) => {
                    answers.ack(event.seq);
                    return Ok(());
                }
                Err(refusal) => message::refused(Some(event.seq), &refusal),
            },
            Err((seq, refusal)) => message::refused(seq, &refusal),
        };
        connection.write_answers(ANSWERS).await?;
        connection.answers.refused(&refused);
        Ok(())
    }

    /// Puts an event into the spool, once there is room.
    async fn take(
        &self,
        event: &message::AgentEvent<'_>,
        stream: &UnixStream,
        answers: &mut Answers,
    ) -> Result<(), Refusal> {
        let Some(recorder) = &self.recorder else { return Ok(()) };
        loop {
            let room = recorder.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match recorder.sent(event.ts, event.kind, &event.payload) {
                Ok(()) => return Ok(()),
                Err(Untaken::Ended) => return Err(Refusal::Ended),
                Err(Untaken::Full) => {
                    answers.write_some(stream);
                    room.await;
                }
            }
        }
    }
}

struct Connection {
    stream: UnixStream,
    /// What was read.
    input: Vec<u8>,
    /// How much of it is answered, and how much has no further end of a line.
    answered: usize,
    searched: usize,
    answers: Answers,
}

impl Connection {
    /// Reads some more, and writes answers meanwhile. Returns whether there may be more.
    async fn fill(&mut self) -> io::Result<bool> {
        loop {
            self.write_some();
            if self.answers.is_empty() {
                self.stream.readable().await?;
            } else {
                tokio::select! {
                    ready = self.stream.readable() => ready?,
                    ready = self.stream.writable() => {
                        ready?;
                        continue;
                    }
                }
            }
            let step = if self.input.len() < SHORT { CHUNK } else { STEP };
            if self.input.capacity() - self.input.len() < CHUNK {
                self.input.reserve_exact(step);
            }
            let before = self.input.len();
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(self.input.len() > before),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where the next line is.
    fn next_line(&mut self) -> Option<std::ops::Range<usize>> {
        let end = self.input.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| self.searched + end) else {
            self.searched = self.input.len();
            return None;
        };
        let begin = std::mem::replace(&mut self.answered, end + 1);
        self.searched = end + 1;
        Some(begin..end)
    }

    /// Drops what is answered. Returns whether there was any.
    fn forget_answered(&mut self) -> bool {
        let answered = std::mem::take(&mut self.answered);
        self.input.drain(..answered);
        self.searched -= answered;
        if answered > 0 {
            self.input.shrink_to(SHORT);
        }
        answered > 0
    }

    fn write_some(&mut self) {
        self.answers.write_some(&self.stream);
    }

    /// Waits until so many bytes of answers are left.
    async fn write_answers(&mut self, left: usize) -> io::Result<()> {
        while self.answers.bytes.len() > left || (left == 0 && !self.answers.is_empty()) {
            self.stream.writable().await?;
            self.answers.try_write(&self.stream)?;
        }
        Ok(())
    }
}

/// Answers that the agent has not read.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    /// The last acknowledgement that had no room.
    late: Option<u64>,
}

impl Answers {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.late.is_none()
    }

    fn ack(&mut self, seq: u64) {
        if self.bytes.len() < ANSWERS {
            self.bytes.extend_from_slice(message::ack(seq).as_bytes());
        } else {
            self.late = Some(seq);
        }
    }

    /// It stands behind those before it.
    fn refused(&mut self, line: &str) {
        self.add_late();
        self.bytes.extend_from_slice(line.as_bytes());
    }

    fn add_late(&mut self) {
        if let Some(seq) = self.late.take() {
            self.bytes.extend_from_slice(message::ack(seq).as_bytes());
        }
    }

    /// Writes what can be written now. An agent that has closed its end for answers may still send.
    fn write_some(&mut self, stream: &UnixStream) {
        if self.try_write(stream).is_err() {
            *self = Self::default();
        }
    }

    fn try_write(&mut self, stream: &UnixStream) -> io::Result<()> {
        while !self.is_empty() {
            if self.bytes.is_empty() {
                self.add_late();
            }
            match stream.try_write(&self.bytes) {
                Ok(count) => drop(self.bytes.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_that_are_not_read_take_no_memory() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut answers = Answers::default();
        for seq in 0..100_000 {
            answers.ack(seq);
            answers.write_some(&here);
            assert!(answers.bytes.len() < ANSWERS + 100);
        }
        // Read at last, they say how far it has come.
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).ends_with("{\"ack\":99999}\n") {
            tokio::select! {
                _ = there.readable() => drop(there.try_read_buf(&mut read)),
                _ = here.writable(), if !answers.is_empty() => answers.write_some(&here),
            }
        }
        let numbers: Vec<u64> = String::from_utf8(read)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["ack"].as_u64().unwrap())
            .collect();
        assert!(numbers.is_sorted() && numbers[..3] == [0, 1, 2]);
    }
}
