"""Series selection: what is refused, what is preferred, how few series are read, and the truth of raw phantom trees."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medfinder.cli import app
from medfinder.curation.kernels import kernel_kind
from medfinder.curation.series import (
    Candidate,
    Look,
    Refusal,
    SelectionSettings,
    choose_series,
    rank_series,
    read_look,
)
from medfinder.errors import ConfigError
from medfinder.records import Series, SeriesTags, Study
from medfinder.sources import dicom
from medfinder.sources.phantoms.bimcv_tree import FaultRates, TreeSettings, write_bimcv_tree

ORIGINAL = ("ORIGINAL", "PRIMARY", "AXIAL")
DERIVED = ("DERIVED", "SECONDARY")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
WHOLE = Look("chest", "", 4000, 20000, 260, 0.0, 0.0)
ABDOMEN = Look("not chest", "20 ml of aerated lung", 20, 20000, 10, 0.0, 0.0)


def series(name: str, **tags: Any) -> Series:
    """Make a DICOM series of a thin axial chest with a soft kernel; keywords change its tags."""
    known: dict[str, Any] = {
        "modality": "CT",
        "image_type": ORIGINAL,
        "convolution_kernel": "B31f",
        "slice_thickness_mm": 1.0,
        "slices": 301,
        "image_orientation_patient": AXIAL,
        "slice_positions_mm": (-300.0, 0.0),
    }
    return Series(name, Path("study") / name, "1.2.3", SeriesTags(**{**known, **tags}))


def thick(name: str, **tags: Any) -> Series:
    return series(name, **{"slice_thickness_mm": 5.0, "slices": 61, **tags})


def names(candidates: Iterable[Candidate]) -> list[str]:
    return [one.series.series_id for one in candidates]


def reasons(candidates: Iterable[Candidate]) -> dict[str, str]:
    return {one.series.series_id: one.reason for one in candidates}


class Looker:
    """Answers with what was prepared, a whole chest where nothing was, and remembers who was asked."""

    def __init__(self, **answers: Look | Refusal) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, one: Series) -> Look | Refusal:
        self.asked.append(one.series_id)
        return self.answers.get(one.series_id, WHOLE)


def chosen(candidates: Iterable[Candidate]) -> list[str]:
    return [one.series.series_id for one in candidates if one.is_chosen]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP")}, "localizer"),
        ({"series_description": "Topograma 0.6"}, "localizer"),
        ({"image_type": (*DERIVED, "SCREEN SAVE")}, "dose report"),
        ({"series_description": "Dose Report"}, "dose report"),
        ({"series_description": "INFORME DE DOSIS"}, "dose report"),
        ({"image_type": (*DERIVED, "CSA MIP")}, "projection"),
        ({"image_type": (*DERIVED, "MAXIMUM")}, "projection"),
        ({"series_description": "Tórax MinIP"}, "projection"),
        ({"series_description": "VRT"}, "projection"),
        ({"series_description": "Lung PBV"}, "map"),
        ({"image_type": (*DERIVED, "REFORMATTED", "AVERAGE"), "image_orientation_patient": CORONAL}, "reformat"),
        ({"image_type": DERIVED, "image_orientation_patient": CORONAL}, "reformat"),
        ({"series_description": "MPR SAG", "image_orientation_patient": ()}, "reformat"),
        ({"modality": "PT"}, "not CT"),
        ({"slices": 9}, "too few slices"),
        ({"slices": 40, "slice_positions_mm": (-20.0, -20.0)}, "slab"),
        ({"slices": 41, "slice_positions_mm": (-40.0, 0.0)}, "slab"),
        ({"slice_thickness_mm": 20.0}, "too thick"),
    ],
)
def test_what_no_one_would_read_is_refused_by_its_headers(tags: dict[str, Any], reason: str) -> None:
    (candidate,) = rank_series([series("one", **tags)])
    assert (candidate.reason, candidate.score) == (reason, 0)
    assert candidate.detail


@pytest.mark.parametrize(
    "description",
    ["TORAX BAJA DOSIS", "Chest low dose", "LUNG SCREENING", "TORAX PROTOCOLO COVID", "coronarias y torax", ""],
)
def test_innocent_words_refuse_nothing(description: str) -> None:
    (candidate,) = rank_series([series("one", series_description=description)])
    assert candidate.reason == ""


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"slice_thickness_mm": 5.0, "slices": 61}),
        ({}, {"convolution_kernel": "B70f"}),
        ({"convolution_kernel": "B70f"}, {"slice_thickness_mm": 5.0, "slices": 61}),
        ({}, {"convolution_kernel": "", "series_description": "TORAX PULMON"}),
        ({}, {"convolution_kernel": ""}),
        ({}, {"slices": 101, "slice_positions_mm": (-100.0, 0.0)}),
        ({"body_part_examined": "CHEST"}, {"body_part_examined": "ABDOMEN"}),
        ({"series_description": "INSPIRACION"}, {"series_description": "ESPIRACION"}),
        ({"slices": 601, "slice_thickness_mm": 0.6}, {}),
    ],
)
def test_thin_whole_chests_with_a_soft_kernel_come_first(better: dict[str, Any], worse: dict[str, Any]) -> None:
    ranked = rank_series([series("a-worse", **worse), series("b-better", **better)])
    assert names(ranked) == ["b-better", "a-worse"]
    assert reasons(ranked) == {"b-better": "", "a-worse": ""}


def test_a_series_down_to_the_pelvis_has_no_merit_over_one_of_the_chest() -> None:
    trunk = thick("trunk", slices=121, slice_positions_mm=(-600.0, 0.0))
    assert names(rank_series([trunk, series("chest")])) == ["chest", "trunk"]


def test_the_order_of_files_never_matters() -> None:
    study = [series(f"s{n}", series_number=n % 3, convolution_kernel=("B31f", "B70f", "")[n % 3]) for n in range(12)]
    expected = names(rank_series(study))
    for seed in range(5):
        random.Random(seed).shuffle(study)
        assert names(rank_series(study)) == expected


def test_equals_are_told_apart_by_series_number_then_by_the_numbers_of_their_names() -> None:
    late, early = series("a", series_number=10), series("b", series_number=9)
    assert names(rank_series([late, early])) == ["b", "a"]
    tenth, second = (replace(series(n), path=Path(f"x_acq-{n}_run-1_bp-chest_ct")) for n in ("10", "2"))
    assert names(rank_series([tenth, second])) == ["2", "10"]


def test_a_derived_axial_series_goes_only_where_an_original_is_at_hand() -> None:
    derived = series("derived", image_type=DERIVED)
    assert reasons(rank_series([derived, thick("original")]))["derived"] == "reformat"
    few = series("few", slices=5, slice_positions_mm=(-5.0, 0.0))
    assert reasons(rank_series([derived, few])) == {"derived": "", "few": "too few slices"}


def test_the_stored_order_tells_a_reformat_without_any_tags(tmp_path: Path) -> None:
    axial = save(tmp_path / "acq-1.nii.gz", "LAS", (0.7, 0.7, 5.0))
    coronal = save(tmp_path / "acq-2.nii.gz", "LSA", (0.7, 0.7, 3.0))
    turned = save(tmp_path / "acq-3.nii.gz", "LAS", (0.7, 5.0, 0.7))
    ranked = reasons(rank_series([axial, coronal, turned]))
    assert ranked == {"acq-1.nii.gz": "", "acq-2.nii.gz": "reformat", "acq-3.nii.gz": "reformat"}
    assert reasons(rank_series([coronal])) == {"acq-2.nii.gz": ""}


def test_faults_of_a_header_are_told_without_reading_voxels(tmp_path: Path) -> None:
    wide = save(tmp_path / "wide.nii.gz", "LAS", (0.7, 0.7, 340.0))
    colour = save(tmp_path / "colour.nii.gz", "LAS", (0.7, 0.7, 5.0), dtype=np.dtype([(c, "u1") for c in "RGB"]))
    empty = Series("empty", tmp_path / "empty.nii.gz")
    empty.path.write_bytes(b"")
    text = Series("text", tmp_path / "text.nii.gz")
    text.path.write_text("no volume")
    gone = Series("gone", tmp_path / "gone.nii.gz")
    ranked = rank_series([wide, colour, empty, text, gone])
    assert reasons(ranked) == {
        "wide.nii.gz": "bad spacing",
        "colour.nii.gz": "not greyscale",
        "empty": "truncated",
        "text": "unreadable",
        "gone": "absent",
    }


def test_slices_that_the_side_file_counts_and_the_file_lacks_were_lost(tmp_path: Path) -> None:
    one = save(tmp_path / "a.nii.gz", "LAS", (0.7, 0.7, 5.0))
    for promised, reason in ((30, ""), (33, "lost slices"), (29, ""), (90, "")):
        tagged = replace(one, tags=SeriesTags(image_type=ORIGINAL, slices=promised))
        assert rank_series([tagged])[0].reason == reason, promised


def test_one_look_is_enough_where_nothing_is_wrong() -> None:
    study = [series(f"s{n:03d}", series_number=n, convolution_kernel="B70f") for n in range(60)]
    study += [thick(f"t{n:03d}", series_number=100 + n) for n in range(40)]
    study += [series(f"m{n:03d}", image_type=DERIVED, image_orientation_patient=CORONAL) for n in range(35)]
    look = Looker()
    candidates = choose_series(rank_series(study), look)
    assert look.asked == ["s000"]
    assert chosen(candidates) == ["s000"]
    assert candidates[0].series.series_id == "s000"
    assert len(candidates) == 135
    assert {one.reason for one in candidates[1:]} == {"worse than another", "reformat"}


def test_what_cannot_be_read_or_is_no_chest_gives_way_to_the_next() -> None:
    look = Looker(first=("truncated", "the voxels end"), second=ABDOMEN)
    study = [thick("third"), series("second", convolution_kernel="B70f"), series("first")]
    candidates = choose_series(rank_series(study), look)
    assert look.asked == ["first", "second", "third"]
    assert chosen(candidates) == ["third"]
    assert reasons(candidates) == {"third": "", "first": "truncated", "second": "not chest"}


def test_cut_lungs_give_way_to_whole_ones_elsewhere() -> None:
    lower = series("lower", slice_positions_mm=(-600.0, -300.0))
    cut = replace(WHOLE, cut_above=0.9, lung_height_mm=120)
    look = Looker(lower=cut)
    candidates = choose_series(rank_series([lower, thick("chest", convolution_kernel="B70f")]), look)
    assert chosen(candidates) == ["chest"]
    assert look.asked == ["lower", "chest"]


def test_a_cut_is_not_looked_at_twice() -> None:
    same = [thick(f"same{n}") for n in range(20)]
    look = Looker(best=replace(WHOLE, cut_above=0.9, lung_height_mm=120))
    candidates = choose_series(rank_series([series("best"), *same]), look)
    assert chosen(candidates) == ["best"]
    assert look.asked == ["best"]


def test_a_doubtful_series_gives_way_to_the_other_kernel_but_not_to_thick_slices() -> None:
    doubtful = replace(WHOLE, doubt="slices do not follow")
    lung = series("lung", convolution_kernel="B70f")
    assert chosen(choose_series(rank_series([series("soft"), lung]), Looker(soft=doubtful))) == ["lung"]
    assert chosen(choose_series(rank_series([series("soft"), thick("thick")]), Looker(soft=doubtful))) == ["soft"]


def test_bases_above_an_abdomen_are_no_chest() -> None:
    bases = Look("chest", "", 800, 15000, 65, 0.7, 0.0)
    (candidate,) = choose_series(rank_series([series("one")]), Looker(one=bases))
    assert (candidate.is_chosen, candidate.reason) == (False, "partial chest")
    anything = SelectionSettings(require_chest=False)
    assert chosen(choose_series(rank_series([series("one")], anything), Looker(one=ABDOMEN), anything)) == ["one"]


def test_the_second_series_is_of_another_kernel() -> None:
    study = [
        series("soft", series_number=1),
        series("soft again", series_number=9),
        series("lung", convolution_kernel="B70f"),
    ]
    two = SelectionSettings(series_per_study=2)
    assert chosen(choose_series(rank_series(study, two), Looker(), two)) == ["soft", "lung"]
    assert len(chosen(choose_series(rank_series(study[:1], two), Looker(), two))) == 1


def test_a_study_of_faulty_series_ends_after_so_many_looks() -> None:
    study = [series(f"s{n:02d}") for n in range(30)]
    look = Looker(**{one.series_id: ABDOMEN for one in study})
    candidates = choose_series(rank_series(study), look, SelectionSettings(max_looks=5))
    assert len(look.asked) == 5
    assert chosen(candidates) == []
    assert {one.reason for one in candidates} == {"not chest", "not looked at"}


def test_an_empty_study_has_no_candidates() -> None:
    assert choose_series(rank_series([]), Looker()) == ()


def test_no_free_text_of_the_headers_is_told() -> None:
    study = [series("a", series_description="PEREZ JUAN TORAX"), series("b", series_description="PEREZ MIP")]
    told = [(one.reason, one.detail, one.figures) for one in choose_series(rank_series(study), Looker())]
    assert "PEREZ" not in repr(told)


@pytest.mark.parametrize("wrong", [{"series_per_study": 0}, {"max_thickness_mm": 0}, {"min_height_mm": -1}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SelectionSettings(**wrong)


@pytest.mark.parametrize(
    ("kind", "kernels"),
    [
        ("soft", "B20f B30f B31f B40s B41f I26f I30f I31f I41f Br36 Br40d Br44f\\3 Bv40 Hr38 Qr36 T20s"),
        ("lung", "B50f B60f B70f B80s I50f I70f Bl57 Bl64d Br59 Br64 Hr60 Ur77"),
        ("soft", "STANDARD SOFT CHEST DETAIL STND"),
        ("lung", "LUNG BONE BONEPLUS EDGE"),
        ("soft", "A B C"),
        ("lung", "L YA YB YC D"),
        ("soft", "FC01 FC03 FC08 FC10 FC13 FC18"),
        ("lung", "FC30 FC50 FC51 FC52 FC55 FC86"),
        ("", "unknown 7 XYZ"),
    ],
)
def test_the_makers_spellings_of_kernels_are_known(kind: str, kernels: str) -> None:
    assert {name: kernel_kind(name) for name in kernels.split()} == dict.fromkeys(kernels.split(), kind)


def save(path: Path, axes: str, spacing: tuple[float, ...], *, dtype: Any = np.int16) -> Series:
    """Write 30 empty slices whose stored axes point as told, by nibabel's own orientation code."""
    ornt = nib.orientations.axcodes2ornt(axes)
    affine = np.zeros((4, 4))
    for stored, (world, sign) in enumerate(ornt):
        affine[int(world), stored] = sign * spacing[stored]
    affine[3, 3] = 1
    nib.save(nib.Nifti1Image(np.zeros((30, 30, 30), dtype), affine), path)
    return Series(path.name, path)


