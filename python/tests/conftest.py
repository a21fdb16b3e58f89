from pathlib import Path

import pytest
from fake_runner import FakeRunner


@pytest.fixture
def runner(tmp_path: Path) -> FakeRunner:
    return FakeRunner(tmp_path)
