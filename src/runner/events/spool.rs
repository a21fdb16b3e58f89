//! Where events wait until they are stored: numbered from 1, in segments, given back once every event of one is stored.
//! The segments are files without a name, made before the agent starts: what runs beside the runner can't find or write
//! them, and they end with this process. Used by [`super::recorder`] alone.
//!
//! A record is a length, a CRC-32 and a line of a batch. The newest records are held in memory until they are worth a write, which
//! makes none of them less safe; as long as a gateway takes events as they come, nothing is written at all.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions, remove_file},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// What stands before each line.
const HEADER: usize = 8;
/// How many bytes wait in memory.
const TAIL: usize = 64 * 1024;

/// How large a spool gets, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// A segment that has so many is followed by another.
    pub segment: u64,
    /// All segments together.
    pub total: u64,
}

/// A record can't be read again: all from there to the end of its segment are lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The last of them.
    pub through: u64,
}

/// Lines that were read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The lines.
    pub bytes: Vec<u8>,
    /// How many.
    pub count: u64,
}

/// The spool of one run.
#[derive(Debug)]
pub struct Spool {
    size: Size,
    /// Empty files.
    free: Vec<File>,
    /// At least one. The last one is written.
    segments: VecDeque<Segment>,
    /// The records of the last segment that are not in its file yet.
    tail: Vec<u8>,
    /// Of all segments, with the tail.
    used: u64,
    next: u64,
    /// Where the last read ended: the segment's first number, the next number and its place in the segment.
    cursor: (u64, u64, u64),
}

#[derive(Debug)]
struct Segment {
    file: File,
    first: u64,
    count: u64,
    /// Bytes in the file.
    written: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.first + self.count
    }
}

