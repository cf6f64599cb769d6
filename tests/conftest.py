"""Fixtures that every room shares."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES = Path(__file__).resolve().parents[1] / "src" / "medfinder" / "samples"


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real CT volumes that the project ships."""
    return SAMPLES


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real CT volumes beside the checkout, or of the shipped ones where there is none."""
    return SHARED_DATA if SHARED_DATA.is_dir() else SAMPLES
