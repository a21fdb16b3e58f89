import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runner import FakeRunner


@pytest.mark.parametrize(
    ("entry_point", "inputs", "result"),
    [
        ("sample:by_name", {"topic": "rain"}, {"text": "rain rain"}),
        ("sample:by_name", {"topic": "rain", "count": 1, "loud": True}, {"text": "RAIN"}),
        ("sample.by_name", {"topic": "rain"}, {"text": "rain rain"}),
        ("sample:whole", {"b": 1, "a": {}}, {"keys": ["a", "b"]}),
        ("sample:rest", {"topic": "rain", "x": 1, "y": None}, ["rain", {"x": 1, "y": None}]),
        ("sample:none", {}, None),
        ("sample:Tools.reverse", {"text": "abc"}, "cba"),
        ("sample:twice", {"loud": True}, {"text": "TEA TEA"}),
        ("sample:slow", {"text": "later"}, "later"),
        ("typed:model_inputs", {"topic": "rain"}, {"topic": "rain", "limit": 3}),
        (
            "typed:model_by_name",
            {"first": {"topic": "a"}, "second": {"topic": "b", "limit": 1}},
            [{"topic": "a", "limit": 3}, {"topic": "b", "limit": 1}],
        ),
        (
            "sample:dataclass_inputs",
            {"kind": "small", "parts": [{"name": "a", "weight": 2}]},
            {"kind": "small", "parts": [{"name": "a", "weight": 2.0}], "note": None},
        ),
    ],
)
def test_what_it_returns_is_the_result(runner: FakeRunner, entry_point: str, inputs: object, result: object) -> None:
    ended = runner.run(entry_point, inputs)
    assert (ended.code, ended.result, ended.error) == (0, result, ...), ended.log


@pytest.mark.parametrize(
    ("entry_point", "inputs", "message"),
    [
        ("sample:by_name", {}, "inputs.topic is missing"),
        ("sample:by_name", {"topic": 3}, "inputs.topic must be a string, and is a number"),
        ("sample:by_name", {"topic": "a", "loud": None}, "inputs.loud must be true or false, and is null"),
        ("sample:by_name", {"topic": "a", "speed": 1, "n": 2}, "the entry point takes no input n, speed"),
        ("typed:model_inputs", {"limit": 0}, "inputs.topic: Field required; inputs.limit: Input should be greater"),
        ("sample:dataclass_inputs", {"kind": "tiny"}, "inputs.kind must be 'small' or 'large'"),
        ("sample:dataclass_inputs", {"kind": "small", "parts": [{}]}, "inputs.parts[0].name is missing"),
        ("sample:dataclass_inputs", {"kind": "small", "colour": 1}, "inputs: Order has no field colour"),
        ("sample:dataclass_inputs", {"kind": "small", "note": 1}, "inputs.note must be a string"),
    ],
)
def test_inputs_that_do_not_fit_end_the_job(runner: FakeRunner, entry_point: str, inputs: object, message: str) -> None:
    ended = runner.run(entry_point, inputs)
    assert (ended.code, ended.result) == (1, ...), ended.log
    assert ended.error["message"].startswith(message)
    assert (ended.error["type"], ended.error["nonRetryable"]) == ("InvalidInputs", True)


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("", "the entry point must be module:function, and is ''"),
        ("sample", "the entry point must be module:function, and is 'sample'"),
        ("nowhere.at_all:run", "there is no module nowhere "),
        ("sample:nothing", "sample has no nothing"),
        ("sample:NOT_CALLABLE", "sample:NOT_CALLABLE is a int, and can't be called"),
    ],
)
def test_an_entry_point_that_is_not_there_ends_the_job(runner: FakeRunner, entry_point: str, message: str) -> None:
    error = runner.run(entry_point).error
    assert error["message"].startswith(message)
    assert (error["type"], error["nonRetryable"]) == ("EntryPointError", True)


def test_a_module_that_the_agent_misses_is_not_called_its_entry_point(runner: FakeRunner) -> None:
    assert runner.run("broken:run").error["type"] == "ModuleNotFoundError"


def test_exceptions_become_errors_with_their_place(runner: FakeRunner) -> None:
    ended = runner.run("sample:fail")
    assert (ended.code, ended.result) == (1, ...)
    assert (ended.error["type"], ended.error["nonRetryable"]) == ("ValueError", False)
    message = ended.error["message"]
    assert message.startswith("no such luck (agents/sample.py:") and message.endswith(", in fail)")
    assert ended.log.startswith("Traceback") and "launcher.py" not in ended.log
    assert runner.run("sample:fail_slowly").error["type"] == "OSError"


