"""Phantom folders: the same bytes by any number of workers, resumable, never on top of something else."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.sources.phantoms.plan import draw_study
from medfinder.sources.phantoms.render import render
from medfinder.sources.phantoms.write import write_phantoms


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "out"
    write_phantoms(out, studies=5, seed=11, size=48)
    return out


def test_two_workers_write_what_one_writes(folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "two", studies=5, seed=11, size=48, workers=2)
    assert contents(tmp_path / "two") == contents(folder)


def test_a_folder_that_was_cut_short_is_completed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    write_phantoms(out, studies=3, seed=11, size=48)
    kept = sorted((out / "volumes").iterdir())[0]
    before = kept.stat().st_mtime_ns
    sorted((out / "volumes").iterdir())[1].unlink()
    (out / "studies.jsonl").unlink()
    write_phantoms(out, studies=5, seed=11, size=48)
    assert contents(out) == contents(folder)
    assert kept.stat().st_mtime_ns == before


def test_another_seed_or_a_strange_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    with pytest.raises(ConfigError, match="seed 11, asked was 12"):
        write_phantoms(folder, studies=5, seed=12, size=48)
    assert contents(folder) == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        write_phantoms(tmp_path, studies=1, seed=1, size=48)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_independent_reader_finds_the_rendered_voxels(folder: Path) -> None:
    """nibabel applies slope and intercept and turns the axes by its own code."""
    for line in (folder / "studies.jsonl").read_text(encoding="utf-8").splitlines():
        study = json.loads(line)
        plan = draw_study(int(study["study_id"][-5:]), seed=11, size=48)
        for series, volume in zip(study["series"], plan.volumes, strict=True):
            image = nib.as_closest_canonical(nib.load(folder / series["path"]))
            expected = render(plan, volume)
            assert np.array_equal(np.asarray(image.dataobj), expected.volume.hu)
            assert np.allclose(image.affine, expected.volume.affine, atol=1e-2)
            masks = nib.as_closest_canonical(nib.load(folder / "masks" / Path(series["path"]).name))
            assert np.array_equal(np.asarray(masks.dataobj), expected.masks)


def test_files_are_stored_in_the_orientation_that_is_planned(folder: Path) -> None:
    plan = draw_study(0, seed=11, size=48)
    image = nib.load(folder / "volumes" / f"{plan.study_id}_v1.nii.gz")
    assert "".join(nib.aff2axcodes(image.affine)) == plan.volumes[0].orientation


def test_a_study_has_truth_and_both_reports(folder: Path) -> None:
    for line in (folder / "studies.jsonl").read_text(encoding="utf-8").splitlines():
        study = json.loads(line)
        assert study["is_synthetic"]
        assert study["report_language"] == "es"
        assert len(study["report"].split()) > 5
        assert len(study["report_en"].split()) > 5
        assert not Path(study["series"][0]["path"]).is_absolute()
    assert "SYNTHETIC" in (folder / "README.md").read_text(encoding="utf-8")
