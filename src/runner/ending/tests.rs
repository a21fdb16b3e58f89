use serde_json::json;

use super::*;

fn facts(exit: Exit) -> ExitFacts {
    ExitFacts {
        exit,
        stopped: None,
        oom: false,
        error: FileContents::Nothing,
        result: FileContents::Nothing,
        active: Duration::from_millis(1500),
        limit: Some(Duration::from_secs(60)),
        usage: Usage { input_tokens: 3, ..Usage::default() },
        over: None,
    }
}

fn signal(name: &str, number: i32) -> Exit {
    Exit::Signal { name: name.into(), number }
}

fn error(kind: Option<&str>, message: Option<&str>, non_retryable: Option<bool>) -> FileContents<AgentError> {
    FileContents::Something(AgentError { kind: kind.map(Into::into), message: message.map(Into::into), non_retryable })
}

/// Kind, error type and message.
fn summary(facts: ExitFacts) -> (TerminationType, String, String) {
    let ending = classify(facts);
    let error = ending.error.unwrap_or_default();
    (ending.kind, error.kind, error.message)
}

fn fails_as(facts: ExitFacts, kind: &str, message: &str) {
    let (outcome, error, said) = summary(facts);
    assert_eq!((outcome, error.as_str()), (TerminationType::Failed, kind));
    assert!(said.contains(message), "{said}");
}

#[test]
fn exit_0_is_success_with_or_without_a_result() {
    let ending = classify(facts(Exit::Code(0)));
    assert_eq!((ending.kind, ending.exit_code, ending.result), (TerminationType::Succeeded, Some(0), None));
    assert_eq!((ending.active_millis, ending.usage.input_tokens), (1500, 3));
    let ending = classify(ExitFacts { result: FileContents::Something(json!({"a": 1})), ..facts(Exit::Code(0)) });
    assert_eq!(ending.result, Some(json!({"a": 1})));
    let deep = ExitFacts { result: FileContents::TooDeep(101), ..facts(Exit::Code(0)) };
    fails_as(deep, error_types::RESULT_TOO_DEEP, "101 levels");
    let bad = ExitFacts { result: FileContents::Unreadable("EOF".into()), ..facts(Exit::Code(0)) };
    assert!(classify(bad.clone()).non_retryable);
    fails_as(bad, error_types::INVALID_RESULT, "EOF");
}

#[test]
fn other_exit_codes_fail_and_the_error_file_is_read() {
    fails_as(facts(Exit::Code(3)), error_types::AGENT_FAILED, "exit code 3");
    let with = |error| ExitFacts { error, ..facts(Exit::Code(3)) };
    fails_as(with(error(Some("Foo"), Some("bar"), None)), "Foo", "bar");
    fails_as(with(error(Some("Foo"), None, None)), "Foo", "exit code 3");
    fails_as(with(error(None, Some("bar"), None)), error_types::AGENT_FAILED, "bar");
    fails_as(with(FileContents::Unreadable("EOF".into())), error_types::AGENT_FAILED, "error file was not readable");
    assert!(classify(with(error(None, None, Some(true)))).non_retryable);
    assert!(!classify(with(error(None, None, Some(false)))).non_retryable);
    fails_as(with(error(Some(error_types::DISRUPTED), None, None)), error_types::AGENT_FAILED, "not for an agent");
    let ignored = classify(ExitFacts { error: error(Some("Foo"), None, None), ..facts(Exit::Code(0)) });
    assert_eq!(ignored.kind, TerminationType::Succeeded);
}

#[test]
fn signals_and_memory() {
    fails_as(facts(signal("SIGSEGV", 11)), error_types::AGENT_KILLED, "SIGSEGV");
    fails_as(facts(signal("SIGKILL", 9)), error_types::AGENT_KILLED, "SIGKILL");
    fails_as(ExitFacts { oom: true, ..facts(signal("SIGKILL", 9)) }, error_types::OOM_KILLED, "memory");
    fails_as(ExitFacts { oom: true, ..facts(signal("SIGSEGV", 11)) }, error_types::AGENT_KILLED, "SIGSEGV");
    fails_as(ExitFacts { oom: true, ..facts(Exit::Code(1)) }, error_types::AGENT_FAILED, "memory");
}

#[test]
fn a_command_that_cannot_be_started_is_never_tried_again() {
    let ending = classify(facts(Exit::NotSpawned("No such file".into())));
    assert!(ending.non_retryable && !ending.started);
    fails_as(facts(Exit::NotSpawned("No such file".into())), error_types::START_FAILED, "No such file");
}

#[test]
fn inputs_that_are_none_start_no_agent() {
    let why = "spec.inputsFrom[0]: key a is not UTF-8";
    let exit = || Exit::InvalidInputs(error_types::INVALID_INPUTS_FROM, why.into());
    let ending = classify(facts(exit()));
    assert!(ending.non_retryable && !ending.started);
    fails_as(facts(exit()), error_types::INVALID_INPUTS_FROM, why);
}

#[test]
fn trouble_of_the_node_is_no_fault_of_the_command() {
    let ending = classify(facts(Exit::NotStarted("No space left".into())));
    assert!(!ending.non_retryable && !ending.started);
    fails_as(facts(Exit::NotStarted("No space left".into())), error_types::NOT_STARTED, "No space left");
    let of_the_command = |errno: Errno| is_of_the_command(&io::Error::from(errno));
    use Errno::*;
    assert!([ENOENT, EACCES, ENOEXEC, ENOTDIR, ELOOP, EINVAL, EPERM].into_iter().all(of_the_command));
    assert!(![ENOSPC, EAGAIN, ENOMEM, EIO, EDQUOT, ESTALE, ETXTBSY, EMFILE].into_iter().any(of_the_command));
    assert!(is_of_the_command(&io::Error::new(io::ErrorKind::InvalidInput, "a nul byte")));
}

