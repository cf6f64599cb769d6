"""The synthetic benchmark's data: 2,000 phantom studies of a fixed seed, curated.

In: a folder. Out: ``phantoms/`` and ``dataset/`` in it, the same bytes on every machine. Killed at any moment and run
again, it goes on where it was. The split is by patient, 70/10/20, so that its studies come near 1,400/200/400 and need
not meet it. Refused: a folder that holds something else.
"""

from collections import Counter
from pathlib import Path

from medfinder.config import build_settings
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import Dataset
from medfinder.evaluation.benchmark import Bar
from medfinder.evaluation.rows import Size
from medfinder.sources.phantoms.write import write_phantoms

STUDIES = 2000
SEED = 41
"""Ours, and the demo's is another; the shipped checkpoint has learnt from the training split."""
VOXELS = 64


def make_benchmark_data(out: Path, size: Size, *, workers: int, bar: Bar, studies: int = STUDIES) -> dict[str, int]:
    """Make phantoms and curate them.

    Returns:
        How many studies train, validate and test.
    """
    with bar("phantoms") as progress:
        write_phantoms(out / "phantoms", studies=studies, seed=SEED, size=VOXELS, workers=workers, progress=progress)
    settings = build_settings(CurationSettings, size.data, where="data of the size")
    with bar("curating") as progress:
        curate(out / "phantoms", out / "dataset", settings, workers=workers, progress=progress)
    studies_of = {(case.split, case.study_id) for case in Dataset.open(out / "dataset").cases}
    return dict(Counter(split for split, _ in studies_of))
