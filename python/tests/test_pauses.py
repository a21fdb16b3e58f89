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
    process = runner.start("sample:wait_slowly", env={"MARK": str(mark), "KODO_PAUSE_SIGNAL": number.name})
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
    process = runner.start("sample:postpones", {"mark": str(mark), "go": str(go)}, env={"KODO_PAUSE_SIGNAL": "SIGUSR1"})
    try:
        wait_for(mark.exists)
        process.send_signal(signal.SIGUSR1)
        # The block goes on, and ends only after this.
        go.touch()
        wait_for(lambda: state(process.pid) == "T")
        assert process.stdout is not None
        assert process.stdout.readline() == "the block has ended\n"
        process.send_signal(signal.SIGCONT)
        ended = runner.ended(process)
        assert (ended.code, ended.result, ended.output) == (0, "done", "goes on\n")
    finally:
        process.kill()


def test_without_a_pause_notice_the_signal_has_its_own_meaning(runner: FakeRunner) -> None:
    mark = runner.folder / "mark"
    process = runner.start("sample:wait_slowly", env={"MARK": str(mark)})
    wait_for(mark.exists)
    process.send_signal(signal.SIGUSR1)
    assert runner.ended(process).code == -signal.SIGUSR1


def test_a_forked_child_is_not_stopped(runner: FakeRunner) -> None:
    ended = runner.run("sample:signals_a_child", env={"KODO_PAUSE_SIGNAL": "SIGUSR1"})
    assert ended.result == -signal.SIGUSR1


def test_a_signal_wakes_the_loop_and_what_an_agent_sets_stays(runner: FakeRunner) -> None:
    assert runner.run("sample:wakeups").result == {"set": True, "own": True}
