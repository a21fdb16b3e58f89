"""The examples, each with the inputs of its manifest, in the environment that their image has."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runner import Ended, FakeRunner

EXAMPLES = Path(__file__).parents[2] / "deploy/examples/python"
# That of their requirements, which tests/run installs.
PYTHON = os.environ.get("EXAMPLES_PYTHON", "")
MANIFESTS = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))

pytestmark = pytest.mark.skipif(not PYTHON, reason="EXAMPLES_PYTHON is not set: use tests/run")


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    code = "import json, sys, yaml; print(json.dumps([yaml.safe_load(open(path)) for path in sys.argv[1:]]))"
    paths = [str(EXAMPLES / f"{name}.yaml") for name in MANIFESTS]
    return dict(zip(MANIFESTS, json.loads(subprocess.check_output([PYTHON, "-c", code, *paths])), strict=True))


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    command = [PYTHON, "fake_model.py", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=EXAMPLES / "agents", text=True, **pipes) as server:  # type: ignore[call-overload]
        yield server.stdout.readline().strip()
        server.terminate()
        assert server.wait(60) == 0


def run(runner: FakeRunner, job: Any, model: str, inputs: Any = None) -> Ended:
    runner.python, runner.cwd = PYTHON, EXAMPLES / "agents"
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["python", "-m", "kodosumi_koco", "run"]
    env = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    if "OPENAI_BASE_URL" in env:
        assert env["OPENAI_BASE_URL"] == "http://127.0.0.1:8000/v1"
        env["OPENAI_BASE_URL"] = model
    return runner.run(job["spec"]["entryPoint"], inputs or job["spec"]["inputs"], env=env)


RESULTS = {
    "langgraph": {"answer": "In Bergen there will be rain. Take an umbrella.", "tools": ["forecast", "clothing"]},
    "plain": {"words": 8, "keywords": ["rain", "stays"]},
    "pydantic-ai": {"city": "Bergen", "text": "In Bergen there will be rain."},
    "typed": {"route": "Hull - Bergen", "hours": 30.4, "arrival": "2026-05-04"},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_an_example_does_what_it_says(runner: FakeRunner, jobs: dict[str, Any], model: str, name: str) -> None:
    ended = run(runner, jobs[name], model)
    assert (ended.code, ended.result, ended.error) == (0, RESULTS[name], ...), ended.log


def test_an_example_reports_what_its_model_has_used(
    runner: FakeRunner, jobs: dict[str, Any], model: str, tmp_path: Path
) -> None:
    report = tmp_path / "progress.json"
    runner.env["KODO_PROGRESS_FILE"] = str(report)
    assert run(runner, jobs["langgraph"], model).code == 0
    # Of each of three calls the fake model says 1 and 1.
    assert json.loads(report.read_text())["usage"] == {"inputTokens": 3, "outputTokens": 3, "costMicros": 0}


def test_typed_inputs_are_refused(runner: FakeRunner, jobs: dict[str, Any], model: str) -> None:
    ended = run(
        runner, jobs["typed"], model, {"start": "soon", "legs": [{"to": "Oslo", "by": "plane", "kilometres": 1}]}
    )
    assert (ended.error["type"], ended.error["nonRetryable"]) == ("InvalidInputs", True)
    message = ended.error["message"]
    assert message.startswith("inputs.start: ") and "; inputs.legs[0].by: Input should be 'train', 'ship'" in message


def test_manifests_differ_in_what_they_are_about_alone(jobs: dict[str, Any]) -> None:
    for name, job in jobs.items():
        spec = job["spec"]["template"]["spec"]
        assert job["metadata"]["name"] == f"python-{name}"
        assert spec["securityContext"]["runAsNonRoot"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["image"] == "localhost/koco-python-examples:dev"
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            script = container["command"][1]
            assert script == "-m" or (EXAMPLES / "agents" / script).exists()
