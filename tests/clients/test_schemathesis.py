"""Every operation with valid and invalid data: no failure of the server, no answer outside its schema, nothing invalid accepted."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import serving

HERE = pathlib.Path(__file__).parent
SECONDS = 90
KEY = "a key for this test"


@pytest.fixture
def guarded(tmp_path):
    """The address of a server that wants a key, where no request may take long."""
    with serving.serve("--timeout-seconds", "20", log=tmp_path / "log", STEERLING_API_KEY=KEY) as server:
        yield server.url


def test_the_server_keeps_its_contract_whatever_it_is_sent(guarded, tmp_path):
    command = [
        pathlib.Path(sys.executable).parent / "schemathesis", "--config-file", HERE / "schemathesis.toml",
        "run", f"{guarded}/openapi.json", "--header", f"Authorization: Bearer {KEY}", "--phases", "examples,coverage,fuzzing", "--max-time", str(SECONDS),
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--seed", "1", "--continue-on-failure",
        "--no-color",
    ]
    environment = os.environ | {"PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS + 120)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    selected, tested = (int(re.search(rf"{word}: (\d+)", report)[1]) for word in ("Selected", "Tested"))
    assert selected == tested >= 20, report
    assert int(re.search(r"(\d+) generated", report)[1]) > 500, report
