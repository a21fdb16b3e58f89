import asyncio
import json
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runner import FakeRunner, wait_for
from fake_socket import FakeSocket, acknowledge

from kodosumi_koco import Tracer, TracerError
from kodosumi_koco import tracer as tracer_module
from kodosumi_koco.connection import MAX_LINE_BYTES, Connection

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeSocket]:
    server = FakeSocket(tmp_path / "runner.sock")
    yield server
    server.close()


@pytest.fixture
def tracer(server: FakeSocket) -> Tracer:
    return Tracer(str(server.path), patience=30)


def tell_all(tracer: Tracer) -> None:
    tracer.debug_sync("one", "two")
    tracer.markdown_sync("# Rain", "and *wind*")
    tracer.html_sync("<b>Rain</b>", "<i>wind</i>")
    tracer.text_sync("Råin 雨", 'a "quote"\tand a tab')
    tracer.result_sync({"a": [1, 2.5, None]}, "text", 3, True)
    tracer.action_sync(["a", (1, None)])
    tracer.warning_sync("on stderr")
    tracer.emit("final", '{"str":"done"}')


async def tell_all_async(tracer: Tracer) -> None:
    await tracer.debug("one", "two")
    await tracer.markdown("# Rain", "and *wind*")
    await tracer.html("<b>Rain</b>", "<i>wind</i>")
    await tracer.text("Råin 雨", 'a "quote"\tand a tab')
    await tracer.result({"a": [1, 2.5, None]}, "text", 3, True)
    await tracer.action(["a", (1, None)])
    await tracer.warning("on stderr")
    tracer.emit("final", '{"str":"done"}')


def test_the_wire_is_that_of_the_vectors(server: FakeSocket, tracer: Tracer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.25)
    vectors = (VECTORS / "events.jsonl").read_bytes()
    tell_all(tracer)
    assert b"".join(server.lines) == vectors
    tracer.close()
    server.lines.clear()
    asyncio.run(tell_all_async(tracer))
    assert b"".join(server.lines) == vectors
    assert server.connections == 2


def test_warnings_go_to_stderr(server: FakeSocket, tracer: Tracer, capsys: pytest.CaptureFixture[str]) -> None:
    async def warn() -> None:
        try:
            raise ValueError("no luck")
        except ValueError:
            tracer.warning_sync("mind", "the gap", exc_info=True)
            await tracer.warning("mind", "the gap", exc_info=True)

    asyncio.run(warn())
    warnings = capsys.readouterr().err
    assert warnings.count("mind\nthe gap\nTraceback") == 2 and warnings.count("ValueError: no luck") == 2
    assert server.lines == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"seq": 1, "reason": "NotSupported", "message": "events of kind lock"}, "NotSupported: events of kind lock"),
        ({"reason": "TooLarge", "message": "at most 9"}, "TooLarge: at most 9"),
        (None, "Unknown"),
    ],
)
def test_what_the_runner_refuses_is_an_error_at_once(
    server: FakeSocket, tracer: Tracer, answer: Any, message: str
) -> None:
    server.answer = lambda event: json.dumps({"error": answer}).encode() + b"\n"
    with pytest.raises(TracerError, match=message):
        tracer.emit("lock", "{}")
    server.answer = acknowledge
    tracer.text_sync("a")
    assert [json.loads(line)["seq"] for line in server.lines] == [1, 1]


def test_an_event_returns_with_its_acknowledgement(server: FakeSocket, tracer: Tracer) -> None:
    go = threading.Event()
    server.answer = lambda event: acknowledge(event) if go.wait(30) else None
    telling = threading.Thread(target=tracer.text_sync, args=("a",))
    telling.start()
    wait_for(lambda: len(server.lines) == 1)
    telling.join(0.2)
    assert telling.is_alive()
    go.set()
    telling.join(30)
    assert not telling.is_alive()


def test_other_words_of_the_runner_are_skipped(server: FakeSocket, tracer: Tracer) -> None:
    server.answer = lambda event: b'{"welcome":1}\n[]\n{"ack":0}\n{"ack":%d,"more":1}\n' % (event["seq"] + 5)
    tracer.text_sync("a")
    tracer.text_sync("b")
    assert len(server.lines) == 2


def test_it_connects_again_and_repeats_what_was_not_acknowledged(server: FakeSocket, tracer: Tracer) -> None:
    tracer.text_sync("a")
    broken = iter([None, b"nonsense\n", b""])
    server.answer = lambda event: next(broken, None) if event["seq"] == 2 else acknowledge(event)
    tracer.text_sync("b")
    numbers = [json.loads(line)["seq"] for line in server.lines]
    assert (numbers, server.connections) == ([1, 2, 1], 2)
    assert server.lines[1].replace(b'"seq":2', b'"seq":1') == server.lines[2]


def test_it_waits_for_a_socket_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "late.sock"
    servers: list[FakeSocket] = []
    timer = threading.Timer(0.3, lambda: servers.append(FakeSocket(path)))
    timer.start()
    Tracer(str(path), patience=30).text_sync("a")
    assert len(servers[0].lines) == 1
    servers[0].close()


