//! The files between runner and agent, the marker of a started agent, and the termination message. Called by
//! [`super::supervisor`]. The agent runs as the same user and writes here too: nothing that is read is trusted to be small,
//! or even to be a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::libc::O_NONBLOCK;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ending::{AgentError, Left};
use crate::{
    api::{RawJson, depth},
    protocol::runner::{MAX_RESULT_BYTES, MAX_RESULT_DEPTH},
};

/// The largest result that is read at all; of a larger one only the size is told.
const MAX_READ_BYTES: u64 = 64 * 1024 * 1024;
const MAX_ERROR_BYTES: u64 = 64 * 1024;

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
        self.dir.join("out/result.json")
    }

    pub fn error(&self) -> PathBuf {
        self.dir.join("out/error.json")
    }

    /// Writes what the agent reads, removes what it has yet to write.
    pub fn prepare(&self, inputs: &RawJson, extra: &RawJson) -> io::Result<()> {
        for (path, content) in [(self.inputs(), inputs), (self.extra(), extra)] {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            fs::write(path, content.get())?;
        }
        for path in [self.result(), self.error()] {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn marker(&self, epoch: i32) -> PathBuf {
        self.dir.join(format!("started-{epoch}"))
    }

    /// Whether the agent of this epoch was started before, by this container or by the one that it replaces.
    pub fn was_started(&self, epoch: i32) -> io::Result<bool> {
        self.marker(epoch).try_exists()
    }

    /// Marks the agent of this epoch as started, for good. An error of kind `AlreadyExists` if it is.
    pub fn mark_started(&self, epoch: i32) -> io::Result<()> {
        let marker = OpenOptions::new().write(true).create_new(true).open(self.marker(epoch))?;
        marker.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    /// What the agent left as its error.
    pub fn read_error(&self) -> Left<AgentError> {
        let read = |file: File| -> io::Result<AgentError> {
            let mut text = Vec::new();
            file.take(MAX_ERROR_BYTES + 1).read_to_end(&mut text)?;
            if text.len() as u64 > MAX_ERROR_BYTES {
                return Err(io::Error::other(format!("more than {MAX_ERROR_BYTES} bytes")));
            }
            Ok(serde_json::from_slice(&text)?)
        };
        open(&self.error()).map_or_else(|left| left, |(file, _)| left(read(file)))
    }

    /// What the agent left as its result; a large one as its size and digest.
    pub fn read_result(&self) -> Left<Value> {
        open(&self.result()).map_or_else(|left| left, |(file, size)| read_result(file, size))
    }
}

fn left<T>(read: io::Result<T>) -> Left<T> {
    read.map_or_else(|e| Left::Unreadable(e.to_string()), Left::Something)
}

/// Opens a regular file, never waiting for a pipe's other end.
fn open<T>(path: &Path) -> Result<(File, u64), Left<T>> {
    let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).and_then(|file| {
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::Error::other("not a regular file")) }
    });
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Left::Nothing,
        _ => Left::Unreadable(e.to_string()),
    })
}

fn read_result(file: File, size: u64) -> Left<Value> {
    if size > MAX_RESULT_BYTES as u64 {
        return left(digest_result(file, size));
    }
    let read = || -> io::Result<RawJson> {
        let mut text = Vec::new();
        file.take(MAX_RESULT_BYTES as u64).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    match read() {
        // Valid JSON, but what reads the job's status could not read it.
        Ok(raw) if depth(raw.get()) > MAX_RESULT_DEPTH => Left::TooDeep(depth(raw.get())),
        Ok(raw) => left(raw.read().map_err(io::Error::from)),
        Err(e) => Left::Unreadable(e.to_string()),
    }
}

fn digest_result(file: File, size: u64) -> io::Result<Value> {
    if size > MAX_READ_BYTES {
        return Ok(json!({ "truncated": true, "size": size }));
    }
    let mut reader = Hashing { from: BufReader::new(file.take(MAX_READ_BYTES)), hash: Sha256::new(), size: 0 };
    // Also reads whatever follows, and wants it to be white space.
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

/// Writes the termination message. The kubelet made the file, maybe for root alone to replace: it is written in place.
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
    fn the_marker_is_set_once() {
        let files = files("marker");
        assert!(!files.was_started(3).unwrap());
        files.mark_started(3).unwrap();
        assert!(files.was_started(3).unwrap());
        assert!(!files.was_started(4).unwrap());
        assert_eq!(files.mark_started(3).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn results_small_large_huge_and_broken() {
        let files = files("result");
        let result = files.result();
        assert_eq!(files.read_result(), Left::Nothing);
        fs::write(&result, r#" {"a": [1, 2]} "#).unwrap();
        assert_eq!(files.read_result(), Left::Something(json!({"a": [1, 2]})));
        for broken in ["", "{", "1 2", "nope"] {
            fs::write(&result, broken).unwrap();
            assert!(matches!(files.read_result(), Left::Unreadable(_)), "{broken}");
        }
        let whole = format!("\"{}\"", "x".repeat(MAX_RESULT_BYTES - 2));
        fs::write(&result, &whole).unwrap();
        assert!(matches!(files.read_result(), Left::Something(Value::String(_))));
        let large = format!("\"{}\"  ", "x".repeat(MAX_RESULT_BYTES - 3));
        fs::write(&result, &large).unwrap();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&large)));
        let cut = json!({"truncated": true, "size": large.len(), "digest": digest});
        assert_eq!(files.read_result(), Left::Something(cut));
        fs::write(&result, &large[1..]).unwrap();
        assert!(matches!(files.read_result(), Left::Unreadable(_)));
        File::create(&result).unwrap().set_len(MAX_READ_BYTES + 1).unwrap();
        assert_eq!(files.read_result(), Left::Something(json!({"truncated": true, "size": MAX_READ_BYTES + 1})));
        fs::remove_file(&result).unwrap();
        fs::create_dir(&result).unwrap();
        assert!(matches!(files.read_result(), Left::Unreadable(_)));
    }

    #[test]
    fn error_files_are_all_optional() {
        let files = files("error");
        assert_eq!(files.read_error(), Left::Nothing);
        fs::write(files.error(), "{}").unwrap();
        assert_eq!(files.read_error(), Left::Something(AgentError::default()));
        fs::write(files.error(), r#"{"type": "T", "nonRetryable": true, "more": 1}"#).unwrap();
        let given = AgentError { kind: Some("T".into()), message: None, non_retryable: Some(true) };
        assert_eq!(files.read_error(), Left::Something(given));
        fs::write(files.error(), "boom").unwrap();
        assert!(matches!(files.read_error(), Left::Unreadable(_)));
        fs::write(files.error(), " ".repeat(MAX_ERROR_BYTES as usize + 1)).unwrap();
        assert!(matches!(files.read_error(), Left::Unreadable(_)));
    }
}
