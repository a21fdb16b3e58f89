//! A small, real agent: it reads a text, sentence by sentence, and leaves a summary, keywords and counts.
//! It needs no SDK: `KODO_*` tells it what to do, files hold what it gets and leaves, stdout is its log.
//!
//! | `KODO_ENTRY_POINT` | |
//! |---|---|
//! | `summarize` | reads the text and summarises it |
//! | `flaky` | fails until its third attempt, then summarises |
//! | `checkpoint` | summarises, and after SIGTERM goes on where it was when it is resumed (`CHECKPOINT_DIR`) |
//!
//! Inputs: `text` (one string or a list of paragraphs), `sentences` (how many to keep, 3).
//! Extra: `secondsPerSentence` (how fast it reads, 0.3).

mod text;

use std::{
    env, fs,
    path::PathBuf,
    process::exit,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

/// Set by SIGTERM.
static TERM: AtomicBool = AtomicBool::new(false);

/// What the agent is asked for.
struct Task {
    sentences: Vec<String>,
    keep: usize,
    pace: Duration,
}

fn main() {
    let task = match task() {
        Ok(task) => task,
        // No other attempt would find better inputs.
        Err(message) => fail("BadInput", &message, true),
    };
    match env::var("KODO_ENTRY_POINT").as_deref() {
        Ok("summarize") => summarize(&task, None),
        Ok("flaky") => {
            let attempt = env::var("KODO_ATTEMPT").unwrap_or_default();
            if attempt.parse::<u32>().is_ok_and(|n| n < 3) {
                println!("attempt {attempt}: the first sentence is hard to read, giving up");
                thread::sleep(task.pace);
                fail("Unlucky", &format!("attempt {attempt} was not the lucky one"), false);
            }
            println!("attempt {attempt}: this time it works");
            summarize(&task, None);
        }
        Ok("checkpoint") => summarize(&task, Some(checkpoint_file())),
        other => fail("BadInput", &format!("there is no entry point {:?}", other.unwrap_or_default()), true),
    }
}

/// Leaves an error for the operator and ends.
fn fail(kind: &str, message: &str, non_retryable: bool) -> ! {
    eprintln!("{kind}: {message}");
    if let Some(path) = env::var_os("KODO_ERROR_FILE") {
        let error = json!({ "type": kind, "message": message, "nonRetryable": non_retryable });
        if let Err(error) = fs::write(path, error.to_string()) {
            eprintln!("and the error file could not be written: {error}");
        }
    }
    exit(1)
}

fn read(variable: &str) -> Result<Value, String> {
    let path = env::var(variable).map_err(|e| format!("{variable}: {e}"))?;
    let text = fs::read(&path).map_err(|e| format!("{path}: {e}"))?;
    serde_json::from_slice(&text).map_err(|e| format!("{path}: {e}"))
}

fn task() -> Result<Task, String> {
    let (inputs, extra) = (read("KODO_INPUTS_FILE")?, read("KODO_EXTRA_FILE")?);
    let text = match &inputs["text"] {
        Value::String(text) => text.clone(),
        Value::Array(paragraphs) => {
            let paragraphs: Option<Vec<&str>> = paragraphs.iter().map(Value::as_str).collect();
            paragraphs.ok_or("inputs.text has a paragraph that is not a string")?.join("\n\n")
        }
        _ => return Err("inputs.text must be a string or a list of strings".into()),
    };
    let sentences = text::sentences(&text);
    if sentences.is_empty() {
        return Err("inputs.text has no sentence".into());
    }
    let keep = match &inputs["sentences"] {
        Value::Null => 3,
        n => n.as_u64().filter(|n| *n > 0).ok_or("inputs.sentences must be a number above 0")? as usize,
    };
    let pace = match &extra["secondsPerSentence"] {
        Value::Null => 0.3,
        n => n.as_f64().ok_or("extra.secondsPerSentence must be a number")?,
    };
    let pace = Duration::try_from_secs_f64(pace).map_err(|e| format!("extra.secondsPerSentence: {e}"))?;
    Ok(Task { sentences, keep, pace })
}

fn checkpoint_file() -> PathBuf {
    PathBuf::from(env::var_os("CHECKPOINT_DIR").unwrap_or_else(|| "/data".into())).join("checkpoint.json")
}

/// Reads sentence by sentence, with a checkpoint after each one if there is a file for it, and leaves the result.
fn summarize(task: &Task, checkpoint: Option<PathBuf>) {
    let mut reading = text::Reading::default();
    let mut resumed_from = None;
    if let Some(path) = &checkpoint {
        catch_term();
        if env::var("KODO_RESUMED").is_ok_and(|v| v == "1") {
            resumed_from = fs::read(path).ok().and_then(|saved| serde_json::from_slice::<Value>(&saved).ok());
        }
    }
    let done = resumed_from.as_ref().and_then(|saved| saved["done"].as_u64()).unwrap_or(0) as usize;
    let total = task.sentences.len();
    for sentence in task.sentences.iter().take(done) {
        reading.take(sentence);
    }
    if done > 0 {
        println!("going on after sentence {done} of {total}");
    }
    for (i, sentence) in task.sentences.iter().enumerate().skip(done) {
        thread::sleep(task.pace);
        reading.take(sentence);
        let words = text::words(sentence).count();
        println!("sentence {}/{total}: {words} words, {} different ones so far", i + 1, reading.vocabulary());
        if let Some(path) = &checkpoint {
            save(path, i + 1);
            if TERM.load(Ordering::SeqCst) {
                println!("asked to stop; {} of {total} sentences are safe in {}", i + 1, path.display());
                exit(143);
            }
        }
    }
    let mut result = reading.report(task.keep);
    result["attempt"] = env::var("KODO_ATTEMPT").ok().and_then(|v| v.parse::<u32>().ok()).into();
    if done > 0 {
        result["resumedAfterSentence"] = done.into();
    }
    println!("summary: {}", result["summary"].as_str().unwrap_or_default());
    let Some(path) = env::var_os("KODO_RESULT_FILE") else { return };
    if let Err(error) = fs::write(path, result.to_string()) {
        fail("NoResult", &format!("the result file could not be written: {error}"), false);
    }
}

/// Complete or not at all: the pod may end at any time.
fn save(path: &PathBuf, done: usize) {
    let temporary = path.with_extension("new");
    let saved = fs::write(&temporary, json!({ "done": done }).to_string()).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = saved {
        fail("NoCheckpoint", &format!("{}: {error}", path.display()), false);
    }
}

/// From now on SIGTERM only sets [`TERM`].
fn catch_term() {
    let set: SigSet = [Signal::SIGTERM].into_iter().collect();
    if let Err(error) = set.thread_block() {
        fail("NoSignals", &error.to_string(), false);
    }
    thread::spawn(move || {
        while set.wait().is_ok() {
            TERM.store(true, Ordering::SeqCst);
        }
    });
}
