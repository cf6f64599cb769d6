"""Collections, notes, verdicts, history, export and the audit log, as the routes tie them together."""

import csv
import io

from fastapi.testclient import TestClient


def test_a_collection_lives_from_beginning_to_export(client: TestClient) -> None:
    made = client.post("/v1/collections", json={"name": "effusions"}).json()
    place = f"/v1/collections/{made['id']}"
    assert client.put(f"{place}/cases/case0").status_code == 204
    assert client.put(f"{place}/cases/case2").status_code == 204
    assert client.delete(f"{place}/cases/case2").status_code == 204
    assert client.patch(place, json={"name": "left effusions"}).json()["name"] == "left effusions"
    assert client.get(place).json()["case_ids"] == ["case0"]
    rows = list(csv.DictReader(io.StringIO(client.get("/v1/export", params={"collection": made["id"]}).text)))
    assert [(row["case_id"], row["findings"]) for row in rows] == [("case0", "pleural effusion")]
    assert client.delete(place).status_code == 204
    assert client.get(place).status_code == 404


def test_notes_verdicts_and_history_belong_to_what_they_are_about(client: TestClient) -> None:
    assert client.post("/v1/cases/case1/notes", json={"text": "look again"}).status_code == 201
    assert client.get("/v1/cases/case1/notes").json()[-1]["text"] == "look again"
    assert client.post("/v1/cases/none/notes", json={"text": "x"}).status_code == 404
    found = client.post("/v1/search", json={"text": "emphysema"}).json()
    said = {"query_id": found["query_id"], "case_id": "case1", "verdict": "good"}
    assert client.post("/v1/feedback", json=said).status_code == 204
    assert client.post("/v1/feedback", json={**said, "query_id": "none"}).status_code == 404
    assert client.post("/v1/feedback", json={**said, "verdict": "maybe"}).status_code == 422
    newest = client.get("/v1/history").json()[0]
    assert (newest["query_id"], newest["query"]) == (found["query_id"], {"text": "emphysema"})


def test_the_audit_log_tells_who_saw_what_and_never_the_words(client: TestClient) -> None:
    client.post("/v1/search", json={"text": "a very secret question about nodules"})
    client.get("/v1/cases/case1")
    search, opened = client.get("/v1/audit", params={"after": -2}).json()
    assert (search["action"], search["key_id"], search["cases"]) == ("POST /v1/search", "local", 3)
    assert search["asked"] != ""
    assert (opened["action"], opened["case_ids"]) == ("GET /v1/cases/{case_id}", ["case1"])
    assert "secret question" not in client.get("/v1/audit", params={"limit": 1000}).text


def test_a_formula_does_not_leave_in_a_table() -> None:
    from medfinder.app.server.keep_routes import _harmless

    assert [_harmless(cell) for cell in ("=1+1", "@x", "Nodule", 5)] == ["'=1+1", "'@x", "Nodule", 5]
