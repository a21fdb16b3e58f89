//! The files between runner and agent, the marker of a started agent, and the termination message. Called by
//! [`super::supervisor`]. The agent runs as the same user and writes here too: nothing that is read is trusted to be
//! small, or even to be a file.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::libc::O_NONBLOCK;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ending::{AgentError, FileContents};
use crate::{
    api::{RawJson, depth},
    protocol::runner::{MAX_RESULT_BYTES, MAX_RESULT_DEPTH, cut_result},
};

/// The largest result that is read; of a larger one only the size is reported.
const MAX_READ_BYTES: u64 = 64 * 1024 * 1024;
const MAX_ERROR_BYTES: u64 = 64 * 1024;
/// The longest report of progress.
pub const MAX_PROGRESS_BYTES: u64 = 4 * 1024;
/// The folder that the agent writes to.
const OUT: &str = "out";

/// The state folder.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub fn inputs(&self) -> PathBuf {
        self.dir.join("in/inputs.json")
    }

    pub fn extra(&self) -> PathBuf {
        self.dir.join("in/extra.json")
    }

    pub fn result(&self) -> PathBuf {
        self.dir.join(OUT).join("result.json")
    }

    pub fn error(&self) -> PathBuf {
        self.dir.join(OUT).join("error.json")
    }

    pub fn progress(&self) -> PathBuf {
        self.dir.join(OUT).join("progress.json")
    }

    /// Where the agent sends events to.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("runner.sock")
    }

    /// Writes the agent's input files and removes old output files.
    pub fn prepare(&self, inputs: &RawJson, extra: &RawJson) -> io::Result<()> {
        for (path, content) in [(self.inputs(), inputs), (self.extra(), extra)] {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            fs::write(path, content.get())?;
        }
        let out = self.dir.join(OUT);
        fs::create_dir_all(&out)?;
        // An agent may start as root, and write its result as another user.
        fs::set_permissions(&out, Permissions::from_mode(0o777))?;
        for path in [self.result(), self.error(), self.progress()] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn marker(&self, run: &str) -> PathBuf {
        self.dir.join(format!("started-{run}"))
    }

    /// Marks the agent of this run as started, for good. An error of kind `AlreadyExists` if it is.
    pub fn mark_started(&self, run: &str) -> io::Result<()> {
        let marker = OpenOptions::new().write(true).create_new(true).open(self.marker(run))?;
        let synced = marker.sync_all().and_then(|()| File::open(&self.dir)?.sync_all());
        // Nothing was started under a mark that may not last.
        synced.inspect_err(|_| self.unmark_started(run))
    }

    /// Takes the mark back: the agent could not be started. If that fails, a restarted container starts none.
    pub fn unmark_started(&self, run: &str) {
        let _ = fs::remove_file(self.marker(run));
    }

    /// The agent's error file.
    pub fn read_error(&self) -> FileContents<AgentError> {
        let read =
            |file| -> io::Result<AgentError> { Ok(serde_json::from_slice(&read_short(file, MAX_ERROR_BYTES)?)?) };
        open(&self.error()).map_or_else(|contents| contents, |(file, _)| contents(read(file)))
    }

    /// The bytes of the agent's progress file.
    pub fn read_progress(&self) -> FileContents<Vec<u8>> {
        let read = |file| contents(read_short(file, MAX_PROGRESS_BYTES));
        open(&self.progress()).map_or_else(|contents| contents, |(file, _)| read(file))
    }

    /// The agent's result file; of a large one size and digest.
    pub fn read_result(&self) -> FileContents<Value> {
        open(&self.result()).map_or_else(|contents| contents, |(file, size)| read_result(file, size))
    }
}

fn contents<T>(read: io::Result<T>) -> FileContents<T> {
    read.map_or_else(|e| FileContents::Unreadable(e.to_string()), FileContents::Something)
}

/// The whole of a file, if it has no more than so many bytes.
fn read_short(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("more than {most} bytes")));
    }
    Ok(text)
}

/// Opens a regular file, never waiting for a pipe's other end.
fn open<T>(path: &Path) -> Result<(File, u64), FileContents<T>> {
    let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).and_then(|file| {
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::Error::other("not a regular file")) }
    });
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => FileContents::Nothing,
        _ => FileContents::Unreadable(e.to_string()),
    })
}

