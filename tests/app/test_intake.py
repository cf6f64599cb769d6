"""Studies on their way into an index, without a PACS or model; a real Orthanc stands in ``test_intake_orthanc.py``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medfinder.app import intake
from medfinder.app.study_links import ViewerLinks, add_link
from medfinder.errors import ConfigError, SearchIndexError, StudyError
from medfinder.sources import pacs
from medfinder.sources.files import hash_id
from medfinder.sources.receive import Inbox

SETTINGS = pacs.PacsSettings("http://pacs.example/dicom-web", attempts=1)
TEMPLATE = "https://viewer.example/?StudyInstanceUIDs={StudyInstanceUID}"


class Shelf:
    """A place that remembers what it was given; ``fault`` is raised instead."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "place" / "ledger.jsonl"
        self.given: list[tuple[str, str]] = []
        self.fault: Exception | None = None
        self.lost: set[str] = set()

    def name(self, study_hash: str) -> str:
        return study_hash

    def holds(self, cases: Sequence[str]) -> bool:
        return not self.lost & set(cases)

    def take(self, folder: Path, name: str, images: str) -> intake.Taken:  # noqa: ARG002
        if self.fault is not None:
            raise self.fault
        self.given.append((name, images))
        return intake.Taken(name, images, (f"case of {name}",))


def test_what_has_grown_or_left_the_index_is_taken_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    names = {uid: hash_id("study", uid) for uid in ("1.1", "1.2", "1.3", "1.4")}
    for uid in ("1.1", "1.2", "1.3"):
        intake.enter(shelf, intake.Taken(names[uid], "10", (f"case of {uid}",)))
    shelf.lost = {"case of 1.3"}
    monkeypatch.setattr(pacs, "find_studies", lambda _: {"1.1": "10", "1.2": "12", "1.3": "10", "1.4": "10"})
    plan = intake.plan_ingest(SETTINGS, shelf)
    assert list(plan.todo) == ["1.2", "1.3", "1.4"]
    assert (plan.summary.found, plan.summary.there, plan.summary.images) == (4, 1, 32)


def test_a_study_that_the_pacs_does_not_give_up_is_told_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(uid: str, images: str, settings: pacs.PacsSettings, place: intake.Place) -> intake.Taken:
        if uid == "1.1":
            raise StudyError("incomplete: 3 images of a series came, expected 10")
        return place.take(tmp_path, place.name(hash_id("study", uid)), images)

    monkeypatch.setattr(intake, "_pull", pull)
    monkeypatch.setattr(pacs, "find_studies", lambda _: {"1.1": "10", "1.2": "10"})
    shelf = Shelf(tmp_path)
    summary = intake.ingest(SETTINGS, shelf, intake.plan_ingest(SETTINGS, shelf))
    assert (summary.taken, summary.cases) == (1, 1)
    assert list(summary.not_fetched) == [hash_id("study", "1.1")]
    assert list(intake.plan_ingest(SETTINGS, shelf).todo) == ["1.1"]


def test_a_pacs_that_is_back_a_moment_later_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [pacs.UnreachableError("gone"), pacs.UnreachableError("gone")]
    waited: list[float] = []

    def find(_: pacs.PacsSettings) -> dict[str, str]:
        if answers:
            raise answers.pop()
        return {"1.1": ""}

    monkeypatch.setattr(pacs, "find_studies", find)
    monkeypatch.setattr(intake.time, "sleep", waited.append)
    assert list(intake.plan_ingest(replace(SETTINGS, attempts=3), Shelf(tmp_path)).todo) == ["1.1"]
    assert waited == [1.0, 2.0]
    answers[:] = [pacs.UnreachableError("gone")] * 3
    with pytest.raises(pacs.UnreachableError):
        intake.plan_ingest(replace(SETTINGS, attempts=3), Shelf(tmp_path))


def test_a_received_study_waits_while_the_index_is_in_use_and_is_taken_once(tmp_path: Path) -> None:
    shelf, told = Shelf(tmp_path), list[str]()
    inbox = Inbox(tmp_path / "inbox", max_gb=1, max_images=10)
    inbox.store("1.1", "1.1.1", b"image")
    shelf.fault = SearchIndexError("index is in use")
    assert not intake.take_due(inbox, shelf, quiet_s=0, told=told.append)
    assert told == ["put off: index is in use"]
    shelf.fault = None
    assert intake.take_due(inbox, shelf, quiet_s=0, told=told.append)
    assert intake.take_due(inbox, shelf, quiet_s=0, told=told.append)
    inbox.store("1.1", "1.1.2", b"late")
    assert intake.take_due(inbox, shelf, quiet_s=0, told=told.append)
    name = hash_id("study", "1.1")
    assert shelf.given == [(name, "1"), (name, "2")]


def test_a_received_study_that_cannot_be_taken_does_not_stand_in_the_way(tmp_path: Path) -> None:
    shelf, told = Shelf(tmp_path), list[str]()
    inbox = Inbox(tmp_path / "inbox", max_gb=1, max_images=10)
    inbox.store("1.1", "1.1.1", b"image")
    shelf.fault = StudyError("no CT")
    assert intake.take_due(inbox, shelf, quiet_s=0, told=told.append)
    assert inbox.due(quiet_s=0) == []
    assert not shelf.ledger.exists()


@pytest.mark.parametrize("word", ["since=yesterday", "limit=many", "limit=0", "study=1.2.*", "name=Doe"])
def test_a_query_that_cannot_be_honoured_is_refused_without_its_value(word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        intake.read_query([word], SETTINGS)
    assert "Doe" not in str(refused.value)


def test_a_hit_leads_into_the_viewer_only_for_whom_the_map_was_kept(tmp_path: Path) -> None:
    links = tmp_path / "studies.jsonl"
    for _ in range(2):
        add_link(links, "0f0f", "1.2.840.1")
    assert links.stat().st_mode & 0o777 == 0o600
    assert links.read_text().count("\n") == 1
    assert ViewerLinks(TEMPLATE, links).of("0f0f") == "https://viewer.example/?StudyInstanceUIDs=1.2.840.1"
    assert ViewerLinks(TEMPLATE, links).of("abcd") is None


def test_a_map_open_to_others_and_a_template_without_a_place_for_the_uid_are_refused(tmp_path: Path) -> None:
    links = tmp_path / "studies.jsonl"
    add_link(links, "0f0f", "1.2.840.1")
    for template in (
        "https://viewer.example/",
        "https://viewer.example/{uid}",
        "javascript:alert({StudyInstanceUID})",
        "//viewer.example/{StudyInstanceUID}",
        "https://{StudyInstanceUID}/",
        "https://[/{StudyInstanceUID}",
        "https://viewer.example/{StudyInstanceUID}/{StudyInstanceUID}",
        "https://viewer.example/\n{StudyInstanceUID}",
    ):
        with pytest.raises(ConfigError, match="no template"):
            ViewerLinks(template, links)
    links.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        ViewerLinks(TEMPLATE, links)
