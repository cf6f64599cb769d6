"""Curation ends in the same bytes however it got there, and one bad study never stops the others."""

import errno
import gzip
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest

from medfinder.curation import study as study_module
from medfinder.curation.curate import Summary, curate
from medfinder.curation.dataset import Dataset, view_beside
from medfinder.curation.deidentify.audit import audit_phi
from medfinder.curation.quality import QualitySettings
from medfinder.curation.study import CurationSettings
from medfinder.curation.translate import TranslationSettings
from medfinder.errors import ConfigError, DatasetError, VolumeError

SCRIPT = """
import sys
from pathlib import Path
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.quality import QualitySettings
from medfinder.volume import Grid
grid = Grid(spacing_mm=(24.0, 24.0, 24.0), shape=(12, 10, 12))
quality = QualitySettings(min_dimension=16, min_dimension_synthetic=16)
settings = CurationSettings(grid=grid, quality=quality, deidentify=False)
curate(Path(sys.argv[1]), Path(sys.argv[2]), settings, workers=int(sys.argv[3]))
"""
FolderBytes = Callable[[Path], dict[str, bytes]]
MakePhantoms = Callable[..., Path]


def start(source: Path, out: Path, workers: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(source), str(out), str(workers)])


def kill_after(process: "subprocess.Popen[bytes]", out: Path, notes: int) -> None:
    """Send SIGKILL once so many studies are done."""
    deadline = time.monotonic() + 60
    while sum(1 for _ in (out / ".work" / "studies").glob("[!.]*.json")) < notes:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_again_and_again_it_ends_in_the_same_bytes(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, folder_bytes: FolderBytes
) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=60, faults=True)
    curate(source, tmp_path / "whole", settings)
    out = tmp_path / "killed"
    for notes in range(1, 41, 2):
        kill_after(start(source, out, 1), out, notes)
        assert not (out / "provenance.json").exists()
    summary = curate(source, out, settings)
    assert summary.resumed >= 39
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")


def test_workers_end_when_their_parent_is_killed(tmp_path: Path, make_phantoms: MakePhantoms) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=60)
    process = start(source, tmp_path / "out", 2)
    deadline = time.monotonic() + 60
    while not any((tmp_path / "out").glob(".work/studies/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_two_workers_make_the_bytes_that_one_makes(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, folder_bytes: FolderBytes
) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=12, faults=True)
    told: list[tuple[int, int]] = []
    curate(source, tmp_path / "one", settings, progress=lambda done, total: told.append((done, total)))
    curate(source, tmp_path / "two", settings, workers=2)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    assert told == [(done, 12) for done in range(13)]


DYING = """
import os
import medfinder.curation.pool as pool
from medfinder.curation.study import curate_study

def dying(job, *more):
    if job.study.study_id.endswith("2"):
        os._exit(9)
    return curate_study(job, *more)

pool.curate_study = dying
if __name__ == "__main__":
"""


def test_a_study_that_ends_its_process_is_set_aside_and_the_others_go_on(
    tmp_path: Path, make_phantoms: MakePhantoms
) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=3)
    script = tmp_path / "run.py"
    script.write_text(DYING + textwrap.indent(SCRIPT, "    "))
    subprocess.run([sys.executable, str(script), str(source), str(tmp_path / "out"), "2"], check=True, timeout=120)
    dataset = Dataset.open(tmp_path / "out")
    assert [(row.study_id, row.reason) for row in dataset.dropped] == [("phantom-0-s00002", "process ended")]
    assert len({case.study_id for case in dataset.cases}) == 2


def test_the_order_of_studies_does_not_matter(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings
) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=8)
    curate(source, tmp_path / "before", settings)
    lines = (source / "studies.jsonl").read_text(encoding="utf-8").splitlines()
    (source / "studies.jsonl").write_text("\n".join(reversed(lines)), encoding="utf-8")
    curate(source, tmp_path / "after", settings)
    before, after = Dataset.open(tmp_path / "before"), Dataset.open(tmp_path / "after")
    assert before.cases == after.cases
    assert before.digest == after.digest