fn read_result(file: File, size: u64) -> FileContents<Value> {
    if size > MAX_RESULT_BYTES as u64 {
        return contents(digest_result(file, size));
    }
    let read = || -> io::Result<RawJson> {
        let mut text = Vec::new();
        file.take(MAX_RESULT_BYTES as u64).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    match read() {
        // Valid JSON, but too deep for readers of the job's status.
        Ok(raw) if depth(raw.get()) > MAX_RESULT_DEPTH => FileContents::TooDeep(depth(raw.get())),
        // Written again it may be longer: numbers.
        Ok(raw) => contents(raw.read().map(|value| cut_result(&value, MAX_RESULT_BYTES)).map_err(io::Error::from)),
        Err(e) => FileContents::Unreadable(e.to_string()),
    }
}

fn digest_result(file: File, size: u64) -> io::Result<Value> {
    if size > MAX_READ_BYTES {
        return Ok(json!({ "truncated": true, "size": size }));
    }
    let mut reader = Hashing { from: BufReader::new(file.take(MAX_READ_BYTES)), hash: Sha256::new(), size: 0 };
    // Reads to the end: only white space may follow.
    serde_json::from_reader::<_, IgnoredAny>(&mut reader)?;
    Ok(json!({
        "truncated": true,
        "size": reader.size,
        "digest": format!("sha256:{}", hex::encode(reader.hash.finalize())),
    }))
}

struct Hashing<R> {
    from: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.size += n as u64;
        Ok(n)
    }
}

/// Writes the termination message in place: the kubelet created the file, and maybe only root can replace it.
pub fn write_termination(path: &Path, message: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str) -> Files {
        let dir = std::env::temp_dir().join(format!("koco-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let files = Files::new(&dir);
        files.prepare(&RawJson::default(), &RawJson::default()).unwrap();
        files
    }

    #[test]
    fn another_user_may_write_the_result() {
        let files = files("out");
        files.prepare(&json!({}).into(), &json!({}).into()).unwrap();
        let out = fs::metadata(files.result().parent().unwrap()).unwrap();
        assert_eq!(out.permissions().mode() & 0o777, 0o777);
    }

    #[test]
    fn the_marker_is_set_once() {
        let files = files("marker");
        files.mark_started("r-3").unwrap();
        files.mark_started("r-4").unwrap();
        assert_eq!(files.mark_started("r-3").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn results_small_large_huge_and_broken() {
        let files = files("result");
        let result = files.result();
        assert_eq!(files.read_result(), FileContents::Nothing);
        fs::write(&result, r#" {"a": [1, 2]} "#).unwrap();
        assert_eq!(files.read_result(), FileContents::Something(json!({"a": [1, 2]})));
        for broken in ["", "{", "1 2", "nope"] {
            fs::write(&result, broken).unwrap();
            assert!(matches!(files.read_result(), FileContents::Unreadable(_)), "{broken}");
        }
        let whole = format!("\"{}\"", "x".repeat(MAX_RESULT_BYTES - 2));
        fs::write(&result, &whole).unwrap();
        assert!(matches!(files.read_result(), FileContents::Something(Value::String(_))));
        let large = format!("\"{}\"  ", "x".repeat(MAX_RESULT_BYTES - 3));
        fs::write(&result, &large).unwrap();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&large)));
        let cut = json!({"truncated": true, "size": large.len(), "digest": digest});
        assert_eq!(files.read_result(), FileContents::Something(cut));
        fs::write(&result, &large[1..]).unwrap();
        assert!(matches!(files.read_result(), FileContents::Unreadable(_)));
        File::create(&result).unwrap().set_len(MAX_READ_BYTES + 1).unwrap();
        assert_eq!(
            files.read_result(),
            FileContents::Something(json!({"truncated": true, "size": MAX_READ_BYTES + 1}))
        );
        fs::remove_file(&result).unwrap();
        fs::create_dir(&result).unwrap();
        assert!(matches!(files.read_result(), FileContents::Unreadable(_)));
    }

    #[test]
    fn a_progress_file_is_short() {
        let files = files("progress");
        assert_eq!(files.read_progress(), FileContents::Nothing);
        let longest = vec![b' '; MAX_PROGRESS_BYTES as usize];
        fs::write(files.progress(), &longest).unwrap();
        assert_eq!(files.read_progress(), FileContents::Something(longest.clone()));
        fs::write(files.progress(), [longest, vec![b' ']].concat()).unwrap();
        assert_eq!(files.read_progress(), FileContents::Unreadable("more than 4096 bytes".into()));
        files.prepare(&RawJson::default(), &RawJson::default()).unwrap();
        assert_eq!(files.read_progress(), FileContents::Nothing, "that of an earlier agent");
    }

    #[test]
    fn error_files_are_all_optional() {
        let files = files("error");
        assert_eq!(files.read_error(), FileContents::Nothing);
        fs::write(files.error(), "{}").unwrap();
        assert_eq!(files.read_error(), FileContents::Something(AgentError::default()));
        fs::write(files.error(), r#"{"type": "T", "nonRetryable": true, "more": 1}"#).unwrap();
        let given = AgentError { kind: Some("T".into()), message: None, non_retryable: Some(true) };
        assert_eq!(files.read_error(), FileContents::Something(given));
        fs::write(files.error(), "boom").unwrap();
        assert!(matches!(files.read_error(), FileContents::Unreadable(_)));
        fs::write(files.error(), " ".repeat(MAX_ERROR_BYTES as usize + 1)).unwrap();
        assert!(matches!(files.read_error(), FileContents::Unreadable(_)));
    }
}
