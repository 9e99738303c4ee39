"""schemathesis: requests made from the server's own OpenAPI description, valid and invalid ones, to a real server."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from serve_process import Served, serving

from coderv2_local.serving.routes import ENDPOINTS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis.checks import load_all_checks  # noqa: E402
from schemathesis.core.failures import FailureGroup  # noqa: E402
from schemathesis.openapi.checks import RejectedPositiveData  # noqa: E402

EXAMPLES = 20  # requests of each kind a path
SHORT = 4  # tokens of an answer: what is tested is the request
KNOWN = {
    # what a description cannot say: it depends on the model, the context, the time, or another language
    "context_length_exceeded",
    "grammar_dead_end",
    "invalid_grammar",
    "schema_missing",
    "timeout",
    "unknown_token",
    "unsupported_parameter",
}
"""Codes of refusals of requests that follow the description."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def description(served: Served) -> "schemathesis.schemas.BaseSchema":
    load_all_checks()
    return schemathesis.openapi.from_url(served.address + "/openapi.json")


CASES = [
    pytest.param(endpoint, mode, id=f"{endpoint.method} {endpoint.path} {mode.value}")
    for endpoint in ENDPOINTS
    for mode in schemathesis.GenerationMode
    if endpoint.fields or not mode.is_negative  # else there is nothing to get wrong
]


@pytest.mark.parametrize(("endpoint", "mode"), CASES)
def test_every_answer_is_as_described(description, endpoint, mode):
    operation = description[endpoint.path][endpoint.method]

    @settings(
        max_examples=EXAMPLES if endpoint.fields else 2,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: "schemathesis.Case") -> None:
        if not mode.is_negative:
            for name in {"max_tokens", "max_completion_tokens", "n_predict"} & (endpoint.fields or {}).keys():
                wanted = case.body.get(name)
                case.body[name] = wanted if wanted is not None and 0 <= wanted <= SHORT else SHORT
        response = case.call(timeout=60)
        try:
            case.validate_response(response)
        except FailureGroup as failures:
            others = [e for e in failures.exceptions if not isinstance(e, RejectedPositiveData)]
            if others or response.json()["error"]["code"] not in KNOWN:
                raise

    check()
