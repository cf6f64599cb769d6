"""Searching over HTTP: what comes back, and that nothing a client sends gives anything but a clean no."""

from collections.abc import Callable

import httpx
import pytest
from fastapi.testclient import TestClient

from medfinder.app.server.search_routes import Found

EVIL = [
    "x" * 60_000,
    "🫁" * 50,
    "'; DROP TABLE cases; --",
    "<script>alert(1)</script>",
    "\x00\x01",
    "",
    "   ",
    "(((((",
    '"',
]


def error_of(answer: httpx.Response) -> dict[str, str]:
    assert answer.json().keys() == {"error"}, answer.text
    return answer.json()["error"]


def test_a_text_finds_its_case_with_links(client: TestClient) -> None:
    found = client.post("/v1/search", json={"text": "left pleural effusion", "k": 2}).json()
    first = found["hits"][0]
    assert (first["case_id"], first["rank"], first["findings"]) == ("case0", 1, ["pleural effusion"])
    assert len(found["query_id"]) >= 8
    for link in (first["links"]["case"], first["links"]["volume"], *first["links"]["slices"]):
        assert client.get(link).status_code == 200


def test_a_keyword_by_its_spanish_name_finds_the_case(client: TestClient) -> None:
    found = client.post("/v1/search", json={"keyword": "derrame pleural"}).json()
    assert found["hits"][0]["case_id"] == "case0"


def test_a_filter_and_facets_hold_for_the_answer(client: TestClient) -> None:
    found = client.post("/v1/search", json={"text": "effusion", "where": "sex = F", "facets": True}).json()
    assert [hit["case_id"] for hit in found["hits"]] == ["case1"]
    assert found["facets"]["sex"] == {"F": 1}


def test_neither_patient_nor_path_leave_the_server(client: TestClient) -> None:
    bodies = client.post("/v1/search", json={"text": "effusion"}).text + client.get("/v1/cases/case0").text
    assert "secret-patient" not in bodies
    assert "/volumes" not in bodies.replace('/volume"', "")


@pytest.mark.parametrize("k", [0, -1, 10**9, "many", None, 1.5])
def test_a_number_of_hits_out_of_range_is_refused(client: TestClient, k: object) -> None:
    answer = client.post("/v1/search", json={"text": "effusion", "k": k})
    assert (answer.status_code, error_of(answer)["message"].startswith("k: ")) == (422, True)


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("field", ["text", "report", "keyword", "where"])
def test_a_strange_query_is_answered_or_refused(client: TestClient, field: str, text: str) -> None:
    answer = client.post("/v1/search", json={"text": "effusion", field: text} if field == "where" else {field: text})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 422:
        assert len(error_of(answer)["message"]) < 5_000


def test_a_query_of_a_megabyte_is_too_large(client: TestClient) -> None:
    answer = client.post("/v1/search", json={"text": "effusion " * 120_000})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too large")


def test_a_body_without_a_length_is_counted_while_it_comes(make_client: Callable[..., TestClient]) -> None:
    client = make_client(body_kb=64)
    pieces = (b'{"text": "' + b"x" * 1024 if n == 0 else b"x" * 1024 for n in range(100))
    answer = client.post("/v1/search", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_unknown_fields_are_named_and_refused(client: TestClient) -> None:
    answer = client.post("/v1/search", json={"texto": "derrame"})
    assert answer.status_code == 422
    assert "texto" in error_of(answer)["message"]


def test_an_unknown_field_of_a_filter_lists_the_known_ones(client: TestClient) -> None:
    answer = client.post("/v1/search", json={"text": "effusion", "where": "height > 2"})
    assert answer.status_code == 422
    assert "age_years" in error_of(answer)["message"]


@pytest.mark.parametrize("asked", [{"text": "zebra", "k": 2, "facets": True, "explain": True}, {"case_id": "case1"}])
def test_answers_have_the_form_that_the_interface_tells(client: TestClient, asked: dict[str, object]) -> None:
    answer = client.post("/v1/search", json=asked)
    found = Found.model_validate_json(answer.content, strict=True)
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == set(Found.model_fields)
    assert found.hits


def test_a_search_stands_in_the_history_as_soon_as_it_is_answered(client: TestClient) -> None:
    for number in range(3):
        query_id = client.post("/v1/search", json={"text": f"nodule {number}"}).json()["query_id"]
        newest = client.get("/v1/history").json()[0]
        assert (newest["query_id"], newest["query"]) == (query_id, {"text": f"nodule {number}"})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"text": 1}', b'{"text": "\\ud800"}'])
def test_what_is_no_question_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    error_of(answer)


def test_suggestions_know_synonyms_in_both_languages(client: TestClient) -> None:
    for typed in ("ggo", "vidrio d", "ground"):
        names = [one["name"] for one in client.get("/v1/keywords", params={"q": typed}).json()]
        assert "ground-glass opacity" in names, typed
    assert client.get("/v1/keywords", params={"q": "zzzz"}).json() == []


def test_fields_tell_what_a_filter_can_ask(client: TestClient) -> None:
    names = {field["name"] for field in client.get("/v1/fields").json()}
    assert {"age_years", "findings", "sex"} <= names
    assert "patient_id" not in names
