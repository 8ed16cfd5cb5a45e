"""A client of server-sent events that is not ours reads the streams of `/generate` and `/steer`."""

import httpx
import httpx_sse

PROMPT = "The chef stirred the"


def events(server, path, body):
    with httpx.Client(timeout=60) as client:
        with httpx_sse.connect_sse(client, "POST", server.url + path, json=body | {"stream": True}) as source:
            assert source.response.status_code == 200
            return list(source.iter_sse())


def test_a_generation_starts_shows_its_steps_and_ends_once(server):
    body = {"prompt": PROMPT, "max_new_tokens": 40, "seed": 4}
    found = events(server, "/generate", body)
    assert [event.event for event in found[:1] + found[-1:]] == ["start", "done"]
    assert {event.event for event in found[1:-1]} == {"block"}
    assert [event.id for event in found] == [str(i) for i in range(len(found))]
    blocks, done = [event.json() for event in found[1:-1]], found[-1].json()
    assert "".join(block["delta"] for block in blocks) == done["text"]
    assert sum(len(block["commits"]) for block in blocks) == done["completion_tokens"] == 40
    assert all(block["masked"] == block["ids"].count(None) == block["text"].count("░") for block in blocks)
    assert done["text"] == server.post("/generate", body)["text"]


def test_steered_and_default_come_as_lanes_of_one_stream(server):
    steering = {"amplify": [{"concept": {"name": "Weather"}}]}
    body = {"prompt": PROMPT, "max_new_tokens": 24, "seed": 4, "steering": steering, "compare": True}
    found = [(event.event, event.json()) for event in events(server, "/steer", body)]
    name, summary = found.pop()
    assert (name, summary["lane"]) == ("summary", None) and summary["resolved"]["injections"]
    whole = server.post("/steer", body)
    for lane in ("steered", "default"):
        own = [(name, data) for name, data in found if data["lane"] == lane]
        assert (own[0][0], own[-1][0]) == ("start", "done")
        text = "".join(data["delta"] for name, data in own if name == "block")
        assert text == own[-1][1]["text"] == whole[lane]["text"]
    assert whole["steered"]["text"] != whole["default"]["text"]


def test_a_refusal_is_no_stream(server):
    answer = httpx.post(server.url + "/generate", json={"prompt": "a", "max_new_tokens": 0, "stream": True})
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["param"] == "max_new_tokens"
