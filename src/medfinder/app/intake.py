"""Studies on their way into an index, one at a time: pulled from a PACS, or received from a scanner.

In: what to look for on a DICOMweb server, or a folder of DICOM files of one study; where it is to go: an index folder,
or a running server. Out: cases that can be found, and one line for each study in a ledger, written when its cases are
in the index; a second run passes over what the ledger and the index both know. Ids become pseudonyms under a key on the
way in. Set aside: a study that the PACS does not give up whole, or curation refuses. Refused: a PACS or server that is
gone (what is in the index stays there; run again to go on), an index that another process has open.
"""

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from medfinder.app.remote import open_client
from medfinder.app.study_links import add_link
from medfinder.client import Client, ServerError
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.deidentify.keys import Key, pseudonym
from medfinder.curation.journal import Journal
from medfinder.curation.quality import QualitySettings
from medfinder.errors import ConfigError, DatasetError, MedFinderError, SearchIndexError, StudyError
from medfinder.records import VIEW_MM, Dropped, Study, plural
from medfinder.retrieval.build import build_index
from medfinder.retrieval.index import SearchIndex, is_index
from medfinder.sources import pacs
from medfinder.sources.files import hash_id, is_dicom, walk_files
from medfinder.sources.receive import Inbox, ReceiveSettings, receiver

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

T = TypeVar("T")

# Ours: as for one's own folders of CTs, a partial chest is still worth finding.
_MIN_DIMENSION = 10
# Another process may search the index for a moment.
_WAIT_S = 30.0
# Ours: a study of 2,000 slices is curated in about a minute; others may wait before it.
_JOB_S = 1_800.0
# What the PACS may do better a moment later.
_PASSING = frozenset(("incomplete", "timed out"))
# What a server answers about one study (too large, unreadable); everything else is about all of them.
_OF_ONE_STUDY = (413, 415, 422)


@dataclass(frozen=True)
class Taken:
    """What became of one study; a line of the ledger.

    Attributes:
        study: its name in the ledger; of an index folder, its pseudonym.
        images: how many it had; empty where the PACS does not say.
        cases: ids that can be searched for.
        held: cases that wait for a person.
        reasons: why anything was set aside; no names, no dates.
    """

    study: str
    images: str = ""
    cases: tuple[str, ...] = ()
    held: int = 0
    reasons: tuple[str, ...] = ()


@dataclass
class IngestSummary:
    """What an ingest came to.

    Attributes:
        found: studies that the PACS has.
        there: passed over, since they were taken before and have not grown.
        images: of the studies to take, as far as the PACS says.
        taken: studies that are searchable now.
        without_case: studies of which curation kept nothing.
        not_fetched: studies that the PACS did not give up whole, with the reason; they are asked for again next time.
    """

    found: int
    there: int
    images: int
    taken: int = 0
    cases: int = 0
    held: int = 0
    without_case: int = 0
    not_fetched: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, taken: Taken) -> None:
        """Count one study."""
        self.taken += bool(taken.cases or taken.held)
        self.without_case += not (taken.cases or taken.held)
        self.cases += len(taken.cases)
        self.held += taken.held
        for reason in taken.reasons:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


class Place(Protocol):
    """Where studies go."""

    ledger: Path

    def name(self, study_hash: str) -> str:
        """Name a study for the ledger.

        Args:
            study_hash: ``hash_id("study", StudyInstanceUID)``.
        """

    def holds(self, cases: Sequence[str]) -> bool:
        """Tell whether all these cases can be searched for."""

    def take(self, folder: Path, name: str, images: str) -> Taken:
        """Take in the DICOM files of one study; when this returns, its cases can be searched for.

        Raises:
            StudyError: this study cannot be had; others can.
        """