def test_a_second_run_has_nothing_to_do_and_touches_nothing(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings
) -> None:
    source, out = make_phantoms(tmp_path / "phantoms", studies=4), tmp_path / "out"
    first = curate(source, out, settings)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    second = curate(source, out, settings)
    assert (first.is_new, second.is_new) == (True, False)
    assert replace(second, is_new=True) == first
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == times


def test_a_run_killed_after_its_last_file_only_clears_up(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings
) -> None:
    source, out = make_phantoms(tmp_path / "phantoms", studies=2), tmp_path / "out"
    curate(source, out, settings)
    (out / ".work" / "studies").mkdir(parents=True)
    assert not curate(source, out, settings).is_new
    assert not (out / ".work").exists()


def test_a_lost_volume_is_made_again(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, folder_bytes: FolderBytes
) -> None:
    source, out = make_phantoms(tmp_path / "phantoms", studies=3), tmp_path / "out"
    curate(source, out, settings)
    before = folder_bytes(out)
    next((out / "volumes").iterdir()).unlink()
    assert curate(source, out, settings).is_new
    assert folder_bytes(out) == before


def test_a_source_that_has_grown_is_curated_into_the_same_folder(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, folder_bytes: FolderBytes
) -> None:
    source, out = make_phantoms(tmp_path / "phantoms", studies=4), tmp_path / "out"
    curate(source, out, settings)
    make_phantoms(source, studies=6)
    assert curate(source, out, settings).studies == 6
    curate(source, tmp_path / "fresh", settings)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_a_dataset_of_an_earlier_version_is_made_again_in_its_place(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, folder_bytes: FolderBytes
) -> None:
    source, out = make_phantoms(tmp_path / "phantoms", studies=3), tmp_path / "out"
    curate(source, out, settings)
    before = folder_bytes(out)
    (out / "provenance.json").write_bytes(
        before["provenance.json"].replace(b'"rules_digest": "', b'"rules_digest": "0')
    )
    assert curate(source, out, settings).is_new
    assert folder_bytes(out) == before


def test_other_settings_or_another_source_are_refused_and_nothing_is_touched(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, folder_bytes: FolderBytes
) -> None:
    source, out = make_phantoms(tmp_path / "phantoms", studies=3), tmp_path / "out"
    curate(source, out, settings)
    before = folder_bytes(out)
    with pytest.raises(ConfigError, match=r"differs in settings \(min_words, seed\)"):
        curate(source, out, replace(settings, min_words=6, seed=1))
    other = make_phantoms(tmp_path / "others", studies=3)
    lines = (other / "studies.jsonl").read_text(encoding="utf-8")
    (other / "studies.jsonl").write_text(lines.replace("phantom-0", "phantom-1"), encoding="utf-8")
    with pytest.raises(ConfigError, match="differs in input"):
        curate(other, out, settings)
    begun = tmp_path / "begun"
    kill_after(start(source, begun, 1), begun, 1)
    with pytest.raises(ConfigError, match=r"unfinished dataset that differs in settings \(seed\)"):
        curate(source, begun, replace(settings, seed=1))
    assert folder_bytes(out) == before


