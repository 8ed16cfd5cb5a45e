"""Servers that all tests share."""

import pytest
import serving


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The program with the demo model that is inside it."""
    with serving.serve(log=tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def url(server):
    return server.url


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory):
    """A checkpoint with chat tokens."""
    directory = tmp_path_factory.mktemp("chat")
    with serving.serve("--model", str(serving.chat_model(directory / "demo-chat")), log=directory / "log") as server:
        yield server
