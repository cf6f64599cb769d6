"""The data card of a dataset: its ``README.md``, filled from what is in it.

In: the description of a dataset and how it was made. Out: Markdown with a header that ``datasets`` reads.
"""

from collections.abc import Mapping
from typing import Any

from medfinder.curation.statistics import statistics_markdown

_HEADER = """\
---
configs:
- config_name: cases
  default: true
  data_files: cases.parquet
- config_name: dropped
  data_files: dropped.parquet
---
"""
_SYNTHETIC = "> **SYNTHETIC.** Every case was computed; no real patient stands behind any of them.\n"
_MIXED = "> **PARTLY SYNTHETIC.** {synthetic} of {cases} cases were computed; `is_synthetic` tells which.\n"
_CAUTION = "> **Not for diagnosis.** Research data; findings are labels, not a radiologist's judgement.\n"

_MADE = """\
## How it was made

Source: `{source}`. Each volume was turned to RAS+, resampled to {spacing} mm, clipped to {window} HU and cropped or
padded to {shape} voxels about the body; `volumes/<case_id>.nii` holds it as int16 HU. Set aside: volumes with any
dimension below {min_dimension} voxels (phantoms: {min_dimension_synthetic}) or more than {missing:g}% missing voxels,
{reports}.
Patients, not rows, were split {train:g}/{val:g}/{test:g} (seed {seed}), stratified by their rarest finding.
`provenance.json` has every setting and the digest of the input.

## Files

| file | what it holds |
| --- | --- |
| `cases.parquet` | one row a case: report, findings, age, sex, split, geometry, figures |
| `dropped.parquet` | one row for each study, series or table row set aside, with its reason |
| `volumes/` | the standardised volumes |
| `provenance.json` | settings, versions, digest of the input |

## What is in it

"""


def write_card(description: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Fill the data card."""
    settings = provenance["settings"]
    grid, shares = settings["grid"], settings["shares"]
    banner = ""
    if description["synthetic"]:
        all_synthetic = description["synthetic"] == description["cases"]
        banner = (_SYNTHETIC if all_synthetic else _MIXED.format_map(description)) + ">\n"
    if settings["require_report"]:
        reports = f"studies without a report or with fewer than {settings['min_words']} words"
    else:
        reports = f"reports with fewer than {settings['min_words']} words (studies without a report were kept)"
    made = _MADE.format(
        source=provenance["source"],
        spacing=" x ".join(f"{s:g}" for s in grid["spacing_mm"]),
        window=" to ".join(f"{v:g}" for v in grid["window_hu"]),
        shape=" x ".join(str(n) for n in grid["shape"]),
        missing=100 * settings["max_missing_share"],
        reports=reports,
        train=100 * shares["train"],
        val=100 * shares["val"],
        test=100 * shares["test"],
        **{key: settings[key] for key in ("min_dimension", "min_dimension_synthetic", "seed")},
    )
    return f"{_HEADER}\n# CT dataset\n\n{banner}{_CAUTION}\n{made}{statistics_markdown(description)}"
