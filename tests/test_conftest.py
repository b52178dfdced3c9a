"""The settings that every test runs under."""

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, settings

SLOW = """
import time
from hypothesis import given, settings, strategies as st

@settings(max_examples=12)
@given(st.builds(lambda number: time.sleep(0.25) or number, st.integers()))
def test_slow(number):
    pass
"""


@pytest.mark.regression("P13")
def test_a_busy_machine_fails_no_test() -> None:
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


@pytest.mark.slow
@pytest.mark.regression("P13")
def test_examples_may_be_slow(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("slow")
    (place / "test_slow.py").write_text(SLOW)
    (place / "conftest.py").write_text((pytestconfig.rootpath / "tests" / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", place, place]
    env = {name: value for name, value in os.environ.items() if not name.startswith("FORGATHER_")}
    run = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
