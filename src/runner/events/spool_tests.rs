//! Tests of the [`Spool`].

use std::{fs, path::PathBuf};

use super::*;

const SMALL: Size = Size { segment: 100_000, total: 400_000 };

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("koco-spool-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn spool(name: &str) -> Spool {
    Spool::create(&folder(name), SMALL).unwrap()
}

fn line(number: u64) -> Vec<u8> {
    format!("{number} {}\n", "x".repeat((number % 977) as usize)).into_bytes()
}

/// Appends until it is full. Returns how many there are.
fn fill(spool: &mut Spool) -> u64 {
    while spool.append(&line(spool.next()), u64::MAX) {}
    spool.next() - 1
}

/// Reads this many from here on, in batches of random size.
fn all(spool: &mut Spool, from: u64, count: u64, bytes: usize) -> Vec<u8> {
    let (mut read, mut number) = (Vec::new(), from);
    while number < from + count {
        let lines = spool.read(number, from + count - number, bytes).unwrap();
        assert!(lines.count > 0 && (lines.count == 1 || lines.bytes.len() <= bytes));
        number += lines.count;
        read.extend(lines.bytes);
    }
    read
}

fn expected(from: u64, count: u64) -> Vec<u8> {
    (from..from + count).flat_map(line).collect()
}

#[test]
fn what_is_appended_is_read_from_any_number_on() {
    let mut spool = spool("read");
    let count = fill(&mut spool);
    assert!(spool.used <= SMALL.total && spool.used > SMALL.total - 2000);
    assert!(!spool.tail.is_empty() && spool.segments.len() > 3, "some are in memory, some in files");
    for bytes in [1, 700, 5_000, 1 << 20] {
        for from in [1, 2, count / 2, count - 3, count] {
            assert!(
                all(&mut spool, from, count + 1 - from, bytes) == expected(from, count + 1 - from),
                "{from} {bytes}"
            );
        }
    }
    assert_eq!(spool.read(count + 1, 10, 1000).unwrap(), Lines::default());
    assert_eq!(spool.read(5, 3, 1 << 20).unwrap().count, 3);
}

#[test]
fn space_is_given_back_when_a_segment_is_stored() {
    let mut spool = spool("forget");
    let count = fill(&mut spool);
    let files = |spool: &Spool| {
        spool.segments.iter().map(|s| &s.file).chain(&spool.free).map(|f| f.metadata().unwrap().len()).sum::<u64>()
    };
    let (all_files, before) = (spool.segments.len() + spool.free.len(), files(&spool));
    let second = spool.segments[1].first;
    spool.forget(second - 2);
    assert_eq!(spool.oldest(), 1, "one of the first segment is left");
    spool.forget(second - 1);
    assert_eq!(spool.oldest(), second);
    assert!(files(&spool) <= before - SMALL.segment && spool.append(&line(spool.next()), u64::MAX));
    let more = fill(&mut spool);
    assert!(more > count, "and taken again");
    assert_eq!(all(&mut spool, second, more + 1 - second, 5000), expected(second, more + 1 - second));
    spool.forget(more);
    assert_eq!((spool.oldest(), spool.used, files(&spool)), (more + 1, 0, 0));
    assert_eq!(spool.segments.len() + spool.free.len(), all_files, "no file is lost");
    assert_eq!(spool.next(), more + 1, "numbers go on");
}

#[test]
fn a_record_may_be_larger_than_a_segment() {
    let mut spool = spool("large");
    let large = [b'y'].repeat(250_000);
    for line in [b"a".as_slice(), &large, b"b"] {
        assert!(spool.append(line, u64::MAX));
    }
    assert!(!spool.append(&large, u64::MAX), "but not than what is left");
    assert_eq!(spool.read(1, 9, 1000).unwrap().bytes, b"a");
    assert!(spool.read(2, 9, 1000).unwrap().bytes == large);
    assert_eq!(spool.read(3, 9, 1000).unwrap().bytes, b"b");
    spool.forget(2);
    assert!(spool.append(&large, u64::MAX));
}

#[test]
fn a_limit_holds_a_part_of_the_space_for_others() {
    let mut spool = spool("limit");
    while spool.append(&line(spool.next()), 300_000) {}
    assert!(spool.used <= 300_000);
    assert!(spool.append(b"more", 400_000));
}

#[test]
fn a_spoilt_record_costs_its_segment_and_no_more() {
    let mut spool = spool("spoilt");
    let count = fill(&mut spool);
    let through = spool.segments[1].end() - 1;
    let at = spool.segments[1].written / 2;
    spool.segments[1].file.write_all_at(b"spoilt, for sure", at).unwrap();
    let first = spool.segments[1].first;
    let mut number = first;
    let lost = loop {
        match spool.read(number, 10, 1000) {
            Ok(lines) => {
                assert!(lines.count > 0 && lines.bytes == expected(number, lines.count), "nothing else is read");
                number += lines.count;
            }
            Err(lost) => break lost,
        }
    };
    assert_eq!(lost, Unreadable { through });
    assert!(number > first && number < through);
    spool.forget(through);
    assert_eq!(all(&mut spool, through + 1, count - through, 5000), expected(through + 1, count - through));
}

#[test]
fn the_files_have_no_name() {
    let folder = folder("names");
    fs::write(folder.join(".spool-1"), "of an earlier process").unwrap();
    let mut spool = Spool::create(&folder, SMALL).unwrap();
    fill(&mut spool);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(all(&mut spool, 1, 5, 1000), expected(1, 5));
}

#[test]
fn beside_a_disk_that_takes_nothing_the_events_in_memory_are_delivered() {
    let folder = folder("disk");
    let mut spool = Spool::create(&folder, SMALL).unwrap();
    // A file that can't be written.
    let path = folder.join("read-only");
    fs::write(&path, "").unwrap();
    spool.segments[0].file = File::open(&path).unwrap();
    let count = fill(&mut spool);
    assert!(count > 10 && spool.tail.len() < TAIL + 2000);
    assert!(all(&mut spool, 1, count, 5000) == expected(1, count));
    spool.forget(count);
    assert!(spool.append(&line(count + 1), u64::MAX), "and then there is room again");
}
