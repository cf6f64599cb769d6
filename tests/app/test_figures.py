"""Pictures and page of a dataset's statistics: every number is there, words fit, and what is synthetic is called so."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import ImageFont

from medfinder.app.figures import (
    choose_samples,
    draw_card,
    draw_figures,
    draw_flow,
    draw_histograms,
    draw_word_cloud,
)
from medfinder.app.montage import render_planes
from medfinder.app.statistics_page import write_statistics
from medfinder.app.svg import NO_BREAK, text_width, wrap
from medfinder.curation.dataset import Dataset
from medfinder.curation.statistics import describe_records
from medfinder.errors import ConfigError
from medfinder.records import Case, Dropped, Finding
from medfinder.volume import Volume

SVG = "{http://www.w3.org/2000/svg}"
NAMES = [
    "atelectasis",
    "pulmonary artery enlargement",
    "ground-glass opacity",
    "mass",
    "nodule",
    "COPD",
    "rib fracture",
]


def make_case(number: int, **changes: object) -> Case:
    names = NAMES[: 1 + number % len(NAMES)]
    case = Case(
        case_id=f"case{number:02d}",
        study_id=f"study{number}",
        patient_id=f"patient{number}",
        source="nifti",
        split=("train", "train", "train", "val", "test")[number % 5],  # type: ignore[arg-type]
        volume="",
        report="A <b>mass</b> & nothing else is seen today.",
        report_es="",
        findings=tuple(Finding(name) for name in names),
        findings_from="report",
        age_years=30 + 2 * number,
        sex=("F", "M", None)[number % 3],  # type: ignore[arg-type]
        date_offset_days=None,
        spacing_mm=(0.7, 0.7, 1.0 + 0.3 * number),
        shape=(512, 512, 200 + 20 * number),
        region="chest",
        is_synthetic=False,
    )
    return replace(case, **changes)  # type: ignore[arg-type]


def describe_made(count: int = 20, *, synthetic: int = 0) -> dict[str, object]:
    cases = [make_case(n, is_synthetic=n < synthetic) for n in range(count)]
    dropped = [Dropped(f"lost{n}", "", "nifti", "read", f"reason {n % 9}", "") for n in range(30)]
    dropped += [Dropped("small", "", "nifti", "quality", "too small", "")]
    return describe_records(cases, dropped)


def words_of(figure: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(figure).iter(f"{SVG}text")]


def boxes_of(figure: str) -> Iterator[tuple[str, float, float, float, float]]:
    """Where each text lies: its words and left, top, right, bottom, by the estimate of its width."""
    for text in ET.fromstring(figure).iter(f"{SVG}text"):
        size, x, y = (float(text.attrib[key]) for key in ("font-size", "x", "y"))
        width = text_width(text.text or "", size, bold="font-weight" in text.attrib)
        left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]]
        yield text.text or "", left, y - 0.75 * size, left + width, y + 0.2 * size


@pytest.mark.parametrize(
    ("synthetic", "told"),
    [(20, "SYNTHETIC: computer-made"), (3, "PARTLY SYNTHETIC: 3 of 20"), (0, "Not for diagnosis.")],
)
def test_every_picture_says_what_is_synthetic_and_what_it_is_not_for(synthetic: int, told: str) -> None:
    figures = draw_figures(describe_made(synthetic=synthetic))
    assert figures.keys() == {
        "flow.svg",
        "keywords.svg",
        "word_cloud.svg",
        "splits.svg",
        "ages.svg",
        "histograms.svg",
    }
    for figure in figures.values():
        assert words_of(figure)[-1].startswith(told)
        assert words_of(figure)[-1].endswith("Not for diagnosis.")


def test_no_words_are_cut_by_the_edge_and_none_lie_upon_others() -> None:
    for name, figure in draw_figures(describe_made()).items():
        root = ET.fromstring(figure)
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        boxes = list(boxes_of(figure))
        for words, left, top, right, bottom in boxes:
            assert 0 <= left < right <= width, (name, words)
            assert 0 <= top < bottom <= height, (name, words)
        for place, one in enumerate(boxes):
            for two in boxes[place + 1 :]:
                apart = one[3] <= two[1] or two[3] <= one[1] or one[4] <= two[2] or two[4] <= one[2]
                assert apart, (name, one[0], two[0])


def test_widths_are_estimated_from_above() -> None:
    font = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
    if not font.exists():
        pytest.skip("DejaVu Sans is not installed")
    drawn = ImageFont.truetype(font, 100)
    for words in (*NAMES, "0123456789", "Set aside, quality: 65", "WWW mmm", "ÁÉÍ ñ"):
        assert drawn.getlength(words) <= text_width(words, 100) <= 1.4 * drawn.getlength(words), words


def test_the_flow_chart_counts_down_to_what_is_kept() -> None:
    words = words_of(draw_flow(describe_made()))
    assert "n = 51" in words
    assert [word for word in words if word.endswith(" left")] == ["21 left", "20 left"]
    assert "Set aside, reading: 30" in words
    assert "20 studies kept" in words
    # Nine reasons in the fixture; five are shown, reasons 0 to 2 came four times, the others three times.
    assert "12  for 4 other reasons" in words
    assert [word for word in words if word.endswith("patients")] == [
        "20 cases, 20 patients",
        "12 cases, 12 patients",
        "4 cases, 4 patients",
        "4 cases, 4 patients",
    ]


def test_rows_of_tables_stand_beside_the_way_of_the_studies() -> None:
    rows = [Dropped(f"row{n}", "", "nifti", "table", "no image", "") for n in range(21)]
    words = words_of(draw_flow(describe_records([make_case(0), make_case(1)], rows)))
    assert words[words.index("Studies found") + 1] == "n = 2"
    assert words[words.index("Table rows set aside: 21") + 1] == "21  no image"
    assert not [word for word in words if word.endswith(" left")]


def test_words_of_the_cloud_grow_with_their_count() -> None:
    figure = ET.fromstring(draw_word_cloud(describe_made()))
    sizes = {text.text: float(text.attrib["font-size"]) for text in figure.iter(f"{SVG}text")}
    # By the fixture 20 cases have an atelectasis, and 2 of them a rib fracture.
    assert sizes["rib fracture"] == pytest.approx(max(11, sizes["atelectasis"] * (2 / 20) ** 0.5), abs=0.1)
    assert sizes["atelectasis"] > sizes["mass"] > sizes["nodule"]


def test_a_dataset_without_cases_still_has_its_flow_chart() -> None:
    assert draw_figures(describe_records([], [])).keys() == {"flow.svg"}


def test_samples_show_many_findings_and_the_choice_does_not_depend_on_order() -> None:
    cases = [make_case(n) for n in range(7)] + [make_case(9, findings=(Finding("cyst"),))]
    chosen = choose_samples(cases, 3)
    # Case 6 has all seven findings, case 9 the only other one; then the first by id.
    assert [case.case_id for case in chosen] == ["case06", "case09", "case00"]
    assert choose_samples(cases[::-1], 3) == chosen
    assert len(choose_samples(cases, 50)) == 8


def lungs(shape: tuple[int, int, int] = (40, 40, 40)) -> Volume:
    hu = np.full(shape, -1024, dtype=np.int16)
    hu[4:36, 8:32, 2:38] = 40
    hu[8:18, 12:28, 8:32] = hu[22:32, 12:28, 8:32] = -800
    return Volume(hu, np.diag([8.0, 8.0, 8.0, 1.0]))


def test_a_card_shows_planes_findings_and_the_whole_report_escaped() -> None:
    card = draw_card(make_case(6, age_years=96), lungs(), attribution="Some archive, CC BY 3.0")
    words = words_of(card)
    assert "A <b>mass</b> & nothing else is seen today." in words
    assert {"Axial, middle lungs", "Coronal, through the lungs", "pulmonary artery enlargement"} <= set(words)
    assert "woman, 90+ years" in words
    assert "Some archive, CC BY 3.0" in words
    assert len(list(ET.fromstring(card).iter(f"{SVG}image"))) == 3


def test_the_sagittal_slice_has_the_front_left_and_the_head_on_top() -> None:
    volume = lungs()
    volume.hu[22:32, 24:28, 28:32] = 1500
    sagittal = render_planes(volume, windows=("bone",), tile=80)[2].pixels[..., 0] > 200
    assert sagittal[10:30, 20:35].any()
    assert not sagittal[40:].any()
    assert not sagittal[:, 40:75].any()


@pytest.fixture
def dataset(tmp_path: Path, make_dataset: Callable[..., Dataset]) -> Dataset:
    return make_dataset(tmp_path / "dataset", [make_case(n) for n in range(3)])


def test_the_folder_holds_tables_pictures_and_one_page_with_all_of_them(dataset: Dataset, tmp_path: Path) -> None:
    written = write_statistics(dataset, tmp_path / "out", cards=2)
    found = sorted(file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*"))
    assert sorted(written.files) == found
    assert sum("card_" in name for name in found) == 2
    assert json.loads((tmp_path / "out" / "statistics.json").read_text()) == written.description
    page = (tmp_path / "out" / "statistics.html").read_text()
    assert page.count("<svg ") == sum(name.endswith(".svg") for name in found)
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert len(links) > 6
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert "<script" not in page
    assert "Not for diagnosis." in (tmp_path / "out" / "statistics.md").read_text()


def test_the_same_dataset_gives_the_same_bytes_and_old_cards_go(dataset: Dataset, tmp_path: Path) -> None:
    write_statistics(dataset, tmp_path / "one", cards=3)
    write_statistics(dataset, tmp_path / "one", cards=1)
    write_statistics(dataset, tmp_path / "two", cards=1)
    one, two = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two


def test_a_volume_that_has_gone_is_told_and_the_rest_is_written(dataset: Dataset, tmp_path: Path) -> None:
    (dataset.path / dataset.cases[0].volume).unlink()
    written = write_statistics(dataset, tmp_path / "out", cards=3)
    assert len(written.troubles) == 1
    assert dataset.cases[0].case_id in written.troubles[0]
    assert sum("card_" in name for name in written.files) == 2


def test_nothing_is_written_into_the_dataset(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="lies in the dataset"):
        write_statistics(dataset, dataset.path / "statistics")
    assert not (dataset.path / "statistics").exists()
    assert pq.read_table(dataset.path / "cases.parquet").num_rows == 3


def test_a_number_keeps_its_unit_and_a_lone_stop_begins_no_line() -> None:
    assert wrap(f"cavity, lower lobe, 41{NO_BREAK}mm", 10, 132) == ["cavity, lower lobe,", f"41{NO_BREAK}mm"]
    lines = wrap("sin derrame pleural . sin nodulos .", 10, text_width("sin derrame pleural", 10))
    assert [line.replace(NO_BREAK, " ") for line in lines] == ["sin derrame", "pleural . sin", "nodulos ."]


def test_every_bar_of_a_histogram_ends_below_the_topmost_line() -> None:
    description = {"synthetic": 0, "cases": 187, "histograms": {"slices": [[50, 100, 187]]}}
    figure = draw_histograms(description)
    bars = [float(y) for y in re.findall(r'<rect x="[^"]+" y="([^"]+)"[^>]+fill="#0072b2"', figure)]
    lines = [float(y) for y in re.findall(r'<path d="M\S+ ([^"L]+)L', figure)]
    assert min(lines) < min(bars)