#[test]
fn why_it_was_stopped_decides_unless_it_had_finished() {
    let stopped = |why, exit| ExitFacts { stopped: Some(why), ..facts(exit) };
    let term = || signal("SIGTERM", 15);
    let result = || FileContents::Something(json!(1));
    let kind = |e| summary(e).0;

    assert_eq!(kind(stopped(Stopped::Cancel, term())), TerminationType::Cancelled);
    assert_eq!(kind(stopped(Stopped::Cancel, Exit::Code(143))), TerminationType::Cancelled);
    assert_eq!(
        kind(stopped(Stopped::Cancel, Exit::Code(0))),
        TerminationType::Cancelled,
        "no result file: it was not done"
    );
    assert_eq!(
        kind(ExitFacts { result: result(), ..stopped(Stopped::Cancel, Exit::Code(0)) }),
        TerminationType::Succeeded
    );
    let torn = ExitFacts { result: FileContents::Unreadable("EOF".into()), ..stopped(Stopped::Cancel, Exit::Code(0)) };
    assert_eq!(kind(torn), TerminationType::Cancelled);

    assert_eq!(kind(stopped(Stopped::Evict, term())), TerminationType::Evicted);
    assert_eq!(
        kind(stopped(Stopped::Evict, Exit::Code(0))),
        TerminationType::Evicted,
        "no result file: it was not done"
    );
    assert_eq!(
        kind(ExitFacts { result: result(), ..stopped(Stopped::Evict, Exit::Code(1)) }),
        TerminationType::Evicted
    );
    assert_eq!(
        kind(ExitFacts { result: result(), ..stopped(Stopped::Evict, Exit::Code(0)) }),
        TerminationType::Succeeded
    );

    fails_as(stopped(Stopped::Timeout, term()), error_types::EXECUTION_TIMEOUT, "60 s");
    fails_as(stopped(Stopped::Timeout, Exit::Code(0)), error_types::EXECUTION_TIMEOUT, "exit code 0");

    let over = BudgetLimit { field: "inputTokens", limit: 5, used: 6 };
    let budget = |exit| ExitFacts { over: Some(over), result: result(), ..stopped(Stopped::Budget, exit) };
    fails_as(budget(Exit::Code(0)), error_types::BUDGET_EXCEEDED, "budget.inputTokens is 5");
    fails_as(budget(term()), error_types::BUDGET_EXCEEDED, "have reported 6: killed by SIGTERM");
    assert!(classify(budget(term())).non_retryable && classify(budget(term())).started);

    fails_as(stopped(Stopped::Gone, Exit::Code(0)), error_types::DISRUPTED, "exit code 0");
    assert_eq!(
        kind(ExitFacts { result: result(), ..stopped(Stopped::Gone, Exit::Code(0)) }),
        TerminationType::Succeeded
    );

    fails_as(stopped(Stopped::Sigterm, term()), error_types::DISRUPTED, "SIGTERM");
    fails_as(ExitFacts { oom: true, ..stopped(Stopped::Sigterm, signal("SIGKILL", 9)) }, error_types::DISRUPTED, "");
    fails_as(stopped(Stopped::Sigterm, Exit::Code(0)), error_types::DISRUPTED, "exit code 0");
    assert_eq!(
        kind(ExitFacts { result: result(), ..stopped(Stopped::Sigterm, Exit::Code(0)) }),
        TerminationType::Succeeded
    );
}

#[test]
fn an_agent_without_a_budget_left_is_not_started_and_not_retried() {
    let end = budget_used_up(Some(BudgetLimit { field: "activeTime", limit: 60_000, used: 61_000 }));
    assert_eq!((end.kind, end.started, end.non_retryable), (TerminationType::Failed, false, true));
    let error = end.error.unwrap();
    assert_eq!(error.kind, error_types::BUDGET_EXCEEDED);
    assert_eq!(error.message, "budget.activeTime is 60 s: it is used up, and the agent is not started");
}

#[test]
fn the_runners_exit_code_is_the_agents_and_never_0_without_success() {
    let code = |e: ExitFacts| exit_code(&classify(e.clone()), &e.exit);
    assert_eq!(code(facts(Exit::Code(0))), 0);
    assert_eq!(code(facts(Exit::Code(3))), 3);
    assert_eq!(code(facts(signal("SIGSEGV", 11))), 139);
    assert_eq!(code(facts(Exit::NotSpawned(String::new()))), 1);
    assert_eq!(code(ExitFacts { stopped: Some(Stopped::Evict), ..facts(Exit::Code(0)) }), 1);
}

#[test]
fn long_messages_are_cut_between_characters() {
    let long = "é".repeat(MAX_MESSAGE_BYTES);
    let (_, _, message) = summary(ExitFacts { error: error(None, Some(&long), None), ..facts(Exit::Code(1)) });
    assert!(message.len() <= MAX_MESSAGE_BYTES && message.len() > MAX_MESSAGE_BYTES - 8);
    assert!(message.ends_with("é…"));
    let (_, kind, _) = summary(ExitFacts { error: error(Some(&long), None, None), ..facts(Exit::Code(1)) });
    assert!(kind.len() <= 128);
    for bytes in 0..12 {
        let mut text = "aéa".repeat(3);
        shorten(&mut text, bytes.max(3));
        assert!(text.len() <= bytes.max(3));
    }
}
