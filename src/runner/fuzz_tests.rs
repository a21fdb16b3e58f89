//! Whatever an agent leaves in place of its result and error files: the runner ends, and says something that fits.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use proptest::{prelude::*, test_runner::TestCaseError};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    ending::{Exit, ExitFacts, FileContents, classify},
    files::{Files, MAX_PROGRESS_BYTES},
    identity::Identity,
    machine::Stopped,
    report::termination_message,
};
use crate::{
    api::{RawJson, TerminationType, Usage, depth},
    fuzz::{check, json, nearly},
    protocol::{
        error_types,
        key::PublicKey,
        runner::{AgentEnd, MAX_MESSAGE_BYTES, MAX_RESULT_BYTES, MAX_RESULT_DEPTH, cut_result},
        termination,
    },
};

/// What is in a file's place.
#[derive(Clone, Debug)]
enum Left {
    Nothing,
    Bytes(Vec<u8>),
    /// Larger than what is read, with nothing in it.
    Huge(u64),
    Folder,
    Pipe,
    Socket,
    LinkTo(&'static str),
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let text = |value: Value| value.to_string().into_bytes();
    let error = json!({ "type": "T", "message": "m", "nonRetryable": true });
    let long = prop_oneof![0_usize..70_000, MAX_RESULT_BYTES - 4..MAX_RESULT_BYTES + 4, 65_530_usize..65_540];
    let long = (long, any::<char>()).prop_map(|(length, c)| json!(c.to_string().repeat(length)).to_string());
    // Numbers that are longer when they are written again.
    let grows = (prop::sample::select(vec!["1e15", "1E-5", "100e9"]), 0_usize..8_000)
        .prop_map(|(number, times)| format!("[{}0]", format!("{number},").repeat(times)));
    let deep = prop_oneof![0_usize..300, 0_usize..40_000];
    let deep = (deep, any::<bool>())
        .prop_map(|(levels, closed)| [b"[".repeat(levels), if closed { b"]".repeat(levels) } else { vec![] }].concat());
    let message =
        ("(?s).{0,5000}", "(?s).{0,200}").prop_map(|(message, kind)| json!({ "type": kind, "message": message }));
    let whole = prop_oneof![
        2 => json().prop_map(text),
        2 => nearly(error).prop_map(text),
        1 => message.prop_map(text),
        1 => long.prop_map(String::into_bytes),
        1 => grows.prop_map(String::into_bytes),
        1 => deep,
        1 => any::<Vec<u8>>(),
    ];
    let spoilt = prop::option::weighted(0.3, (any::<usize>(), any::<u8>()));
    (whole, spoilt).prop_map(|(mut whole, spoilt)| {
        if let Some((at, byte)) = spoilt.filter(|_| !whole.is_empty()) {
            let at = at % whole.len();
            whole[at] = byte;
        }
        whole
    })
}

fn left() -> impl Strategy<Value = Left> {
    let link = prop::sample::select(vec![
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "/proc/kmsg",
        "/",
        "nowhere",
        "result.json",
    ]);
    prop_oneof![
        1 => Just(Left::Nothing),
        12 => bytes().prop_map(Left::Bytes),
        1 => (0_u64..200 << 20).prop_map(Left::Huge),
        1 => prop::sample::select(vec![Left::Folder, Left::Pipe, Left::Socket]),
        1 => link.prop_map(Left::LinkTo),
    ]
}

fn leave(path: &Path, left: &Left) {
    match left {
        Left::Nothing => {}
        Left::Bytes(bytes) => File::create(path).unwrap().write_all(bytes).unwrap(),
        Left::Huge(size) => File::create(path).unwrap().set_len(*size).unwrap(),
        Left::Folder => fs::create_dir(path).unwrap(),
        Left::Pipe => mkfifo(path, Mode::S_IRWXU).unwrap(),
        Left::Socket => drop(UnixListener::bind(path).unwrap()),
        Left::LinkTo(target) => symlink(target, path).unwrap(),
    }
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
}

fn exit() -> impl Strategy<Value = (Exit, Option<Stopped>, bool)> {
    let exit = prop_oneof![
        4 => Just(Exit::Code(0)),
        4 => any::<i32>().prop_map(Exit::Code),
        1 => (1..65).prop_map(|number| Exit::Signal { name: "SIGX".into(), number }),
    ];
    let why = vec![Stopped::Timeout, Stopped::Budget, Stopped::Evict, Stopped::Cancel, Stopped::Sigterm, Stopped::Gone];
    (exit, prop::option::weighted(0.2, prop::sample::select(why)), any::<bool>())
}

#[test]
fn whatever_an_agent_leaves_is_read_and_reported() {
    let dir = std::env::temp_dir().join(format!("koco-fuzz-{}", std::process::id()));
    let files = Files::new(&dir);
    files.prepare(&RawJson::default(), &RawJson::default()).unwrap();
    let identity = Identity::generate().unwrap();
    let pair = KeyPair::try_from(&identity.certificate().unwrap().1).unwrap();
    let key = PublicKey::from_spki(&pair.subject_public_key_info()).unwrap();
    check(
        "an agent's files",
        (left(), left(), exit(), 1024_usize..4097),
        |(result, error, (exit, stopped, oom), limit)| {
            leave(&files.result(), &result);
            leave(&files.error(), &error);
            leave(&files.progress(), &error);
            let (read, reported) = ((files.read_result(), files.read_error()), files.read_progress());
            [files.result(), files.error(), files.progress()].iter().for_each(|path| remove(path));
            if let FileContents::Something(bytes) = reported {
                prop_assert!(bytes.len() as u64 <= MAX_PROGRESS_BYTES);
            }
            if let Left::Bytes(bytes) = &result {
                is_right(bytes, &read.0)?;
            }
            let (active, gone) = (Duration::from_secs(1), Exit::Code(0));
            let facts = ExitFacts {
                exit: exit.clone(),
                stopped,
                oom,
                error: read.1,
                result: read.0.clone(),
                active,
                limit: None,
                usage: Usage { input_tokens: i64::MAX, output_tokens: i64::MAX, cost_micros: i64::MAX },
                over: None,
            };
            let end = classify(facts);
            let over = matches!(stopped, Some(Stopped::Timeout | Stopped::Budget));
            let taken = exit == gone && matches!(read.0, FileContents::Something(_)) && !over;
            prop_assert!(!taken || end.kind == TerminationType::Succeeded, "{end:?}");
            prop_assert!(end.kind != TerminationType::Succeeded || exit == gone);
            if let Some(result) = &end.result {
                let text = result.to_string();
                prop_assert!(
                    text.len() <= MAX_RESULT_BYTES && depth(&text) <= MAX_RESULT_DEPTH,
                    "{} bytes",
                    text.len()
                );
            }
            if let Some(error) = &end.error {
                prop_assert!(error.message.len() <= MAX_MESSAGE_BYTES && error.kind.len() <= 128, "{error:?}");
                prop_assert!(!error_types::is_of_roles(&error.kind), "{error:?}");
            }
            let (message, told) = termination_message(&end, &identity, limit).unwrap();
            prop_assert!(message.len() <= limit, "{} bytes of {limit}", message.len());
            // As it is read, for a result of `null` is none.
            let told: AgentEnd = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
            prop_assert_eq!(termination::verify(&message, &key), Some(told));
            Ok(())
        },
    );
    fs::remove_dir_all(&dir).unwrap();
}

/// A result file is what a JSON parser says of it, or its size and digest.
fn is_right(bytes: &[u8], read: &FileContents<Value>) -> Result<(), TestCaseError> {
    let parsed = serde_json::from_slice::<Value>(bytes);
    match read {
        FileContents::Something(value) if bytes.len() > MAX_RESULT_BYTES => {
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
            prop_assert_eq!(value, &json!({ "truncated": true, "size": bytes.len(), "digest": digest }));
        }
        FileContents::Something(value) => {
            prop_assert_eq!(value, &cut_result(&parsed.unwrap_or_default(), MAX_RESULT_BYTES));
        }
        FileContents::TooDeep(levels) => prop_assert!(*levels > MAX_RESULT_DEPTH),
        FileContents::Unreadable(_) => prop_assert!(parsed.is_err(), "{parsed:?}"),
        FileContents::Nothing => prop_assert!(false, "it is there"),
    }
    Ok(())
}
