"""The statistics of a dataset as a folder: tables, pictures, and one page that shows them all.

In: a dataset. Out: ``statistics.json``, ``statistics.md``, ``figures/*.svg`` and ``statistics.html``, which needs
nothing else, no network and no script; the same dataset gives the same bytes. A sample whose volume has gone or cannot
be read is passed over and told. Refused: a place that cannot be written to, or that lies in the dataset.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.app.figures import caution, choose_samples, draw_card, draw_figures
from medfinder.app.page import sample_attributions
from medfinder.app.render import Markup, render
from medfinder.curation.dataset import Dataset, view_beside
from medfinder.curation.statistics import describe, headline, make_tables, statistics_markdown
from medfinder.errors import ConfigError, StudyError
from medfinder.sources.files import write_whole
from medfinder.volume import read_volume

Progress = Callable[[int, int], None]

_CAPTIONS = {
    "flow.svg": "Where the studies went",
    "keywords.svg": "Keyword frequency",
    "word_cloud.svg": "Word cloud",
    "splits.svg": "Findings by split",
    "ages.svg": "Patients",
    "histograms.svg": "Spacings, slices and report lengths",
}


@dataclass(frozen=True)
class WrittenStatistics:
    """What was written.

    Attributes:
        description: the figures themselves.
        files: relative to the folder, in the order in which they are best read.
        troubles: sentences about samples that could not be shown.
    """

    description: Mapping[str, Any]
    files: tuple[str, ...]
    troubles: tuple[str, ...]


def write_statistics(
    dataset: Dataset, out: Path, *, top: int = 30, cards: int = 6, progress: Progress | None = None
) -> WrittenStatistics:
    """Write tables, pictures and the page.

    Args:
        out: a folder outside the dataset; files of an earlier run are replaced, cards that are not drawn again go.
        top: how many keywords the pictures show.
        cards: how many sample cards; they show reports.

    Raises:
        ConfigError: ``out`` lies in the dataset, or cannot be written.
    """
    if out.resolve().is_relative_to(dataset.path.resolve()):
        raise ConfigError(f"{out} lies in the dataset, whose files are listed in its card; give a folder outside")
    description = describe(dataset)
    figures = draw_figures(description, top=top)
    samples, troubles = _draw_samples(dataset, cards, progress)
    files = {
        "statistics.html": _page(description, figures, samples),
        "statistics.md": f"{caution(description['synthetic'], description['cases'])}\n\n"
        + statistics_markdown(description),
        "statistics.json": json.dumps(description, ensure_ascii=False, indent=2) + "\n",
        **{f"figures/{name}": figure for name, figure in {**figures, **samples}.items()},
    }
    _write(out, files)
    return WrittenStatistics(description, tuple(files), tuple(troubles))


def _draw_samples(dataset: Dataset, count: int, progress: Progress | None) -> tuple[dict[str, str], list[str]]:
    chosen = choose_samples(dataset.cases, count)
    cards: dict[str, str] = {}
    troubles: list[str] = []
    for number, case in enumerate(chosen, start=1):
        try:
            volume = read_volume(view_beside(dataset.path / case.volume))
        except StudyError as error:
            troubles.append(f"case {case.case_id} is not shown: {error}")
        else:
            attribution = sample_attributions().get(case.study_id, "")
            cards[f"card_{case.case_id}.svg"] = draw_card(case, volume, attribution=attribution)
        if progress is not None:
            progress(number, len(chosen))
    return cards, troubles


def _page(description: Mapping[str, Any], figures: Mapping[str, str], samples: Mapping[str, str]) -> str:
    values = {
        "headline": headline(description),
        "caution": caution(description["synthetic"], description["cases"]),
        "is_synthetic": description["synthetic"] > 0,
        "tables": make_tables(description),
        # The pictures are ours, every word in them was escaped when it was drawn.
        "figures": [(_CAPTIONS[name], Markup(figure)) for name, figure in figures.items()],
        "samples": [Markup(card) for card in samples.values()],
    }
    return render("statistics.html", values)


def _write(out: Path, files: Mapping[str, str]) -> None:
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for stray in (out / "figures").glob("card_*.svg"):
            if f"figures/{stray.name}" not in files:
                stray.unlink()
        for name, text in files.items():
            write_whole(out / name, text.encode())
    except OSError as error:
        raise ConfigError(f"no statistics can be written to {out}: {error.strerror}") from error
