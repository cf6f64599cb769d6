"""One's own CTs into an index: a folder is either a dataset already, or is curated into one beside the index.

In: a dataset folder, or a folder of CTs as they come from a scanner or PACS export. Out: an open dataset on the model's
grid. Refused: an unfinished or damaged dataset, and what curation refuses.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import Dataset, is_dataset
from medfinder.curation.quality import QualitySettings
from medfinder.records import VIEW_MM
from medfinder.volume import Grid

# Ours: reports are not needed to look for CTs, and a partial chest is still worth finding.
_OWN_MIN_DIMENSION = 10


def open_or_curate(
    source: Path,
    *,
    beside: Path,
    grid: Grid,
    source_kind: str = "auto",
    view_mm: float = VIEW_MM,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Open ``source`` if it is a dataset, else curate it, keeping studies without a report.

    Args:
        beside: the index; the dataset made is ``<beside>.cases/<digest of the source's path>``.
        source_kind: a key of ``medfinder.sources.SOURCES``, or ``"auto"``.
        view_mm: of the copies for people to look at; 0 for none.
    """
    if is_dataset(source):
        return Dataset.open(source)
    place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:12]
    out = beside.with_name(f"{beside.name}.cases") / place
    # No report is read, and the index stays where the CTs are.
    settings = CurationSettings(
        grid=grid,
        quality=QualitySettings(min_dimension=_OWN_MIN_DIMENSION),
        require_report=False,
        deidentify=False,
        view_mm=view_mm,
    )
    curate(source, out, settings, source_kind=source_kind, workers=workers, progress=progress)
    return Dataset.open(out)
