"""The way back from a hit to the PACS: which StudyInstanceUID a pseudonym stands for, told to those who may know.

In: pseudonyms with their UIDs, as studies are taken in; a template of a viewer's address. Out: links. An index holds
pseudonyms alone, and a pseudonym is a keyed hash that even the key does not turn back: without this file there is no
link. Like the key it is for its owner alone (mode 600), and lies outside the index and what goes with it. Refused: a
template without ``{StudyInstanceUID}``, or one that leads anywhere but to a web page; a file that others may read.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from medfinder.curation.journal import Journal
from medfinder.errors import ConfigError

PLACEHOLDER = "{StudyInstanceUID}"
# What an address is written with (RFC 3986, 2), and the placeholder's braces.
_PLAIN = re.compile(r"[\w.~:/?#\[\]@!$&'()*+,;=%{}-]+", re.ASCII)


@dataclass(frozen=True)
class StudyLink:
    """One study under both names."""

    study_id: str
    study_instance_uid: str


def add_link(path: Path, study_id: str, uid: str) -> None:
    """Remember which UID a pseudonym stands for.

    Raises:
        ConfigError: the file is open to others, or cannot be written.
    """
    open_map(path)
    journal = Journal(path, StudyLink)
    link = StudyLink(study_id, uid)
    if uid and link not in journal.read():
        journal.append(link)


def open_map(path: Path) -> None:
    """Make the file if it is not there, for its owner alone.

    Raises:
        ConfigError: as ``add_link``.
    """
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise ConfigError(f"the study map {path} cannot be written: {error.strerror}") from error
    _require_private(path)


class ViewerLinks:
    """Turns a hit's study id into the address at which the PACS's viewer shows it.

    Args:
        template: with ``{StudyInstanceUID}`` where that goes.
        study_map: written by ``add_link``, also while this is in use.

    Raises:
        ConfigError: no such template or file.
    """

    def __init__(self, template: str, study_map: Path) -> None:
        check_template(template)
        if not study_map.is_file():
            raise ConfigError(f"no study map at {study_map}; ingest and receive write it with --study-map FILE")
        _require_private(study_map)
        self._template = template
        self.path, self._journal = study_map, Journal(study_map, StudyLink)
        self._uids: dict[str, str] = {}
        self._read_bytes = 0
        self._read()

    def __len__(self) -> int:
        """Tell how many studies have a link."""
        self._read()
        return len(self._uids)

    def of(self, study_id: str) -> str | None:
        """Give the address of a study; None where the map does not know it."""
        self._read()
        uid = self._uids.get(study_id)
        return None if uid is None else self._template.replace(PLACEHOLDER, quote(uid, safe="."))

    def _read(self) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._read_bytes:
            self._uids = {link.study_id: link.study_instance_uid for link in self._journal.read()}
            self._read_bytes = size


def check_template(template: str) -> None:
    """Refuse what is no template of a viewer's address.

    Example:
        >>> check_template("https://pacs.example/viewer?StudyInstanceUIDs={StudyInstanceUID}")
        >>> check_template("javascript:alert({StudyInstanceUID})")
        Traceback (most recent call last):
        medfinder.errors.ConfigError: the viewer link is no template; expected an http or https address that holds \
{StudyInstanceUID} once behind its host, e.g. https://HOST/viewer?StudyInstanceUIDs={StudyInstanceUID}
    """
    try:
        parts = urlsplit(template)
        is_page = parts.scheme in ("http", "https") and bool(parts.hostname) and PLACEHOLDER not in parts.netloc
    except ValueError:
        is_page = False
    if not is_page or template.count(PLACEHOLDER) != 1 or not _PLAIN.fullmatch(template):
        raise ConfigError(
            "the viewer link is no template; expected an http or https address that holds {StudyInstanceUID} once "
            "behind its host, e.g. https://HOST/viewer?StudyInstanceUIDs={StudyInstanceUID}"
        )


def _require_private(path: Path) -> None:
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"the study map {path} is open to others; run: chmod 600 {path}")
