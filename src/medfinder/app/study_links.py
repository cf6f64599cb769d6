"""The way back from a hit to the PACS: which StudyInstanceUID a pseudonym stands for, told to those who may know.

In: pseudonyms with their UIDs, as studies are taken in; a template of a viewer's address. Out: links. An index holds
pseudonyms alone, and a pseudonym is a keyed hash that even the key does not turn back: without this file there is no
link. Like the key it is for its owner alone (mode 600), and lies outside the index and what goes with it. Refused: a
template without ``{uid}``, a file that others may read.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from medfinder.curation.journal import Journal
from medfinder.errors import ConfigError


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
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise ConfigError(f"the study map {path} cannot be written: {error.strerror}") from error
    _require_private(path)
    journal = Journal(path, StudyLink)
    link = StudyLink(study_id, uid)
    if uid and link not in journal.read():
        journal.append(link)


class ViewerLinks:
    """Turns a hit's study id into the address at which the PACS's viewer shows it.

    Args:
        template: with ``{uid}`` where the StudyInstanceUID goes.
        study_map: written by ``add_link``.

    Raises:
        ConfigError: no such template or file.
    """

    def __init__(self, template: str, study_map: Path) -> None:
        parts = urlsplit(template)
        if template.count("{uid}") != 1 or parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                "the viewer link is no template; expected e.g. http://HOST/viewer?StudyInstanceUIDs={uid}"
            )
        if not study_map.is_file():
            raise ConfigError(f"no study map at {study_map}; ingest and receive write it with --study-map FILE")
        _require_private(study_map)
        self._template = template
        self._journal = Journal(study_map, StudyLink)

    def of(self, study_id: str) -> str | None:
        """Give the address of a study; None where the map does not know it."""
        uids = {link.study_id: link.study_instance_uid for link in self._journal.read()}
        uid = uids.get(study_id)
        return None if uid is None else self._template.replace("{uid}", quote(uid, safe="."))


def _require_private(path: Path) -> None:
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"the study map {path} is open to others; run: chmod 600 {path}")
