"""Generated requests against the running service: no status that is not documented, and no 5xx without a reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from store.http.openapi import description
from tests.support.live_server import listening
from tests.support.serving import Serving

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
schema = schemathesis.openapi.from_dict(description())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    serving = Serving(read_token="reader")
    for i in range(50):
        serving.add(f"u{i}", model=f"m{i % 2}")
    with listening(serving.app) as url:
        yield url


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_a_documented_one(case: schemathesis.Case, url: str) -> None:
    headers = {"authorization": "Bearer reader"}
    if "timeout_ms" in (case.query or {}):
        case.query["timeout_ms"] = 1  # else it may wait for a minute, as asked
    response = case.call(base_url=url, headers=headers)
    if response.status_code >= 500:
        assert response.json()["code"] == "not_ready"  # there is no broker behind it
    case.validate_response(response, checks=CHECKS)