def test_its_patience_has_an_end(server: FakeSocket, tmp_path: Path) -> None:
    with pytest.raises(TracerError, match=r"nowhere\.sock: .*No such file"):
        Tracer(str(tmp_path / "nowhere.sock"), patience=0.1).text_sync("a")
    server.answer = lambda event: b""
    silent = Tracer(str(server.path), patience=0.1)
    with pytest.raises(TracerError, match="does not answer"):
        silent.text_sync("a")
    server.answer = acknowledge
    silent.text_sync("b")
    server.answer = lambda event: None
    silent.close()
    with pytest.raises(TracerError, match=r"took no event .*(closed|reset|Broken)"):
        Tracer(str(server.path), patience=2).text_sync("c")


def test_time_in_which_it_was_frozen_does_not_count(
    server: FakeSocket, tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1_000_000, 10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    server.answer = lambda event: time.sleep(1.2) or acknowledge(event)  # type: ignore[func-returns-value]
    tracer.text_sync("a")


def test_events_have_a_largest_size(server: FakeSocket, tracer: Tracer) -> None:
    with pytest.raises(TracerError, match="is too large"):
        tracer.debug_sync("x" * MAX_LINE_BYTES)
    tracer.debug_sync("x" * (MAX_LINE_BYTES - 100))
    assert len(server.lines[0]) > MAX_LINE_BYTES - 100


def test_what_is_no_unicode_is_replaced(server: FakeSocket, tracer: Tracer) -> None:
    tracer.debug_sync("a\ud800b\x00")
    assert server.events == [("debug", "a?b\x00")]


def test_threads_and_tasks_share_one_connection(server: FakeSocket, tracer: Tracer) -> None:
    def many(name: str) -> None:
        for i in range(50):
            tracer.debug_sync(f"{name} {i}")

    async def tasks() -> None:
        await asyncio.gather(*(tracer.debug(f"task {i}") for i in range(50)))

    threads = [threading.Thread(target=many, args=(f"thread {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    told = [payload for _, payload in server.events]
    assert len(told) == len(set(told)) == 250
    assert [json.loads(line)["seq"] for line in server.lines] == list(range(1, 251))
    for n in range(4):
        own = [payload for payload in told if payload.startswith(f"thread {n} ")]
        assert own == [f"thread {n} {i}" for i in range(50)]
    assert server.connections == 1


def test_a_fork_has_a_connection_of_its_own(server: FakeSocket, tracer: Tracer) -> None:
    tracer.debug_sync("before")
    state = tracer._current()
    with state.lock:  # as if another thread told something meanwhile
        child = os.fork()
        if child == 0:
            code = 1
            signal.alarm(30)
            try:
                tracer.debug_sync("child")
                code = 0
            finally:
                os._exit(code)
        wait_for(lambda: len(server.lines) == 2)
        assert os.waitpid(child, 0)[1] == 0
    tracer.debug_sync("parent")
    assert [payload for _, payload in server.events] == ["before", "child", "parent"]
    assert [json.loads(line)["seq"] for line in server.lines] == [1, 1, 2]


def test_it_goes_to_other_processes(server: FakeSocket, tracer: Tracer) -> None:
    pickle.loads(pickle.dumps(tracer)).text_sync("a")
    assert len(server.lines) == 1


def test_an_interrupted_event_leaves_the_tracer_usable(server: FakeSocket, tracer: Tracer) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        with pytest.raises(TracerError, match="signal handler"):
            tracer.text_sync("within")
        raise Interrupted

    server.answer = lambda event: b""
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        main = threading.main_thread().ident
        assert main is not None

        def kill() -> None:
            wait_for(lambda: len(server.lines) == 1)
            signal.pthread_kill(main, signal.SIGUSR1)

        threading.Thread(target=kill).start()
        with pytest.raises(Interrupted):
            tracer.text_sync("a")
    finally:
        signal.signal(signal.SIGUSR1, before)
    server.answer = acknowledge
    tracer.text_sync("b")
    assert [json.loads(line)["seq"] for line in server.lines] == [1, 1]


def test_without_a_socket_it_does_nothing_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("KODO_RUNNER_SOCK", raising=False)
    monkeypatch.setattr(Connection, "send", None)
    tracer_module._say_once.cache_clear()
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        tracer = Tracer()
        tell_all(tracer)
        asyncio.run(Tracer().text("a"))
    assert [(record.levelname, record.name) for record in caplog.records if record.name != "asyncio"] == [
        ("DEBUG", "kodosumi_koco")
    ]


def test_the_launcher_hands_it_on_and_tells_the_final_result(server: FakeSocket, runner: FakeRunner) -> None:
    ended = runner.run("sample:tells", {"text": "rain"}, env={"KODO_RUNNER_SOCK": str(server.path)})
    assert (ended.code, ended.result) == (0, {"told": "rain"}), ended.log
    assert server.events == [
        ("result", '{"Text":{"body":"rain"}}'),
        ("result", '{"Markdown":{"body":"*rain*"}}'),
        ("final", '{"dict":{"told":"rain"}}'),
    ]
    ended = runner.run("sample:tells", {"text": "rain"})
    assert (ended.code, ended.log) == (0, "")


def test_a_job_does_not_fail_for_an_event_of_the_launchers(server: FakeSocket, runner: FakeRunner) -> None:
    ended = runner.run("sample:large", {"size": MAX_LINE_BYTES}, env={"KODO_RUNNER_SOCK": str(server.path)})
    assert (ended.code, len(ended.result), ended.error) == (0, MAX_LINE_BYTES, ...)
    assert "the result is no event: an event of" in ended.log
