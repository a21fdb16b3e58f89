"""Notices of pauses stop an agent, and no later than where it lets them."""

import signal
from pathlib import Path

import pytest
from fake_runner import FakeRunner, wait_for


def state(pid: int) -> str:
    """The process's state, such as ``T`` of one that is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def runner(tmp_path: Path) -> FakeRunner:
    return FakeRunner(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_notice_stops_an_agent(runner: FakeRunner, number: signal.Signals) -> None:
    mark = runner.folder / "mark"
    process = runner.start("sample:never_ends", {"mark": str(mark)})
    try:
        for _ in range(2):
            wait_for(mark.exists)
            process.send_signal(number)
            wait_for(lambda: state(process.pid) == "T")
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: state(process.pid) != "T")
        process.send_signal(signal.SIGTERM)
        assert runner.ended(process).code == 143
    finally:
        process.kill()


def test_a_pause_waits_for_the_end_of_a_block(runner: FakeRunner) -> None:
    mark, go = runner.folder / "mark", runner.folder / "go"
    process = runner.start("sample:postpones", {"mark": str(mark), "go": str(go)})
    try:
        wait_for(mark.exists)
        process.send_signal(signal.SIGUSR1)
        # Handled before what follows: a signal that comes later is handled no sooner.
        process.send_signal(signal.SIGCONT)
        assert state(process.pid) != "T"
        go.touch()
        wait_for(lambda: state(process.pid) == "T")
        assert process.stdout is not None
        assert process.stdout.readline() == "the block has ended\n"
        process.send_signal(signal.SIGCONT)
        ended = runner.ended(process)
        assert (ended.code, ended.result, ended.output) == (0, "done", "goes on\n")
    finally:
        process.kill()
