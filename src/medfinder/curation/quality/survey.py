"""Judge every series that lies at some paths, without making a dataset of them.

In: paths as a person types them: CT files, DICOM folders, whole sources. Out: a row for each series, in the order of
the paths. A series that cannot be read is a row with its reason, and the others go on. Rows name files, as a listing
does: they are for the person who typed the paths, and are stored nowhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medfinder.curation.quality.judge import QualitySettings, assess
from medfinder.errors import VolumeError
from medfinder.records import Doubt, Dropped, Series, Study
from medfinder.sources import find_reader, find_source
from medfinder.volume import read_volume


@dataclass(frozen=True)
class Row:
    """What was found of one series.

    Attributes:
        path: of the file or folder that holds the series, or as it was typed where there is none.
        verdict: ``"fit"``, ``"doubtful"`` where a doubt holds it, or ``"unfit"``.
        reason, detail: why it is unfit; empty otherwise.
    """

    path: str
    study_id: str
    series_id: str
    verdict: str
    region: str = ""
    score: float = 0.0
    reason: str = ""
    detail: str = ""
    doubts: tuple[Doubt, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[tuple[str, float], ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """Give plain values, ready for JSON."""
        plain = asdict(self)
        plain["score"] = round(self.score, 3)
        plain["figures"] = {name: round(value, 4) for name, value in self.figures}
        return plain


def list_series(paths: Sequence[Path]) -> list[tuple[Path, Study, Series | Dropped]]:
    """List every series at the paths, and what cannot be one.

    Raises:
        ConfigError: at one of them there is nothing to judge.
    """
    found: list[tuple[Path, Study, Series | Dropped]] = []
    for path in paths:
        for entry in find_reader(find_source(path))(path):
            if isinstance(entry, Dropped):
                found.append((path, Study(entry.study_id, "", entry.source, ()), entry))
            else:
                found += [(path, entry, series) for series in entry.series]
    return found


def survey(
    series: Sequence[tuple[Path, Study, Series | Dropped]], settings: QualitySettings | None = None
) -> Iterator[Row]:
    """Judge what ``list_series`` found, one after the other."""
    settings = settings or QualitySettings()
    for path, study, one in series:
        if isinstance(one, Dropped):
            yield Row(str(path), one.study_id, one.series_id, "unfit", reason=one.reason, detail=one.detail)
        else:
            yield _judge(study, one, settings)


def _judge(study: Study, series: Series, settings: QualitySettings) -> Row:
    name = (str(series.path), study.study_id, series.series_id)
    try:
        volume = read_volume(series.path, series_instance_uid=series.series_instance_uid, rescale=series.rescale)
        found = assess(volume, settings, is_synthetic=study.is_synthetic, tags=series.tags)
    except VolumeError as error:
        return Row(*name, "unfit", reason=error.reason, detail=str(error))
    except MemoryError:
        detail = "reading it needs more memory than this machine has free"
        return Row(*name, "unfit", reason="out of memory", detail=detail)
    except Exception as error:  # Damaged files trip parsers in ways nobody can list; one must not stop the others.
        detail = f"{type(error).__name__} while reading; the file is damaged in a way that no reader names"
        return Row(*name, "unfit", reason="unreadable", detail=detail)
    reason, detail = found.fault or ("", "")
    verdict = "unfit" if found.fault else "doubtful" if any(doubt.holds for doubt in found.doubts) else "fit"
    region = "" if found.fault else found.region.name
    measured = tuple(found.figures.items())
    notes = found.volume.notes if found.volume else ()
    return Row(*name, verdict, region, found.score, reason, detail, found.doubts, notes, measured)
