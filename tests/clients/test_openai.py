"""The `openai` package against the server."""

import asyncio
import math
import re
import time
import urllib.request

import openai
import pytest
import serving

PROMPT = "The chef stirred the"


def client_of(server, **options):
    return openai.OpenAI(**{"base_url": server.url + "/v1", "api_key": "none", "max_retries": 0, "timeout": 60} | options)


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def chat(chat_server):
    with client_of(chat_server) as client:
        yield client


def test_the_model_is_listed_and_retrieved(client):
    models = list(client.models.list())
    assert [model.id for model in models] == ["steerling-demo"]
    assert client.models.retrieve("steerling-demo") == models[0]
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-4")
    assert refused.value.code == "model_not_found"


def test_a_completion_is_that_of_the_native_endpoint_and_can_be_repeated(client, server):
    ask = {"model": "steerling-demo", "prompt": PROMPT, "max_tokens": 20, "seed": 7}
    answer = client.completions.create(**ask)
    native = server.post("/generate", {"prompt": PROMPT, "max_new_tokens": 20, "seed": 7})
    assert answer.choices[0].text == native["text"]
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 20)
    assert client.completions.create(**ask).choices[0].text == native["text"]
    ids = server.post("/tokenize", {"text": PROMPT})["ids"]
    assert client.completions.create(**ask | {"prompt": ids}).choices[0].text == native["text"]


def test_choices_of_several_prompts_come_in_order_with_their_seeds(client):
    answer = client.completions.create(
        model="steerling", prompt=[PROMPT, "In autumn, the"], n=2, seed=5, max_tokens=10, temperature=0.8
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.steerling["seed"] for choice in answer.choices] == [5, 6, 5, 6]
    assert len({choice.text for choice in answer.choices}) == 4
    again = client.completions.create(model="steerling", prompt="In autumn, the", seed=6, max_tokens=10, temperature=0.8)
    assert again.choices[0].text == answer.choices[3].text


def test_a_stream_adds_up_to_the_completion_and_reports_usage(client):
    ask = {"model": "steerling", "prompt": PROMPT, "max_tokens": 60, "seed": 3, "echo": True}
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert whole.choices[0].text.startswith(PROMPT)
    assert len(chunks) > 4 and all(chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]


def test_a_stop_string_ends_the_text_before_it(client):
    ask = {"model": "steerling", "prompt": PROMPT, "max_tokens": 60, "seed": 3}
    text = client.completions.create(**ask).choices[0].text
    stop = text[20:25]
    choice = client.completions.create(**ask, stop=stop).choices[0]
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")


def test_echo_with_logprobs_is_the_likelihood_of_the_text(client, server):
    text = "The chef stirred the soup."
    answer = client.completions.create(model="steerling", prompt=text, max_tokens=0, echo=True, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == text == answer.choices[0].text
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert [text[at:].startswith(token) for at, token in zip(logprobs.text_offset, logprobs.tokens)] == [True] * len(logprobs.tokens)
    item = {"context": logprobs.tokens[0], "continuation": text[len(logprobs.tokens[0]) :]}
    score = server.post("/score", {"items": [item], "method": "left_to_right"})["results"][0]
    assert math.isclose(sum(logprobs.token_logprobs[1:]), score["loglikelihood"], abs_tol=1e-4)


def test_steering_and_attribution_go_through_extra_fields(client):
    ask = {"model": "steerling", "prompt": "The", "max_tokens": 24, "seed": 1}
    weather = {"amplify": [{"concept": {"name": "Weather"}}]}
    steered = client.completions.create(**ask, extra_body={"steering": weather, "attribution": {"top_known": 3}})
    assert steered.choices[0].text != client.completions.create(**ask).choices[0].text
    tokens = steered.choices[0].steerling["attribution"]["tokens"]
    assert len(tokens) == 24 and len(tokens[0]["known"]) == 3
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**ask, extra_body={"steering": {"amplify": [{"concept": {"name": "Nonsense"}}]}})
    assert refused.value.code == "unknown_concept"


