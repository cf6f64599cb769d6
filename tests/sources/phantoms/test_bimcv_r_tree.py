"""The twin of BIMCV-R: the layout, faults in their shares, a truth that agrees with the files, stable bytes."""

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.sources.phantoms.bimcv_r_tree import ReleaseSettings, _plan, write_bimcv_r

RICH = ReleaseSettings(negative=0.3, second_volume=0.3, corrupt_header=0.4, failed=0.2, short=0.2, unlisted=0.1)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("released") / "twin"
    write_bimcv_r(out, studies=10, seed=5, size=48, settings=RICH)
    return out


def test_truth_and_table_agree_with_the_files(twin: Path) -> None:
    truth = [json.loads(line) for line in (twin / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    with (twin / "meta_1" / "curated_ct_report_path_En.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file, strict=True)}
    assert {Path(one["path"]).name for one in truth if "unlisted" not in one["faults"]} == rows.keys()
    for one in truth:
        row = rows.get(Path(one["path"]).name)
        if row is not None and not one["is_mispaired"]:
            assert row["Report"] == one["report_es"]
            has_bad_text = any(fault.endswith("translation") for fault in one["faults"])
            assert (row["Report_en"] != one["report_en"]) == has_bad_text
        if row is not None:
            assert (row["ReportID"] != f"ses-{one['session']}") == one["is_mispaired"]
        if "missing volume" not in one["faults"]:
            spacing = nib.load(twin / one["path"]).header.get_zooms()
            assert (spacing[2] > 20 * spacing[0]) == any("z spacing" in fault for fault in one["faults"])


def test_voxels_are_hu_however_they_are_stored(twin: Path) -> None:
    ways = set()
    for path in (twin / "CT0" / "ct").iterdir():
        image = nib.load(path)
        stored, hu = np.asarray(image.dataobj.get_unscaled()), np.asarray(image.dataobj)
        ways.add(bool(stored.min() >= 0))
        # The corner lies in the air outside the body.
        assert -1100 < hu[0, 0, 0] < -900
    assert ways == {True, False}


def test_the_halves_make_the_whole_and_only_the_negative_one_is_mispaired(twin: Path) -> None:
    lines = {}
    for half in ("", "pos_", "neg_"):
        text = (twin / "meta_1" / f"curated_{half}ct_report_path_En.csv").read_text(encoding="utf-8")
        lines[half] = text.splitlines()[1:]
    assert Counter(lines["pos_"] + lines["neg_"]) == Counter(lines[""])
    truth = [json.loads(line) for line in (twin / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {one["half"] for one in truth if one["is_mispaired"]} == {"neg"}
    assert {one["half"] for one in truth if not one["is_mispaired"]} == {"pos"}


def test_faults_come_in_the_shares_that_were_asked_for() -> None:
    rows = _plan(600, 3, 48, ReleaseSettings())
    faults = Counter(fault for row in rows for fault in row.faults)
    mispaired = [row for row in rows if row.told is not row.owner]
    assert 0.15 < len(mispaired) / len(rows) < 0.19
    assert 0.15 < sum(row.text.spanish != row.told.report.spanish for row in mispaired) / len(mispaired) < 0.35
    assert 0.04 < sum(row.run == 2 for row in rows) / len(rows) < 0.11
    for name in ("failed translation", "short translation", "spanish left translation", "literal translation"):
        assert faults[name] > 5
    assert 0.06 < (faults["z spacing is width"] + faults["z spacing is height"]) / len(rows) < 0.14
    assert all(len(row.text.english.split()) == 3 for row in rows if "short translation" in row.faults)
    assert all(row.text.english.startswith("Something wrong") for row in rows if "failed translation" in row.faults)


def test_the_same_arguments_give_the_same_bytes_and_a_stopped_run_goes_on(twin: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    write_bimcv_r(out, studies=10, seed=5, size=48, settings=RICH, workers=2)
    assert digest(out) == digest(twin)
    next((out / "CT0" / "ct").iterdir()).unlink()
    (out / "truth.jsonl").unlink()
    write_bimcv_r(out, studies=10, seed=5, size=48, settings=RICH)
    assert digest(out) == digest(twin)


def test_a_folder_of_something_else_is_refused(twin: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        write_bimcv_r(tmp_path, studies=1, seed=1, size=48)
    with pytest.raises(ConfigError, match="other arguments"):
        write_bimcv_r(twin, studies=11, seed=5, size=48)
    with pytest.raises(ConfigError, match=r"rate failed = 1.5, expected 0 to 1"):
        ReleaseSettings(failed=1.5)
