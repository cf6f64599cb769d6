"""The results page and its pictures."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medfinder.app.montage import WINDOWS, apply_window, choose_slices, render_panels
from medfinder.app.page import Search, sample_attributions, write_results_page
from medfinder.errors import ConfigError
from medfinder.records import Hit, Study
from medfinder.sources import nifti
from medfinder.volume import Grid, Volume, standardise_file, write_nifti

TEMPLATES = Path(__file__).parents[2] / "src" / "medfinder" / "app" / "templates"
AFFINE = np.diag([5.5, 5.5, 5.5, 1.0])


def make_chest() -> Volume:
    """A box of tissue with two lungs."""
    hu = np.full((64, 56, 64), -1024, dtype=np.int16)
    hu[8:56, 10:46, 2:62] = 40
    hu[12:28, 14:40, 10:50] = -800
    hu[36:52, 14:40, 10:50] = -800
    hu[50:54, 42:45, 54:58] = 1000
    return Volume(hu, AFFINE)


def make_hit(rank: int = 1, **changes: Any) -> Hit:
    fields: dict[str, Any] = {
        "rank": rank,
        "case_id": f"c0ffee{rank}",
        "study_id": "s1",
        "score": 0.75,
        "findings": ("emphysema", "nodule"),
        "report": "Emphysema. Nodule of 8 mm.",
        "source": "phantoms",
        "split": "test",
        "age_years": 70,
        "sex": "F",
        "region": "chest",
        "is_synthetic": True,
        "volume": None,
    }
    return Hit(**{**fields, **changes})


class Page(HTMLParser):
    """What a reader's browser would find: the elements, their attributes and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def write(tmp_path: Path, *hits: Hit, query: str = "emphysema", **options: Any) -> Page:
    out = tmp_path / "page.html"
    search = Search("By keyword", query, hits, options.pop("query_volume", None))
    write_results_page(out, **{"title": "demo", "searches": [search], "is_synthetic": False, **options})
    return Page(out)


@pytest.fixture
def volume_file(tmp_path: Path) -> Path:
    write_nifti(make_chest(), tmp_path / "chest.nii")
    return tmp_path / "chest.nii"


# ---- the page --------------------------------------------------------------------------------------------------------


def test_script_in_a_report_is_inert(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    page = write(tmp_path, make_hit(report=evil, findings=(evil,), caution=evil, source=evil), query=evil, title=evil)
    assert page.all("script") == []
    assert page.all("img") == []
    assert page.source.count("&lt;script&gt;alert(1)") >= 5


def test_the_page_needs_nothing_from_outside(tmp_path: Path, volume_file: Path) -> None:
    page = write(tmp_path, make_hit(volume=volume_file))
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert not page.all("link")
    assert not page.all("script")
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]+", "", page.source))


def test_the_banners_say_not_for_diagnosis_and_synthetic(tmp_path: Path) -> None:
    real = make_hit(is_synthetic=False)
    assert "Not for diagnosis." in write(tmp_path, real).text
    assert "computer-made phantoms" not in write(tmp_path, real).text
    assert "computer-made phantoms" in write(tmp_path, real, is_synthetic=True).text
    assert "computer-made phantoms" in write(tmp_path, make_hit(), is_synthetic=False).text


def test_every_picture_names_its_slice_windows_and_findings(tmp_path: Path, volume_file: Path) -> None:
    alts = [str(image["alt"]) for image in write(tmp_path, make_hit(volume=volume_file)).all("img")]
    assert len(alts) == 4
    assert alts[0].startswith("Axial, upper lungs; lung window above, mediastinal window below.")
    assert all("emphysema, nodule" in alt for alt in alts)


def test_the_pictures_are_the_panels(tmp_path: Path, volume_file: Path) -> None:
    page = write(tmp_path, make_hit(volume=volume_file))
    for image, panel in zip(page.all("img"), render_panels(make_chest()), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(str(image["src"]).split(",")[1]))))
        assert shown.shape == panel.pixels.shape
        assert np.abs(shown.astype(int) - panel.pixels).mean() < 4


def test_findings_asked_for_are_marked_and_come_first(tmp_path: Path) -> None:
    page = write(tmp_path, make_hit(findings=("nodule", "emphysema")), query="enfisema sin nodulos")
    assert re.search(r'<li class="wanted">emphysema', page.source)
    assert re.search(r"<li>nodule</li>", page.source)
    assert page.source.index("emphysema<span") < page.source.index("<li>nodule")


