"""The review page: in a real browser with the keyboard, and against requests that do not come from it."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medfinder.app.review_page import HOST, make_review_app
from medfinder.curation.readings import READINGS
from medfinder.curation.review import read_decisions

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def client(dataset: Path) -> TestClient:
    return TestClient(make_review_app(dataset, port=8471), base_url=f"http://{HOST}:8471")


def test_the_queue_lists_what_holds_a_case_first(client: TestClient) -> None:
    found = client.get("/items").json()
    assert found["is_synthetic"] is True
    assert [(item["key"], item["holds"]) for item in found["items"]] == [
        ("translation/study0", True),
        ("quality/case1", False),
    ]


def test_an_item_shows_both_texts_with_sides_numbers_and_negations_marked(client: TestClient) -> None:
    item = client.get("/items/translation/study0").json()
    assert ["derecho", "side"] in item["report_es_marked"]
    assert ["sin", "negation"] in item["report_es_marked"]
    assert ["Left", "side"] in item["report_marked"]
    assert ["3 mm", "number"] in item["report_marked"]
    assert "".join(text for text, _ in item["report_marked"]) == item["report"]


def test_slices_come_as_a_picture(client: TestClient) -> None:
    answer = client.get("/slices/case1.png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content[:8] == b"\x89PNG\r\n\x1a\n"
    assert client.get("/slices/none.png").status_code == 404


def test_a_decision_is_stored_before_it_is_answered(client: TestClient, dataset: Path) -> None:
    said = {"item": "translation/study0", "verdict": "correct", "reader": "ab", "before": "Left.", "after": "Right."}
    assert client.post("/decisions", json=said).status_code == 200
    (decision,) = read_decisions(dataset)
    assert (decision.verdict, decision.reader, decision.after) == ("correct", "ab", "Right.")
    assert client.get("/items/translation/study0").json()["report"] == "Right."


def test_a_decision_without_a_reader_is_refused_and_not_stored(client: TestClient, dataset: Path) -> None:
    answer = client.post("/decisions", json={"item": "translation/study0", "verdict": "accept", "reader": " "})
    assert (answer.status_code, "who you are" in answer.json()["detail"]) == (422, True)
    assert read_decisions(dataset) == []


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"host": f"{HOST}:9999"}]
)
def test_another_site_cannot_reach_the_page(client: TestClient, dataset: Path, headers: dict[str, str]) -> None:
    said = {"item": "translation/study0", "verdict": "reject", "reader": "x"}
    assert client.post("/decisions", json=said, headers=headers).status_code == 403
    assert client.get("/items", headers=headers).status_code == 403
    assert read_decisions(dataset) == []


def test_nothing_may_be_loaded_from_elsewhere(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
def test_a_reader_works_through_the_queue_with_the_keyboard(served: str, dataset: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.goto(served)
        expect(page.locator("#title")).to_contain_text("translation")
        expect(page.locator("#english")).to_have_text("Left pleural effusion of 3 mm <b>. No nodule.")
        page.keyboard.press("a")
        expect(page.locator("#message")).to_contain_text("who you are")
        assert read_decisions(dataset) == []
        page.fill("#reader", "ab")
        page.keyboard.press("Escape")
        page.keyboard.press("e")
        page.fill("#edit", "Right pleural effusion of 3 mm. No nodule.")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#title")).to_contain_text("quality")
        page.keyboard.press("r")
        expect(page.locator("#count")).to_contain_text("0 of 2 undecided")
        page.screenshot(path=str(dataset.parent / "review.png"))
        browser.close()
    assert [(one.item, one.verdict, one.reader) for one in read_decisions(dataset)] == [
        ("translation/study0", "correct", "ab"),
        ("quality/case1", "reject", "ab"),
    ]
    assert troubles == []


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
def test_a_hasty_key_decides_nothing_on_what_is_not_shown_yet(served: str, dataset: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        # The server takes its time.
        page.route("**/items/quality/case1", lambda _: None)
        page.route("**/cases/case1?*", lambda _: None)
        page.goto(served)
        expect(page.locator("#title")).to_contain_text("translation")
        page.fill("#reader", "ab")
        for key in ("Escape", "j", "a"):
            page.keyboard.press(key)
        expect(page.locator("#message")).to_have_text("Not stored: the item is not shown yet.")
        page.goto(f"{served}diagnose")
        expect(page.locator("#title")).to_have_text("Case case0")
        for key in ("j", "Enter"):
            page.keyboard.press(key)
        expect(page.locator("#message")).to_have_text("Not stored: the case is not shown yet.")
        page.unroute_all(behavior="ignoreErrors")
        browser.close()
    assert read_decisions(dataset) == []
    assert not (dataset / READINGS).exists()


def test_a_case_without_its_volume_keeps_its_text(client: TestClient, dataset: Path) -> None:
    (dataset / "volumes/case1.nii").unlink()
    assert client.get("/slices/case1.png").status_code == 404
    assert client.get("/items/quality/case1").status_code == 200


def test_the_text_is_never_taken_for_markup(client: TestClient) -> None:
    script = client.get("/review.js").text
    assert "innerHTML" not in script
