"""The secret key: ids become keyed hashes, dates move by a number of days that only the key's holder can tell.

In: a key file, ids, studies. Out: pseudonyms, shifts, studies under pseudonyms. Refused: a key that is absent, of
another length, open to others, or inside the folder that is going to be given away. An id without a key could be found
again by trying all that are likely; whoever has the key can find a patient again, nobody else.
"""

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from medfinder.errors import ConfigError
from medfinder.records import Claim, Dropped, Series, Study

_KEY_BYTES = 32
# Days; ours: far enough that season and year are lost, near enough that a scanner of its time stays one.
_SHIFTS = range(31, 3653)
# Claims whose values may tell who somebody is; body part, modality, sex and age may not.
_TELLING = frozenset(("patient", "session", "accession number", "date"))
# Ages above are told as this one. Source: HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C).
OLDEST_TOLD = 90


@dataclass(frozen=True, slots=True)
class Key:
    """A secret of 32 random bytes; never printed, never stored in a dataset."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != _KEY_BYTES:
            raise ConfigError(f"a key of {len(self.secret)} bytes, expected {_KEY_BYTES}; make one with Key.make")

    @classmethod
    def make(cls, path: Path, *, outside: tuple[Path, ...] = ()) -> "Key":
        """Draw a new key and write it for its owner alone (mode 600).

        Args:
            outside: folders that will be given away; the key may lie in none of them.

        Raises:
            ConfigError: there is a file already, or the place is inside one of ``outside``.
        """
        _refuse_inside(path, outside)
        secret = secrets.token_bytes(_KEY_BYTES)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigError(f"{path} is there already; a key is never overwritten: give another name") from None
        except OSError as error:
            raise ConfigError(f"no key can be written to {path}: {error.strerror}") from error
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secret.hex() + "\n")
        return cls(secret)

    @classmethod
    def read(cls, path: Path, *, outside: tuple[Path, ...] = ()) -> "Key":
        """Read a key that ``make`` wrote.

        Raises:
            ConfigError: there is none, it is no key, others may read it, or it lies inside one of ``outside``.
        """
        _refuse_inside(path, outside)
        try:
            mode = path.stat().st_mode
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            raise ConfigError(f"no key file at {path}; make one with --make-key") from None
        except OSError as error:
            raise ConfigError(f"the key file {path} cannot be read: {error.strerror}") from error
        except ValueError:
            raise ConfigError(f"{path} is no key file; expected {2 * _KEY_BYTES} hexadecimal digits") from None
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"the key file {path} is open to others; run: chmod 600 {path}")
        return cls(secret)

    @property
    def check(self) -> str:
        """Eight digits that tell keys apart and give nothing away; for provenance."""
        return self.digest("check").hex()[:8]

    def digest(self, *parts: str) -> bytes:
        """HMAC-SHA256 of some words."""
        text = "\0".join(parts).encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text, hashlib.sha256).digest()


def _refuse_inside(path: Path, outside: tuple[Path, ...]) -> None:
    for folder in outside:
        if path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"the key {path} lies in {folder}, which is to be given away; keep it elsewhere")


def pseudonym(key: Key, kind: str, value: str) -> str:
    """Name something anew: sixteen hexadecimal digits, the same for the same key, kind and value.

    Example:
        >>> pseudonym(Key(bytes(32)), "patient", "P1") == pseudonym(Key(bytes(32)), "study", "P1")
        False
    """
    return key.digest(kind, value).hex()[:16]


def shift_days(key: Key, patient_id: str) -> int:
    """Tell by how many days the dates of a patient move, always back; intervals stay.

    Example:
        >>> -3653 < shift_days(Key(bytes(32)), "P1") < -30
        True
    """
    number = int.from_bytes(key.digest("shift", patient_id)[:8], "big")
    return -_SHIFTS[number % len(_SHIFTS)]


def rekey(study: Study, key: Key) -> Study:
    """Put a study under pseudonyms: its own, the patient's and its series' ids, and what its claims compare.

    Ages over 89 become 90. A phantom has nobody behind it and comes back as it is.
    """
    if study.is_synthetic:
        return study
    return replace(
        study,
        study_id=pseudonym(key, "study", study.study_id),
        patient_id=pseudonym(key, "patient", study.patient_id),
        series=tuple(_rekey_series(series, key) for series in study.series),
        claims=tuple(_rekey_claim(claim, key) for claim in study.claims),
        age_years=None if study.age_years is None else min(study.age_years, OLDEST_TOLD),
    )


def rekey_dropped(row: Dropped, key: Key) -> Dropped:
    """Put what a source set aside under the pseudonyms that its study would have."""
    series_id = pseudonym(key, "series", row.series_id) if row.series_id else ""
    study_id = pseudonym(key, "study", row.study_id) if row.study_id else ""
    return replace(row, study_id=study_id, series_id=series_id)


def _rekey_series(series: Series, key: Key) -> Series:
    return replace(series, series_id=pseudonym(key, "series", series.series_id))


def _rekey_claim(claim: Claim, key: Key) -> Claim:
    if claim.what not in _TELLING:
        return claim
    image, report = (pseudonym(key, claim.what, said) if said else "" for said in (claim.image, claim.report))
    return Claim(claim.what, image, report)
