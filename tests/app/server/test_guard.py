"""What every request passes and every answer carries; health and metrics."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"host": "127.0.0.1:9999"}, {"origin": "null"}],
)
def test_requests_from_elsewhere_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    for answer in (client.get("/v1/info", headers=headers), client.post("/v1/search", json={}, headers=headers)):
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "not allowed"


def test_every_answer_carries_security_headers(client: TestClient) -> None:
    for path in ("/", "/healthz", "/v1/info", "/v1/cases/none", "/v1/cases/case0/thumbnail/0.jpg"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"]
        assert "access-control-allow-origin" not in headers


def test_the_server_tells_how_it_is(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["cases"] == 3
    info = client.get("/v1/info").json()
    assert (info["cases"], info["is_synthetic"], info["not_for_diagnosis"], info["role"]) == (3, True, True, "admin")


def test_metrics_count_by_route_and_never_by_case(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    for _ in range(3):
        client.get("/v1/cases/case0")
    client.get("/v1/cases/secret-id")
    client.get("/robots.txt")
    text = client.get("/metrics").text
    assert 'medfinder_requests_total{method="GET",route="/v1/cases/{case_id}",status="200"} 3' in text
    assert 'medfinder_requests_total{method="GET",route="other",status="404"} 1' in text
    assert 'medfinder_request_seconds_count{route="/v1/cases/{case_id}"} 4' in text
    assert "case0" not in text
    assert "secret" not in text
    assert "medfinder_cases 3" in text


def test_the_page_is_served_and_nothing_beside_it(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "Not for diagnosis" in answer.text or "ot for diagnosis" in answer.text
    for path in ("/web/../records.py", "/web/%2e%2e/records.py", "/web/review.html"):
        assert client.get(path).status_code == 404


def test_the_interface_tells_its_errors_and_forms(client: TestClient) -> None:
    paths = client.get("/v1/openapi.json").json()["paths"]
    assert "multipart/form-data" in paths["/v1/search/ct"]["post"]["requestBody"]["content"]
    assert {"/v1/search", "/v1/embed", "/v1/ingest", "/v1/jobs/{job_id}"} <= paths.keys()
