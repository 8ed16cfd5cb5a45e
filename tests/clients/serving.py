"""Starts the server as a user would, on a free port of this machine, and ends it by its process id."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "target" / "release"
DEMO = ROOT / "models" / "steerling-demo"
READY_SECONDS = 60


@dataclasses.dataclass
class Server:
    url: str
    process: subprocess.Popen

    def get(self, path):
        """The JSON that `path` answers with."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path, body):
        """The JSON that `path` answers to `body` with."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serve(*flags, log, **variables):
    """A ready server with `flags` and environment `variables`, for as long as the context lasts. Its log goes to the file `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEERLING_")} | variables
    with open(log, "wb") as lines:
        process = subprocess.Popen(
            [BIN / "steerling", "serve", "--device", "cpu", "--port", str(port), *flags],
            stderr=lines,
            stdout=lines,
            env=environment,
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", process)
        wait_until_ready(server, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(server, log):
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        code = server.process.poll()
        assert code is None, f"the server ended with {code}: {pathlib.Path(log).read_text()}"
        # Nobody listens yet, or the model is being loaded.
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            server.get("/health/ready")
            return
        time.sleep(0.1)
    raise AssertionError(f"not ready after {READY_SECONDS} s: {pathlib.Path(log).read_text()}")


def chat_model(directory):
    """The demo model with chat tokens: three tokens of single bytes that no UTF-8 text has. It was not trained to chat."""
    shutil.copytree(DEMO, directory)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    config = json.loads((directory / "config.json").read_text())
    config |= {"start_header_id": vocabulary["ý"], "end_header_id": vocabulary["þ"], "eot_id": vocabulary["ÿ"]}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def corpus(documents, seed):
    """Documents of the demo model's corpus: lists of chunks, which are lists of sentences."""
    command = [BIN / "steerling-demo", "corpus", "--documents", str(documents), "--seed", str(seed)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["chunks"] for line in lines]
