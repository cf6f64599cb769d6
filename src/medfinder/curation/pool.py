"""Curate many studies, in this process or in several.

In: studies, and where their outcomes are noted. Out: a note for each. Refused: nothing; a study that ends its process
(out of memory, a fault in a library) is found and set aside with that reason.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from medfinder.curation.notes import Notes
from medfinder.curation.study import CuratedStudy, CurationSettings, Job, curate_study
from medfinder.records import Dropped
from medfinder.sources.pacs import forget
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
    todo: Sequence[Job],
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
        for job in todo:
            curate_one(job, out, settings, notes)
            tell()
        return
    left = list(todo)
    while left:
        for suspect in _run_pool(left, out, settings, notes, workers, tell):
            # One of them ended its process; alone in a process, the guilty one is found.
            if _run_pool([suspect], out, settings, notes, 1, tell):
                note_ended(suspect, notes)
                tell()
        left = [job for job in left if not notes.has(job.study)]


def curate_one(job: Job, out: Path, settings: CurationSettings, notes: Notes) -> None:
    """Curate one study and note what became of it; only then is what was fetched for it forgotten."""
    notes.write(job.study, curate_study(job, out, settings))
    clear_cache(job)


def clear_cache(job: Job) -> None:
    """Forget the voxels of a study that is noted, unless they are to be kept."""
    if job.server is not None and not job.server.keep:
        forget(job.study)


def note_ended(job: Job, notes: Notes) -> None:
    """Note that a study ended the process that worked on it."""
    detail = "the process that read it was ended: out of memory, or a fault in a library"
    row = Dropped(job.study.study_id, "", job.study.source, "read", "process ended", detail)
    notes.write(job.study, CuratedStudy(job.study.study_id, dropped=(row,)))


def _run_pool(
    jobs: Sequence[Job],
    out: Path,
    settings: CurationSettings,
    notes: Notes,
    workers: int,
    tell: Callable[[], None],
) -> list[Job]:
    """Curate in worker processes; return the jobs in flight when a worker was killed, else none."""
    flying: dict[Future[None], Job] = {}
    with open_pool(workers) as pool:
        try:
            for job in jobs:
                flying[pool.submit(curate_one, job, out, settings, notes)] = job
                # A window of two studies a worker keeps memory flat and the workers busy.
                while len(flying) >= 2 * workers:
                    _land(flying, tell)
            while flying:
                _land(flying, tell)
        except BrokenProcessPool:
            return [job for job in flying.values() if not notes.has(job.study)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return []


def _land(flying: dict[Future[None], Job], tell: Callable[[], None]) -> None:
    done, _ = wait(flying, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
        del flying[future]
        tell()
