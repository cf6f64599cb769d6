"""A DICOMweb server (a PACS): CT studies are found by QIDO-RS and fetched by WADO-RS, then read as a DICOM folder is.

In: the address of the server, ``http://HOST/dicom-web``, or a TOML file with the address, what to look for and where to
keep it (``PacsSettings``). User and password come from the environment or a file, never from the command line. Out: the
studies that ``medfinder.sources.dicom`` would yield of an export of the same studies, with the same ids. First the
headers of all series are fetched, so that what is no CT volume is set aside before a voxel crosses the wire; then each
series, whole or not at all, into a cache that a second run goes on with; curation fetches a series when it looks at it
and forgets it with its study, so that more can be curated than the disk holds. Set aside: a study that the server
refuses, loses or sends by half. Refused: an address that does not answer, wrong credentials, a full cache.
"""

import json
import logging
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from medfinder.config import build_settings, read_toml
from medfinder.errors import ConfigError, DatasetError, MissingExtraError
from medfinder.records import Dropped, Series, Study
from medfinder.sources import dicom
from medfinder.sources.files import hash_id, walk_files

USER, PASSWORD = "MEDFINDER_PACS_USER", "MEDFINDER_PACS_PASSWORD"
_URL = re.compile(r"(https?):/+(.+)")
# Studies asked for at a time; ours: servers cut longer answers short without a word.
_PAGE = 200
# Values of these kinds are long or name people; no header is judged by them.
_NOT_KEPT = frozenset(("PN", "SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN"))
# What a reader takes for a tag where an answer broke off inside the mark between two images: CR LF - -.
_MARKS = (0x0A0D2D2D, 0x0D0A2D2D)
# The transfer syntaxes in which PixelData has the length that the header tells (DICOM PS3.5, A.1 to A.3).
_PLAIN = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"))


