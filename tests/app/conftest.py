"""A dataset under review, and its page served to a browser."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import uvicorn

from medfinder.app.review_page import HOST, make_review_app
from medfinder.curation import dataset as folder
from medfinder.curation.dataset import Figures
from medfinder.records import Case, Doubt
from medfinder.volume import Grid

GRID = Grid(spacing_mm=(20.0, 20.0, 20.0), shape=(16, 14, 16))
SIDE = Doubt("translation", "laterality differs", "1 side word differs", holds=True)
NOISE = Doubt("quality", "noise", "58 HU, expected at most 40", holds=False)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A synthetic dataset of three cases, one of which is held for its translation."""
    path = tmp_path / "dataset"
    (path / "volumes").mkdir(parents=True)
    rows = []
    for number, doubts in enumerate([(SIDE,), (NOISE,), ()]):
        case_id = f"case{number}"
        hu = np.random.default_rng(number).integers(-1000, 200, GRID.shape).astype(np.int16)
        nib.save(nib.Nifti1Image(hu, np.diag([20.0, 20.0, 20.0, 1.0])), path / f"volumes/{case_id}.nii")
        case = Case(
            case_id=case_id,
            study_id=f"study{number}",
            patient_id=f"p{number}",
            source="phantoms",
            split="train",
            volume=f"volumes/{case_id}.nii",
            report="Left pleural effusion of 3 mm <b>. No nodule.",
            report_es="derrame pleural derecho de 3 mm . sin nodulos .",
            findings=(),
            findings_from="report",
            age_years=50,
            sex="F",
            date_offset_days=0,
            spacing_mm=(1.0, 1.0, 1.0),
            shape=(100, 100, 100),
            region="chest",
            is_synthetic=True,
        )
        rows.append((case, Figures(9, 0.0, 4000.0, "", (), "0" * 64, 0.9, doubts)))
    folder.write_cases(path / folder.HELD, rows[:1])
    folder.write_cases(path / folder.CASES, rows[1:])
    folder.write_dropped(path / folder.DROPPED, [])
    provenance = {"kind": folder.KIND, "settings": {"grid": asdict(GRID)}}
    folder.write_text(path / folder.PROVENANCE, json.dumps(provenance))
    return path


@pytest.fixture
def served(dataset: Path) -> Iterator[str]:
    from playwright.sync_api import expect

    # A busy machine is no fault of the page.
    expect.set_options(timeout=30_000)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(make_review_app(dataset, port=port), host=HOST, port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://{HOST}:{port}/"
    server.should_exit = True
    thread.join(10)
