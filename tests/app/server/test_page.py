"""The search page in a real browser, against a real server: what a radiologist does, from words to a box."""

import hashlib
import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pytest
import uvicorn

from medfinder.app.server.access import Access, add_key
from medfinder.app.server.application import make_app
from medfinder.app.server.state import open_state
from medfinder.app.study_links import ViewerLinks, add_link
from medfinder.records import Case, Finding
from medfinder.retrieval.index import SearchIndex
from medfinder.sources.pacs import PacsSettings

CHROMIUM = Path("/usr/bin/chromium")
WEB = Path(__file__).parents[3] / "src" / "medfinder" / "app" / "web"
MODULES = [WEB / "search.js", *sorted((WEB / "search").glob("*.js"))]
FLAGS = [
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Two busy cores draw in software.
PATIENCE_MS = 60_000
SCRIPT = "<img src=x onerror=\"document.title='taken'\">"
in_browser = pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")


class Seer:
    """The stand-in, which also sees every finding in the same corner and gives each region a vector."""

    finding_names = ("pleural effusion", "emphysema")
    cells = tokens = (4, 4, 4)
    region_width = 4

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def map_findings(self, hu: list[np.ndarray]) -> np.ndarray:
        maps = np.zeros((len(hu), *self.cells, len(self.finding_names)), dtype=np.float32)
        maps[:, 1, 1, 1] = 5.0
        return maps

    def encode_regions(self, hu: list[np.ndarray]) -> np.ndarray:
        drawn = np.random.default_rng(3).normal(size=(len(hu), 64, self.region_width)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)

    def encode_asked(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.eye(1, self.region_width, dtype=np.float32), np.ones(1, np.float32)) for _ in texts]


def make_cases() -> list[Case]:
    first = Case(
        case_id="case00",
        study_id="study00",
        patient_id="p",
        source="phantoms",
        split="test",
        volume="volumes/chest.nii",
        report=f"Left pleural effusion. No nodule. {SCRIPT}",
        report_es="Derrame pleural izquierdo. Sin nódulos.",
        findings=(Finding("pleural effusion", laterality="left"),),
        findings_from="report",
        age_years=70,
        sex="F",
        date_offset_days=None,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(32, 28, 32),
        region="chest",
        is_synthetic=True,
    )
    emphysema = {
        "report": "Emphysema. No pleural effusion.",
        "findings": (Finding("emphysema"),),
        "sex": "M",
        "age_years": 30,
    }
    others = [
        replace(
            first, case_id=f"case{at:02}", study_id=f"study{at:02}", **(emphysema if at > 20 else {"age_years": 50})
        )
        for at in range(1, 24)
    ]
    return [first, *others]


@pytest.fixture(scope="module")
def seer(stand_in: Any) -> Seer:
    return Seer(stand_in)


@pytest.fixture(scope="module")
def shelf(seer: Seer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchIndex]:
    """24 cases, 21 of them with an effusion: more than a page."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "volumes").mkdir()
    hu = np.full(seer.grid.shape, -1000, dtype=np.int16)
    hu[3:29, 6:24, 2:30] = 40
    hu[6:14, 9:21, 8:26] = hu[18:26, 9:21, 8:26] = -800
    nib.save(nib.Nifti1Image(hu, np.diag([11.0, 11.0, 11.0, 1.0])), folder / "volumes/chest.nii")
    cases = make_cases()
    with SearchIndex.create(
        folder / "index", model_digest=seer.digest, width=seer.width, model_name=seer.name
    ) as index:
        vectors = [seer.encode_texts([getattr(case, name) for case in cases]) for name in ("case_id", "report")]
        index.add(cases, *vectors, folder, model_digest=seer.digest)
        yield index


@contextmanager
def served(
    index: SearchIndex,
    model: Any,
    folder: Path,
    *,
    key: bool = False,
    viewer: ViewerLinks | None = None,
    pacs: PacsSettings | None = None,
) -> Iterator[tuple[str, str]]:
    """Serve on a free port of this machine; give the address, and a viewer's key where keys are asked for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    folder.mkdir(exist_ok=True)
    state = open_state(folder)
    plain = add_key(state, "ward 3", "viewer")[1] if key else ""
    access = Access(state, is_open=not key)
    app = make_app(
        index, model, folder=folder, hosts=frozenset({host}), state=state, access=access, viewer=viewer, pacs=pacs
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=int(host.split(":")[1]), log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.05)
    yield f"http://{host}/", plain
    server.should_exit = True
    thread.join(20)
    state.close()


