"""Curate many studies, in this process or in several.

In: studies, and where their outcomes are noted. Out: a note for each. Refused: nothing; a study that ends its process
(out of memory, a fault in a library) is found and set aside with that reason.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from medfinder.curation.notes import Notes
from medfinder.curation.study import CuratedStudy, CurationSettings, curate_study
from medfinder.records import Dropped, Study
from medfinder.workers import open_pool

# Called with the number of studies done and of all.
Progress = Callable[[int, int], None]


def count_from(done: int, total: int, progress: Progress | None) -> Callable[[], None]:
    """Make a function that tells the progress of one study more, and tell where it starts."""
    count = done

    def tell() -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count, total)

    if progress is not None:
        progress(done, total)
    return tell


def curate_all(
    todo: Sequence[Study],
    out: Path,
    settings: CurationSettings,
    notes: Notes,
    workers: int,
    tell: Callable[[], None],
) -> None:
    """Curate studies in this process or in several; a study that ends its process is set aside, the others go on.

    Args:
        tell: called once a study is done.
    """
    if workers <= 1:
        for study in todo:
            _curate_one(study, out, settings, notes)
            tell()
        return
    left = list(todo)
    while left:
        for suspect in _run_pool(left, out, settings, notes, workers, tell):
            # One of them ended its process; alone in a process, the guilty one is found.
            if _run_pool([suspect], out, settings, notes, 1, tell):
                detail = "the process that read it was ended: out of memory, or a fault in a library"
                row = Dropped(suspect.study_id, "", suspect.source, "read", "process ended", detail)
                notes.write(CuratedStudy(suspect.study_id, dropped=(row,)))
                tell()
        left = [study for study in left if not notes.has(study.study_id)]


def _run_pool(
    studies: Sequence[Study],
    out: Path,
    settings: CurationSettings,
    notes: Notes,
    workers: int,
    tell: Callable[[], None],
) -> list[Study]:
    """Curate in worker processes; return the studies in flight when a worker was killed, else none."""
    flying: dict[Future[None], Study] = {}
    with open_pool(workers) as pool:
        try:
            for study in studies:
                flying[pool.submit(_curate_one, study, out, settings, notes)] = study
                # A window of two studies a worker keeps memory flat and the workers busy.
                while len(flying) >= 2 * workers:
                    _land(flying, tell)
            while flying:
                _land(flying, tell)
        except BrokenProcessPool:
            return [study for study in flying.values() if not notes.has(study.study_id)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return []


def _land(flying: dict[Future[None], Study], tell: Callable[[], None]) -> None:
    done, _ = wait(flying, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
        del flying[future]
        tell()


def _curate_one(study: Study, out: Path, settings: CurationSettings, notes: Notes) -> None:
    notes.write(curate_study(study, out, settings))