impl Spool {
    /// Makes the files in a folder and removes their names.
    pub fn create(folder: &Path, size: Size) -> io::Result<Self> {
        let count = size.total.div_ceil(size.segment) + 2;
        let mut free =
            (0..count).map(|n| unnamed(&folder.join(format!(".spool-{n}")))).collect::<io::Result<Vec<_>>>()?;
        let file = free.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let segments = VecDeque::from([Segment { file, first: 1, count: 0, written: 0 }]);
        Ok(Self { size, free, segments, tail: Vec::new(), used: 0, next: 1, cursor: (0, 0, 0) })
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The lowest number that can be read; that of the next event if there is none.
    pub fn oldest(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// Appends a line, unless the spool would have more than `limit` bytes or can't write. Returns whether it is in.
    pub fn append(&mut self, line: &[u8], limit: u64) -> bool {
        let bytes = (HEADER + line.len()) as u64;
        let Ok(length) = u32::try_from(line.len()) else { return false };
        if self.used + bytes > limit.min(self.size.total) || !self.has_room() {
            return false;
        }
        let crc = crc32fast::hash(line);
        self.tail.extend_from_slice(&length.to_le_bytes());
        self.tail.extend_from_slice(&crc.to_le_bytes());
        self.tail.extend_from_slice(line);
        self.used += bytes;
        self.next += 1;
        if let Some(last) = self.segments.back_mut() {
            last.count += 1;
        }
        if self.tail.len() >= TAIL {
            // If not, the next append tries again.
            let _ = self.write_tail();
        }
        true
    }

    /// Sees to it that the last segment and the tail take another record.
    fn has_room(&mut self) -> bool {
        let full = self.segments.back().is_none_or(|last| last.written + self.tail.len() as u64 >= self.size.segment);
        if (full || self.tail.len() >= TAIL) && self.write_tail().is_err() {
            return false;
        }
        if full {
            let Some(file) = self.free.pop() else { return false };
            self.segments.push_back(Segment { file, first: self.next, count: 0, written: 0 });
        }
        true
    }

    fn write_tail(&mut self) -> io::Result<()> {
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        // A part that was written before an error is written again.
        last.file.write_all_at(&self.tail, last.written)?;
        last.written += self.tail.len() as u64;
        clear(&mut self.tail);
        Ok(())
    }

    /// Reads lines from this number on: at least one if there is one, beyond that at most so many and so many bytes. It may
    /// return fewer than there are.
    pub fn read(&mut self, from: u64, count: u64, bytes: usize) -> Result<Lines, Unreadable> {
        let found = self.segments.iter().position(|s| (s.first..s.end()).contains(&from));
        let Some(index) = found else { return Ok(Lines::default()) };
        let (first, end) = (self.segments[index].first, self.segments[index].end());
        let unreadable = |_| Unreadable { through: end - 1 };
        let (mut number, mut place) = match self.cursor {
            (segment, number, place) if segment == first && number <= from => (number, place),
            _ => (first, 0),
        };
        let mut lines = Lines::default();
        while number < end && lines.count < count {
            let wanted = HEADER + bytes.saturating_sub(lines.bytes.len());
            let chunk = self.chunk(index, place, wanted).map_err(unreadable)?;
            let mut rest = chunk.as_slice();
            while let Some((line, after)) = split(rest).map_err(unreadable)? {
                if number >= from {
                    if lines.count > 0 && (lines.count == count || lines.bytes.len() + line.len() > bytes) {
                        self.cursor = (first, number, place);
                        return Ok(lines);
                    }
                    lines.bytes.extend_from_slice(line);
                    lines.count += 1;
                }
                number += 1;
                place += (HEADER + line.len()) as u64;
                rest = after;
            }
        }
        self.cursor = (first, number, place);
        Ok(lines)
    }

    /// Bytes of a segment from this place on, with at least one record.
    fn chunk(&self, index: usize, place: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let segment = &self.segments[index];
        let Some(left) = segment.written.checked_sub(place).filter(|left| *left > 0) else {
            let tail = usize::try_from(place - segment.written).ok().and_then(|at| self.tail.get(at..));
            let is_last = index + 1 == self.segments.len();
            let tail = tail.filter(|tail| is_last && !tail.is_empty()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = length(tail)?.max(bytes.min(tail.len()));
            return Ok(tail.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec());
        };
        let read = |bytes: u64| {
            let mut chunk = vec![0; usize::try_from(bytes.min(left)).unwrap_or(usize::MAX)];
            segment.file.read_exact_at(&mut chunk, place).map(|()| chunk)
        };
        let chunk = read(bytes as u64)?;
        let length = length(&chunk)?;
        if length <= chunk.len() { Ok(chunk) } else { read(length as u64).and_then(|chunk| whole(chunk, length)) }
    }

    /// Drops all events up to this one, and gives back the space of segments that have no others.
    pub fn forget(&mut self, through: u64) {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|s| s.end() <= through + 1) {
            let Some(segment) = self.segments.pop_front() else { return };
            self.used -= segment.written;
            // What it keeps of its space is written over later.
            let _ = segment.file.set_len(0);
            self.free.push(segment.file);
        }
        if let Some(last) = self.segments.back_mut()
            && last.end() <= through + 1
            && last.count > 0
        {
            self.used -= last.written + self.tail.len() as u64;
            if last.written > 0 {
                let _ = last.file.set_len(0);
            }
            (last.first, last.count, last.written) = (self.next, 0, 0);
            clear(&mut self.tail);
        }
    }

    /// Drops all events.
    pub fn clear(&mut self) {
        self.forget(u64::MAX - 1);
    }
}

/// Opens a file that has no name any more.
fn unnamed(path: &Path) -> io::Result<File> {
    match remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    remove_file(path)?;
    Ok(file)
}

/// Without the memory that one large record took.
fn clear(tail: &mut Vec<u8>) {
    tail.clear();
    tail.shrink_to(2 * TAIL);
}

/// The length of the record at the beginning, with its header.
fn length(bytes: &[u8]) -> io::Result<usize> {
    let header = bytes.first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(HEADER + u32::from_le_bytes(*header) as usize)
}

fn whole(chunk: Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    if chunk.len() < length { Err(io::ErrorKind::InvalidData.into()) } else { Ok(chunk) }
}

/// The line of the record at the beginning and what follows; `None` if it is not whole.
fn split(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [a, b, c, d, e, f, g, h] = *header;
    let Some((line, after)) = rest.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize) else { return Ok(None) };
    if crc32fast::hash(line) != u32::from_le_bytes([e, f, g, h]) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some((line, after)))
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
