"""The data card of a dataset: its ``README.md``, filled from what is in it.

In: the description of a dataset and how it was made. Out: Markdown with a header that ``datasets`` reads; the same
dataset gives the same bytes. Nothing is refused: what was not done is said not to have been done.
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
padded to {shape} voxels {about}; `volumes/<case_id>.nii` holds it as {dtype} HU. Set aside: volumes with any
dimension below {min_dimension} voxels (phantoms: {min_dimension_synthetic}) or more than {missing:g}% missing voxels,
{reports}.
Patients, not rows, were split {train:g}/{val:g}/{test:g} (seed {seed}), stratified by their rarest finding.
{audits}
`provenance.json` has every setting and the digest of the input.
"""

_FILES = """\
## Files

| file | what it holds |
| --- | --- |
| `cases.parquet` | one row a case: report, findings, age, sex, split, geometry, figures |
| `dropped.parquet` | one row for each study, series or table row set aside, with its reason |
"""
_HELD = "| `held.parquet` | cases kept out until a person has decided; same columns |\n"
_SERIES = "| `series.parquet` | the series that each case was chosen from, with scores |\n"
_REST = """\
| `volumes/` | the standardised volumes |
| `provenance.json` | settings, versions, digest of the input |
"""


def write_card(description: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Fill the data card."""
    files = _FILES + (_HELD if description["held"] else "") + (_SERIES if description["series"] else "") + _REST
    parts = [
        f"{_HEADER}\n# CT dataset\n\n{banner(description)}",
        describe_making(provenance),
        files,
        f"## What is in it\n\n{statistics_markdown(description)}",
    ]
    return "\n".join(parts)


def banner(description: Mapping[str, Any]) -> str:
    """Say what must be known before anything else."""
    if not description["synthetic"]:
        return _CAUTION
    all_synthetic = description["synthetic"] == description["cases"]
    return (_SYNTHETIC if all_synthetic else _MIXED.format_map(description)) + ">\n" + _CAUTION


def describe_making(provenance: Mapping[str, Any]) -> str:
    """Tell how a dataset was made, from its settings."""
    settings = provenance["settings"]
    grid, shares, quality = settings["grid"], settings["shares"], settings.get("quality", {})
    if settings["require_report"]:
        reports = f"studies without a report or with fewer than {settings['min_words']} words"
    else:
        reports = f"reports with fewer than {settings['min_words']} words (studies without a report were kept)"
    limits = {**quality, **settings}
    recipe = grid.get("recipe", "")
    return _MADE.format(
        about=f"about its middle, as the published model {recipe} expects" if recipe else "about the body",
        dtype="float32" if recipe else "int16",
        source=provenance["source"],
        spacing=" x ".join(f"{s:g}" for s in grid["spacing_mm"]),
        window=" to ".join(f"{v:g}" for v in grid["window_hu"]),
        shape=" x ".join(str(n) for n in grid["shape"]),
        missing=100 * limits["max_missing_share"],
        reports=reports,
        audits=describe_audits(provenance),
        train=100 * shares["train"],
        val=100 * shares["val"],
        test=100 * shares["test"],
        seed=settings["seed"],
        **{key: limits[key] for key in ("min_dimension", "min_dimension_synthetic")},
    )


AUDITS = {"pairing": "image and report were checked to belong together", "deidentification": "texts were de-identified"}
"""What must have been done before a dataset may be handed on, and how it is told."""


def has_run(provenance: Mapping[str, Any], audit: str) -> bool:
    """Tell whether an audit ran, by the key ``audits``: a list of names, or a mapping whose value is not false.

    Example:
        >>> has_run({"audits": {"pairing": {"doubts": 3}, "deidentification": False}}, "pairing")
        True
        >>> has_run({"audits": {"pairing": {"doubts": 3}, "deidentification": False}}, "deidentification")
        False
        >>> has_run({}, "pairing")
        False
    """
    audits = provenance.get("audits") or ()
    if isinstance(audits, Mapping):
        return audits.get(audit, False) not in (False, None, "")
    return isinstance(audits, list | tuple) and audit in audits


def describe_audits(provenance: Mapping[str, Any]) -> str:
    """Say of each audit whether it ran."""
    told = [f"{what if has_run(provenance, name) else f'{name}: not audited'}" for name, what in AUDITS.items()]
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."