@pytest.fixture(scope="module")
def site(shelf: SearchIndex, seer: Seer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(shelf, seer, tmp_path_factory.mktemp("state")) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def serve(shelf: SearchIndex, seer: Seer, tmp_path: Path) -> Iterator[Callable[..., tuple[str, str]]]:
    """Start a server of a test's own."""
    with ExitStack() as opened:
        yield lambda **given: opened.enter_context(served(shelf, seer, tmp_path / "state", **given))


@pytest.fixture
def open_page(browser: Any, serve: Any) -> Iterator[Callable[..., Any]]:
    """Open the page; afterwards nothing may have gone elsewhere, nor anything stand in the console.

    Pages are closed before a server of the test's own ends: one that still asks for slices would say that it is gone.
    """
    troubles: list[str] = []
    pages = []

    def open_it(address: str, rest: str = "", *, refused: str = "") -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        pages.append(page)
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda line: (
                troubles.append(line.text)
                if line.type == "error" and not (refused and f"status of {refused}" in line.text)
                else None
            ),
        )
        own = (address, f"blob:{address}", "data:")
        page.on("request", lambda one: troubles.append(f"sent to {one.url}") if not one.url.startswith(own) else None)
        page.goto(f"{address}{rest}", wait_until="commit")
        return page

    yield open_it
    titles = [page.title() for page in pages]
    for page in pages:
        page.close()
    assert troubles == []
    assert set(titles) == {"medfinder"}, "markup of a report was taken for markup"


@in_browser
def test_words_are_completed_and_answered_with_slices_findings_and_sentences(site: str, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site)
    expect(page.locator("#synthetic")).to_be_visible()
    expect(page.get_by_text("Not for diagnosis")).to_be_visible()
    page.keyboard.press("/")
    page.locator("#words").press_sequentially("pleural eff")
    expect(page.locator("#suggestions li").first).to_contain_text("pleural effusion")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#words")).to_have_value("pleural effusion")
    page.keyboard.press("Enter")
    card = page.locator(".card[data-case]").first
    expect(card.locator("img")).to_have_count(3)
    expect(card.locator(".finding.matched")).to_contain_text("pleural effusion")
    expect(card.locator("mark").first).to_contain_text("Left pleural effusion")
    card.get_by_text("Why this one").click()
    expect(card.locator("meter").first).to_be_visible()
    expect(card.locator(".whole")).to_contain_text(SCRIPT)


