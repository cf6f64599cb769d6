"""Uploads that are to be curated and indexed: a queue of folders, worked off one after another.

In: an uploaded file with its report. Out: a job's id, given only once all of it is on disk for good; later its outcome.
Killed at any moment and started again, the queue goes on: a job that was under way is done again from its upload, and
comes to the same cases. Where the disk is full a job waits until there is room. Refused: more jobs than may wait.

    STATE/jobs/ID/upload.*     what was sent; gone when the job is done
    STATE/jobs/ID/report.txt   the report as sent; gone when the job is done
    STATE/jobs/ID/job.json     status and outcome; no report text, no names
    STATE/cases/ID/            the dataset that it became
"""

import contextlib
import errno
import json
import logging
import os
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from medfinder.app.server.faults import Refusal, is_disk_full
from medfinder.app.server.reading import Curated
from medfinder.app.server.uploads import store_for_good
from medfinder.errors import MedFinderError
from medfinder.records import plural
from medfinder.sources.files import write_whole

_LOG = logging.getLogger("medfinder.server")

# Ours: a job that ended the server twice would do so a third time.
_MOST_TRIES = 3
# Ours: somebody has to make room first.
_PAUSE_S = 60.0
_FULL = "no space left on the server's disk; tried again every minute"


@dataclass(frozen=True)
class Job:
    """One upload on its way into the index.

    Attributes:
        cases: ids that can be searched for now.
        held: cases that wait for a person; medfinder review shows them.
        dropped: why something was set aside: stage, reason, detail.
        message: why it failed, or empty.
        seconds: from acknowledged to searchable.
    """

    id: str
    status: Literal["waiting", "working", "done", "failed"]
    created: float
    tries: int = 0
    cases: tuple[str, ...] = ()
    held: int = 0
    dropped: tuple[dict[str, str], ...] = ()
    message: str = ""
    seconds: float | None = None


class Jobs:
    """The queue; ``work`` turns a job's upload into cases that are in the index when it returns.

    Args:
        work: given the folder of the job, the folder for its dataset.
    """

    def __init__(self, folder: Path, work: Callable[[Path, Path], Curated], *, most: int) -> None:
        self._jobs, self._cases = folder / "jobs", folder / "cases"
        self._work = work
        self._most = most
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        for place in (self._jobs, self._cases):
            place.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Take up what an earlier server left, oldest first, and begin."""
        found = [job for place in self._jobs.iterdir() if (job := self.find(place.name)) is not None]
        for job in sorted(found, key=lambda one: one.created):
            if job.status in ("waiting", "working"):
                self._queue.put(job.id)
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Begin no other job; what waits is taken up by the next server, and so is one that fails from now on."""
        self._is_closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._queue.qsize()

    def require_room(self) -> None:
        """Refuse another job where too many wait.

        Raises:
            Refusal: they do.
        """
        if self.waiting >= self._most:
            raise Refusal(503, "too many uploads wait to be indexed; try again later", {"Retry-After": "60"})

    def add(self, upload: Path, report: str) -> Job:
        """Take an upload over, with the folder that it lies in; when this returns, nothing can lose it.

        Args:
            upload: alone in a folder on the disk of the jobs.
        """
        self.require_room()
        job = Job(secrets.token_hex(8), "waiting", time.time())
        folder = upload.parent
        (folder / "report.txt").write_text(report, encoding="utf-8")
        (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
        for file in folder.iterdir():
            store_for_good(file)
        store_for_good(folder)
        folder.rename(self._jobs / job.id)
        store_for_good(self._jobs)
        self._queue.put(job.id)
        return job

    def find(self, job_id: str) -> Job | None:
        """Look a job up; None where there is none."""
        if not job_id.isalnum():
            return None
        try:
            facts = json.loads((self._jobs / job_id / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return Job(**{**facts, "cases": tuple(facts["cases"]), "dropped": tuple(facts["dropped"])})

    def _go_on(self) -> None:
        while (job_id := self._queue.get()) is not None:
            job = self.find(job_id)
            # One that was put in twice, when it came and at the start, is done once.
            if job is None or job.status in ("done", "failed"):
                continue
            try:
                self._do(job)
            except OSError as error:
                _LOG.error("job %s is put off: %s", job.id, error.strerror)
                self._put_off(job)

    def _put_off(self, job: Job) -> None:
        """Leave a job for later; what it had made so far takes no room meanwhile."""
        shutil.rmtree(self._cases / job.id, ignore_errors=True)
        self._clear(job, keep=("job.json", "report.txt", "upload.nii", "upload.nii.gz", "upload.zip"))
        with contextlib.suppress(OSError):
            self._write(replace(job, status="waiting", message=_FULL))
        pause = threading.Timer(_PAUSE_S, self._queue.put, [job.id])
        pause.daemon = True
        pause.start()

    def _clear(self, job: Job, *, keep: tuple[str, ...] = ("job.json",)) -> None:
        for left in (self._jobs / job.id).iterdir():
            if left.name not in keep:
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _do(self, job: Job) -> None:
        if job.tries >= _MOST_TRIES:
            self._write(replace(job, status="failed", message=f"given up after {job.tries} tries; the server ended"))
            return
        job = replace(job, status="working", tries=job.tries + 1, message="")
        self._write(job)
        place = self._jobs / job.id
        try:
            made = self._work(place, self._cases / job.id)
        except Exception as error:
            if self._is_closed:
                # The end of the server may be why, and is no fault of the file.
                self._write(replace(job, status="waiting", tries=job.tries - 1))
                return
            if is_disk_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            if isinstance(error, MedFinderError):
                shutil.rmtree(self._cases / job.id, ignore_errors=True)
                message = " ".join(str(error).split())
            else:
                _LOG.error("job %s failed: %s", job.id, type(error).__name__)
                message = "the server failed; its log says where"
            done = replace(job, status="failed", message=message)
        else:
            dropped = tuple({"stage": row.stage, "reason": row.reason, "detail": row.detail} for row in made.dropped)
            message = "" if made.cases else _tell_empty(made)
            seconds = round(time.time() - job.created, 1)
            done = replace(
                job,
                status="done" if made.cases or made.held else "failed",
                cases=made.cases,
                held=made.held,
                dropped=dropped,
                message=message,
                seconds=seconds,
            )
        self._write(done)
        self._clear(job)

    def _write(self, job: Job) -> None:
        path = self._jobs / job.id / "job.json"
        write_whole(path, json.dumps(asdict(job)).encode())
        store_for_good(path)


def _tell_empty(made: Curated) -> str:
    """Say why no case came of an upload."""
    reasons = "; ".join(dict.fromkeys(f"{row.reason}: {row.detail}" for row in made.dropped))
    if made.held:
        return f"held until a person has looked: {plural(made.held, 'case')}; see medfinder review"
    return f"everything was set aside: {reasons}"[:1_000]
