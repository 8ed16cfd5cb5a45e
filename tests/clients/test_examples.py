"""The examples and the code in the documentation run, and show what the server answers."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.*"))
ADDRESS = "localhost:8080"
# In what a page shows: anything may stand here.
ELLIPSIS = "…"


def run(command, url, text=None):
    """What a command prints; where it fails, why."""
    environment = os.environ | {"STEERLING_URL": url}
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def blocks(page):
    """Line, language and text of a page's code blocks."""
    text = page.read_text()
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


def requests():
    """Every command with curl and every Python block of the documentation, with the block behind it, which shows the answer."""
    for page in PAGES:
        of_page = blocks(page)
        for (line, language, text), after in zip(of_page, [*of_page[1:], (0, "", "")]):
            if language == "python" or language == "sh" and "curl" in text:
                yield pytest.param(language, text, after, id=f"{page.relative_to(ROOT)}:{line}")


def shows(shown, answer, place=""):
    """Whether a page shows a part of an answer: fields and the ends of lists may be left out, numbers are rounded."""
    if shown == ELLIPSIS:
        return
    if isinstance(shown, dict):
        assert isinstance(answer, dict), place
        for name, value in shown.items():
            if name != ELLIPSIS:
                assert name in answer, f"{place}.{name} is not in the answer"
                shows(value, answer[name], f"{place}.{name}")
    elif isinstance(shown, list):
        whole = ELLIPSIS not in shown[-1:]
        shown = shown if whole else shown[:-1]
        assert len(answer) >= len(shown) and (not whole or len(answer) == len(shown)), f"{place}: {len(answer)} items"
        for i, value in enumerate(shown):
            shows(value, answer[i], f"{place}[{i}]")
    elif isinstance(shown, float):
        digits = len(repr(shown).partition(".")[2])
        assert abs(shown - answer) <= 0.6 * 10**-digits + 1e-3 * abs(shown), f"{place}: {shown} is shown, {answer} came"
    elif isinstance(shown, str) and ELLIPSIS in shown:
        pattern = ".*".join(map(re.escape, shown.split(ELLIPSIS)))
        assert isinstance(answer, str) and re.fullmatch(pattern, answer, re.DOTALL), f"{place}: {shown!r} is shown, {answer!r} came"
    else:
        assert shown == answer, f"{place}: {shown!r} is shown, {answer!r} came"


def events(text):
    """Name and data of server-sent events."""
    found = re.findall(r"^event: (\w+)\n(?:id: \d+\n)?data: (.*)$", text, re.MULTILINE)
    return [(name, json.loads(data)) for name, data in found]


def shows_events(shown, answer):
    """Whether the shown events came, in their order; others may have come between them."""
    rest = iter(events(answer))
    for name, data in events(shown):
        failures = []
        for other, came in rest:
            try:
                assert other == name
                shows(data, came, name)
                break
            except AssertionError as failure:
                failures.append(str(failure))
        else:
            raise AssertionError(f"{name} did not come as shown: {failures}")


@pytest.mark.parametrize(("language", "text", "after"), list(requests()))
def test_code_in_the_documentation_runs_and_shows_what_comes(url, language, text, after):
    assert ADDRESS in text or "STEERLING_URL" in text, "it says where the server is"
    text = text.replace(f"http://{ADDRESS}", url).replace(ADDRESS, url.removeprefix("http://"))
    command = [sys.executable, "-"] if language == "python" else ["bash", "-euo", "pipefail"]
    _, kind, shown = after
    if kind == "json":
        shows(json.loads(shown), json.loads(run(command, url, text)))
    elif kind == "text" and "event: " in shown:
        # A reader that falls behind on a busy machine finds steps merged.
        for last in (False, False, False, False, True):
            try:
                return shows_events(shown, run(command, url, text))
            except AssertionError:
                if last:
                    raise
    elif kind == "text":
        same(shown, run(command, url, text))
    else:
        assert run(command, url, text).strip()


def same(shown, printed):
    """Equal word by word, numbers but for rounding."""
    shown, printed = shown.split(), printed.split()
    assert len(shown) == len(printed), f"{shown} is shown, {printed} came"
    for a, b in zip(shown, printed):
        try:
            assert abs(float(a) - float(b)) <= 0.015, f"{a} is shown, {b} came"
        except ValueError:
            assert a == b, f"{a} is shown, {b} came"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(url, example):
    command = {".py": [sys.executable], ".sh": ["bash"]}[example.suffix]
    assert run([*command, str(example)], url).strip()


def test_pages_show_the_output_of_the_example(url):
    """`docs/steering.md` and `docs/attribution.md` quote parts of it."""
    printed = run([sys.executable, str(ROOT / "docs/examples/steer_and_explain.py")], url).split("\n\n")
    quoted = 0
    for page in PAGES:
        for _, language, text in blocks(page):
            part = next((part for part in printed if part.split("\n")[0].split() == text.split("\n")[0].split()), None)
            if language == "text" and part:
                same(text, part)
                quoted += 1
    assert quoted >= 2


def test_the_example_calls_more_what_is_more(url):
    printed = run([sys.executable, str(ROOT / "docs/examples/steer_and_explain.py")], url).split("\n\n")
    heading, *lines = next(part.splitlines() for part in printed if part.startswith("more in the first set"))
    means = [re.search(r"([\d.]+) against ([\d.]+)", line).groups() for line in lines]
    assert means and all(float(first) > float(second) for first, second in means), (heading, lines)


def test_curl_is_there():
    assert shutil.which("curl"), "curl is missing (Debian: apt-get install curl)"


def test_a_wrong_page_is_noticed():
    shows({"a": [1, "…"], "b": 0.5}, {"a": [1, 2], "b": 0.502, "c": 1})
    for shown in ({"a": 1}, {"b": 0.6}, {"a": [1, 2, 3]}, {"a": "x…"}):
        with pytest.raises(AssertionError):
            shows(shown, {"a": [1, 2], "b": 0.5})
    stream = 'event: block\nid: 3\ndata: {"step": 1}\n\nevent: done\nid: 4\ndata: {}\n'
    shows_events('event: done\ndata: {}\n', stream)
    for shown in ('event: block\ndata: {"step": 2}\n', 'event: done\ndata: {}\n\nevent: block\ndata: {"step": 1}\n'):
        with pytest.raises(AssertionError):
            shows_events(shown, stream)
