"""A client in Python that is generated from the OpenAPI document has every operation, and works."""

import compileall
import importlib
import json
import pathlib
import pkgutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
DOCUMENT = HERE.parents[1] / "openapi" / "openapi.json"
NAME = "steerling_generated_client"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The package that is generated, and the report of its generator."""
    root = tmp_path_factory.mktemp("generated")
    generator = pathlib.Path(sys.executable).parent / "openapi-python-client"
    command = [
        generator, "generate", "--path", DOCUMENT, "--config", HERE / "generated_client.yml", "--meta", "none",
        "--output-path", root / NAME,
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    # A part that it does not understand is left out with a warning.
    assert "WARNING" not in report.upper() and "ERROR" not in report.upper(), report
    assert compileall.compile_dir(root / NAME, quiet=1)
    sys.path.insert(0, str(root))
    yield importlib.import_module(NAME)
    sys.path.remove(str(root))


def module_of(client, operation):
    return importlib.import_module(f"{NAME}.api.{operation['tags'][0]}.{operation['operationId']}")


def test_every_operation_of_the_document_can_be_called(client):
    paths = json.loads(DOCUMENT.read_text())["paths"]
    operations = [operation for item in paths.values() for operation in item.values()]
    assert len(operations) >= 28
    for operation in operations:
        assert callable(module_of(client, operation).sync_detailed), operation["operationId"]
    modules = [module.name for module in pkgutil.walk_packages(client.__path__, f"{NAME}.")]
    for module in modules:
        importlib.import_module(module)
    of_operations = [module for module in modules if module.startswith(f"{NAME}.api.") and module.count(".") == 3]
    assert len(of_operations) == len(operations)


def test_generated_calls_are_answered_and_their_answers_are_read(client, url):
    models = importlib.import_module(f"{NAME}.models")
    server = client.Client(base_url=url)
    operation = lambda tag, name: importlib.import_module(f"{NAME}.api.{tag}.{name}")

    concept = operation("concepts", "show_concept").sync("0", client=server)
    assert concept.id == 0 and concept.name and concept.flags.steerable in (True, False)

    body = models.GenerateRequest(prompt="The chef stirred the", max_new_tokens=8, seed=-1)
    result = operation("generate", "generate").sync(client=server, body=body)
    assert isinstance(result, models.GenerateResult), result
    assert result.completion_tokens == 8 and result.seed == -1 and result.warnings == []

    # Fields that are not given keep their defaults.
    plain = operation("generate", "generate").sync(client=server, body=models.GenerateRequest(prompt="The", stop=["."]))
    assert isinstance(plain, models.GenerateResult), plain

    embedding = models.EmbedRequest(inputs=["The chef"], embedding_type=models.EmbeddingType.CONCEPTS)
    embedded = operation("read", "embed").sync(client=server, body=embedding)
    assert embedded.tokens and all(0 <= weight <= 1 for _, weight in embedded.embeddings[0])

    wrong = operation("text", "tokenize").sync_detailed(client=server, body=models.TokenizeRequest.from_dict({"text": 5}))
    assert wrong.status_code == 422 and wrong.parsed.error.param == "text"