def test_a_chat_goes_on_in_turns_and_streams(chat):
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Tell me of the sea."}]
    ask = {"model": "steerling", "max_completion_tokens": 20, "seed": 2}
    first = chat.chat.completions.create(messages=messages, **ask, logprobs=True, top_logprobs=2)
    answer = first.choices[0].message
    assert (answer.role, answer.refusal) == ("assistant", None) and answer.content
    assert len(first.choices[0].logprobs.content) == first.usage.completion_tokens
    assert "".join(token.token for token in first.choices[0].logprobs.content) == answer.content
    # The package's own message goes back as it came.
    messages += [answer, {"role": "user", "content": [{"type": "text", "text": "Go on."}]}]
    second = chat.chat.completions.create(messages=messages, **ask)
    chunks = list(chat.chat.completions.create(messages=messages, **ask, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == second.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == second.choices[0].finish_reason


def test_what_changes_a_chat_and_is_not_supported_is_refused_by_name(chat, client):
    ask = {"model": "steerling", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    image = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    for change, param in [
        ({"tools": [tool]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"messages": [{"role": "user", "content": [image]}]}, "messages[0].content[0].type"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
    ]:
        with pytest.raises(openai.BadRequestError) as refused:
            chat.chat.completions.create(**ask | change)
        assert refused.value.param == param
    chat.chat.completions.create(**ask, user="me", metadata={"a": "b"}, store=False, presence_penalty=0)
    # The demo model itself has no chat tokens.
    with pytest.raises(openai.BadRequestError, match="no chat tokens: send a prompt") as refused:
        client.chat.completions.create(**ask)
    assert (refused.value.code, refused.value.param) == ("unsupported", "messages")


def test_embeddings_are_the_same_as_numbers_and_as_base64(client):
    texts = ["The chef stirred the soup.", "The chef stirred the stew.", "A storm closed the railway."]
    # Asks for base64 unless told otherwise, and decodes it.
    decoded = [entry.embedding for entry in client.embeddings.create(model="steerling", input=texts).data]
    plain = client.embeddings.create(model="steerling", input=texts, encoding_format="float")
    for a, b in zip(decoded, (entry.embedding for entry in plain.data)):
        assert a == pytest.approx(b, abs=1e-7) and math.isclose(math.hypot(*a), 1, abs_tol=1e-5)
    near, far = (sum(x * y for x, y in zip(decoded[0], decoded[i])) for i in (1, 2))
    assert near > far
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0
    cut = client.embeddings.create(model="steerling", input=texts[0], dimensions=8).data[0].embedding
    scale = math.hypot(*decoded[0][:8])
    assert cut == pytest.approx([x / scale for x in decoded[0][:8]], abs=1e-5)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="steerling", input=["a", ""])
    assert refused.value.param == "input[1]"


def test_errors_are_the_packages_own(client, server):
    with pytest.raises(openai.NotFoundError) as refused:
        client.completions.create(model="gpt-4", prompt="a")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.request_id == refused.value.response.headers["x-request-id"]
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="steerling", prompt="a", max_tokens=100_000)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "max_tokens")
    with pytest.raises(openai.NotFoundError):
        client_of(server, base_url=server.url + "/v1/nothing").models.list()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.002).completions.create(model="steerling", prompt="a", max_tokens=400)


def test_a_full_server_is_a_rate_limit_and_a_gone_one_a_connection_error(tmp_path):
    with serving.serve("--max-batch", "1", "--max-queue", "0", log=tmp_path / "log") as server:
        client = client_of(server)
        stream = client.completions.create(model="steerling", prompt="The", max_tokens=400, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="steerling", prompt="The", max_tokens=5)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        # The package waits as it is told and tries again.
        patient = client.with_options(max_retries=30)
        assert patient.completions.create(model="steerling", prompt="The", max_tokens=5).choices[0].text
        stream.close()
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_clients_that_are_turned_away_are_all_served_when_they_come_back_as_told(tmp_path):
    async def ask(url):
        # Two retries, as the package has by default: it waits as long as it is told, up to a minute.
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none") as client:
            ask = {"model": "steerling", "prompt": PROMPT, "max_tokens": 24}
            return await asyncio.gather(*(client.completions.create(**ask, seed=seed) for seed in range(24)))

    with serving.serve("--max-batch", "2", "--max-queue", "2", log=tmp_path / "log") as server:
        answers = asyncio.run(ask(server.url))
        assert len(answers) == 24 and all(answer.usage.completion_tokens == 24 for answer in answers)
        metrics = urllib.request.urlopen(server.url + "/metrics", timeout=30).read().decode()
        turned_away = r'^steerling_requests_total\{endpoint="/v1/completions",outcome="overloaded"\} (\d+)$'
        assert int(re.search(turned_away, metrics, re.MULTILINE)[1]) >= 20


def test_concurrent_requests_of_the_async_client_have_the_texts_they_have_alone(server):
    asks = [{"prompt": PROMPT, "seed": seed, "max_tokens": 24 + seed} for seed in range(12)]
    with client_of(server) as client:
        alone = [client.completions.create(model="steerling", **ask).choices[0].text for ask in asks]

    async def streamed(client, ask):
        chunks = await client.completions.create(model="steerling", **ask, stream=True)
        return "".join([chunk.choices[0].text async for chunk in chunks])

    async def together():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(streamed(client, ask) for ask in asks))

    assert asyncio.run(together()) == alone


def test_a_stream_that_is_closed_is_not_computed_to_its_end(server):
    before = committed(server)
    with client_of(server) as client:
        stream = client.completions.create(model="steerling", prompt="The", max_tokens=500, stream=True)
        next(iter(stream))
        stream.close()
    until = time.monotonic() + 30
    while any(server.get("/info")["load"][key] for key in ("active", "queued")):
        assert time.monotonic() < until, "the place is still taken"
        time.sleep(0.05)
    assert committed(server) - before < 500


def committed(server):
    """Tokens so far, of all requests."""
    metrics = urllib.request.urlopen(server.url + "/metrics", timeout=30).read().decode()
    return int(re.search(r"^steerling_tokens_committed_total (\d+)$", metrics, re.MULTILINE)[1])
