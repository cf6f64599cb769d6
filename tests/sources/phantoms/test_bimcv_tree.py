"""The raw BIMCV tree of phantoms: tables parse, the truth matches the files, HU come back once, bytes are stable."""

import ast
import csv
import datetime
import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from medfinder.errors import ConfigError, MedFinderError
from medfinder.sources.phantoms import bimcv_tree
from medfinder.sources.phantoms.bimcv_plan import SessionPlan, plan_sessions, volume_to_render
from medfinder.sources.phantoms.bimcv_series import sharpen
from medfinder.sources.phantoms.bimcv_tree import FaultRates, TreeSettings, write_bimcv_tree
from medfinder.sources.phantoms.render import render
from medfinder.sources.phantoms.write import write_phantoms
from medfinder.volume import Volume, body_region

RICH = TreeSettings(mean_series=4, xray_rate=0.5, xray_session_rate=0.5)
LIST_COLUMNS = ("Labels", "Localizations", "LabelsLocalizationsBySentence")
CUI_COLUMNS = ("labelCUIS", "LocalizationsCUIS")


def write(out: Path, settings: TreeSettings = RICH, *, studies: int = 6, workers: int = 1) -> Path:
    write_bimcv_tree(out, studies=studies, seed=11, size=48, workers=workers, settings=settings)
    return out


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rich") / "tree")


@pytest.fixture(scope="module")
def many() -> list[SessionPlan]:
    settings = TreeSettings(mean_series=6, xray_session_rate=0)
    return plan_sessions(studies=200, seed=5, size=48, settings=settings)