class IndexFolder:
    """An index folder; the curated cases lie beside it, in ``INDEX.cases/pacs``.

    Args:
        key: by which ids become pseudonyms; not in the index or beside its cases.
        study_map: file that remembers which StudyInstanceUID a pseudonym stands for; None: nobody remembers.
        view_mm: of the copies for people to look at; 0 for none.

    Raises:
        ConfigError: the key cannot be used.
        SearchIndexError: the index was made with another model.
    """

    def __init__(
        self,
        index: Path,
        encoder: "DualEncoder",
        key: Path,
        study_map: Path | None = None,
        *,
        view_mm: float = VIEW_MM,
    ) -> None:
        self._index, self._encoder, self._key_file, self._study_map = index, encoder, key, study_map
        self._view_mm = view_mm
        self._folder = index.with_name(f"{index.name}.cases") / "pacs"
        self._key = Key.read(key, outside=(index, self._folder.parent))
        if study_map is not None and any(
            study_map.resolve().is_relative_to(one.resolve()) for one in (index, self._folder.parent)
        ):
            raise ConfigError(f"{study_map} lies in what may be given away; keep it beside the key")
        self.ledger = self._folder / "ledger.jsonl"
        self._held: set[str] = set()
        if is_index(index):
            with SearchIndex.open(index, wait_s=_WAIT_S) as opened:
                opened.require_model(encoder.digest, encoder.width)
                self._held = set(opened.digests())

    def name(self, study_hash: str) -> str:
        """Give the study's pseudonym, which is its ``study_id`` in the index."""
        return pseudonym(self._key, "study", study_hash)

    def holds(self, cases: Sequence[str]) -> bool:
        """Tell whether the index has these cases."""
        return self._held.issuperset(cases)

    def take(self, folder: Path, name: str, images: str) -> Taken:
        """Curate a study into a dataset of its own, and index that."""
        out = self._folder / name
        settings = CurationSettings(
            grid=self._encoder.grid,
            quality=QualitySettings(min_dimension=_MIN_DIMENSION),
            require_report=False,
            deidentify=True,
            view_mm=self._view_mm,
        )
        curate(folder, out, settings, source_kind="dicom", key=self._key_file)
        made = Dataset.open(out)
        build_index(made, self._index, self._encoder)
        if self._study_map is not None:
            add_link(self._study_map, name, _read_study_uid(folder))
        cases = tuple(case.case_id for case in made.cases)
        self._held.update(cases)
        reasons = tuple(f"{row.stage}: {row.reason}" for row in made.dropped)
        return Taken(name, images, cases, len(made.held), reasons)


def open_index_folder(
    index: Path,
    model: Path | None,
    key: Path | None,
    study_map: Path | None,
    *,
    make_key: bool,
    view_mm: float = VIEW_MM,
) -> IndexFolder:
    """Open an index folder as a place, with its model.

    Raises:
        ConfigError: there is no key.
    """
    from medfinder.models.checkpoint import load_model

    if key is None:
        raise ConfigError(
            "ids of patients and studies become pseudonyms by a secret key, and none is given: pass --key-file FILE "
            "(with --make-key the first time)"
        )
    if make_key and not key.exists():
        Key.make(key, outside=(index, index.with_name(f"{index.name}.cases")))
    return IndexFolder(index, load_model(model), key, study_map, view_mm=view_mm)


class RunningServer:
    """A running medfinder server, which curates under a key of its own.

    Args:
        folder: of this side, for the ledger and the zip that is being sent; it holds patients' data.
    """

    def __init__(self, client: Client, url: str, folder: Path) -> None:
        self._client = client
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.ledger = folder / f"sent-{hash_id('server', url)}.jsonl"
        client.info()

    def name(self, study_hash: str) -> str:
        """Give the hash itself: the server's key is the server's."""
        return study_hash

    def holds(self, cases: Sequence[str]) -> bool:
        """Ask the server for each case."""
        try:
            for case in cases:
                self._client.case(case)
        except ServerError as error:
            if error.status == 404:
                return False
            raise
        return True

    def take(self, folder: Path, name: str, images: str) -> Taken:
        """Send a study as a zip, and wait until it can be searched for."""
        packed = self._folder / f".sending-{name}.zip"
        try:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
                for number, file in enumerate(file for file in walk_files(folder) if is_dicom(file)):
                    archive.write(file, f"{number:06d}.dcm")
            job = self._client.ingest(packed, wait_s=_JOB_S)
        except ServerError as error:
            if error.code == "failed":
                return Taken(name, images, reasons=("server: failed",))
            if error.status in _OF_ONE_STUDY:
                raise StudyError(f"the server refused it ({error.status})") from error
            raise
        finally:
            packed.unlink(missing_ok=True)
        reasons = tuple(f"{row['stage']}: {row['reason']}" for row in job["dropped"])
        return Taken(name, images, tuple(job["cases"]), int(job["held"]), reasons)