@in_browser
def test_filters_narrow_the_answer_pages_turn_it_and_the_address_keeps_it(site: str, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site, "#/?text=pleural+effusion")
    expect(page.locator(".card[data-case]")).to_have_count(20)
    page.locator("#after").click()
    expect(page.locator("#page")).to_contain_text("21")
    page.locator("#before").click()
    page.get_by_role("button", name=re.compile("^60–79")).click()
    expect(page.locator("#asked button")).to_contain_text("60–79")
    hits = page.locator(".card[data-case]")
    expect(hits).to_have_count(1)
    expect(hits).to_have_attribute("data-case", "case00")
    page.reload(wait_until="commit")
    expect(hits).to_have_count(1)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save these hits as CSV").click()
    lines = Path(saved.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("rank,case_id")
    assert lines[1].startswith("1,case00")
    assert len(lines) == 2
    page.locator("#asked button").click()
    expect(hits).to_have_count(20)


@in_browser
def test_a_verdict_asks_again_and_stands_in_the_history(site: str, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site, "#/?text=emphysema")
    expect(page.locator(".card[data-case] img").first).to_be_visible()
    first = page.locator(".card[data-case]").first.get_attribute("data-case")
    with page.expect_response(lambda answer: "/v1/feedback" in answer.url) as noted:
        page.get_by_role("button", name="Hit 1 is bad").click()
    assert noted.value.status == 204
    expect(page.locator("#asked")).to_contain_text("1 bad")
    expect(page.locator(".card[data-case]").first).not_to_have_attribute("data-case", str(first))
    page.get_by_role("button", name="More like hit 1", exact=True).click()
    expect(page.locator("#asked")).to_contain_text("like case")
    expect(page.locator(".card[data-case]").first).to_be_visible()
    page.get_by_role("link", name="History").click()
    expect(page.locator("#shelf")).to_contain_text("emphysema · 1 bad")
    expect(page.locator("#shelf")).to_contain_text("like a case")


@in_browser
def test_a_ct_that_is_chosen_is_sent_and_its_like_are_found(site: str, open_page: Any, chest: Path) -> None:
    from playwright.sync_api import expect

    page = open_page(site)
    expect(page.locator("#welcome")).to_be_visible()
    page.locator("#ct").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no CT"})
    expect(page.locator("#message")).to_contain_text(".nii")
    page.locator("#ct").set_input_files(chest)
    expect(page.locator("#asked")).to_contain_text(f"CT: {chest.name}")
    expect(page.locator(".card[data-case]").first).to_be_visible(timeout=3 * PATIENCE_MS)
    first = page.locator(".card[data-case]").first.get_attribute("data-case")
    page.get_by_role("button", name="Hit 1 is bad").click()
    expect(page.locator("#asked")).to_contain_text("1 bad")
    # What was judged is not shown again: the verdict went with the CT.
    expect(page.locator(".card[data-case]").first).to_be_visible(timeout=3 * PATIENCE_MS)
    expect(page.locator(f'.card[data-case="{first}"]')).to_have_count(0)


@in_browser
def test_an_upload_can_be_given_up(site: str, open_page: Any, chest: Path) -> None:
    from playwright.sync_api import expect

    page = open_page(site)
    expect(page.locator("#welcome")).to_be_visible()
    page.route("**/v1/search/ct", lambda _: None)  # a server that never answers
    page.locator("#ct").set_input_files(chest)
    page.locator("#upload-cancel").click()
    expect(page.locator("#state")).to_contain_text("Given up")


@in_browser
def test_a_case_shows_its_images_evidence_reports_and_a_box_finds_similar_regions(site: str, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site, "#/?text=pleural+effusion")
    with page.expect_response(
        lambda answer: answer.url.endswith("/v1/search") and "explain" in (answer.request.post_data or "")
    ):
        pass
    page.locator(".card[data-case] h2 a").first.click()
    screen = page.locator(".screen[data-ready=preview]")
    expect(screen).to_be_visible(timeout=2 * PATIENCE_MS)
    expect(page.locator(".report[class] p[lang=es]")).to_contain_text("Derrame pleural")
    expect(page.locator(".report p[lang=en] mark").first).to_contain_text("Left pleural effusion")
    expect(page.locator("#evidence")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("v")
    expect(page.locator("#evidence")).to_have_attribute("aria-pressed", "false")
    with page.expect_response(lambda answer: "/heat?asked=pleural%20effusion" in answer.url) as heat:
        page.get_by_role("button", name="Where?").first.click()
    assert heat.value.ok
    expect(page.locator("#evidence")).to_have_attribute("aria-pressed", "true")
    for key, name in (("4", "liver"), ("a", "axial"), ("e", "Box")):
        page.keyboard.press(key)
        expect(page.get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "true")
    place = page.locator("canvas").bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x - 40, y - 40)
    page.mouse.down()
    page.mouse.move(x, y, steps=3)
    page.mouse.move(x + 50, y + 30, steps=3)
    page.mouse.up()
    expect(page.locator(".under")).to_contain_text("box of")
    page.locator("#region").click()
    expect(page.locator("#asked")).to_contain_text("region of a case")
    expect(page.locator(".card[data-case]").first).to_be_visible()


@in_browser
def test_two_cases_lie_side_by_side_and_scroll_together(site: str, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site, "#/case/case00?with=case22")
    expect(page.locator(".screen[data-ready]")).to_have_count(2, timeout=3 * PATIENCE_MS)
    expect(page.locator("#linked")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("a")
    page.locator("canvas").last.hover()
    before = page.locator(".under").inner_text()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".under")).not_to_have_text(before)
    page.fill("textarea[aria-label=Remark]", "Compare <b>again</b>")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".notes-of-case")).to_contain_text("Compare <b>again</b>")


@in_browser
def test_hits_are_collected_and_the_collection_is_kept(site: str, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site, "#/?keyword=emphysema")
    expect(page.locator(".card[data-case]").first).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("c")
    page.fill("#collect-name", "For Monday")
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text("For Monday")
    page.get_by_role("link", name="Collections").click()
    page.get_by_role("link", name="For Monday").click()
    expect(page.locator("#shelf .kept li")).to_have_count(1)
    with page.expect_download() as saved:
        page.get_by_role("link", name="CSV").click()
    assert Path(saved.value.path()).read_text(encoding="utf-8").startswith("case_id")
    page.get_by_role("button", name="Take out").click()
    expect(page.locator("#shelf")).to_contain_text("No case is in it yet")


@in_browser
def test_what_cannot_be_answered_is_told_in_words(site: str, open_page: Any) -> None:
    from playwright.sync_api import expect

    page = open_page(site, "#/?keyword=emphysema&where=age_years+>+200", refused="422")
    expect(page.locator("#state")).to_contain_text("Nothing found")
    page.fill("#where", "shoe_size > 3")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_contain_text("Not understood")
    expect(page.locator("#state")).to_contain_text("shoe_size")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


