"""What a path holds, told in plain facts: a volume, a folder of them, phantoms, a dataset, a checkpoint or an index.

In: a path. Out: a dictionary whose first entry is ``kind``. Refused: what the room that owns the thing refuses.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medfinder.curation.dataset import Dataset, is_dataset
from medfinder.curation.statistics import describe, statistics_text
from medfinder.retrieval.cluster import cluster_at
from medfinder.retrieval.index import SearchIndex, is_index
from medfinder.sources.files import is_volume_file, relative_name, walk_files
from medfinder.sources.phantoms_folder import STUDIES_FILE
from medfinder.volume import body_region, list_dicom_series, read_volume

_FINDINGS_SHOWN = 20


def describe_path(path: Path) -> dict[str, Any]:
    """Say what ``path`` holds.

    Raises:
        MedFinderError: it is nothing that medfinder knows, or is damaged.
    """
    if is_index(path):
        with SearchIndex.open(path) as index:
            return {"kind": "index", **_plain(asdict(index.info()))}
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        # Only here: a volume or dataset can be described without torch.
        from medfinder.models.checkpoint import describe_checkpoint

        return {"kind": "checkpoint", **_plain(describe_checkpoint(path))}
    if is_dataset(path):
        return {"kind": "dataset", **_plain(describe(Dataset.open(path)))}
    if (path / STUDIES_FILE).is_file():
        with (path / STUDIES_FILE).open("rb") as lines:
            return {"kind": "phantoms", "is_synthetic": True, "studies": sum(1 for _ in lines)}
    if path.is_dir():
        volumes = [file for file in walk_files(path) if is_volume_file(file)]
        if volumes:
            return {"kind": "folder of volumes", "files": [relative_name(file, path) for file in volumes]}
        series = list_dicom_series(path)
        if len(series) != 1:
            return {"kind": "DICOM folder", "series": [_plain(asdict(one)) for one in series]}
    return {"kind": "volume", **_describe_volume(path)}


def describe_collection(path: Path, url: str) -> dict[str, Any]:
    """Say what the index holds that a cluster keeps under the last part of ``path``.

    Raises:
        MedFinderError: the cluster cannot be reached, or has no such index.
    """
    with SearchIndex.open(path, cluster=cluster_at(url)) as index:
        return {"kind": "index", "url": url, **_plain(asdict(index.info()))}


def dataset_facts(facts: Mapping[str, Any]) -> str:
    """Set out what ``describe_path`` says of a dataset as tables for the terminal."""
    return statistics_text(facts, top=_FINDINGS_SHOWN)


def _describe_volume(path: Path) -> dict[str, Any]:
    volume = read_volume(path)
    region = body_region(volume)
    low, high = int(volume.hu.min()), int(volume.hu.max())
    return {
        "shape": list(volume.shape),
        "spacing_mm": [round(one, 4) for one in volume.spacing_mm],
        "hu_range": [low, high],
        "region": region.name,
        "region_reason": region.reason,
        "notes": list(volume.notes),
    }


def _plain(value: Any) -> Any:
    """Turn paths and tuples into what JSON knows."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