def read_truth(tree: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    lines = [json.loads(line) for line in (tree / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    return [one for one in lines if one["record"] == "session"], [one for one in lines if one["record"] == "series"]


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def digest(tree: Path) -> dict[str, str]:
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    return {path.relative_to(tree).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_hu(tree: Path, series: dict[str, Any]) -> np.ndarray:
    """Read a series by the truth alone: stored values, the rescale once, axes turned to RAS+."""
    image = nib.load(tree / series["path"])
    stored = np.asarray(image.dataobj.get_unscaled())
    hu = stored.astype(np.float64) * series["rescale"]["slope"] + series["rescale"]["intercept"]
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(hu, image.affine)).dataobj)


# ------------------------------------------------------------------------------------------------------------- tables


def test_every_participant_has_a_folder_but_the_bogus_one(tree: Path) -> None:
    rows = read_table(tree / "covid19_posi" / "participants.tsv")
    assert rows[-1]["participant"] == "derivatives"
    folders = {path.name for path in (tree / "covid19_posi").glob("sub-S*")}
    assert {row["participant"] for row in rows[:-1]} == folders
    for row in rows[:-1]:
        assert set(ast.literal_eval(row["modality_dicom"])) <= {"CT", "CR", "DX"}
        assert all(part == ["chest"] for part in ast.literal_eval(row["body_parts"]))
        assert all(18 <= age <= 110 for age in ast.literal_eval(row["age"]))
        assert row["gender"] in {"F", "M"}


def test_session_tables_tell_the_date_as_a_float(tree: Path) -> None:
    sessions, _ = read_truth(tree)
    dates = {one["session"]: one["date"] for one in sessions}
    rows = [row for path in tree.glob("covid19_posi/sub-*/*_sessions.tsv") for row in read_table(path)]
    assert {row["session_id"] for row in rows} == set(dates)
    for row in rows:
        assert row["study_date"].endswith(".0")
        day = datetime.datetime.strptime(str(int(float(row["study_date"]))), "%Y%m%d").date()
        assert day.isoformat() == dates[row["session_id"]]
        assert isinstance(ast.literal_eval(row["medical_evaluation"]), list)


def test_scans_tables_name_the_images_of_their_session(tree: Path) -> None:
    folders = sorted(tree.glob("covid19_posi/sub-*/ses-*"))
    assert folders
    for folder in folders:
        rows = read_table(folder / f"{folder.parent.name}_{folder.name}_scans.tsv")
        there = {f"mod-rx/{path.name}" for path in (folder / "mod-rx").iterdir() if path.suffix != ".json"}
        assert {row["filename"] for row in rows} == there


def test_test_results_parse_as_the_real_ones(tree: Path) -> None:
    rows = read_table(tree / "covid19_posi" / "derivatives" / "EHR" / "sil_reg_covid_posi.tsv")
    for row in rows:
        datetime.datetime.strptime(row["date"], "%d.%m.%Y")
        assert row["result"] in {"POSITIVO", "NEGATIVO", "INDETERMINADO"}
    assert len({row["participant"] for row in rows}) == len(list(tree.glob("covid19_posi/sub-*")))


def test_the_label_table_says_what_the_truth_says_it_says(tree: Path) -> None:
    rows = read_table(tree / "covid19_posi" / "derivatives" / "labels" / "labels_covid_posi.tsv")
    told = [{key: row[key] for key in ("PatientID", "ReportID", "Report")} for row in rows]
    assert told == [row for session in read_truth(tree)[0] for row in session["rows"]]
    for row in rows:
        assert all(isinstance(ast.literal_eval(row[column]), list) for column in LIST_COLUMNS)
        assert all(row[column][0] == "[" and "'" not in row[column] for column in CUI_COLUMNS)


def test_labels_have_the_real_ones_oddities_and_name_only_findings(tmp_path: Path) -> None:
    settings = TreeSettings(mean_series=1, faults=FaultRates.none(), xray_rate=0, xray_session_rate=0)
    out = write(tmp_path / "tree", settings, studies=12)
    rows = read_table(out / "covid19_posi/derivatives/labels/labels_covid_posi.tsv")
    cells = [ast.literal_eval(row["LabelsLocalizationsBySentence"]) for row in rows]
    entries = [entry for cell in cells for entry in cell if isinstance(entry, str)]
    assert "exclude" in entries
    assert any(entry.startswith(" ") for entry in entries)
    assert any(row["labelCUIS"].startswith("[C") for row in rows)
    findings = {one["session"]: {f["name"] for f in one["findings"]} for one in read_truth(out)[0]}
    seen = 0
    for row in rows:
        labels = {label.strip() for label in ast.literal_eval(row["Labels"])}
        for name in ("pleural effusion", "cardiomegaly", "hiatal hernia", "scoliosis", "adenopathy", "consolidation"):
            seen += name in labels
            assert name not in labels or name in findings[row["ReportID"]]
    assert seen


# ------------------------------------------------------------------------------------------------------ files and truth


def test_the_truth_names_every_file_and_no_other(tree: Path) -> None:
    sessions, series = read_truth(tree)
    assert {one["path"] for one in series} == {p.relative_to(tree).as_posix() for p in tree.rglob("*.nii.gz")}
    for one in series:
        side_file = (tree / one["path"]).with_name(Path(one["path"]).name.replace(".nii.gz", ".json"))
        assert side_file.exists() == (one["side_file"] is not None)
    folders = {path.name for path in tree.glob("covid19_posi/sub-*/ses-*")}
    assert {one["session"] for one in sessions} == folders


def test_side_files_are_dicom_json(tree: Path) -> None:
    _, series = read_truth(tree)
    checked = 0
    for one in series:
        if one["side_file"] is None:
            continue
        tags = pydicom.Dataset.from_json((tree / one["side_file"]).read_text(encoding="utf-8"))
        assert tags.PatientID == one["subject"].removeprefix("sub-")
        assert tags.BodyPartExamined == "CHEST"
        assert tags.PatientPosition == ("FFS" if "feet-first" in one["faults"] else "HFS")
        if one["rescale"] is not None:
            assert (tags.RescaleSlope, tags.RescaleIntercept) == (1, one["rescale"]["intercept"])
            checked += 1
    assert checked


def test_series_of_a_session_share_study_and_differ_in_series_uid(tree: Path) -> None:
    _, series = read_truth(tree)
    uids: dict[str, set[str]] = {}
    all_series = []
    for one in series:
        if one["side_file"] is not None:
            tags = json.loads((tree / one["side_file"]).read_text(encoding="utf-8"))
            uids.setdefault(one["session"], set()).update(tags["0020000D"]["Value"])
            all_series += tags["0020000E"]["Value"]
    assert all(len(of_session) == 1 for of_session in uids.values())
    assert len(set(all_series)) == len(all_series)


def test_headers_agree_with_side_files_where_no_fault_is_told(tree: Path) -> None:
    _, series = read_truth(tree)
    sound = [one for one in series if not set(one["faults"]) - {"raw-values", "padding", "feet-first"}]
    assert sound
    for one in sound:
        image = nib.load(tree / one["path"])
        tags = pydicom.Dataset.from_json((tree / one["side_file"]).read_text(encoding="utf-8"))
        columns, rows, slices = image.shape
        assert (tags.Columns, tags.Rows, tags.ImagesInAcquisition) == (columns, rows, slices)
        i, j, k = (float(zoom) for zoom in image.header.get_zooms())
        assert [float(mm) for mm in tags.PixelSpacing] == pytest.approx([j, i], abs=1e-4)
        if "SpacingBetweenSlices" in tags:
            assert float(tags.SpacingBetweenSlices) == pytest.approx(k, abs=1e-4)
        assert "".join(nib.aff2axcodes(image.affine)) == one["axes"]


def test_radiographs_are_grey_pictures(tree: Path) -> None:
    pictures = sorted(tree.rglob("*.png"))
    assert pictures
    for path in pictures:
        grey = np.asarray(Image.open(path))
        assert grey.dtype == np.uint8
        assert grey.ndim == 2
        assert grey.min() == 0
        assert grey.max() == 255


def test_hu_come_back_by_one_rescale(tmp_path: Path) -> None:
    faults = replace(FaultRates.none(), raw_values=0.5, feet_first=0.3, padding=0.3)
    settings = TreeSettings(mean_series=4, faults=faults, xray_rate=0, xray_session_rate=0)
    out = write(tmp_path / "tree", settings, studies=16)
    plans = {plan.session: plan for plan in plan_sessions(studies=16, seed=11, size=48, settings=settings)}
    seen = set()
    for one in read_truth(out)[1]:
        if (one["kind"], one["kernel"]) != ("axial-thin", "soft"):
            continue
        study = plans[one["session"]].study
        drawn = np.clip(np.rint(render(study, volume_to_render(study)).volume.hu), -1024, 3071)
        hu = read_hu(out, one)
        same = hu == drawn
        # Padding replaces only what lies outside the scanner's circle: less than 1 - pi / 4 of each slice.
        assert same.all() or ("padding" in one["faults"] and 0.75 < same.mean() < 1)
        image = nib.load(out / one["path"])
        by_header = np.asarray(nib.as_closest_canonical(image).dataobj)
        if is_raw := "raw-values" in one["faults"]:
            assert image.header.get_slope_inter() == (None, None)
        else:
            np.testing.assert_array_equal(by_header, hu)
        seen.add((is_raw, one["rescale"]["intercept"] != 0))
    assert {(True, True), (False, True)} <= seen


def test_lung_kernels_are_noisier(many: list[SessionPlan]) -> None:
    study = many[0].study
    hu = render(study, volume_to_render(study)).volume.hu
    middle = np.s_[20:28, 20:28, 1:4]  # soft tissue below the lungs
    soft, lung = (float(np.diff(values[middle], axis=0).std()) for values in (hu, sharpen(hu)))
    assert 1.5 * soft < lung < 4 * soft


def test_the_same_study_has_the_same_report_as_in_a_phantoms_folder(tree: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "folder", studies=3, seed=11, size=48)
    lines = (tmp_path / "folder" / "studies.jsonl").read_text(encoding="utf-8").splitlines()
    told = {one["study_id"]: one["report_es"] for one in read_truth(tree)[0] if one["modality"] == "CT"}
    for study in map(json.loads, lines):
        assert told[study["study_id"]] == study["report"]


# ------------------------------------------------------------------------------------------------------------- faults


def only(fault: str) -> TreeSettings:
    """Settings of a tree that has one fault everywhere and no other."""
    faults = replace(FaultRates.none(), **{fault.replace("-", "_"): 1.0})
    return TreeSettings(mean_series=1, faults=faults, xray_rate=0, xray_session_rate=0)


def series_with(tmp_path: Path, fault: str, studies: int = 3) -> list[tuple[dict[str, Any], Path]]:
    out = write(tmp_path / "tree", only(fault), studies=studies)
    _, series = read_truth(out)
    assert series
    assert all(one["faults"] == [fault] for one in series)
    return [(one, out / one["path"]) for one in series]


def test_an_empty_file_cannot_be_read_or_holds_zeros(tmp_path: Path) -> None:
    variants = set()
    for one, path in series_with(tmp_path, "empty", studies=12):
        variant = one["details"]["empty"]
        variants.add(variant)
        if variant == "no bytes":
            assert path.stat().st_size == 0
        elif variant == "no voxels":
            with pytest.raises((EOFError, OSError, ValueError)):
                nib.load(path).get_fdata()
        else:
            assert not nib.load(path).dataobj.get_unscaled().any()
    assert len(variants) == 3


def test_a_coloured_file_has_three_values_a_voxel(tmp_path: Path) -> None:
    for one, path in series_with(tmp_path, "rgb"):
        assert nib.load(path).get_data_dtype().names == ("R", "G", "B")
        assert one["rescale"] is None


def test_few_slices_are_fewer_than_ten(tmp_path: Path) -> None:
    for _, path in series_with(tmp_path, "few-slices"):
        assert 3 <= nib.load(path).shape[2] <= 9


def test_the_header_takes_the_field_of_view_for_the_spacing(tmp_path: Path) -> None:
    for one, path in series_with(tmp_path, "z-spacing-is-field-of-view", studies=8):
        header = nib.load(path).header
        side = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
        true_mm = side["00180088"]["Value"][0]
        is_width = one["details"]["z-spacing-is-field-of-view"] == "width of the slice"
        extent = header["dim"][1] * header["pixdim"][1] if is_width else header["dim"][3] * true_mm
        assert header["pixdim"][3] == pytest.approx(extent, rel=1e-4)


def test_gaps_leave_fewer_slices_than_the_side_file_counts(tmp_path: Path) -> None:
    for _, path in series_with(tmp_path, "z-gaps"):
        side = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
        assert 0.7 * side["00201002"]["Value"][0] < nib.load(path).shape[2] < side["00201002"]["Value"][0]


def test_an_abdomen_holds_hardly_any_lung(tmp_path: Path) -> None:
    for one, path in series_with(tmp_path, "abdomen"):
        image = nib.as_closest_canonical(nib.load(path))
        region = body_region(Volume(read_hu(path.parents[4], one).astype(np.int16), image.affine))
        assert region.name == "not chest"
        assert region.body_ml > 1000
        assert image.shape[2] >= 8


def test_upside_down_is_the_mirrored_volume(tmp_path: Path) -> None:
    plans = {p.session: p for p in plan_sessions(studies=3, seed=11, size=48, settings=only("upside-down"))}
    checked = 0
    for one, path in series_with(tmp_path, "upside-down"):
        if (one["kind"], one["kernel"]) == ("axial-thin", "soft"):
            study = plans[one["session"]].study
            drawn = np.clip(np.rint(render(study, volume_to_render(study)).volume.hu), -1024, 3071)
            np.testing.assert_array_equal(read_hu(path.parents[4], one)[:, :, ::-1], drawn)
            checked += 1
    assert checked


def test_padding_stores_minus_2000_in_the_corners(tmp_path: Path) -> None:
    for _, path in series_with(tmp_path, "padding"):
        stored = np.asarray(nib.load(path).dataobj.get_unscaled())
        assert (stored[0, 0] == -2000).all()
        assert (stored[stored.shape[0] // 2, stored.shape[1] // 2] != -2000).all()


def test_a_side_file_may_be_missing(tmp_path: Path) -> None:
    for one, path in series_with(tmp_path, "missing-side-file"):
        assert one["side_file"] is None
        assert not list(path.parent.glob("*.json"))


def test_feet_first_runs_downwards(tmp_path: Path) -> None:
    for _, path in series_with(tmp_path, "feet-first"):
        assert nib.aff2axcodes(nib.load(path).affine)[2] == "I"


def test_report_faults_are_as_the_truth_tells(tmp_path: Path) -> None:
    for fault in ("mispaired", "short-report", "missing-report", "duplicate-rows", "xray-report"):
        settings = only(fault)
        plans = plan_sessions(studies=8, seed=11, size=48, settings=settings)
        own = {plan.session: plan for plan in plans}
        for plan in plans:
            assert plan.faults == (fault,)
            texts = [row.text for row in plan.rows]
            if fault == "mispaired":
                assert plan.report_of != plan.session
                assert texts == [own[plan.report_of].report.spanish]
                assert own[plan.report_of].subject != plan.subject
            elif fault == "short-report":
                assert len(texts[0].replace(" .", "").split()) < 5
            elif fault == "missing-report":
                assert not any(texts)
            elif fault == "duplicate-rows":
                assert len(texts) == 2
            else:
                assert texts[0].startswith(("rx", "radiografia"))
        assert len({plan.details for plan in plans}) == (1 if fault in ("short-report", "xray-report") else 2)


def test_each_fault_occurs_about_as_often_as_asked(many: list[SessionPlan]) -> None:
    plans, rates = many, FaultRates()
    axial = [one for plan in plans for one in plan.series if one.kind.startswith("axial")]
    counts = Counter(fault for one in axial for fault in one.faults)
    for name in ("padding", "feet-first", "missing-side-file", "few-slices", "z-spacing-is-field-of-view"):
        rate = getattr(rates, name.replace("-", "_"))
        # Four standard deviations of a binomial count.
        spread = 4 * np.sqrt(rate * (1 - rate) / len(axial))
        assert counts[name] / len(axial) == pytest.approx(rate, abs=spread)


# ------------------------------------------------------------------------------------------------- choice of the series


def test_series_are_mixed_as_in_bimcv(many: list[SessionPlan]) -> None:
    plans = many
    kinds = Counter(one.kind for plan in plans for one in plan.series)
    total = kinds.total()
    sessions = sum(plan.modality == "CT" for plan in plans)
    assert total / sessions == pytest.approx(6, rel=0.2)
    assert kinds["localizer"] / total == pytest.approx(0.15, abs=0.03)
    assert (kinds["mpr-coronal"] + kinds["mpr-sagittal"]) / total == pytest.approx(0.30, abs=0.04)


def test_the_best_series_is_the_thinnest_soft_axial_one_that_is_sound(many: list[SessionPlan]) -> None:
    plans = many
    with_best = 0
    for plan in plans:
        best = [one for one in plan.series if one.rank == 1]
        sound = [one for one in plan.series if one.kind.startswith("axial") and one.is_usable]
        assert bool(best) == bool(sound)
        if not sound:
            continue
        with_best += 1
        wanted = min((one.kind == "axial-thick", one.kernel == "lung") for one in sound)
        assert {(one.kind == "axial-thick", one.kernel == "lung") for one in best} == {wanted}
    assert with_best > 0.8 * len(plans)


# -------------------------------------------------------------------------------------------------------- same bytes


def test_workers_do_not_change_a_byte(tree: Path, tmp_path: Path) -> None:
    assert digest(write(tmp_path / "again", workers=2)) == digest(tree)


def test_a_stopped_run_goes_on_and_keeps_what_is_whole(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(tree, out)
    folders = sorted(out.glob("covid19_posi/sub-*/ses-*"))
    folders[1].rename(folders[1].with_name(f".writing-{folders[1].name}"))
    (out / "truth.jsonl").unlink()
    kept = next(folders[0].rglob("*_scans.tsv"))
    before = kept.stat().st_mtime_ns
    told: list[tuple[int, int]] = []
    write_bimcv_tree(
        out, studies=6, seed=11, size=48, settings=RICH, progress=lambda done, total: told.append((done, total))
    )
    assert digest(out) == digest(tree)
    assert kept.stat().st_mtime_ns == before
    assert told == [(len(folders) - 1, len(folders)), (len(folders), len(folders))]


def test_another_seed_gives_other_voxels(tree: Path, tmp_path: Path) -> None:
    write_bimcv_tree(tmp_path / "other", studies=6, seed=12, size=48, settings=RICH)
    mine = {value for name, value in digest(tree).items() if name.endswith(".nii.gz")}
    other = {value for name, value in digest(tmp_path / "other").items() if name.endswith(".nii.gz")}
    assert len(mine & other) <= 1  # files without bytes are all alike


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_tree_of_other_arguments_is_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match="other arguments"):
        write(tree, studies=7)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        write(tmp_path / "tree")


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(bimcv_tree, "write_session", refuse)
        with pytest.raises(MedFinderError, match="No space left"):
            write(tmp_path / "tree")
    assert not list(tmp_path.glob("tree/covid19_posi/sub-*/ses-*"))
    assert not (tmp_path / "tree" / "truth.jsonl").exists()


def test_rates_must_be_shares() -> None:
    with pytest.raises(ConfigError, match="padding"):
        FaultRates(padding=1.5)
    with pytest.raises(ConfigError, match="add up"):
        FaultRates(empty=0.6, rgb=0.6)
    with pytest.raises(ConfigError, match="series a session"):
        TreeSettings(mean_series=0.5)


def test_the_readme_says_synthetic(tree: Path) -> None:
    text = (tree / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# SYNTHETIC")
    assert "NOT FOR DIAGNOSIS" in text
