"""The errors that medfinder raises on purpose, and nothing else.

In: nothing. Out: the tree below. The command line turns each of them into one line and exit code 2, the server into a
4xx with the same text. A message says what was found, what was expected and what to do; it never holds report text,
names, dates or patient identifiers.

    MedFinderError
    ├── ConfigError       a setting, option or query that cannot be honoured
    ├── StudyError        one examination that cannot be read or trusted: set aside, the rest goes on
    │   └── VolumeError   ... because of its voxels, header or geometry
    ├── DatasetError      a source table or dataset folder that is not what it should be
    ├── CheckpointError   a model folder that is incomplete, damaged or of another kind
    ├── SearchIndexError  an index that is absent, damaged or made by another model
    ├── StateError        what the server remembers cannot be opened, read or written just now
    └── MissingExtraError an optional part that is not installed; names the command that installs it
"""


class MedFinderError(Exception):
    """Root of every error that medfinder raises on purpose."""


class ConfigError(MedFinderError):
    """A setting, option or query cannot be honoured."""


class StudyError(MedFinderError):
    """One examination cannot be read or trusted; the others go on."""


class VolumeError(StudyError):
    """The voxels, header or geometry of one CT volume cannot be trusted.

    Attributes:
        reason: short stable code for tables, e.g. ``"truncated"`` or ``"singular affine"``.
    """

    def __init__(self, message: str, *, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the reason, so that it survives the way back from a worker process."""
        return (_rebuild_volume_error, (type(self), str(self), self.reason))


def _rebuild_volume_error(kind: type[VolumeError], message: str, reason: str) -> VolumeError:
    return kind(message, reason=reason)


class DatasetError(MedFinderError):
    """A source table or dataset folder is not what it should be."""


class CheckpointError(MedFinderError):
    """A model folder is incomplete, damaged or of another kind."""


class SearchIndexError(MedFinderError):
    """An index is absent, damaged or made by another model."""


class StateError(MedFinderError):
    """What the server remembers cannot be opened, read or written: a full disk, a database that is gone or too old."""


class MissingExtraError(MedFinderError):
    """An optional part of medfinder is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed; run: pip install 'medfinder[{extra}]'")
