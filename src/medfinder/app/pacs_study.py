"""A study of the PACS that is asked with and need not be in the index: found, fetched, read as one volume.

In: a StudyInstanceUID, the DICOMweb server that holds the study, a folder of the caller's own. Out: one plain NIfTI
file of the series that curation would choose, without a header that tells of the patient, and notes for the reader.
Whatever was fetched lies in the folder: who removes it has removed all. Refused: what is no UID; a study that the PACS
does not have or that holds no CT volume; a PACS that does not answer, lets nobody in, or gives a series by half.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from medfinder.curation.series import Look, SelectionSettings, choose_series, rank_series, read_look
from medfinder.errors import ConfigError, DatasetError, StudyError
from medfinder.records import Dropped, Series, Study
from medfinder.sources import pacs
from medfinder.volume import read_volume, write_nifti

# What is no chest is searched with, too: the searcher says that it is none.
_SELECTION = SelectionSettings(require_chest=False)


class UnknownStudyError(StudyError):
    """The PACS has no such CT study."""


def fetch_study(uid: str, settings: pacs.PacsSettings, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Fetch one study and write its best series as a NIfTI file.

    Args:
        settings: which server, and how patiently; its search and its cache are not used.
        folder: for the study as it comes, and for the file.

    Returns:
        The file, and what had to be mended or left out, one sentence each.

    Raises:
        ConfigError: no StudyInstanceUID.
        UnknownStudyError: the PACS has no such CT study.
        StudyError: the study holds no CT volume that can be read.
        DatasetError: the PACS does not answer, or does not give up what it has.
    """
    if not pacs.is_uid(uid):
        raise ConfigError("that is no StudyInstanceUID; expected up to 64 digits and dots, e.g. 1.2.840.1")
    alone = replace(
        settings, cache=folder / "pacs", studies=(uid,), patients=(), since=None, until=None, limit=None, keep=False
    )
    if not pacs.find_studies(alone):
        raise UnknownStudyError("the PACS has no CT study of this StudyInstanceUID; is it the right PACS?")
    series, left_out = _choose(_list_series(alone), alone)
    volume = read_volume(series.path, series_instance_uid=series.series_instance_uid, rescale=series.rescale)
    write_nifti(volume, folder / "study.nii")
    return folder / "study.nii", (*volume.notes, *left_out)


@contextmanager
def fetched_study(uid: str, settings: pacs.PacsSettings) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Fetch one study into a folder beside the cache, which goes when the file has been used."""
    settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with TemporaryDirectory(prefix="asked-", dir=settings.folder) as folder:
        yield fetch_study(uid, settings, Path(folder))


def _list_series(alone: pacs.PacsSettings) -> tuple[Series, ...]:
    entries = list(pacs.list_studies(alone))
    study = next((one for one in entries if isinstance(one, Study) and one.series), None)
    if study is not None:
        return study.series
    dropped = [one for one in entries if isinstance(one, Dropped)]
    lost = next((one for one in dropped if one.stage == "fetch"), None)
    if lost is not None:
        raise _not_given(lost.reason, lost.detail)
    reasons = ", ".join(sorted({one.reason for one in dropped})) or "no series"
    raise StudyError(f"the study holds no CT volume: {reasons}; ask with another study")


def _choose(series: tuple[Series, ...], alone: pacs.PacsSettings) -> tuple[Series, tuple[str, ...]]:
    """Choose as curation does; a series is fetched when it is looked at, and not before."""
    lost: dict[str, tuple[str, str]] = {}

    def look(one: Series) -> Look | tuple[str, str]:
        fault = pacs.fetch_series(one, alone)
        if fault is not None:
            lost[one.series_id] = fault
            return fault
        return read_look(one)

    candidates = choose_series(rank_series(series, _SELECTION), look, _SELECTION)
    best = candidates[0]
    if best.is_chosen:
        note = f"the PACS did not give up {len(lost)} of the study's series; another one was taken"
        return best.series, (note,) if lost else ()
    if lost:
        raise _not_given(*next(iter(lost.values())))
    reasons = ", ".join(sorted({one.reason for one in candidates}))
    raise StudyError(f"no series of the study can be searched with: {reasons}; ask with another study")


def _not_given(reason: str, detail: str) -> DatasetError:
    return DatasetError(f"the PACS does not give up the study: {reason} ({detail}); try again, or look at the PACS")
