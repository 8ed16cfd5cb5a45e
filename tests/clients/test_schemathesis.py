"""Every operation with valid and invalid data: no failure of the server, no answer outside its schema, nothing invalid accepted,
nothing valid refused but for its meaning.

The cases are the same in every run, but for the few that repeat a text of an earlier answer: only a change of the program should
make it fail. `STEERLING_FUZZ_SECONDS` looks for new ones instead, for that long and from a seed of its own, which the report tells.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import serving

HERE = pathlib.Path(__file__).parent
FUZZ_SECONDS = int(os.environ.get("STEERLING_FUZZ_SECONDS", "0"))
CASES = ["--max-time", str(FUZZ_SECONDS)] if FUZZ_SECONDS else ["--max-examples", "200", "--generation-deterministic"]
KEY = "a key for this test"


@pytest.fixture
def guarded(tmp_path):
    """The address of a server that wants a key, where no request may take long."""
    with serving.serve("--timeout-seconds", "20", log=tmp_path / "log", STEERLING_API_KEY=KEY) as server:
        yield server.url


def test_the_server_keeps_its_contract_whatever_it_is_sent(guarded, tmp_path):
    command = [
        pathlib.Path(sys.executable).parent / "schemathesis", "--config-file", HERE / "schemathesis.toml",
        "run", f"{guarded}/openapi.json", "--header", f"Authorization: Bearer {KEY}", "--phases", "examples,coverage,fuzzing", *CASES,
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--continue-on-failure", "--no-color",
    ]
    environment = os.environ | {"PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=FUZZ_SECONDS + 600)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    selected, tested = (int(re.search(rf"{word}: (\d+)", report)[1]) for word in ("Selected", "Tested"))
    assert selected == tested >= 20, report
    assert int(re.search(r"(\d+) generated", report)[1]) > 500, report