@dataclass(frozen=True)
class PacsSettings:
    """What is asked of which server, and where it is kept.

    Attributes:
        url: of the DICOMweb service.
        since: first StudyDate.
        until: last StudyDate.
        patients: PatientIDs; empty for all.
        studies: StudyInstanceUIDs; empty for all.
        limit: at most so many studies; None for all.
        cache: folder for what is fetched; it holds patients' data. None: one for each server in the user's cache.
        credentials: a file with the user on the first line and the password on the second; without it the environment
            (``MEDFINDER_PACS_USER``, ``MEDFINDER_PACS_PASSWORD``) is asked.
        max_gb: the voxels in the cache may grow to about this; the series that crosses the line is still fetched.
        keep: do not forget a study's voxels once it is curated: for curating again with other settings.
        timeout_s: without a byte from the server; ours, long enough for a busy archive to mount a study.
        attempts: for an answer that says "later" (408, 429, 503, 504).
    """

    url: str
    since: date | None = None
    until: date | None = None
    patients: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()
    limit: int | None = None
    cache: Path | None = None
    credentials: Path | None = None
    max_gb: float = 50.0
    keep: bool = False
    timeout_s: float = 60.0
    attempts: int = 3

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("url is no address of a DICOMweb server; expected http://HOST/dicom-web")
        if parts.username or parts.password:
            raise ConfigError(f"the address holds credentials; put them into {USER} and {PASSWORD}, or a file")
        if self.since and self.until and self.since > self.until:
            raise ConfigError(f"since {self.since} is after until {self.until}; swap them")
        # What is no UID is not shown: it may be a name that slipped into the wrong field.
        if any(not is_uid(uid) for uid in self.studies):
            raise ConfigError(
                "studies holds what is no StudyInstanceUID; expected up to 64 digits and dots, e.g. 1.2.840.1"
            )
        for name in ("max_gb", "timeout_s", "attempts", "limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} {value}; expected more than 0")

    @property
    def folder(self) -> Path:
        """Where this server's studies are kept."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return self.cache or home / "medfinder" / f"pacs-{hash_id('pacs', self.url)}"

    @property
    def headers(self) -> Path:
        """Where the headers of what this search finds are kept."""
        asked = {key: str(value) for key, value in asdict(self).items() if key in ("url", "since", "until", "limit")}
        named = [*sorted(self.patients), *(f"study {uid}" for uid in sorted(self.studies))]
        return self.folder / "headers" / hash_id("search", json.dumps(asked, sort_keys=True), *named)


class UnreachableError(DatasetError):
    """The server does not answer just now; asked again later it may."""


def is_uid(text: str) -> bool:
    """Tell whether a text has the form of a UID (DICOM PS3.5, 9.1).

    Example:
        >>> is_uid("1.2.840.10008"), is_uid("1.2.*"), is_uid("")
        (True, False, False)
    """
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text, re.ASCII) is not None


def is_pacs(path: Path) -> bool:
    """Tell whether a source is the address of a server, or a TOML file that holds one."""
    return find_url(path) is not None or (path.suffix.lower() == ".toml" and path.is_file())


def find_url(path: Path) -> str | None:
    """Restore an address that was taken for a path, which swallows one of its two slashes; None where it is a path.

    Example:
        >>> find_url(Path("http://localhost:8042/dicom-web")), find_url(Path("scans"))
        ('http://localhost:8042/dicom-web', None)
    """
    match = _URL.fullmatch(path.as_posix())
    return f"{match[1]}://{match[2]}" if match else None


def read_settings(path: Path) -> PacsSettings:
    """Read what is asked of which server.

    Args:
        path: the server's address, or a TOML file whose keys are the attributes of ``PacsSettings``.

    Raises:
        ConfigError: a key or value cannot be honoured.
    """
    url = find_url(path)
    if url is not None:
        return PacsSettings(url)
    if not is_pacs(path):
        raise ConfigError(f"{path} is no PACS; expected http://HOST/dicom-web, or a .toml file that holds its url")
    values = read_toml(path)
    if "url" not in values:
        raise ConfigError(f"{path} names no server; expected a line like: url = 'http://HOST/dicom-web'")
    return build_settings(PacsSettings, values, where=str(path))


# ------------------------------------------------------------------------------------------------- what callers ask


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the CT studies of a server, each with its voxels fetched.

    Raises:
        ConfigError: the settings cannot be honoured, or nothing is found.
        DatasetError: the server does not answer or lets nobody in, the cache is full, the table cannot be used.
    """
    settings = read_settings(path)
    for entry in list_studies(settings, table=table):
        yield fetch(entry, settings) if isinstance(entry, Study) else entry


def check_settings(settings: PacsSettings) -> None:
    """Refuse what no server could be asked with; nothing is asked yet.

    Raises:
        ConfigError: the credentials cannot be read.
        MissingExtraError: the client is not installed.
    """
    _open_client(settings)


def find_studies(settings: PacsSettings) -> dict[str, str]:
    """Find CT studies without fetching anything: StudyInstanceUID and how many images, empty where it is not said.

    Raises:
        DatasetError: the server does not answer or lets nobody in.
    """
    return _Server(settings).find_studies()