def test_errors_have_bounds(runner: FakeRunner) -> None:
    ended = runner.run("sample:fail_deeply", {"levels": 300})
    message = ended.error["message"]
    assert len(message.encode()) <= 2048
    assert "xxx… (" in message and message.endswith(", in fail_deeply)")
    assert len(ended.log) < 17 * 1024 and "characters left out" in ended.log


@pytest.mark.parametrize(
    ("kind", "options", "final"),
    [
        ("Quota", [], True),
        ("KeyError", [], False),
        ("KeyError", ["--non-retryable", "KeyError"], True),
        ("KeyError", ["--non-retryable", "ValueError", "--non-retryable", "builtins.LookupError"], True),
        ("KeyError", ["--non-retryable", "sample.KeyError"], False),
    ],
)
def test_what_is_final_is_said(runner: FakeRunner, kind: str, options: list[str], final: bool) -> None:
    ended = runner.run("sample:fail", {"kind": kind}, *options)
    assert (ended.error["type"], ended.error["nonRetryable"]) == (kind, final)


@pytest.mark.parametrize(
    ("code", "exits", "error"), [(0, 0, ...), (None, 0, ...), (7, 7, ...), ("enough", 1, {"message": "enough"})]
)
def test_an_agent_may_exit_by_itself(runner: FakeRunner, code: object, exits: int, error: object) -> None:
    ended = runner.run("sample:leave", {"code": code})
    assert (ended.code, ended.result, ended.error) == (exits, ..., error)


@pytest.mark.parametrize("entry_point", ["sample:wait", "sample:wait_slowly", "sample:wait_and_get_another"])
def test_sigterm_ends_it_after_its_cleaning_up(runner: FakeRunner, entry_point: str) -> None:
    ended = runner.terminated(entry_point)
    assert (ended.code, ended.result, ended.output) == (143, ..., "cleaned up\n"), ended.log
    assert ended.error == {"type": "Terminated", "message": "ended by SIGTERM"}


@pytest.mark.parametrize("entry_point", ["sample:wait_and_finish", "sample:wait_slowly_and_finish"])
def test_what_finishes_on_sigterm_has_succeeded(runner: FakeRunner, entry_point: str) -> None:
    ended = runner.terminated(entry_point)
    assert (ended.code, ended.result, ended.error) == (0, "done all the same", ...), ended.log


def test_what_is_done_before_sigterm_stays_done(runner: FakeRunner) -> None:
    ended = runner.run("typed:sigterm_while_it_is_written")
    assert (ended.code, ended.result, ended.error) == (0, {"text": "done"}, ...), ended.log


def test_a_result_does_not_wait_for_threads_of_the_event_loop(runner: FakeRunner) -> None:
    ended = runner.terminated("sample:leave_a_thread_slowly", once=runner.result)
    assert (ended.code, ended.result, ended.error, ended.output) == (0, "done", ..., "printed\n"), ended.log


@pytest.mark.parametrize("fails", [False, True])
def test_sigterm_ends_a_process_that_only_waits_for_its_threads(runner: FakeRunner, fails: bool) -> None:
    once = runner.error if fails else runner.result
    ended = runner.terminated("sample:leave_a_thread", {"fails": fails}, once=once)
    assert (ended.code, ended.output) == (int(fails), "printed\n"), ended.log
    assert ended.result == (... if fails else "done")


@pytest.mark.parametrize("finish", [False, True])
def test_after_sigterm_tasks_and_exit_hooks_end_and_threads_do_not_count(runner: FakeRunner, finish: bool) -> None:
    ended = runner.terminated("sample:wait_for_a_thread", {"finish": finish})
    assert (ended.code, ended.output) == (0 if finish else 143, "cleaned up\nleft\n"), ended.log
    assert ended.result == ("done, and background.done()=False" if finish else ...)


def test_a_result_that_is_no_event_is_a_result(runner: FakeRunner) -> None:
    ended = runner.run("sample:lazy")
    assert (ended.code, ended.result, ended.error) == (0, {"a": 1}, ...), ended.log
    assert "the result is no event" in ended.log


