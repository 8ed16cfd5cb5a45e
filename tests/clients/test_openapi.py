"""The document is OpenAPI 3.1, by the rules of its authors."""

import httpx
from openapi_spec_validator import OpenAPIV31SpecValidator


def test_the_document_is_valid_openapi_3_1(server):
    document = httpx.get(f"{server}/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    errors = [f"{list(error.absolute_path)}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()]
    assert errors == []
    # The validator is not blind.
    del document["info"]["title"]
    assert any(OpenAPIV31SpecValidator(document).iter_errors())
