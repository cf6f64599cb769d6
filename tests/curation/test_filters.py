"""Each of the paper's filters, at its limit and just beyond it."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfinder.curation.quality import Glance, find_missing_voxels, find_small_dimension
from medfinder.curation.report import choose_text, count_words, find_report_fault, guess_language, plain_text, tidy
from medfinder.records import Study
from medfinder.volume import Volume, body_region, read_volume


def volume_of(hu: np.ndarray) -> Volume:
    return Volume(hu.astype(np.int16), np.eye(4))


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (10, 20, 30)).astype(np.int16)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ninety_six_voxels_pass_and_ninety_five_do_not(axis: int) -> None:
    shape = [512, 512, 512]
    shape[axis] = 96
    assert find_small_dimension((shape[0], shape[1], shape[2]), limit=96) is None
    shape[axis] = 95
    fault = find_small_dimension((shape[0], shape[1], shape[2]), limit=96)
    assert fault is not None
    assert fault[0] == "too small"


@pytest.mark.parametrize(("axis", "planes"), [(0, 3), (1, 6), (2, 9)])
def test_exactly_thirty_percent_missing_pass_and_one_plane_more_does_not(
    noise: np.ndarray, axis: int, planes: int
) -> None:
    turned = np.moveaxis(noise, axis, 0)
    turned[:planes] = 0
    assert Glance.of(volume_of(noise)).missing_share == 0.3
    assert find_missing_voxels(Glance.of(volume_of(noise)).missing_share, limit=0.30) is None
    turned[planes] = -1024
    fault = find_missing_voxels(Glance.of(volume_of(noise)).missing_share, limit=0.30)
    assert fault is not None
    assert fault[0] == "missing voxels"


def test_a_padded_border_counts_once_where_its_sides_meet(noise: np.ndarray) -> None:
    noise[:5], noise[:, :10] = -1024, -1024
    assert Glance.of(volume_of(noise)).missing_share == 0.75


def test_nothing_is_missing_from_noise_and_all_from_a_blank_volume(noise: np.ndarray) -> None:
    assert Glance.of(volume_of(noise)).missing_share == 0
    assert Glance.of(volume_of(np.zeros_like(noise))).missing_share == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_with_a_single_voxel_that_differs_was_measured(axis: int) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 40)).astype(np.int16)
    planes = np.moveaxis(hu, axis, 0)
    planes[7], planes[20] = -1024, -1024
    assert Glance.of(volume_of(hu)).missing_share == 2 / 40
    planes[20, 3, 39] = 0
    assert Glance.of(volume_of(hu)).missing_share == 1 / 40


def test_a_round_field_of_view_is_not_missing(noise: np.ndarray) -> None:
    x, y = np.indices(noise.shape[:2])
    noise[(x - 4.5) ** 2 / 25 + (y - 9.5) ** 2 / 100 > 1] = -1024
    assert Glance.of(volume_of(noise)).missing_share == 0


def test_padding_that_the_reader_turned_into_air_is_missing(tmp_path: Path, noise: np.ndarray) -> None:
    scattered = np.random.default_rng(1).permutation(noise.size) < 0.4 * noise.size
    noise[scattered.reshape(noise.shape)] = -3024
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "ct.nii")
    assert Glance.of(read_volume(tmp_path / "ct.nii")).missing_share == pytest.approx(0.4, abs=0.005)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one two three four five", None),
        ("one two three four", "short report"),
        ("one . two , three - four .", "short report"),
        ("x" * 50 + " a b c d", None),
        ("x" * 60 + " a b c d", "report too long"),
        ("", "no report"),
        (r"{\rtf1 one two three four five}", "markup"),
    ],
)
def test_a_report_needs_five_words_and_an_end(text: str, reason: str | None) -> None:
    fault = find_report_fault(text, is_required=True, min_words=5, max_chars=58)
    assert (fault and fault[0]) == reason


# As a word processor writes it: fonts, author and page header, accents in both spellings, a table, a hidden hyphen.
WRITTEN = (
    r"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fswiss\fcharset0 Arial;}}{\colortbl;\red0\green0\blue0;}"
    r"{\info{\author Juan Perez}{\title informe}}{\header\pard Hospital de prueba\par}\viewkind4"
    r"\uc1\pard\lang3082\f0\fs20 "
    r"\b T\'c9CNICA:\b0  TC de t\u243?rax.\par N\'f3dulo de 8\~mm, {\i para}\-hiliar \{LSD\}.\par"
    "\r\n"
    r"\trowd\cellx2000\cellx4000\intbl derrame\cell no\cell\row\pard\par}" + "\x00"
)


def test_the_text_of_rtf_is_taken_and_what_is_around_it_is_not() -> None:
    expected = "TÉCNICA: TC de tórax.\nNódulo de 8 mm, parahiliar {LSD}.\nderrame\nno"
    assert plain_text(WRITTEN) == expected
    assert find_report_fault(plain_text(WRITTEN), is_required=True, min_words=5, max_chars=99) is None


@pytest.mark.parametrize(
    ("damaged", "text"),
    [
        (r"{\rtf1\ansi uno dos", "uno dos"),
        (r"{\rtf1\ansi uno}} dos", "uno"),
        (r"{\rtf1\ansi\ansicpg99999 \'f3 dos}", "\ufffd dos"),
        (r"{\rtf1\ansi \u-10179?\u-9060? dos}", "\U0001f49c dos"),
        (r"{\rtf1\ansi \u-10179? dos}", "\ufffd dos"),
    ],
)
def test_damaged_rtf_gives_what_can_be_read(damaged: str, text: str) -> None:
    assert plain_text(damaged) == text


def test_rtf_that_cannot_be_converted_is_refused() -> None:
    damaged = r"{\rtf1\ansi\uc uno dos tres cuatro cinco seis}"
    assert plain_text(damaged) == damaged
    fault = find_report_fault(plain_text(damaged), is_required=True, min_words=5, max_chars=99)
    assert fault is not None
    assert fault[0] == "markup"


def test_no_report_passes_where_none_is_required_but_a_short_one_does_not() -> None:
    assert find_report_fault("", is_required=False, min_words=5, max_chars=99) is None
    assert find_report_fault("mass", is_required=False, min_words=5, max_chars=99) is not None


def test_words_are_counted_without_punctuation() -> None:
    assert count_words("tc torax sin contraste . derrame pleural . ") == 6


def test_control_characters_go_and_paragraphs_stay() -> None:
    assert tidy("FINDINGS:\r\n\r\n\r\n\r\n mass \x07 seen \t here") == "FINDINGS:\n\nmass seen here"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("tc torax sin contraste . no se observan adenopatias mediastinicas .", "es"),
        ("Neumonía en lóbulo inferior derecho.", "es"),
        ("No enlarged lymph nodes. There is a nodule in the right upper lobe.", "en"),
        ("no", "en"),
    ],
)
def test_the_language_is_told_by_common_words(text: str, language: str) -> None:
    assert guess_language(text) == language


@pytest.mark.parametrize(
    ("report", "report_en", "searched", "spanish"),
    [
        ("derrame pleural en el lado izquierdo", "left pleural effusion", "left pleural effusion", True),
        ("derrame pleural en el lado izquierdo", None, "derrame pleural en el lado izquierdo", True),
        ("there is an effusion of the pleura", None, "there is an effusion of the pleura", False),
        (None, "there is an effusion", "there is an effusion", False),
        (None, None, "", False),
    ],
)
def test_english_is_searched_where_there_is_any_and_spanish_is_kept(
    report: str | None, report_en: str | None, searched: str, spanish: bool
) -> None:
    text = choose_text(Study("s", "p", "nifti", (), report=report, report_en=report_en))
    assert text.searched == searched
    assert text.spanish == (report if spanish else "")


def test_the_shipped_samples_hold_no_missing_planes_that_would_drop_them(samples: Path) -> None:
    shares = [Glance.of(read_volume(path)).missing_share for path in samples.glob("*.nii.gz")]
    assert len(shares) >= 6
    assert max(shares) < 0.3


def test_make_chest_is_a_chest(make_chest: Callable[..., np.ndarray]) -> None:
    assert body_region(Volume(make_chest(), np.diag([10.0, 10.0, 10.0, 1.0]))).name == "chest"