def test_inputs_that_do_not_fit_are_not_in_the_log(runner: FakeRunner) -> None:
    ended = runner.run("typed:model_inputs", {"topic": "a", "limit": "sk-SECRET"})
    assert ended.error["message"].startswith("inputs.limit: ")
    assert "InvalidInputs" in ended.log and "sk-SECRET" not in ended.log


def test_a_cancel_of_its_own_is_a_failure(runner: FakeRunner) -> None:
    ended = runner.run("sample:cancels_itself")
    assert (ended.code, ended.error["type"]) == (1, "CancelledError")


def test_a_child_ends_by_sigterm_as_ever(runner: FakeRunner) -> None:
    ended = runner.run("sample:ends_a_child")
    assert (ended.result, ended.log) == (-15, "")


def test_large_results_are_written_and_a_word_is_said(runner: FakeRunner) -> None:
    limit = 32 * 1024
    assert runner.run("sample:large", {"size": limit - 2}).log == ""
    ended = runner.run("sample:large", {"size": 40_000_000})
    assert (ended.code, len(ended.result)) == (0, 40_000_000)
    assert "the result has 40000002 bytes" in ended.log


def test_a_result_that_is_not_json_ends_the_job(runner: FakeRunner) -> None:
    ended = runner.run("sample:unserializable")
    assert (ended.code, ended.result) == (1, ...)
    assert ended.error == {
        "type": "UnserializableResult",
        "message": '$.found[1]["a b"]: a value of type set is not JSON',
        "nonRetryable": True,
    }


def test_it_sees_its_job_and_its_folder(runner: FakeRunner) -> None:
    runner.write(extra={"speed": 1.5})
    folder = str(runner.folder / "data")
    ended = runner.run("sample:job", env={"KODO_RESUMED": "1", "KODO_ATTEMPT": "2", "CHECKPOINT_DIR": folder})
    fid = runner.env["KODO_FID"]
    job = {"fid": fid, "attempt": 2, "resumed": True, "extra": {"speed": 1.5}, "folder": f"{folder}/{fid}"}
    assert ended.result == job, ended.log
    assert "continues attempt 2" in ended.log
    ended = runner.run("sample:job", env={"CHECKPOINT_DIR": folder})
    assert (ended.result["resumed"], ended.log) == (False, "")
    error = runner.run("sample:job").error
    assert (error["type"], error["nonRetryable"]) == ("CheckpointError", True)


def test_inputs_that_are_no_object_are_refused(runner: FakeRunner) -> None:
    assert runner.run("sample:whole", [1]).error["type"] == "InvalidInputs"


def test_outside_of_koco_the_result_goes_to_stdout(runner: FakeRunner) -> None:
    env = {key: value for key, value in runner.env.items() if not key.startswith("KODO_")}
    command = [sys.executable, "-m", "kodosumi_koco", "run"]
    printed = subprocess.check_output(command, env={**env, "KODO_ENTRY_POINT": "sample:whole"}, cwd=runner.cwd)
    assert json.loads(printed) == {"keys": []}


def test_the_launcher_needs_no_pydantic(runner: FakeRunner) -> None:
    code = "import sys, kodosumi_koco.launcher as m; m.load('os:getcwd'); assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=runner.env, check=True)


def test_progress_is_reported_and_usage_adds_up(runner: FakeRunner, tmp_path: Path) -> None:
    file = str(tmp_path / "progress.json")
    ended = runner.run("sample:progress", {"file": file}, env={"KODO_PROGRESS_FILE": file})
    assert (ended.code, ended.error) == (0, ...), ended.log
    first, second, after_errors, after_threads = ended.result
    assert first == {
        "percent": 12.5,
        "message": "reads",
        "usage": {"inputTokens": 100, "outputTokens": 7, "costMicros": 0},
    }
    assert (second["percent"], len(second["message"].encode())) == (12.5, 255)
    assert second["usage"] == {"inputTokens": 120, "outputTokens": 7, "costMicros": 5}
    assert after_errors == second
    assert after_threads["usage"]["inputTokens"] == 140
    assert [path.name for path in tmp_path.glob("progress*")] == ["progress.json"]


def test_progress_outside_of_koco_is_none(runner: FakeRunner) -> None:
    ended = runner.run("kodosumi_koco:report_progress", {"percent": 5, "input_tokens": 3})
    assert (ended.code, ended.result, ended.error) == (0, None, ...), ended.log