def list_studies(settings: PacsSettings, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the CT studies of a server by their headers; their series lie where ``fetch`` will put them.

    Raises:
        ConfigError: nothing is found.
        DatasetError: as ``read``.
    """
    server = _Server(settings)
    found = server.find_studies()
    if not found:
        raise ConfigError(f"{settings.url} has no CT study like that; widen the dates or the list of patients")
    refused = [lost for uid, count in found.items() if (lost := _fetch_headers(server, uid, count)) is not None]
    _forget_others(settings.headers, {hash_id("study", uid) for uid in found})
    yield from refused
    if len(refused) == len(found):
        return
    for entry in dicom.read(settings.headers, table=table):
        yield _placed(entry, settings) if isinstance(entry, Study) else replace(entry, source="pacs")


def fetch(study: Study, settings: PacsSettings) -> Study | Dropped:
    """Fetch the series of a study that are not there yet, each whole or not at all.

    Raises:
        DatasetError: the server is gone, or the cache is full; what was fetched is kept.
    """
    for series in study.series:
        fault = fetch_series(series, settings)
        if fault is not None:
            return Dropped(study.study_id, series.series_id, "pacs", "fetch", *fault)
    return study


def fetch_series(series: Series, settings: PacsSettings) -> tuple[str, str] | None:
    """Fetch a series that `list_studies` told of, unless it is there.

    Returns:
        None once it is there; else why it cannot be had: reason and detail.

    Raises:
        DatasetError: as ``fetch``.
    """
    if series.path.is_dir():
        return None
    _refuse_full(settings)
    # The ids of study and series may be pseudonyms by now; folders keep the names that the search gave them.
    headers = settings.headers / series.path.parent.name
    expected = [head for head in _read_headers(headers) if head.SeriesInstanceUID == series.series_instance_uid]
    if not expected:
        return "headers forgotten", "its headers have left the cache since the search: another one was run meanwhile"
    try:
        _Server(settings).fetch_series(str(expected[0].StudyInstanceUID), series, len(expected))
    except _StudyRefusedError as error:
        return error.reason, str(error)
    return None


def forget(study: Study) -> None:
    """Delete a study's voxels from the cache; its headers stay, so that it can be fetched again."""
    # What did not come from a server is no copy, and not ours to delete.
    if study.source == "pacs":
        for folder in {series.path.parent for series in study.series}:
            shutil.rmtree(folder, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------- the cache


def _placed(study: Study, settings: PacsSettings) -> Study:
    folder = settings.folder / "voxels" / study.study_id
    series = tuple(replace(one, path=folder / one.series_id) for one in study.series)
    return replace(study, source="pacs", series=series)


def _fetch_headers(server: "_Server", uid: str, count: str) -> Dropped | None:
    """Keep the headers of a study, unless they are there and no image has come since."""
    study_id = hash_id("study", uid)
    folder = server.settings.headers / study_id
    # Hidden, so that it is no file of the study.
    note = folder / ".instances"
    if count and note.is_file() and note.read_text() == count:
        return None
    try:
        heads = server.fetch_headers(uid)
    except _StudyRefusedError as error:
        return Dropped(study_id, "", "pacs", "fetch", error.reason, str(error))
    with _whole_folder(folder) as unfinished:
        for number, head in enumerate(heads):
            head.save_as(unfinished / f"{number:06d}.dcm", enforce_file_format=True)
        (unfinished / ".instances").write_text(count)
    return None


def _read_headers(folder: Path) -> Iterator[Any]:
    return (pydicom.dcmread(file, stop_before_pixels=True) for file in walk_files(folder))


def _forget_others(folder: Path, wanted: set[str]) -> None:
    """Forget the headers of studies that the search no longer finds."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in wanted:
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Hand out a folder that takes its place only when it was filled without an error."""
    unfinished = folder.with_name(f".fetching-{folder.name}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        # What is kept here is patients' data: nobody else's to read.
        unfinished.mkdir(parents=True, mode=0o700)
        yield unfinished
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"cannot write to the cache {folder.parent}: {reason}; what is whole is kept") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_full(settings: PacsSettings) -> None:
    held = sum(_sizes(settings.folder / "voxels")) / 1e9
    if held >= settings.max_gb:
        raise DatasetError(
            f"the cache {settings.folder} holds {held:.1f} GB, the limit is {settings.max_gb:g}; "
            "what is there is kept: raise max_gb, or ask for less by since, until, patients or limit"
        )


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the sizes of the files in a folder that other processes fill and empty meanwhile."""
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield (Path(place) / name).stat().st_size


# ----------------------------------------------------------------------------------------------------- the server


class _StudyRefusedError(Exception):
    """One study cannot be had; the others go on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _Server:
    """One DICOMweb server, and what its answers mean."""

    def __init__(self, settings: PacsSettings) -> None:
        self.settings = settings
        self._client = _open_client(settings)

    def find_studies(self) -> dict[str, str]:
        """Find CT studies: StudyInstanceUID and how many images each has, empty where the server does not say."""
        found: dict[str, str] = {}
        for key, value in self._keys_to_ask():
            for answer in self._pages({key: value} if key else {}):
                if self._is_wanted(answer):
                    found[_first(answer, "0020000D")] = _first(answer, "00201208")
        ordered = sorted(found, key=lambda uid: hash_id("study", uid))
        return {uid: found[uid] for uid in ordered[: self.settings.limit]}

    def fetch_headers(self, uid: str) -> list[Any]:
        """Fetch the header of every image of a study, without long values and names of people."""
        with self._errors_told():
            answers = self._client.retrieve_study_metadata(uid)
        try:
            heads = [_as_header(answer) for answer in answers]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _StudyRefusedError(
                "unreadable headers", f"{type(error).__name__} while reading its headers"
            ) from error
        if not heads or any(str(head.get("StudyInstanceUID")) != uid for head in heads):
            raise _StudyRefusedError("unreadable headers", f"{len(heads)} headers, not all of this study")
        return heads

    def fetch_series(self, study_uid: str, series: Series, expected: int) -> None:
        """Fetch every image of a series as it is stored, whole or not at all."""
        count = 0
        with _whole_folder(series.path) as folder, self._errors_told():
            # Any transfer syntax: a lossless JPEG crosses the wire as it is.
            images = self._client.iter_series(study_uid, series.series_instance_uid, (("application/dicom", "*"),))
            for count, image in enumerate(images, start=1):
                if _is_cut_off(image):
                    raise _StudyRefusedError("incomplete", f"image {count} of {expected} of a series was cut off")
                image.save_as(folder / f"{count:06d}.dcm", enforce_file_format=True)
            if count != expected:
                raise _StudyRefusedError("incomplete", f"{count} images of a series came, expected {expected}")

    def _keys_to_ask(self) -> Iterable[tuple[str, str]]:
        if self.settings.studies:
            return [("StudyInstanceUID", uid) for uid in dict.fromkeys(self.settings.studies)]
        # Some servers do not undo percent signs: ids that need them are looked for among all studies.
        patients = self.settings.patients
        is_plain = all(re.fullmatch(r"[\w.-]+", patient, re.ASCII) for patient in patients)
        return [("PatientID", one) for one in dict.fromkeys(patients)] if patients and is_plain else [("", "")]

    def _pages(self, key: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """Ask page by page until nothing new comes: some servers pass over the offset."""
        filters = {"ModalitiesInStudy": "CT", **key}
        since, until = (f"{day:%Y%m%d}" if day else "" for day in (self.settings.since, self.settings.until))
        if since or until:
            filters["StudyDate"] = f"{since}-{until}"
        seen: set[str] = set()
        while True:
            with self._errors_told(is_study=False):
                answers = self._client.search_for_studies(search_filters=filters, limit=_PAGE, offset=len(seen))
            new = [answer for answer in answers if _first(answer, "0020000D") not in seen | {""}]
            if not new:
                return
            yield from new
            seen |= {_first(answer, "0020000D") for answer in new}

    def _is_wanted(self, answer: Mapping[str, Any]) -> bool:
        """Judge again what a server may not have judged; what it does not say is no reason against a study."""
        modalities, day = answer.get("00080061", {}).get("Value") or ["CT"], _first(answer, "00080020")
        settings = self.settings
        if "CT" not in modalities or (settings.patients and _first(answer, "00100020") not in settings.patients):
            return False
        if settings.studies and _first(answer, "0020000D") not in settings.studies:
            return False
        earliest, latest = (f"{bound:%Y%m%d}" if bound else "" for bound in (settings.since, settings.until))
        return not day or (earliest <= day and (not latest or day <= latest))

    @contextmanager
    def _errors_told(self, *, is_study: bool = True) -> Iterator[None]:
        """Turn what goes wrong on the wire into one line: about one study, or, where none can be had, about all."""
        import requests
        import retrying

        url = self.settings.url
        try:
            yield
        except requests.exceptions.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            if code in (401, 403):
                raise DatasetError(
                    f"{url} lets nobody in with these credentials ({code}); set {USER} and {PASSWORD}"
                ) from None
            self._refuse(is_study, "refused by the server", f"the server answered {code}")
        except retrying.RetryError:
            self._refuse(is_study, "refused by the server", f"the server said 'later' {self.settings.attempts} times")
        except requests.exceptions.ConnectTimeout:
            raise UnreachableError(
                f"{url} does not answer within {self.settings.timeout_s:g} s; is the address right?"
            ) from None
        except requests.exceptions.Timeout:
            self._refuse(is_study, "timed out", f"no byte within {self.settings.timeout_s:g} s")
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
            self._refuse(is_study, "incomplete", "the answer ended in the middle")
        except requests.exceptions.JSONDecodeError:
            self._refuse(is_study, "unreadable answer", "the answer is no DICOM JSON; is this the DICOMweb address?")
        except requests.exceptions.SSLError:
            raise DatasetError(
                f"{url} is not trusted: its certificate does not pass; name the PEM file of its authority in "
                "REQUESTS_CA_BUNDLE"
            ) from None
        except requests.exceptions.ConnectionError as error:
            if "timed out" in str(error):
                self._refuse(is_study, "timed out", f"no byte within {self.settings.timeout_s:g} s")
            raise UnreachableError(
                f"{url} cannot be reached; what is fetched is kept: see that the server runs"
            ) from None
        except requests.exceptions.RequestException as error:
            self._refuse(is_study, "refused by the server", type(error).__name__)
        except (ValueError, TypeError, KeyError, EOFError, pydicom.errors.InvalidDicomError) as error:
            self._refuse(is_study, "unreadable answer", f"{type(error).__name__} while reading the answer")

    def _refuse(self, is_study: bool, reason: str, detail: str) -> None:
        if is_study:
            raise _StudyRefusedError(reason, detail) from None
        raise DatasetError(f"{self.settings.url} cannot be searched: {detail}") from None


def _open_client(settings: PacsSettings) -> Any:
    try:
        from dicomweb_client.api import DICOMwebClient
        from dicomweb_client.session_utils import create_session, create_session_from_user_pass
    except ModuleNotFoundError as error:
        raise MissingExtraError("dicomweb-client", "pacs") from error
    # It would print whole requests, and the patients' ids in them, wherever a program has set up no log.
    logging.getLogger("retrying").setLevel(logging.CRITICAL)
    known = _read_credentials(settings.credentials)
    session = create_session_from_user_pass(*known) if known else create_session()
    client = DICOMwebClient(settings.url, session=session, timeout=settings.timeout_s, permissive_uid=True)
    client.set_http_retry_params(max_attempts=settings.attempts, wait_exponential_multiplier=500)
    return client


def _read_credentials(path: Path | None) -> tuple[str, str] | None:
    if path is None:
        user, password = os.environ.get(USER), os.environ.get(PASSWORD)
        if bool(user) != bool(password):
            raise ConfigError(f"one of {USER} and {PASSWORD} is not set; set both or none")
        return (user, password) if user and password else None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"credentials cannot be read from {path}: {type(error).__name__}") from None
    if len(lines) < 2 or not lines[0] or not lines[1]:
        raise ConfigError(
            f"{path} holds no credentials; expected the user on its first line, the password on its second"
        )
    return lines[0], lines[1]


def _first(answer: Mapping[str, Any], tag: str) -> str:
    values = answer.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _as_header(answer: Mapping[str, Any]) -> Any:
    kept = {
        tag: element
        for tag, element in answer.items()
        if element.get("vr") not in _NOT_KEPT and "BulkDataURI" not in element and not tag.startswith("0002")
    }
    head = pydicom.Dataset.from_json(kept)
    head.file_meta = pydicom.dataset.FileMetaDataset()
    head.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head.file_meta.MediaStorageSOPClassUID = head.get("SOPClassUID", "0.0")
    head.file_meta.MediaStorageSOPInstanceUID = head.get("SOPInstanceUID", "0.0")
    return head


def _is_cut_off(image: Any) -> bool:
    """Tell whether an answer ended in this image: fewer bytes than its header says, or half a mark after them.

    Of what is compressed, missing bytes cannot be told.
    """
    if any(mark in image for mark in _MARKS):
        return True
    if image.file_meta.TransferSyntaxUID not in _PLAIN or "PixelData" not in image:
        return "Rows" in image and "PixelData" not in image
    frames = int(image.get("NumberOfFrames") or 1)
    samples = int(image.get("SamplesPerPixel") or 1)
    return bool(len(image.PixelData) * 8 < image.Rows * image.Columns * frames * samples * image.BitsAllocated)
