"""Curate many studies on a Ray cluster: the same function per study as in a process pool, mapped over machines.

In: studies, a cluster's address, an output folder that every machine sees under the same path (a shared disk). Out: a
note for each study, as from a pool; the same bytes. Refused: no Ray, no cluster at the address, a machine that cannot
see the folder.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medfinder.curation.notes import Notes
from medfinder.curation.pool import curate_one, note_ended
from medfinder.curation.study import CurationSettings, Job
from medfinder.errors import ConfigError, MissingExtraError

# Studies under way for each processor: enough that none waits, few enough that memory stays flat.
_AHEAD = 2
# For a machine that is up to say that it listens; ours.
_PATIENCE_S = 10.0


def curate_on_ray(
    todo: Sequence[Job],
    out: Path,
    settings: CurationSettings,
    notes: Notes,
    address: str,
    tell: Callable[[], None],
) -> None:
    """Curate studies on a cluster; a study that ends its worker twice is set aside, the others go on.

    Args:
        address: of the cluster's head, ``HOST:PORT`` or ``ray://HOST:PORT``; ``auto`` finds the one of this machine.
        tell: called once a study is done.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: no cluster answers, or one of its machines cannot see the folders.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "ray") from error
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}; start one (ray start --head), or leave the cluster out"
        ) from error
    # One more try after a worker died: its neighbour may have taken the memory.
    work = ray.remote(max_retries=1)(_curate_if_seen)
    shared = ray.put((out.resolve(), settings, Notes(notes.place.resolve())))
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    window = max(1, int(resources.get("CPU", 1))) * _AHEAD
    flying: dict[Any, Job] = {}
    for job in todo:
        flying[work.remote(job, shared)] = job
        if len(flying) >= window:
            _land(ray, flying, notes, tell)
    while flying:
        _land(ray, flying, notes, tell)


def _knock(address: str) -> None:
    """See whether anybody listens at HOST:PORT: Ray alone would ask on for a minute and fill the screen meanwhile."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()


def _curate_if_seen(job: Job, shared: tuple[Path, CurationSettings, Notes]) -> None:
    out, settings, notes = shared
    if not notes.place.is_dir():
        raise ConfigError(f"a machine of the cluster cannot see {out}; use a folder that all of them share")
    curate_one(job, out, settings, notes)


def _land(ray: Any, flying: dict[Any, Job], notes: Notes, tell: Callable[[], None]) -> None:
    done, _ = ray.wait(list(flying), num_returns=1)
    for future in done:
        job = flying.pop(future)
        try:
            ray.get(future)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
            note_ended(job, notes)
        tell()