@in_browser
def test_a_server_with_keys_asks_for_one(serve: Any, open_page: Any) -> None:
    from playwright.sync_api import expect

    address, key = serve(key=True)
    page = open_page(address, "#/?text=emphysema", refused="401")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#login-trouble")).to_contain_text("not known")
    page.fill("#key", key)
    page.keyboard.press("Enter")
    expect(page.locator(".card[data-case]").first).to_be_visible()
    page.locator("#leave").click()
    expect(page.locator("#login")).to_be_visible()


class ViewerPage(http.server.BaseHTTPRequestHandler):
    """Stands in for the viewer of a PACS; ``asked`` are the paths and from where they were asked."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Referer")))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<title>viewer</title>")

    def log_message(self, *words: Any) -> None:
        pass


@in_browser
def test_a_hit_and_its_case_open_in_the_viewer_of_the_pacs(serve: Any, open_page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    add_link(tmp_path / "studies.jsonl", "study00", "1.2.840.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ViewerPage) as pacs:
        threading.Thread(target=pacs.serve_forever, args=(0.05,), daemon=True).start()
        template = f"http://127.0.0.1:{pacs.server_address[1]}/viewer?StudyInstanceUIDs={{StudyInstanceUID}}"
        address, _ = serve(viewer=ViewerLinks(template, tmp_path / "studies.jsonl"))
        page = open_page(address, "#/?text=pleural+effusion&where=age_years+%3D+70")
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open hit 1 in the PACS viewer").click()
        expect(opened.value).to_have_title("viewer")
        opened.value.close()
        page.locator(".card[data-case] h2 a").first.click()
        link = page.get_by_role("link", name="Open this case in the PACS viewer")
        expect(link).to_have_attribute("href", template.replace("{StudyInstanceUID}", "1.2.840.1"))
        page.goto(f"{address}#/case/case01")
        expect(page.get_by_role("heading", name="50 y")).to_be_visible()
        expect(page.get_by_role("link", name="PACS viewer")).to_have_count(0)
        pacs.shutdown()
    asked = [one for one in ViewerPage.asked if one[0].startswith("/viewer")]
    assert asked == [("/viewer?StudyInstanceUIDs=1.2.840.1", None)], "the viewer is told where the reader came from"


@in_browser
def test_a_study_of_the_pacs_is_asked_with_and_stands_in_no_address(archive: Any, serve: Any, open_page: Any) -> None:
    from playwright.sync_api import expect

    address, _ = serve(pacs=PacsSettings(archive.url, timeout_s=10, attempts=1))
    page = open_page(address, refused="404")
    page.locator("#kind").select_option("study")
    expect(page.locator("#words")).to_have_attribute("placeholder", re.compile("StudyInstanceUID"))
    page.locator("#words").fill("1.2.3.1")
    page.keyboard.press("Enter")
    expect(page.locator(".card[data-case]").first).to_be_visible()
    assert "1.2.3.1" not in page.url
    page.locator("#words").fill("1.2.3.999")
    page.keyboard.press("Enter")
    expect(page.locator("#state h1")).to_have_text("Not in the PACS")


# ---- what needs no browser -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_is_short_and_takes_no_text_for_markup(module: Path) -> None:
    script = module.read_text(encoding="utf-8")
    assert len(script.splitlines()) < 300
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://"):
        assert word not in script.replace("http://www.w3.org/2000/svg", "")


def test_the_page_holds_no_script_or_style_of_its_own() -> None:
    page = (WEB / "search.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []
    assert re.findall(r"(?:src|href)=\"(?!/web/|#)", page) == []


def test_the_viewer_is_the_published_file_with_its_licence() -> None:
    vendored = WEB / "vendor" / "niivue"
    digest = hashlib.sha256((vendored / "niivue.umd.js").read_bytes()).hexdigest()
    told = (Path(__file__).parents[3] / "THIRD_PARTY.md").read_text(encoding="utf-8")
    assert f"sha256 {digest}" in told
    assert "BSD 2-Clause" in (vendored / "LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", [":root", ":root[data-theme=light]"])
def test_every_colour_of_text_can_be_read_on_every_ground(theme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text; 1.4.11: 3 to 1 for the edges of fields."""
    sheet = (WEB / "search.css").read_text(encoding="utf-8")
    block = sheet[sheet.index(f"{theme} {{") :].split("}")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})\b", block))
    grounds = [colours[name] for name in ("ground", "panel", "raised")]
    for name in ("text", "soft", "blue", "green", "red", "amber"):
        assert min(contrast(colours[name], ground) for ground in grounds) >= 4.5, name
    assert contrast(colours["text"], colours["deep"]) >= 4.5
    assert contrast(colours["line"], colours["ground"]) >= 3


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, "contrast ratio" and "relative luminance"."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
