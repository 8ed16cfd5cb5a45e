"""A server with the demo model for all tests."""

import os
import pathlib
import re
import subprocess
import threading
import time

import httpx
import pytest

BINARY = pathlib.Path(__file__).parents[2] / "target" / "release" / "steerling"


@pytest.fixture(scope="session")
def server():
    """The base URL of a server that ends with the session."""
    command = [BINARY, "serve", "--port", "0", "--timeout-seconds", "20"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEERLING_")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment | {"NO_COLOR": "1"})
    log = []
    threading.Thread(target=lambda: log.extend(process.stderr), daemon=True).start()
    try:
        url = until(lambda: next((f"http://{found[1]}" for line in log if (found := re.search(r"address=(\S+)", line))), None))
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        yield url
    finally:
        process.terminate()
        assert process.wait(timeout=40) == 0, "".join(log)


def until(holds):
    """What `holds` gives when it gives something, within 30 seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain for the server")