def test_a_hit_tells_rank_score_case_and_who(tmp_path: Path) -> None:
    text = write(tmp_path, make_hit(parts=(("image", 0.5), ("affirmed", 7.25)))).text
    for part in ("Rank 1", "c0ffee1", "0.750 score", "woman, 70 years", "image 0.50 · words 7.25", "Nodule of 8 mm"):
        assert part in text


def test_a_hit_of_which_little_is_known_is_shown(tmp_path: Path) -> None:
    bare = make_hit(findings=(), report="", age_years=None, sex=None, is_synthetic=False)
    text = write(tmp_path, bare).text
    assert "Not known." in text
    assert "No report comes with this CT." in text
    assert "years" not in text
    assert "The volume has gone" in text
    assert "0 years" in write(tmp_path, make_hit(age_years=0)).text


def test_a_damaged_volume_is_told_in_one_line_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "bad.nii").write_bytes(b"no volume")
    page = write(tmp_path, make_hit(volume=tmp_path / "bad.nii"))
    assert "The volume cannot be shown" in page.text
    assert "Nodule of 8 mm" in page.text


def test_cautions_are_shown_once_where_all_hits_share_them(tmp_path: Path) -> None:
    shared = write(tmp_path, *(make_hit(n, caution="beware") for n in (1, 2, 3))).text
    apart = write(tmp_path, make_hit(1, caution="beware"), make_hit(2)).text
    assert shared.count("beware") == apart.count("beware") == 1
    assert shared.index("beware") < shared.index("Rank")
    assert apart.index("beware") > apart.index("Rank")


def test_a_search_without_hits_says_so(tmp_path: Path) -> None:
    assert "Nothing was found." in write(tmp_path).text


def test_the_ct_asked_with_is_shown_with_its_attribution(tmp_path: Path, samples: Path) -> None:
    page = write(tmp_path, make_hit(), query="a CT", query_volume=samples / "LIDC-IDRI-0314.nii.gz")
    assert len(page.all("img")) == 4
    assert "LIDC-IDRI, The Cancer Imaging Archive" in page.text
    assert "CC BY 3.0" in page.text


def test_hits_from_the_samples_carry_their_attribution(tmp_path: Path, samples: Path, volume_file: Path) -> None:
    study = next(s for s in nifti.read(samples) if isinstance(s, Study) and "CMB" in s.series[0].path.name)
    page = write(tmp_path, make_hit(study_id=study.study_id, is_synthetic=False, volume=volume_file))
    assert "CMB-CRC" in page.text
    assert "CC BY 4.0" in page.text


def test_every_sample_has_an_attribution(samples: Path) -> None:
    assert len(sample_attributions()) == len(list(samples.glob("*.nii.gz")))


def test_headings_and_landmarks_are_in_order(tmp_path: Path) -> None:
    page = write(tmp_path, make_hit())
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("main")) == len(page.all("footer")) == 1
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))
    for attributes in page.all("a"):
        assert str(attributes["href"]).removeprefix("#") in identities


def test_the_evaluation_is_shown_with_n_chance_and_the_papers_numbers_marked(tmp_path: Path) -> None:
    ranks = {"R@1": 10.0, "R@5": 20.0, "R@10": 43.2, "MdR": 12.0, "MnR": 30.5}
    result = {
        "n": 500,
        "chance": {"text_to_image": ranks, "image_to_text": ranks},
        "text_to_image": ranks,
        "image_to_text": ranks,
        "keyword": {},
        "intervals": {name: dict.fromkeys(ranks, (1.0, 2.0)) for name in ("text_to_image", "image_to_text")},
        "model": "small",
        "digest": "0123456789abcdef",
        "split": "all",
        "n_reports": 480,
        "n_patients": 400,
        "synthetic": True,
        "n_synthetic": 500,
        "model_is_synthetic": True,
        "bootstrap": {"samples": 1000, "seed": 0, "level": 95, "unit": "patient"},
    }
    text = write(tmp_path, make_hit(), evaluation=result).text
    for part in ("43.2 [1.0, 2.0]", "500", "480", "chance", "paper: MedFinder, ResNet-50", "SYNTHETIC phantoms"):
        assert part in text


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="no page can be written"):
        write_results_page(tmp_path / "file" / "page.html", title="demo", searches=[], is_synthetic=False)
    write(tmp_path, make_hit())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "page.html"]


