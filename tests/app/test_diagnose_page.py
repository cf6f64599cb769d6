"""Readers diagnose in a real browser with the keyboard, blind to the report and to each other; a third one settles."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.app.review_page import HOST, make_review_app
from medfinder.curation.dataset import Dataset
from medfinder.curation.diagnoses import open_store, settle_diagnoses
from medfinder.curation.readings import READINGS, open_readings, say
from medfinder.errors import ConfigError

CHROMIUM = Path("/usr/bin/chromium")


def client_of(dataset: Path, report: Any = "asked") -> TestClient:
    return TestClient(make_review_app(dataset, port=8471, report=report), base_url=f"http://{HOST}:8471")


@pytest.fixture
def client(dataset: Path) -> TestClient:
    return client_of(dataset)


def test_every_case_is_read_the_held_ones_too(client: TestClient) -> None:
    cases = client.get("/cases", params={"reader": "ab"}).json()["cases"]
    assert {one["case_id"]: one["is_held"] for one in cases} == {"case0": True, "case1": False, "case2": False}


def test_a_reader_sees_own_words_and_neither_the_report_nor_what_others_said(client: TestClient) -> None:
    for reader, status in (("ab", "present"), ("cd", "absent")):
        client.post("/cases/case1/words", json={"reader": reader, "finding": "nodule", "status": status})
    shown = client.get("/cases/case1", params={"reader": "ab"})
    assert [(word["finding"], word["after"]) for word in shown.json()["words"]] == [("nodule", "present")]
    assert "effusion" not in shown.text
    assert "cd" not in json.dumps(shown.json()["history"])


def test_a_look_at_the_report_is_stored_before_it_is_shown(client: TestClient, dataset: Path) -> None:
    answer = client.post("/cases/case1/report", json={"reader": "ab"}).json()
    assert (answer["report"], answer["report_es"][:7]) == ("Left pleural effusion of 3 mm <b>. No nodule.", "derrame")
    assert {"finding": "nodule", "status": "absent"} in answer["suggestions"]
    said = client.post("/cases/case1/words", json={"reader": "ab", "finding": "nodule", "status": "absent"}).json()
    assert said["report_shown"] is True
    assert [one.act for one in open_readings(dataset).read()] == ["look", "say"]


def test_a_report_is_shown_to_nobody_who_has_no_name_or_where_it_is_never_shown(dataset: Path) -> None:
    assert client_of(dataset).post("/cases/case1/report", json={"reader": " "}).status_code == 422
    refused = client_of(dataset, "never").post("/cases/case1/report", json={"reader": "ab"})
    assert (refused.status_code, "effusion" in refused.text) == (403, False)
    assert not (dataset / READINGS).exists()
    with pytest.raises(ConfigError, match="asked, always, never"):
        make_review_app(dataset, port=8471, report="sometimes")  # type: ignore[arg-type]


def test_voxels_come_as_they_are_with_x_fastest(client: TestClient, dataset: Path) -> None:
    answer = client.get("/cases/case2/voxels")
    told = json.loads(answer.headers["x-volume"])
    opened = Dataset.open(dataset)
    hu = opened.volume(next(case for case in opened.cases if case.case_id == "case2"))
    voxels = np.frombuffer(answer.content, dtype="<i2")
    assert (told["shape"], told["spacing_mm"]) == ([16, 14, 16], [20.0, 20.0, 20.0])
    x, y, z = 3, 5, 7
    assert voxels[x + 16 * (y + 14 * z)] == hu[x, y, z]
    (dataset / "volumes/case2.nii").unlink()
    assert client.get("/cases/case2/voxels").status_code == 404


def test_readers_look_at_the_finer_copy_and_large_ones_are_thinned(client: TestClient, dataset: Path) -> None:
    hu = np.zeros((700, 700, 90), np.int16)
    hu[4, 6, 8] = 700
    (dataset / "views").mkdir()
    nib.save(nib.Nifti1Image(hu, np.diag([0.5, 0.5, 2.0, 1.0])), dataset / "views" / "case2.nii")
    answer = client.get("/cases/case2/voxels")
    told = json.loads(answer.headers["x-volume"])
    # By hand: 44 million voxels are more than 33 million, so that every second is left.
    assert (told["shape"], told["spacing_mm"]) == ([350, 350, 45], [1.0, 1.0, 4.0])
    assert np.frombuffer(answer.content, "<i2").reshape(told["shape"], order="F")[2, 3, 4] == 700


@pytest.mark.parametrize(
    ("path", "said", "code"),
    [
        ("/cases/none/words", {"reader": "ab", "finding": "nodule", "status": "present"}, 404),
        ("/cases/case1/words", {"reader": "ab", "finding": "sunburn", "status": "present"}, 422),
        ("/cases/case1/words", {"reader": "ab", "finding": "nodule", "status": "maybe"}, 422),
        ("/cases/case1/words", {"reader": "", "finding": "nodule", "status": "present"}, 422),
        ("/cases/none/finish", {"reader": "ab"}, 404),
        ("/cases/none/report", {"reader": "ab"}, 404),
    ],
)
def test_what_cannot_count_is_refused_in_words(
    client: TestClient, dataset: Path, path: str, said: dict[str, str], code: int
) -> None:
    assert client.post(path, json=said).status_code == code
    assert not (dataset / READINGS).exists()


def test_another_site_can_say_nothing(client: TestClient, dataset: Path) -> None:
    said = {"reader": "x", "finding": "nodule", "status": "present"}
    answer = client.post("/cases/case1/words", json=said, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert not (dataset / READINGS).exists()


def test_differences_tell_everybodys_words_and_which_of_them_were_never_said(client: TestClient, dataset: Path) -> None:
    client.post("/cases/case1/words", json={"reader": "ab", "finding": "nodule", "status": "present"})
    assert client.get("/differences").json()["differences"] == []
    client.post("/cases/case1/finish", json={"reader": "cd"})
    (found,) = client.get("/differences").json()["differences"]
    assert (found["how"], found["key"]) == ("open", "case1/nodule")
    assert [(word["reader"], word["status"], word["is_named"]) for word in found["words"]] == [
        ("ab", "present", True),
        ("cd", "absent", False),
    ]
    # Another process adds a word; the page knows it at once.
    say(open_readings(dataset), "case1", "nodule", "present", reader="ef")
    (found,) = client.get("/differences").json()["differences"]
    assert (found["how"], found["status"]) == ("majority", "present")


@pytest.mark.parametrize("name", ["diagnose.js", "settle.js", "common.js", "planes.js", "picker.js", "report.js"])
def test_no_script_takes_text_for_markup_or_asks_another_server(client: TestClient, name: str) -> None:
    script = client.get(f"/{name}").text
    assert len(script) > 100
    assert "HTML" not in script
    assert "://" not in script


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield opened
        opened.close()


def open_page(browser: Any, address: str, reader: str, troubles: list[str]) -> Any:
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    page.goto(address)
    page.fill("#reader", reader)
    page.keyboard.press("Enter")
    return page


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
def test_two_readers_diagnose_with_the_keyboard_and_a_third_settles(served: str, dataset: Path, browser: Any) -> None:
    from playwright.sync_api import expect

    troubles: list[str] = []
    page = open_page(browser, f"{served}diagnose", "ab", troubles)
    expect(page.locator("#title")).to_have_text("Case case0")
    expect(page.locator(".axial figcaption")).to_contain_text("of 16")
    expect(page.locator("#texts")).to_be_hidden()
    before = page.locator(".axial figcaption").text_content()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".axial figcaption")).not_to_have_text(before)
    page.keyboard.press("3")
    expect(page.locator("#windows [aria-pressed=true]")).to_contain_text("bone")

    page.keyboard.press("f")
    page.keyboard.type("DERRAME pleural")
    expect(page.locator("#picks [aria-selected=true] strong")).to_have_text("pleural effusion")
    page.keyboard.press("Enter")
    expect(page.locator("#words .present[aria-pressed=true]")).to_have_count(1)
    page.keyboard.type("nodule")
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#words .absent[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    expect(page.locator("#words .uncertain[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("u")
    expect(page.locator("#words .absent[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("v")
    expect(page.locator("#english")).to_have_text("Left pleural effusion of 3 mm <b>. No nodule.")
    for left in ("case1", "case2"):
        page.keyboard.press("Enter")
        expect(page.locator("#title")).to_have_text(f"Case {left}")
    page.keyboard.press("Enter")
    expect(page.locator("#empty-title")).to_have_text("Every case is finished")

    other = open_page(browser, f"{served}diagnose", "cd", troubles)
    expect(other.locator("#title")).to_have_text("Case case0")
    expect(other.locator("#words li")).to_have_count(0)
    # A key held down repeats; it must finish no second case.
    for _ in range(3):
        other.keyboard.down("Enter")
        expect(other.locator("#title")).to_have_text("Case case1")
    other.keyboard.up("Enter")

    senior = open_page(browser, f"{served}settle", "ef", troubles)
    expect(senior.locator("#finding")).to_have_text("pleural effusion")
    expect(senior.locator("#words tr")).to_have_count(2)
    senior.keyboard.press("?")
    expect(senior.locator("#help")).to_be_visible()
    senior.keyboard.press("Escape")
    expect(senior.locator("#help")).to_be_hidden()
    senior.keyboard.press("p")
    expect(senior.locator("#empty-title")).to_have_text("Every difference is settled")

    assert troubles == []
    settled = {one.finding: (one.status, one.how) for one in settle_diagnoses(open_store(dataset).diagnoses)}
    assert settled == {"pleural effusion": ("present", "adjudicator"), "nodule": ("absent", "all agree")}


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
def test_right_is_on_the_left_and_front_is_at_the_top(served: str, dataset: Path, browser: Any) -> None:
    """A volume that is bright in its right front quarter alone: what a radiologist sees at the upper left."""
    import nibabel as nib
    from playwright.sync_api import expect

    hu = np.full((16, 14, 16), -1000, dtype=np.int16)
    hu[8:, 7:, :] = 1000
    nib.save(nib.Nifti1Image(hu, np.diag([20.0, 20.0, 20.0, 1.0])), dataset / "volumes/case0.nii")
    page = open_page(browser, f"{served}diagnose", "ab", [])
    expect(page.locator(".axial figcaption")).to_contain_text("of 16")
    grey = """([x, y]) => {
      const canvas = document.querySelector(".axial canvas");
      return canvas.getContext("2d").getImageData(canvas.width * x, canvas.height * y, 1, 1).data[0];
    }"""
    corners = {(x, y): page.evaluate(grey, [x, y]) for x in (0.3, 0.7) for y in (0.3, 0.7)}
    assert corners.pop((0.3, 0.3)) > 200
    assert max(corners.values()) < 80
