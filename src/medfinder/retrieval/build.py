"""Building: a dataset folder into a search index.

In: a dataset, a model, the place of an index. Out: the index with every case of the dataset, and a summary. Several
datasets may go into one index. Killed at any moment and started again, it goes on where it was: cases whose content is
in the index already are passed over. Refused: an index of another model, a dataset on another grid than the model's.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medfinder.errors import ConfigError
from medfinder.records import Case
from medfinder.retrieval.cluster import Cluster
from medfinder.retrieval.index import SearchIndex, is_index

if TYPE_CHECKING:
    from medfinder.curation.dataset import Dataset
    from medfinder.models.protocol import DualEncoder

# What is lost when the process is killed, and how often progress is told; larger batches are not faster on a CPU.
_BATCH = 16


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What building changed.

    Attributes:
        added: cases that the index did not hold.
        replaced: cases whose content had changed.
        skipped: cases that were there already.
        removed: cases that the index held from this dataset and the dataset no longer has.
        cases: in the index afterwards.
    """

    added: int
    replaced: int
    skipped: int
    removed: int
    cases: int


def build_index(
    dataset: "Dataset",
    index_path: Path,
    model: "DualEncoder",
    *,
    progress: Callable[[int, int], None] | None = None,
    keep_missing: bool = False,
    cluster: Cluster | None = None,
) -> BuildSummary:
    """Embed the cases of a dataset into the index at ``index_path``, which is made if it is not there.

    Args:
        progress: called with (cases done, cases to do).
        cluster: where the index is, if it is not a folder.
        keep_missing: leave cases in the index that were added from this dataset and are in it no longer.

    Raises:
        SearchIndexError: the index was made with another model, is damaged or in use.
        ConfigError: the dataset's volumes are on another grid than the model's.
    """
    if dataset.grid != model.grid:
        raise ConfigError(
            f"dataset {dataset.path} is on the grid {dataset.grid}, the model expects {model.grid}; "
            "curate it again on the model's grid"
        )
    with _open_or_create(index_path, model, cluster) as index:
        # A dataset that has moved is embedded anew, so that hits point to where its volumes are.
        held, before = index.digests(), index.digests(dataset.path)
        digests = {case.case_id: case_digest(case, dataset.volume(case)) for case in dataset.cases}
        todo = [case for case in dataset.cases if before.get(case.case_id) != digests[case.case_id]]
        _tell(progress, 0, len(todo))
        for done, batch in _batches(todo):
            _add(index, dataset, batch, model, [digests[case.case_id] for case in batch])
            _tell(progress, done, len(todo))
        gone = [] if keep_missing else sorted(set(index.digests(dataset.path)) - set(digests))
        replaced = sum(case.case_id in held for case in todo)
        return BuildSummary(
            added=len(todo) - replaced,
            replaced=replaced,
            skipped=len(dataset.cases) - len(todo),
            removed=index.remove(gone),
            cases=len(index),
        )


def case_digest(case: Case, hu: np.ndarray) -> str:
    """Digest everything that the index keeps of a case or that its vectors are made of."""
    record = json.dumps(asdict(case), sort_keys=True, default=str)
    digest = hashlib.sha256(record.encode())
    digest.update(np.ascontiguousarray(hu).data)
    return digest.hexdigest()


def _open_or_create(path: Path, model: "DualEncoder", cluster: Cluster | None) -> SearchIndex:
    if not is_index(path, cluster):
        about = {"model_digest": model.digest, "model_name": model.name}
        return SearchIndex.create(path, width=model.width, cluster=cluster, **about)
    index = SearchIndex.open(path, cluster=cluster)
    try:
        index.require_model(model.digest, model.width)
    except BaseException:
        index.close()
        raise
    return index


def _batches(cases: Sequence[Case]) -> Iterator[tuple[int, Sequence[Case]]]:
    """Yield batches with the number of cases done after each."""
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        yield start + len(batch), batch


def _add(
    index: SearchIndex, dataset: "Dataset", cases: Sequence[Case], model: "DualEncoder", digests: Sequence[str]
) -> None:
    image = model.encode_volumes([np.asarray(dataset.volume(case)) for case in cases])
    report = model.encode_texts([case.report or case.report_es for case in cases])
    index.add(cases, image, report, dataset.path, model_digest=model.digest, digests=digests)


def _tell(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