def test_the_same_hits_give_the_same_bytes(tmp_path: Path, volume_file: Path) -> None:
    one, two = (write(tmp_path, make_hit(volume=volume_file)).source for _ in range(2))
    assert one == two


def _luminance(colour: str) -> float:
    digits = colour * 2 if len(colour) == 3 else colour
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["screen", "print"])
def test_contrast_reaches_wcag_aa(scheme: str) -> None:
    # WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text.
    css = (TEMPLATES / "results.css").read_text(encoding="utf-8")
    screen, _, paper = css.partition("@media print")
    colours = dict(re.findall(r"--([a-z-]+): #([0-9a-f]+);", screen if scheme == "screen" else paper))
    grounds = ("page", "card")
    pairs = [(text, ground) for text in ("text", "muted", "link", "warning-text") for ground in grounds]
    pairs += [(f"{name}-text", name) for name in ("chip", "wanted", "warning", "made", "real")]
    for text, ground in pairs:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


# ---- its pictures ----------------------------------------------------------------------------------------------------


def test_panels_are_rgb_squares_stacked_by_window() -> None:
    panels = render_panels(make_chest(), windows=("lung", "mediastinal", "bone"), tile=100)
    assert [panel.pixels.shape for panel in panels] == [(300, 100, 3)] * 4
    assert all(panel.pixels.dtype == np.uint8 for panel in panels)
    assert [panel.name.split(",")[0] for panel in panels] == ["Axial", "Axial", "Axial", "Coronal"]


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown window 'brain'; known: lung"):
        render_panels(make_chest(), windows=("brain",))


def test_the_patients_right_front_and_head_are_left_and_top() -> None:
    # RAS+: x grows to the patient's right, y to the front, z to the head. The block lies right, in front and high.
    hu = np.full((64, 64, 64), -1024, dtype=np.int16)
    hu[4:60, 4:60, 4:60] = 40
    hu[48:58, 24:58, 40:58] = 1500
    panels = render_panels(Volume(hu, AFFINE), windows=("bone",), tile=64)
    upper, lower, coronal = (panels[number].pixels[..., 0] > 200 for number in (0, 2, 3))
    assert upper[6:40, 6:16].mean() > 0.8
    assert upper[:, 32:].sum() == upper[44:].sum() == lower.sum() == 0
    assert coronal[6:24, 6:16].mean() > 0.8
    assert coronal[:, 32:].sum() == coronal[32:].sum() == 0


def test_slices_go_through_the_lungs_from_head_to_feet() -> None:
    region, heights, front = choose_slices(make_chest())
    assert region == "lungs"
    assert 50 > heights[0] > heights[1] > heights[2] >= 10
    assert 14 <= front < 40


def test_proportions_are_those_of_the_patient() -> None:
    # 60 slices of 2 mm over 100 voxels of 1 mm: the coronal picture of the block is 120 mm high and 100 mm wide.
    hu = np.full((100, 100, 60), 40, dtype=np.int16)
    coronal = render_panels(Volume(hu, np.diag([1.0, 1.0, 2.0, 1.0])), windows=("mediastinal",), tile=240)[3].pixels
    tissue = coronal[..., 0] == apply_window(np.array([40.0]), *WINDOWS["mediastinal"])[0]
    assert tissue[20].sum() == pytest.approx(200, abs=4)
    assert tissue[:, 120].sum() == 240


def test_a_window_reaches_from_black_to_white() -> None:
    for centre, width in WINDOWS.values():
        ends = np.array([centre - width / 2 - 1, centre - width / 2, centre + width / 2, centre + width / 2 + 1])
        assert apply_window(ends, centre, width).tolist() == [0, 0, 255, 255]


def test_a_volume_without_lungs_or_body_is_drawn_too() -> None:
    empty = render_panels(Volume(np.full((20, 20, 20), -1024, dtype=np.int16), AFFINE))
    assert empty[0].name == "Axial, upper body"


def test_real_samples_are_cut_through_lungs_and_the_head_through_the_body(samples: Path) -> None:
    grid = Grid()
    assert choose_slices(standardise_file(samples / "CMB-CRC-MSB-01068.nii.gz", grid))[0] == "lungs"
    assert choose_slices(standardise_file(samples / "dcm_qa_ct_GE_head.nii.gz", grid))[0] == "body"
