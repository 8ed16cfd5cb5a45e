#!/usr/bin/env python3
"""Two real servers behind HAProxy, with docker/haproxy.cfg: balance, a killed replica, a rolling restart under load.

usage: tests/deploy/replicas.py PROGRAM

Prints a table of what was sent and what failed in each phase; ends with 1 if anything failed that should not have.
"""

import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRAIN = 60
# How long a client may hold a connection, in seconds.
HOLD = 4


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, holds, seconds=90):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.05)


def get(port, path):
    """Status and body; 0 where nobody answers."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""


class Replica:
    """A server process on a port of its own."""

    def __init__(self, program, model, directory, name):
        self.port, self.name = free_port(), name
        self.log = open(directory / f"{name}.log", "ab")
        flags = f"--port {self.port} --device cpu --kv-cache-mib 256 --drain-seconds {DRAIN} --max-queue 256"
        flags += f" --header-timeout-seconds {HOLD} --body-timeout-seconds {HOLD} --write-timeout-seconds {HOLD}"
        self.command = [program, "serve", "--model", str(model), "--log-format", "json", *flags.split()]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, cwd=self.log.name.rsplit("/", 1)[0])
        until(f"replica {self.name}", lambda: get(self.port, "/health/ready")[0] == 200)

    def active(self):
        return json.loads(get(self.port, "/info")[1])["load"]["active"]

    def connections(self):
        text = get(self.port, "/metrics")[1].decode()
        return float(re.search(r'^steerling_connections\{port="main"\} (\S+)', text, re.M).group(1))


class Proxy:
    """HAProxy before the replicas."""

    def __init__(self, replicas, directory):
        self.port, self.observe = free_port(), free_port()
        names = ["STEERLING_ONE", "STEERLING_TWO"]
        addresses = {name: f"127.0.0.1:{replica.port}" for name, replica in zip(names, replicas)}
        front = {"STEERLING_FRONTEND": f"127.0.0.1:{self.port}", "STEERLING_OBSERVE": f"127.0.0.1:{self.observe}"}
        log = open(directory / "haproxy.log", "ab")
        command = [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", str(ROOT / "docker/haproxy.cfg")]
        self.process = subprocess.Popen(command, env=os.environ | addresses | front, stdout=log, stderr=log)
        self.until_up(2)

    def series(self, name):
        """A series of the backend, by server."""
        text = get(self.observe, "/metrics")[1].decode()
        found = re.findall(name + r'\{proxy="replicas",server="(\w+)"(?:,state="UP")?\} (\S+)', text)
        return {server: float(value) for server, value in found}

    def until_up(self, n):
        until(f"{n} servers to be up", lambda: sum(self.series("haproxy_server_status").values()) == n)


class Stream:
    """An open stream, read by a thread until its end."""

    def __init__(self, port, tokens, seed):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = json.dumps({"prompt": "Once", "max_new_tokens": tokens, "seed": seed, "stream": True, "stream_every": 8})
        self.connection.request("POST", "/generate", body, {"content-type": "application/json"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        assert self.answer.readline() == b"event: start\n"
        self.end = None
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        last = ""
        try:
            for line in self.answer:
                if line.startswith(b"event: "):
                    last = line[7:].strip().decode()
            # `for` ends quietly where a chunk is cut short; a whole answer ends with an empty chunk.
            cut = not self.answer.isclosed()
        except (OSError, http.client.HTTPException):
            cut = True
        self.end = last if last in ("done", "error") else ("cut" if cut else "closed early")


class Flood:
    """Clients that hold connections to a replica: idle ones, bodies byte by byte, answers that nobody reads."""

    def __init__(self, port, each):
        head = "POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n"
        self.idle = [self.open(port, head) for _ in range(10 * each)]
        self.bodies = [self.open(port, head + "\r\n") for _ in range(each)]
        unread = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 64
        self.unread = [self.open(port, unread) for _ in range(each)]
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.dribble)
        self.thread.start()

    def open(self, port, text):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", port))
        s.sendall(text.encode())
        return s

    def dribble(self):
        while not self.stop.wait(0.2):
            for s in self.bodies:
                try:
                    s.send(b" ")
                except OSError:
                    pass

    def leave_bodies(self):
        """How those were answered whose bodies did not come; they leave with that."""
        statuses = sorted({s.recv(12)[9:].decode() for s in self.bodies})
        self.stop.set()
        self.thread.join()
        for s in self.bodies:
            s.close()
        return statuses

    def close(self):
        for s in self.idle + self.unread:
            s.close()


class Load:
    """Clients that ask one thing after another, each answer checked."""

    def __init__(self, port, clients=4):
        self.port, self.stop = port, threading.Event()
        # When each request was sent, and what was wrong with its answer.
        self.sent = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(i,)) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def client(self, number):
        seed = number
        while not self.stop.is_set():
            seed += 100
            started = time.monotonic()
            failure = self.ask(seed, stream=number % 2 == 0)
            with self.lock:
                self.sent.append((started, failure))

    def ask(self, seed, stream):
        try:
            if stream:
                opened = Stream(self.port, 24, seed)
                opened.thread.join()
                return None if opened.end == "done" else f"a stream ended with {opened.end}"
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            body = json.dumps({"prompt": "Once", "max_new_tokens": 24, "seed": seed})
            connection.request("POST", "/generate", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            return None if answer.status == 200 and b'"text"' in text else f"{answer.status}: {text[:200]}"
        except (OSError, http.client.HTTPException, AssertionError) as error:
            return f"{type(error).__name__}: {error}"

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        return self.sent


def failures(sent):
    return [failure for _, failure in sent if failure]


def main(program):
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        model = directory / "model"
        subprocess.run([program, "synthesize", "--preset", "tiny", "--out", str(model)], check=True, capture_output=True)
        one, two = replicas = [Replica(program, model, directory, name) for name in ("one", "two")]
        proxy = None
        try:
            proxy = Proxy(replicas, directory)
            run(proxy, one, two)
        except BaseException:
            for log in sorted(directory.glob("*.log")):
                print(f"-- {log.name}", *log.read_text(errors="replace").splitlines()[-15:], sep="\n", file=sys.stderr)
            raise
        finally:
            for process in [one.process, two.process] + ([proxy.process] if proxy else []):
                process.kill()
                process.wait()


def run(proxy, one, two):
    rows, wrong = [], []

    def phase(name, sent, failed, allowed, note):
        rows.append(f"| {name} | {sent} | {failed} | {note} |")
        print(rows[-1], flush=True)
        if failed > allowed:
            wrong.append(f"{name}: {failed} of {sent} failed, {allowed} may")

    # Streams of the same length, opened one after another, are shared out evenly.
    streams = [Stream(proxy.port, 800, seed) for seed in range(6)]
    shares = sorted([one.active(), two.active()])
    if shares != [3, 3]:
        wrong.append(f"balance: {shares} of 6 streams each")
    phase("six streams, opened in turn", 6, 0, 0, f"{shares[0]} and {shares[1]} of them on the two replicas")

    # Clients hold as many connections as they can, to both replicas, beside the streams and other requests.
    load = Load(proxy.port)
    floods = [Flood(replica.port, 10) for replica in (one, two)]
    for replica, flood in zip((one, two), floods):
        statuses = flood.leave_bodies()
        if statuses != ["408"]:
            wrong.append(f"bodies that come byte by byte were answered with {statuses}")
        # Those of HAProxy stay.
        until("the connections to be closed", lambda: replica.connections() <= 20, HOLD + 20)
        flood.close()
    sent = load.end()
    note = "all are closed by the replicas in time; requests beside them are answered"
    phase("clients hold 240 connections", len(sent), len(failures(sent)), 0, note)
    wrong.extend(failures(sent)[:3])

    # One replica dies. Its streams are cut, the others go on; what is sent from then on is answered.
    load = Load(proxy.port)
    time.sleep(1)
    killed = time.monotonic()
    one.process.kill()
    one.process.wait()
    time.sleep(6)
    sent = load.end()
    before, after = [s for s in sent if s[0] < killed], [s for s in sent if s[0] >= killed]
    for stream in streams:
        stream.thread.join()
    ends = [stream.end for stream in streams]
    cut = ends.count("cut") + ends.count("closed early")
    if cut != 3 or ends.count("done") != 3:
        wrong.append(f"killed replica: the streams ended with {ends}")
    phase("a replica is killed: open streams", 6, cut, 3, "those of the dead replica, without `done`: the connection closes")
    note = "those under way there at that moment: a stream that is cut, or 502"
    phase("a replica is killed: other requests under way", len(before), len(failures(before)), 4, note)
    phase("a replica is killed: sent after", len(after), len(failures(after)), 0, "refused connections are sent to the other replica")
    wrong.extend(failures(after)[:3])
    one.start()
    proxy.until_up(2)
    print(f"(back after {time.monotonic() - killed:.0f} s)")

    # Both are restarted, one after the other, under load.
    load = Load(proxy.port)
    time.sleep(2)
    for replica in (one, two):
        long = Stream(proxy.port, 300, 7)
        replica.process.terminate()
        code = replica.process.wait(DRAIN + 30)
        long.thread.join()
        if code != 0 or long.end != "done":
            wrong.append(f"rolling restart: exit code {code}, the open stream ended with {long.end}")
        replica.start()
        proxy.until_up(2)
        time.sleep(1)
    sent = load.end()
    note = "open ones end within the drain, new ones go elsewhere"
    phase("rolling restart of both", len(sent), len(failures(sent)), 0, note)
    wrong.extend(failures(sent)[:3])
    if wrong:
        sys.exit("\n".join(["FAILED", *wrong]))


if __name__ == "__main__":
    main(str(pathlib.Path(sys.argv[1]).resolve()))
