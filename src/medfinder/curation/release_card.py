"""The card of a release: the ``README.md`` that the Hugging Face hub shows, with the header that ``datasets`` reads.

In: a dataset, and the tables of its release. Out: YAML and Markdown; the same release gives the same bytes. Nothing is
refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from medfinder.curation.card import banner, describe_making
from medfinder.curation.dataset import DROPPED, Dataset
from medfinder.curation.split import SPLITS
from medfinder.curation.statistics import describe, statistics_markdown
from medfinder.records import Split

OLDEST = 90
"""HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C): ages above 89 are told as one group."""

_HUB_SPLITS: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}
_TASKS = ("image-feature-extraction", "image-to-text", "text-retrieval")

Tables = Mapping[str, tuple[Split, Any]]
"""Parquet files by name: the split of each, and what Parquet says of it (``pyarrow.parquet.FileMetaData``)."""

_CARD = """\
# {name}

{banner}
```python
from datasets import load_dataset

cases = load_dataset("PATH_OR_REPOSITORY", "cases", split="{first}")
print(cases[0]["report"], cases[0]["volume"])
```

`volume` names a NIfTI file of this folder: int16 HU, axes along RAS+, one grid for all. `nibabel.load` reads it. The
same cases become a dataset of medfinder again by `medfinder curate THIS_FOLDER OUT`.

{made}
## Files

| file | what it holds |
| --- | --- |
| `data/*.parquet` | one row a case, by split: report, findings, age, sex, geometry, figures |
| `dropped.parquet` | one row for each study, series or table row set aside, with its reason |
| `volumes/` | the standardised volumes |
| `provenance.json` | settings, versions, digests |
| `SHA256SUMS` | of every other file; check: `sha256sum --check SHA256SUMS` |

Patients are never split. Ids are hashes or synthetic; ages above {oldest} are written as {oldest}.

## Licence

`{license}`.{terms}

{pictures}## What is in it

{tables}"""


def write_release_card(
    dataset: Dataset, *, name: str, license_: str, terms: str, pictures: Sequence[str], tables: Tables
) -> str:
    """Fill the card.

    Args:
        license_: as the hub names it.
        terms: a sentence on what else holds; may be empty.
        pictures: names of files in ``figures/``.
    """
    shown = "".join(f"![{Path(one).stem.replace('_', ' ')}](figures/{one})\n" for one in pictures)
    description = describe(dataset)
    body = _CARD.format(
        name=name,
        banner=banner(description),
        first=_HUB_SPLITS[_splits(tables)[0]],
        made=describe_making(dataset.provenance),
        oldest=OLDEST,
        license=license_,
        terms=f" {terms}." if terms else "",
        pictures=f"## Pictures\n\n{shown}\n" if shown else "",
        tables=statistics_markdown(description),
    )
    return f"---\n{_header(dataset, name, license_, tables)}---\n\n{body}"


def _splits(tables: Tables) -> list[Split]:
    return [split for split in SPLITS if any(split == of for of, _ in tables.values())]


def _header(dataset: Dataset, name: str, license_: str, tables: Tables) -> str:
    """Write the YAML that the hub and ``datasets`` read; JSON within it is YAML, too."""
    tags = ["medical", "radiology", "ct", "chest", "3d", *(["synthetic"] if dataset.is_synthetic else [])]
    languages = ["en", *(["es"] if any(case.report_es for case in dataset.cases) else [])]
    schema = next(iter(tables.values()))[1].schema.to_arrow_schema()
    lines = [
        f"pretty_name: {json.dumps(name, ensure_ascii=False)}",
        f"license: {license_}",
        f"language: {json.dumps(languages)}",
        f"tags: {json.dumps(tags)}",
        f"task_categories: {json.dumps(_TASKS)}",
        f"size_categories: [{json.dumps(size_category(len(dataset.cases)))}]",
        "configs:",
        "- config_name: cases",
        "  default: true",
        "  data_files:",
        *(f"  - split: {_HUB_SPLITS[split]}\n    path: data/{split}-*.parquet" for split in _splits(tables)),
        "- config_name: dropped",
        f"  data_files: {DROPPED}",
        "dataset_info:",
        "- config_name: cases",
        "  features:",
        *_features(schema),
        "  splits:",
        *(_split_lines(split, tables) for split in _splits(tables)),
    ]
    return "\n".join(lines) + "\n"


def _split_lines(split: Split, tables: Tables) -> str:
    files = [metadata for of, metadata in tables.values() if of == split]
    size = sum(one.row_group(group).total_byte_size for one in files for group in range(one.num_row_groups))
    count = sum(one.num_rows for one in files)
    return f"  - name: {_HUB_SPLITS[split]}\n    num_bytes: {size}\n    num_examples: {count}"


def size_category(count: int) -> str:
    """Name the size of a dataset as the hub does.

    Example:
        >>> size_category(999), size_category(8069), size_category(2_000_000)
        ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    steps = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    place = sum(count >= 10 ** (3 + power) for power in range(len(steps)))
    return f"n<{steps[0]}" if place == 0 else f"{steps[place - 1]}<n<{steps[min(place, len(steps) - 1)]}"


def _features(schema: pa.Schema) -> Iterator[str]:
    """Spell a table's columns as the hub does."""
    for field in schema:
        yield f"  - name: {field.name}"
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            yield "    list:"
            for inner in field.type.value_type:
                yield f"    - name: {inner.name}\n      dtype: {_dtype(inner.type)}"
        elif pa.types.is_list(field.type):
            yield f"    list: {_dtype(field.type.value_type)}"
        else:
            yield f"    dtype: {_dtype(field.type)}"


def _dtype(kind: pa.DataType) -> str:
    # Arrow prints this one under its older name.
    return "float64" if pa.types.is_float64(kind) else str(kind)