# ------------------------------------------------------------------------------------------------------ phantoms, real


def read_tree(root: Path) -> dict[str, tuple[dict[str, Any], list[Series], dict[str, dict[str, Any]]]]:
    """Read the CT sessions of a raw tree: (truth of the session, its series, truth of each series)."""
    lines = [json.loads(line) for line in (root / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, list[Series]] = defaultdict(list)
    truths: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        if line["record"] == "series":
            truths[line["session"]][line["path"]] = line
            found[line["session"]].append(_series_of(root, line["path"]))
    sessions = [line for line in lines if line["record"] == "session" and line["modality"] == "CT"]
    return {line["session"]: (line, found[line["session"]], truths[line["session"]]) for line in sessions}


def _series_of(root: Path, path: str) -> Series:
    side_file = root / path.replace(".nii.gz", ".json")
    if not side_file.is_file():
        return Series(path, root / path)
    told = {tag: entry["Value"] for tag, entry in json.loads(side_file.read_text(encoding="utf-8")).items()}
    tags = SeriesTags(
        modality=told["00080060"][0],
        image_type=tuple(told["00080008"]),
        series_description=told["0008103E"][0],
        series_number=told["00200011"][0],
        convolution_kernel=told.get("00181210", [""])[0],
        slice_thickness_mm=told.get("00180050", [None])[0],
        body_part_examined=told["00180015"][0],
        patient_position=told["00185100"][0],
        slices=told["00201002"][0],
    )
    rescale = (float(told["00281053"][0]), float(told["00281052"][0])) if "00281052" in told else None
    return Series(path, root / path, tags=tags, rescale=rescale)


def find_wrong_sessions(root: Path) -> list[tuple[list[str], list[str]]]:
    """Give, of each session that was chosen wrongly, the faults of what was chosen and of what was best."""
    wrong = []
    for session, known, truth in read_tree(root).values():
        taken = chosen(choose_series(rank_series(known), read_look))
        if set(taken) <= set(session["best"]) and bool(taken) == bool(session["best"]):
            continue
        wrong.append(([fault for path in taken for fault in truth[path]["faults"]], session["best"]))
    return wrong


def test_every_session_of_a_faultless_raw_tree_is_right(tmp_path: Path) -> None:
    settings = TreeSettings(mean_series=5, plain_tags_rate=0.5, xray_session_rate=0, faults=FaultRates.none())
    write_bimcv_tree(tmp_path / "tree", studies=4, seed=501, size=48, settings=settings)
    assert len(read_tree(tmp_path / "tree")) == 4
    assert find_wrong_sessions(tmp_path / "tree") == []


def test_in_a_faulty_raw_tree_nothing_unfit_is_chosen(tmp_path: Path) -> None:
    rates = dict.fromkeys(("empty", "rgb", "few_slices", "z_spacing_is_field_of_view", "abdomen", "z_gaps"), 0.07)
    faults = FaultRates(**rates, upside_down=0, missing_side_file=0)
    settings = TreeSettings(mean_series=4, xray_session_rate=0, faults=faults)
    write_bimcv_tree(tmp_path / "tree", studies=6, seed=502, size=48, settings=settings)
    unfit = [
        one for _, _, truth in read_tree(tmp_path / "tree").values() for one in truth.values() if not one["usable"]
    ]
    assert len(unfit) >= 5
    assert find_wrong_sessions(tmp_path / "tree") == []


@pytest.fixture(scope="module")
def real_series(real_data: Path) -> dict[str, Series]:
    """Every real DICOM series by its folder's name, as the source gives them."""
    if not (real_data / "dicom").is_dir():
        pytest.skip("only the shipped samples are here, and they are NIfTI")
    studies = [entry for entry in dicom.read(real_data / "dicom") if isinstance(entry, Study)]
    return {one.path.name: one for study in studies for one in study.series}


@pytest.mark.slow
def test_the_real_series_are_told_apart(real_series: dict[str, Series]) -> None:
    found = {name: choose_series(rank_series([one]), read_look)[0] for name, one in real_series.items()}
    assert {name: one.reason for name, one in found.items()} == {
        "LIDC-IDRI-0314": "",
        "RIDER-50.1.0109": "",
        "C4KC-KiTS-00072": "slab",
        "TotalSegmentator_example_ct_dicom": "slab",
        "dcm_qa_ct_GE_head": "not chest",
    }


def test_in_a_mixed_study_headers_alone_rank_the_thin_chest_first(real_series: dict[str, Series]) -> None:
    chest = real_series["LIDC-IDRI-0314"]
    localizer = Series("localizer", chest.path, "1.2", replace(chest.tags, image_type=("ORIGINAL", "LOCALIZER")))
    ranked = rank_series([localizer, *real_series.values()])
    running = [one.series.path.name for one in ranked if not one.reason]
    assert running == ["LIDC-IDRI-0314", "RIDER-50.1.0109", "dcm_qa_ct_GE_head"]


def test_shipped_chests_are_chosen_and_heads_are_not(samples: Path) -> None:
    found = {}
    for path in sorted(samples.glob("*.nii.gz")):
        (candidate,) = choose_series(rank_series([Series(path.name, path)]), read_look)
        found[path.name] = candidate.is_chosen
    assert found["LIDC-IDRI-0314.nii.gz"]
    assert found["CMB-CRC-MSB-01068.nii.gz"]
    assert not found["dcm_qa_ct_GE_head.nii.gz"]


def test_the_command_prints_every_series_with_its_reason(
    tmp_path: Path, samples: Path, save_volume: Callable[..., Path]
) -> None:
    (tmp_path / "chest.nii.gz").write_bytes((samples / "LIDC-IDRI-0314.nii.gz").read_bytes())
    save_volume(tmp_path / "thin.nii.gz", np.zeros((20, 20, 4), np.int16))
    answer = CliRunner().invoke(app, ["series", str(tmp_path), "--json"])
    assert answer.exit_code == 0, answer.output
    rows = json.loads(answer.stdout)
    assert sorted((row["is_chosen"], row["reason"]) for row in rows) == [(False, "too few slices"), (True, "")]
    assert not any("chest.nii" in str(row) for row in rows)
    quick = CliRunner().invoke(app, ["series", str(tmp_path), "--no-voxels"])
    assert "in the running" in quick.stdout
    assert "chosen" not in quick.stdout
