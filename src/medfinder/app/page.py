"""Searches and their hits as one HTML file: slices, findings, report and cautions of each hit.

In: searches with their hits, maybe an evaluation. Out: a page that needs nothing else, no network and no script; every
text in it is escaped. A hit whose volume has gone or cannot be read keeps its text and says so. Refused: a place that
cannot be written to.
"""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from medfinder.app.montage import Panel, render_panels
from medfinder.app.render import render
from medfinder.curation.dataset import view_beside
from medfinder.curation.keywords import extract_findings, resolve_keyword
from medfinder.errors import ConfigError, MissingExtraError, StudyError
from medfinder.evaluation.report import PAPER_NOTE, describe_origin, describe_run, make_tables
from medfinder.records import Hit, Study
from medfinder.sources import nifti
from medfinder.sources.files import is_volume_file
from medfinder.volume import Grid, Volume, read_volume, standardise_file

try:
    from PIL import Image
except ImportError as error:
    raise MissingExtraError("Pillow", "page") from error

WINDOWS = ("lung", "mediastinal")

_PART_NAMES = {"affirmed": "words", "denied": "denied words", "findings": "known finding"}


@dataclass(frozen=True)
class Search:
    """One search to be shown.

    Attributes:
        title: what kind it is, e.g. ``"By text"``.
        query: what was asked, in words.
        query_volume: the CT that was asked with, file or DICOM folder.
    """

    title: str
    query: str
    hits: Sequence[Hit]
    query_volume: Path | None = None


@dataclass(frozen=True)
class _Picture:
    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class _ShownVolume:
    """Pictures of a volume; where there are none, ``trouble`` says why."""

    pictures: tuple[_Picture, ...] = ()
    trouble: str = ""
    attribution: str = ""


def write_results_page(
    out: Path,
    *,
    title: str,
    searches: Sequence[Search],
    is_synthetic: bool,
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Write the page, whole or not at all.

    Args:
        is_synthetic: show the banner that cases are synthetic; hits that are synthetic bring it in any case.
        evaluation: what ``evaluate`` returned, shown as tables below the searches.

    Raises:
        ConfigError: ``out`` cannot be written.
    """
    values = {
        "title": title,
        "is_synthetic": is_synthetic or any(hit.is_synthetic for search in searches for hit in search.hits),
        "searches": [_show_search(search) for search in searches],
        "windows": WINDOWS,
        "evaluation": _show_evaluation(evaluation) if evaluation else None,
    }
    text = render("results.html", values)
    unfinished = out.with_name(f".writing-{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(out)
    except OSError as error:
        raise ConfigError(f"no page can be written to {out}: {error.strerror}") from error


def asked_findings(query: str) -> frozenset[str]:
    """Name the findings that a query asks for, so that hits can mark them.

    Example:
        >>> sorted(asked_findings("GGO without pleural effusion"))
        ['ground-glass opacity']
    """
    said = (*extract_findings(query, "en"), *extract_findings(query, "es"))
    keyword = resolve_keyword(query)
    asked = {finding.name for finding in said if finding.status != "absent"} | ({keyword} if keyword else set())
    return frozenset(asked - {finding.name for finding in said if finding.status == "absent"})


def _show_search(search: Search) -> dict[str, Any]:
    asked = asked_findings(search.query)
    shown = _show_query_ct(search.query_volume) if search.query_volume is not None else None
    cautions = {hit.caution for hit in search.hits}
    # A caution that every hit carries belongs to the search; said five times it is not read.
    common = cautions.pop() if len(cautions) == 1 and len(search.hits) > 1 else ""
    return {
        "title": search.title,
        "query": search.query,
        "query_ct": shown,
        "caution": common,
        "hits": [
            {
                "hit": hit,
                "asked": asked,
                "findings": sorted(hit.findings, key=lambda name: name not in asked),
                "parts": " · ".join(f"{_PART_NAMES.get(name, name)} {value:.2f}" for name, value in hit.parts),
                "shown": _show_hit(hit),
                "caution": "" if common else hit.caution,
            }
            for hit in search.hits
        ],
    }


def _show_evaluation(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "origin": describe_origin(result),
        "run": describe_run(result),
        "tables": make_tables(result),
        "note": PAPER_NOTE,
    }


def _show_hit(hit: Hit) -> _ShownVolume:
    attribution = sample_attributions().get(hit.study_id, "")
    told = f"Findings: {', '.join(hit.findings)}." if hit.findings else "Findings are not known."
    if hit.volume is None or not hit.volume.exists():
        return _ShownVolume(trouble="The volume has gone; index this case again to see it.", attribution=attribution)
    try:
        return _ShownVolume(_pictures(read_volume(view_beside(hit.volume)), told), attribution=attribution)
    except StudyError as error:
        return _ShownVolume(trouble=f"The volume cannot be shown: {error}", attribution=attribution)


def _show_query_ct(path: Path) -> _ShownVolume:
    attribution = ""
    if path.is_file() and is_volume_file(path):
        attribution = next((sample_attributions().get(s.study_id, "") for s in nifti.read(path)), "")
    try:
        return _ShownVolume(_pictures(standardise_file(path, Grid()), "The CT asked with."), attribution=attribution)
    except StudyError as error:
        return _ShownVolume(trouble=f"The CT cannot be shown: {error}", attribution=attribution)


def _pictures(volume: Volume, told: str) -> tuple[_Picture, ...]:
    stacked = f"{WINDOWS[0]} window above, {WINDOWS[1]} window below"
    return tuple(
        _Picture(_as_data_uri(panel), f"{panel.name}; {stacked}. {told}", panel.name)
        for panel in render_panels(volume, windows=WINDOWS)
    )


def _as_data_uri(panel: Panel) -> str:
    """Encode as JPEG; at this quality and without colour subsampling the marks stay sharp."""
    buffer = io.BytesIO()
    Image.fromarray(panel.pixels).save(buffer, format="JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@cache
def sample_attributions() -> Mapping[str, str]:
    """Name origin and licence of each shipped sample CT, by the study id that it has in an index."""
    with as_file(files("medfinder") / "samples") as folder:
        with (folder / "MANIFEST.tsv").open(encoding="utf-8", newline="") as table:
            rows = {row["file"]: row for row in csv.DictReader(table, delimiter="\t")}
        studies = [study for study in nifti.read(folder) if isinstance(study, Study)]
    return {
        study.study_id: f"{rows[name]['attribution']}. {rows[name]['licence']}. Changed: resampled and windowed."
        for study in studies
        if (name := study.series[0].path.name) in rows
    }
