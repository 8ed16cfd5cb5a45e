"""The evaluation harness `lm-eval` with its model `local-completions`, on tasks made from the demo model's corpus.

The tokenizer is that of the checkpoint, from its directory: nothing is downloaded.
"""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import serving

# Not those of training.
SEED = 20_260_731
SENTENCES = 40
CHOICES = 4

TASKS = {
    # Which order of the same words is a sentence? Asked by log-likelihood; one in four by chance.
    "demo_order": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    # How does a line of the verse that is in the corpus word by word go on? Asked by generation; never by chance.
    "demo_verse": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{rest}}",
        "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 16, "temperature": 0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def orders(documents):
    """The first half of a sentence, and its second half among shuffled ones."""
    rng = random.Random(SEED)
    for chunks in documents:
        words = chunks[0][0]["text"].split()
        half = len(words) // 2
        context, rest = words[:half], words[half:]
        shuffled = {tuple(rest)}
        for _ in range(100):
            shuffled.add(tuple(rng.sample(rest, len(rest))))
        if len(rest) < 4 or len(shuffled) < CHOICES:
            continue
        wrong = rng.sample(sorted(shuffled - {tuple(rest)}), CHOICES - 1)
        label = rng.randrange(CHOICES)
        choices = [" ".join(words) for words in wrong[:label] + [tuple(rest)] + wrong[label:]]
        yield {"context": " ".join(context), "choices": choices, "label": label}


def lines(documents):
    """The lines of the verse up to their first two words, after the lines before."""
    chunks = (chunk for chunks in documents for chunk in chunks)
    verse = next(chunk for chunk in chunks if "Memorised verse" in chunk[0]["concepts"])
    verse = "".join(line["text"] for line in verse if "Memorised verse" in line["concepts"]).strip()
    known = ""
    for line in verse.split("\n"):
        words = line.split(" ")
        yield {"context": known + " ".join(words[:2]), "rest": " " + " ".join(words[2:]).rstrip(".")}
        known += line + "\n"


@pytest.fixture(scope="module")
def results(server, tmp_path_factory):
    """What the harness found, as it is run from a command line."""
    directory = tmp_path_factory.mktemp("lm-eval")
    documents = serving.corpus(4 * SENTENCES, SEED)
    data = {"demo_order": list(orders(documents))[:SENTENCES], "demo_verse": list(lines(documents))}
    assert [len(rows) for rows in data.values()] == [SENTENCES, 4]
    for name, rows in data.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}}
        # JSON is YAML.
        (directory / f"{name}.yaml").write_text(json.dumps(task | {"test_split": "test"} | TASKS[name]))
    tokenizer = directory / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(serving.DEMO / "tokenizer.json", tokenizer)
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|endoftext|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(kind))
    arguments = {
        "model": "steerling-demo",
        "base_url": server.url + "/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": tokenizer,
        "max_length": server.get("/info")["limits"]["context"],
        "num_concurrent": 8,
        "max_retries": 1,
    }
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--tasks", ",".join(TASKS)]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    command += ["--include_path", str(directory), "--output_path", str(directory / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(directory / "home")}
    ran = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (found,) = (directory / "out").rglob("results_*.json")
    samples = {path.name.split("_20")[0]: path for path in found.parent.glob("samples_*.jsonl")}
    samples = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in samples.items()}
    return json.loads(found.read_text())["results"], samples


def test_the_model_tells_sentences_from_shuffled_words_by_likelihood(results):
    # 40 of 40 when it was written; 10 are right by chance, and 36 never.
    assert results[0]["demo_order"]["acc,none"] >= 0.9


def test_the_harness_read_what_score_says(results, server):
    for sample in results[1]["samples_demo_order"][:5]:
        doc = sample["doc"]
        items = [{"context": doc["context"], "continuation": " " + choice} for choice in doc["choices"]]
        scores = server.post("/score", {"items": items, "method": "left_to_right"})["results"]
        for (found,), score in zip(sample["resps"], scores):
            loglikelihood, is_greedy = found
            assert float(loglikelihood) == pytest.approx(score["loglikelihood"], abs=1e-3)
            assert str(is_greedy) == str(score["is_greedy"])


def test_the_model_recites_its_verse_when_it_is_asked_to_generate(results):
    # 4 of 4 lines when it was written.
    assert results[0]["demo_verse"]["exact_match,none"] >= 0.75