def test_a_folder_that_holds_something_else_is_refused(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings
) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"is not empty \(holds 'chapter1.txt'\)"):
        curate(source, tmp_path / "thesis", settings)
    with pytest.raises(ConfigError, match="is a file"):
        curate(source, tmp_path / "thesis" / "chapter1.txt", settings)
    for inside in (source, source / "out", tmp_path):
        with pytest.raises(ConfigError, match="within each other"):
            curate(source, inside, settings)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.txt"]


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(
    tmp_path: Path,
    make_phantoms: MakePhantoms,
    settings: CurationSettings,
    folder_bytes: FolderBytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, out = make_phantoms(tmp_path / "phantoms", studies=6), tmp_path / "out"
    real, written = study_module.write_nifti, 0

    def full(volume: Any, path: Path) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise VolumeError("the volume cannot be written: No space left on device", reason="not written")
        real(volume, path)

    monkeypatch.setattr(study_module, "write_nifti", full)
    with pytest.raises(DatasetError, match=r"No space left on device \(.*what is done is kept"):
        curate(source, out, settings)
    assert not (out / "provenance.json").exists()
    monkeypatch.undo()
    assert curate(source, out, settings).resumed == 2
    curate(source, tmp_path / "fresh", settings)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_a_full_disk_under_the_tables_is_told_as_well(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("medfinder.curation.dataset.pq.write_table", full)
    with pytest.raises(DatasetError, match="No space left on device; what is done is kept"):
        curate(make_phantoms(tmp_path / "phantoms", studies=2), tmp_path / "out", settings)


# What issue 2 lists as bad input, each with the bytes that make it.


def _nifti(hu: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    affine = np.diag([10.0, 10.0, 10.0, 1.0]) if affine is None else affine
    raw: bytes = nib.Nifti1Image(hu, affine).to_bytes()
    return raw


def _patched(raw: bytes, at: int, layout: str, *values: float) -> bytes:
    return raw[:at] + struct.pack(layout, *values) + raw[at + struct.calcsize(layout) :]


def _bad_files(good: np.ndarray) -> dict[str, bytes]:
    packed = gzip.compress(_nifti(good), mtime=0)
    spotted = good.astype(np.float32)
    spotted[0, 0, 0] = np.nan
    endless = good.astype(np.float32)
    endless[1, 1, 1] = np.inf
    colours = np.zeros(good.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    flat = np.diag([10.0, 10.0, 10.0, 1.0])
    flat[:3, 2] = flat[:3, 1]
    return {
        "truncated.nii.gz": packed[: len(packed) // 2],
        "zip.nii.gz": b"PK\x03\x04" + packed,
        "empty.nii.gz": b"",
        "huge.nii": _patched(_nifti(good), 40, "<8h", 3, 10000, 10000, 10000, 1, 1, 1, 1),
        "nan.nii": _nifti(spotted),
        "inf.nii": _nifti(endless),
        "two-d.nii": _nifti(good[:, :, 0]),
        "four-d.nii": _nifti(np.stack([good, good], -1)),
        "rgb.nii": _nifti(colours),
        "zero-spacing.nii": _patched(_patched(_nifti(good), 76, "<4f", 1, 10, 10, 0), 252, "<2h", 1, 0),
        "singular.nii": _patched(_nifti(good), 280, "<12f", *flat[:3].ravel()),
        "blank.nii": _nifti(np.zeros_like(good)),
        "text.nrrd": b"not a volume at all",
        "text.mha": b"not a volume at all",
    }


def test_each_bad_volume_is_a_row_with_its_reason_and_the_good_one_a_case(
    tmp_path: Path, make_chest: Callable[..., np.ndarray], settings: CurationSettings
) -> None:
    source = tmp_path / "mis tomografías"
    source.mkdir()
    bad = _bad_files(make_chest())
    for name, raw in bad.items():
        (source / name).write_bytes(raw)
    (source / "good ñ.nii").write_bytes(_nifti(make_chest()))
    links = tmp_path / "links.csv"
    summary = curate(source, tmp_path / "out año", settings, links=links)
    assert (summary.cases, summary.dropped) == (1, len(bad))
    names = dict(line.split(",")[0::2] for line in links.read_text(encoding="utf-8").splitlines()[1:])
    dropped = Dataset.open(tmp_path / "out año").dropped
    reasons = {names[row.study_id]: row.reason for row in dropped}
    assert reasons.keys() == bad.keys()
    assert "unreadable" not in {reason for name, reason in reasons.items() if name.endswith((".nii", ".gz"))}
    assert reasons["blank.nii"] == "missing voxels"
    assert reasons["huge.nii"] == "too large"
    for row in dropped:
        assert str(tmp_path) not in row.detail
        assert names[row.study_id] not in row.detail
        assert "\n" not in row.detail


def test_a_fault_that_no_reader_names_is_a_row_too(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = study_module.open_slabs

    def trip(path: Path, **options: Any) -> Any:
        if "s1_" in path.name:
            raise ZeroDivisionError("Perez Juan")
        if "s2_" in path.name:
            raise MemoryError
        return real(path, **options)

    monkeypatch.setattr(study_module, "open_slabs", trip)
    curate(make_phantoms(tmp_path / "phantoms", studies=3), tmp_path / "out", settings)
    dropped = Dataset.open(tmp_path / "out").dropped
    assert [row.reason for row in dropped] == ["unreadable", "out of memory"]
    assert "Perez" not in repr(dropped)


def curate_table(
    tmp_path: Path, save_volume: Callable[..., Path], hu: np.ndarray, settings: CurationSettings, table: bytes
) -> Summary:
    # Two examinations are never the same to the last bit.
    for number, name in enumerate(("one", "two")):
        save_volume(tmp_path / "cts" / f"{name}.nii.gz", hu + np.int16(number))
    (tmp_path / "t.csv").write_bytes(table)
    return curate(tmp_path / "cts", tmp_path / "out", settings, table=tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("table", "reasons"),
    [
        (b"study_id,report\none,there is a mass in the lung\n", {"report: no report": 1}),
        (
            b"study_id,report\none,there is a mass in the lung\none,no mass is seen in the lung\n",
            {"report: no report": 1, "table: duplicate rows": 1},
        ),
        (
            b"study_id,report\none,there is a mass in the lung\ntwo," + b"x " * 500_000 + b"\n",
            {"report: report too long": 1},
        ),
        (b"study_id,report\none,there is a mass in the lung\ntwo,mass\n", {"report: short report": 1}),
        (
            b"study_id,report\none,there is a mass in the lung\ntwo,no mass is seen today\nthree,mass\n",
            {"table: no image": 1},
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told_row_by_row(
    tmp_path: Path,
    save_volume: Callable[..., Path],
    make_chest: Callable[..., np.ndarray],
    settings: CurationSettings,
    table: bytes,
    reasons: dict[str, int],
) -> None:
    assert curate_table(tmp_path, save_volume, make_chest(), settings, table).reasons == reasons


def test_a_windows_table_in_spanish_gives_spanish_cases_with_findings_from_the_report(
    tmp_path: Path,
    save_volume: Callable[..., Path],
    make_chest: Callable[..., np.ndarray],
    settings: CurationSettings,
) -> None:
    text = (
        "study_id;report;findings;patient_id\n"
        "one;Derrame pleural izquierdo. Sin neumotórax en el lado derecho.;;Núñez\n"
        "two;Corazón de tamaño normal en el estudio.;Masa;Núñez\n"
    )
    curate_table(tmp_path, save_volume, make_chest(), settings, text.encode("cp1252"))
    cases = {case.findings_from: case for case in Dataset.open(tmp_path / "out").cases}
    case = cases["report"]
    assert case.report == case.report_es == "Derrame pleural izquierdo. Sin neumotórax en el lado derecho."
    assert {(f.name, f.status) for f in case.findings} >= {("pleural effusion", "present"), ("pneumothorax", "absent")}
    assert [finding.name for finding in cases["label"].findings] == ["mass"]
    assert cases["label"].patient_id == case.patient_id
    assert "Núñez" not in repr(cases)


def test_a_folder_without_a_table_is_curated_without_reports_and_says_so(
    tmp_path: Path, save_volume: Callable[..., Path], make_chest: Callable[..., np.ndarray], settings: CurationSettings
) -> None:
    save_volume(tmp_path / "cts" / "one.nii.gz", make_chest())
    summary = curate(tmp_path / "cts", tmp_path / "out", settings)
    assert summary.cases == 1
    assert "no report table" in summary.remarks[0]
    (case,) = Dataset.open(tmp_path / "out").cases
    assert (case.report, case.findings_from) == ("", "none")


def test_a_finer_copy_is_kept_for_the_viewer_where_it_is_asked_for(
    tmp_path: Path, save_volume: Callable[..., Path], make_chest: Callable[..., np.ndarray], settings: CurationSettings
) -> None:
    save_volume(tmp_path / "cts" / "one.nii.gz", make_chest())
    curate(tmp_path / "cts", tmp_path / "plain", settings)
    assert not (tmp_path / "plain" / "views").exists()
    curate(tmp_path / "cts", tmp_path / "out", replace(settings, view_mm=1.0))
    made = Dataset.open(tmp_path / "out")
    (case,) = made.cases
    view = nib.load(view_beside(made.path / case.volume))
    assert view.shape == case.shape
    assert view.header.get_zooms() == pytest.approx(case.spacing_mm)
    assert audit_phi(made.path).leaks == ()
    # A grid that is as fine already needs no copy.
    curate(tmp_path / "cts", tmp_path / "fine", replace(settings, view_mm=50.0))
    assert not (tmp_path / "fine" / "views").exists()


def test_links_stay_outside_the_dataset(
    tmp_path: Path, make_phantoms: MakePhantoms, settings: CurationSettings
) -> None:
    source = make_phantoms(tmp_path / "phantoms", studies=1)
    with pytest.raises(ConfigError, match="put it elsewhere"):
        curate(source, tmp_path / "out", settings, links=tmp_path / "out" / "links.csv")


def test_the_head_among_the_samples_is_kept_as_not_chest_or_set_aside(
    tmp_path: Path, samples: Path, settings: CurationSettings
) -> None:
    kept = replace(settings, quality=replace(settings.quality, min_dimension=10))
    assert curate(samples, tmp_path / "kept", kept).regions["not chest"] == 1
    summary = curate(samples, tmp_path / "chests", replace(kept, keep_not_chest=False))
    assert summary.reasons == {"quality: not chest": 1}
    assert "not chest" not in summary.regions


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_missing_share"):
        QualitySettings(max_missing_share=30)
    with pytest.raises(ConfigError, match="min_words"):
        CurationSettings(min_words=-1)


def test_an_unknown_translation_engine_is_refused_where_nothing_is_to_be_translated_too() -> None:
    with pytest.raises(ConfigError, match="unknown translation engine 'apertum'; known: none, openai"):
        CurationSettings(translation=TranslationSettings(engine="apertum"))


def test_where_many_are_too_small_the_option_that_changes_it_is_told_once(
    tmp_path: Path, make_chest: Callable[..., np.ndarray], save_volume: Callable[..., Path], settings: CurationSettings
) -> None:
    for number in range(3):
        save_volume(tmp_path / "source" / f"ct{number}.nii.gz", make_chest((32, 28, 15 + number), seed=number))
    summary = curate(tmp_path / "source", tmp_path / "out", settings)
    assert [remark for remark in summary.remarks if "--min-dimension" in remark] == [
        "too small: 1 study of 3 has fewer than 16 voxels on an axis; --min-dimension N sets another limit"
    ]
    again = curate(tmp_path / "source", tmp_path / "out", settings)
    assert again.remarks == summary.remarks
    loose = replace(settings, quality=replace(settings.quality, min_dimension=10))
    assert "--min-dimension" not in " ".join(curate(tmp_path / "source", tmp_path / "all", loose).remarks)


def test_of_phantoms_that_are_too_small_their_own_setting_is_told(
    tmp_path: Path, make_phantoms: Callable[..., Path], settings: CurationSettings
) -> None:
    strict = replace(settings, quality=replace(settings.quality, min_dimension_synthetic=64))
    remarks = " ".join(curate(make_phantoms(tmp_path / "raw"), tmp_path / "out", strict).remarks)
    assert "8 studies of 8 have fewer than 64 voxels on an axis; min_dimension_synthetic under [quality]" in remarks
    assert "--min-dimension" not in remarks