def open_server(url: str, folder: Path) -> RunningServer:
    """Open a running server as a place; its key comes from the environment (``MEDFINDER_SERVER_KEY``)."""
    return RunningServer(open_client(url), url, folder)


# ---------------------------------------------------------------------------------------------------- from a PACS


@dataclass(frozen=True)
class Plan:
    """What an ingest would do: StudyInstanceUIDs to take with their number of images, and how many are there."""

    todo: Mapping[str, str]
    there: int

    @property
    def summary(self) -> IngestSummary:
        """The counts before anything is taken."""
        images = sum(int(count) for count in self.todo.values() if count.isdigit())
        return IngestSummary(len(self.todo) + self.there, self.there, images)


def read_query(words: Sequence[str], settings: pacs.PacsSettings) -> pacs.PacsSettings:
    """Lay ``NAME=VALUE`` words upon what is asked of a server.

    Example:
        >>> asked = read_query(["since=2020-03-01", "patient=7"], pacs.PacsSettings("http://pacs/dicom-web"))
        >>> asked.since, asked.patients
        (datetime.date(2020, 3, 1), ('7',))
        >>> read_query(["name=Doe"], asked)
        Traceback (most recent call last):
        medfinder.errors.ConfigError: --query name; known: since, until, patient, study, limit
    """
    readers: dict[str, Callable[[str], Any]] = {
        "since": date.fromisoformat,
        "until": date.fromisoformat,
        "patient": str,
        "study": str,
        "limit": int,
    }
    given: dict[str, list[Any]] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in readers:
            raise ConfigError(f"--query {name}; known: {', '.join(readers)}")
        try:
            given.setdefault(name, []).append(readers[name](value))
        except ValueError:
            raise ConfigError(f"--query {name}: the value cannot be read; e.g. since=2020-03-01, limit=100") from None
    changes: dict[str, Any] = {name: given[name][-1] for name in ("since", "until", "limit") if name in given}
    for name, attribute in (("patient", "patients"), ("study", "studies")):
        if name in given:
            changes[attribute] = tuple(given[name])
    return replace(settings, **changes)


def plan_ingest(settings: pacs.PacsSettings, place: Place) -> Plan:
    """Find what a PACS has, and leave out what was taken before, has not grown, and is in the index still.

    Raises:
        DatasetError: the PACS does not answer or lets nobody in.
    """
    found = _patiently(lambda: pacs.find_studies(settings), settings.attempts)
    before = {line.study: line for line in Journal(place.ledger, Taken).read()}
    todo = {}
    for uid, images in found.items():
        line = before.get(place.name(hash_id("study", uid)))
        if line is None or line.images != images or not place.holds(line.cases):
            todo[uid] = images
    return Plan(todo, len(found) - len(todo))


def ingest(
    settings: pacs.PacsSettings, place: Place, plan: Plan, *, progress: Callable[[int, int], None] | None = None
) -> IngestSummary:
    """Pull the studies of a plan, one after another, and take each in before the next one is pulled.

    Raises:
        DatasetError: the PACS has gone, or a disk is full; what was taken stays, and the same call goes on from there.
    """
    summary = plan.summary
    for done, (uid, images) in enumerate(plan.todo.items()):
        if progress is not None:
            progress(done, len(plan.todo))
        name = place.name(hash_id("study", uid))
        try:
            taken = _pull(uid, images, settings, place)
        except StudyError as error:
            summary.not_fetched[name] = str(error)
            continue
        except pacs.UnreachableError as error:
            gone = f"{error}; {done} of {plural(len(plan.todo), 'study')} done: run the same command again to go on"
            raise DatasetError(gone) from error
        enter(place, taken)
        summary.add(taken)
    if progress is not None:
        progress(len(plan.todo), len(plan.todo))
    return summary


def enter(place: Place, taken: Taken) -> None:
    """Enter a study into the ledger: its cases can be searched for now."""
    place.ledger.parent.mkdir(parents=True, exist_ok=True)
    Journal(place.ledger, Taken).append(taken)


