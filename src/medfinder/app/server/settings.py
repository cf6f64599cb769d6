"""What one server may be asked to bear: sizes, times, and how much is done side by side.

In: ``NAME=VALUE`` words of ``--limit``. Out: frozen ``Limits``. Refused with ``ConfigError``: unknown names, values
that are no positive numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from medfinder.config import build_settings
from medfinder.errors import ConfigError
from medfinder.records import VIEW_MM


@dataclass(frozen=True)
class Limits:
    """How much a request may bring and take; all ours, for one machine with two cores and 8 GB.

    Attributes:
        body_kb: of a request that is no upload; a long report has 5 kB.
        upload_mb: of an uploaded CT; the longest thin-slice chest has 1,500 slices of 0.5 MB.
        unpacked_mb: of what lies in an uploaded zip, and of any file made from it.
        members: files in a zip.
        ratio: by which a zip may shrink what it holds; DICOM of air shrinks twentyfold.
        silence_s: that a client may make in the middle of a request.
        upload_s: for a whole upload.
        read_s: to read and understand a CT that is asked with.
        study_s: to fetch a study that is asked with from the PACS, and read it.
        ingest_s: to curate an uploaded CT.
        memory_mb: address space of the process that reads uploads.
        searches: done side by side; the engine and the model use all cores for one.
        waiting: searches that may wait for their turn, some six seconds; whoever comes then is told to come again.
        jobs: uploads that may wait to be curated.
        pictures_mb: slices and previews kept in memory.
        view_mm: voxels of what an ingested CT is looked at with, see ``CurationSettings``; more is coarser and smaller.
    """

    body_kb: int = 512
    upload_mb: int = 2_048
    unpacked_mb: int = 4_096
    members: int = 20_000
    ratio: int = 200
    silence_s: float = 20.0
    upload_s: float = 1_800.0
    read_s: float = 120.0
    study_s: float = 300.0
    ingest_s: float = 900.0
    memory_mb: int = 12_288
    searches: int = 4
    waiting: int = 200
    jobs: int = 200
    pictures_mb: int = 256
    view_mm: float = VIEW_MM

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"limit {field.name} {value}; expected a number above 0")

    @property
    def upload_bytes(self) -> int:
        """Of an uploaded CT."""
        return self.upload_mb * 2**20


def read_limits(words: Sequence[str]) -> Limits:
    """Read ``NAME=VALUE`` words.

    Example:
        >>> read_limits(["upload_mb=500"]).upload_mb
        500
        >>> read_limits(["upload_mb=many"])
        Traceback (most recent call last):
        medfinder.errors.ConfigError: --limit upload_mb=many; expected NAME=NUMBER, e.g. upload_mb=500
    """
    values: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"--limit {word}; expected NAME=NUMBER, e.g. upload_mb=500") from None
        values[name.strip()] = int(number) if number.is_integer() else number
    return build_settings(Limits, values, where="--limit")
