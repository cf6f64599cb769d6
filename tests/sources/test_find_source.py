"""A path is known by what lies in it, and what is not known is refused in one clear line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.errors import ConfigError, VolumeError
from medfinder.records import Dropped, Study
from medfinder.sources import SOURCES, find_reader, find_source
from medfinder.sources.files import hash_id, is_dicom, walk_files
from medfinder.sources.phantoms.write import write_phantoms
from medfinder.volume import read_volume


def test_a_folder_of_volumes_is_nifti(tmp_path: Path, write_volume: Callable[..., Path]) -> None:
    write_volume(tmp_path / "año 2020" / "sub 1" / "ct ñandú.nii.gz")
    assert find_source(tmp_path) == "nifti"


def test_one_file_is_a_source(tmp_path: Path, write_volume: Callable[..., Path]) -> None:
    assert find_source(write_volume(tmp_path / "ct.nii")) == "nifti"


def test_dicom_is_known_by_its_bytes_and_not_by_its_name(
    tmp_path: Path, write_series: Callable[..., list[Path]]
) -> None:
    first = write_series(tmp_path / "a", slices=1)[0]
    first.rename(first.with_name("IM0001"))
    assert find_source(tmp_path) == "dicom"


def test_dicom_without_its_preamble_is_known(tmp_path: Path, write_series: Callable[..., list[Path]]) -> None:
    first = write_series(tmp_path, slices=1)[0]
    raw = first.read_bytes()
    bare = tmp_path / "bare"
    bare.write_bytes(raw[raw.index(b"\x08\x00\x08\x00CS") :])
    assert is_dicom(bare)


def test_phantoms_are_known_by_their_list(tmp_path: Path) -> None:
    (tmp_path / "studies.jsonl").write_text("")
    assert find_source(tmp_path) == "phantoms"


def test_the_shipped_samples_are_volumes(samples: Path) -> None:
    assert find_source(samples) == "nifti"
    assert sum(isinstance(entry, Study) for entry in SOURCES["nifti"](samples)) == len(list(samples.glob("*.nii.gz")))


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_refuses_an_empty_folder(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"expected|make one"):
        list(SOURCES[kind](tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty; expected DICOM, NIfTI"):
        find_source(tmp_path)


def test_an_absent_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_source(tmp_path / "nowhere")


def test_a_folder_without_cts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("none")
    with pytest.raises(ConfigError, match="no CT among the 1 file of"):
        find_source(tmp_path)


def test_two_kinds_side_by_side_are_read_one_after_the_other(
    tmp_path: Path, write_volume: Callable[..., Path], write_series: Callable[..., list[Path]]
) -> None:
    source = tmp_path / "disk"
    write_volume(source / "ct.nii")
    write_series(source / "scans" / "first", slices=1)
    table = tmp_path / "reports.csv"
    table.write_text("path,report\nct.nii,one\nscans/first,two\ngone.nii,three\n")
    assert find_source(source) == "mixed"
    *studies, left = SOURCES["mixed"](source, table=table)
    told = [(study.source, study.report) for study in studies if isinstance(study, Study)]
    assert told == [("dicom", "two"), ("nifti", "one")]
    assert isinstance(left, Dropped)
    assert left.reason == "no image"


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"known: auto, .*bimcv, bimcv_r, dicom"):
        find_reader("bimcv2")


def test_files_come_in_order_of_name_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.nii", "a/z.nii", "._b.nii", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [file.relative_to(tmp_path).as_posix() for file in walk_files(tmp_path)] == ["a/z.nii", "b.nii"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ct.nii").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert len(list(walk_files(tmp_path))) == 1


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_that_leads_nowhere_is_a_study_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "annex" / "content")
    (study,) = SOURCES["nifti"](tmp_path)
    assert isinstance(study, Study)
    with pytest.raises(VolumeError, match="no such file"):
        read_volume(study.series[0].path)


def test_a_folder_that_cannot_be_opened_is_told_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "lost+found").mkdir()
    real = os.scandir

    def locked(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("medfinder.sources.files.os.scandir", locked)
    with pytest.raises(ConfigError, match="locked cannot be opened: Permission denied"):
        find_source(tmp_path)


def test_a_study_and_a_patient_of_one_name_get_different_ids() -> None:
    assert hash_id("study", "7") != hash_id("patient", "7")
    assert hash_id("study", "a", "bc") != hash_id("study", "ab", "c")


def test_a_phantom_line_that_is_no_study_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    series = '[{"series_id": "1", "path": "v/1.nii"}]'
    good = f'{{"study_id": "s1", "patient_id": "p1", "source": "phantoms", "series": {series}}}'
    outside = good.replace("v/1.nii", "../../etc/1.nii").replace('"s1"', '"s2"')
    (tmp_path / "studies.jsonl").write_text(f'{{"study_id": 3}}\n{good}\n\n{outside}\nnot json\n')
    entries = list(SOURCES["phantoms"](tmp_path))
    assert [entry.reason for entry in entries if isinstance(entry, Dropped)] == [
        "unreadable line",
        "path outside",
        "unreadable line",
    ]
    (study,) = (entry for entry in entries if isinstance(entry, Study))
    assert study.series[0].path == tmp_path / "v/1.nii"


def test_phantoms_refuse_a_table(tmp_path: Path) -> None:
    (tmp_path / "studies.jsonl").write_text("")
    with pytest.raises(ConfigError, match="bring their reports"):
        list(SOURCES["phantoms"](tmp_path, table=tmp_path / "t.csv"))


def test_phantoms_that_were_not_finished_are_no_folder_of_real_cts(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "phantoms", studies=1, seed=1, size=48)
    (tmp_path / "phantoms" / "studies.jsonl").unlink()  # it is written last
    with pytest.raises(ConfigError, match="were not finished; run the same medfinder phantoms command again"):
        find_source(tmp_path / "phantoms")