def _pull(uid: str, images: str, settings: pacs.PacsSettings, place: Place) -> Taken:
    alone = replace(settings, studies=(uid,), patients=(), since=None, until=None, limit=None)
    name = place.name(hash_id("study", uid))
    study, dropped = _fetch(alone)
    try:
        if study is None:
            return Taken(name, images, reasons=tuple(f"{row.stage}: {row.reason}" for row in dropped))
        return place.take(study.series[0].path.parent, name, images)
    finally:
        _forget(study, alone)


def _fetch(alone: pacs.PacsSettings) -> tuple[Study | None, list[Dropped]]:
    """Fetch one study, and ask again for what was lost on the way.

    Raises:
        StudyError: the PACS does not give it up whole.
    """
    for attempt in range(alone.attempts):
        entries = _patiently(lambda: list(pacs.list_studies(alone)), alone.attempts)
        study = next((one for one in entries if isinstance(one, Study) and one.series), None)
        got = None if study is None else _patiently(partial(pacs.fetch, study, alone), alone.attempts)
        dropped = [row for row in (*entries, got) if isinstance(row, Dropped)]
        lost = next((row for row in dropped if row.stage == "fetch"), None)
        if lost is None:
            return study, dropped
        if lost.reason not in _PASSING or attempt == alone.attempts - 1:
            _forget(study, alone)
            raise StudyError(f"{lost.reason}: {lost.detail}")
        time.sleep(2.0**attempt)
    raise AssertionError("attempts is at least 1")


def _forget(study: Study | None, alone: pacs.PacsSettings) -> None:
    if study is not None and not alone.keep:
        pacs.forget(study)
    shutil.rmtree(alone.headers, ignore_errors=True)


def _patiently(work: Callable[[], T], attempts: int) -> T:
    """Ask a server again that cannot be reached, after 1, 2, 4, ... seconds."""
    for attempt in range(attempts - 1):
        try:
            return work()
        except pacs.UnreachableError:
            time.sleep(2.0**attempt)
    return work()


def _read_study_uid(folder: Path) -> str:
    import pydicom

    def uids() -> Iterator[str]:
        for file in walk_files(folder):
            if is_dicom(file):
                head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
                yield str(head.get("StudyInstanceUID", ""))

    return next(uids(), "")


# ---------------------------------------------------------------------------------------------------- from a scanner


def receive(
    place: Place,
    folder: Path,
    settings: ReceiveSettings,
    *,
    quiet_s: float,
    told: Callable[[str], None],
    is_over: Callable[[], bool],
) -> None:
    """Receive images into the inbox at ``folder``, and take in each study that has been quiet for ``quiet_s``.

    Args:
        told: gets one line for whatever happens: pseudonyms and counts.
        is_over: asked once a second.

    Raises:
        ConfigError: the port, a certificate or the inbox cannot be used.
    """
    if quiet_s <= 0:
        raise ConfigError(f"quiet for {quiet_s:g} s; expected more than 0")
    inbox = Inbox(folder, max_gb=settings.max_gb, max_images=settings.max_images)
    with receiver(inbox, settings, told) as port:
        told(f"{settings.aet} receives CT images on {settings.host}:{port} (Ctrl-C ends it)")
        wait_s = 1.0
        while not is_over():
            wait_s = 1.0 if take_due(inbox, place, quiet_s=quiet_s, told=told) else min(2 * wait_s, _WAIT_S)
            inbox.forget(settings.keep_h)
            # Ends are noticed within a second, whatever is being waited for.
            until = time.monotonic() + wait_s
            while time.monotonic() < until and not is_over():
                time.sleep(0.2)


def take_due(inbox: Inbox, place: Place, *, quiet_s: float, told: Callable[[str], None]) -> bool:
    """Take in the studies of an inbox that have been quiet for long enough.

    Returns:
        False where the index or server could not be used: what is in the inbox stays there for another time.
    """
    for study in inbox.due(quiet_s):
        images = inbox.count(study)
        name = place.name(study.name)
        try:
            taken = place.take(study, name, str(images))
            enter(place, taken)
        except (SearchIndexError, ServerError, DatasetError) as error:
            told(f"put off: {error}")
            return False
        except MedFinderError as error:
            told(f"study {name} cannot be taken: {error}")
        else:
            kept = plural(len(taken.cases), "case")
            told(f"study {name}, {plural(images, 'image')}: {'; '.join((kept, *taken.reasons))}")
        inbox.mark_taken(study, images)
    return True
