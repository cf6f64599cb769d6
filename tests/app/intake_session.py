"""A real Orthanc, pulled into an index; run by ``test_intake_orthanc.py`` in a network of its own.

unshare --map-root-user --net python intake_session.py ORTHANC EXPORT WORK
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from medfinder.app import intake
from medfinder.app.pacs_study import fetched_study
from medfinder.app.study_links import ViewerLinks
from medfinder.curation.deidentify.keys import Key
from medfinder.errors import MedFinderError
from medfinder.retrieval.index import SearchIndex
from medfinder.sources import pacs
from medfinder.volume import read_volume

HERE = Path(__file__).parent


def load(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(settings: pacs.PacsSettings, place: intake.Place) -> str:
    try:
        intake.plan_ingest(settings, place)
    except MedFinderError as error:
        return f"{type(error).__name__}: {error}"
    return "no refusal"


@contextlib.contextmanager
def dying(run: "subprocess.Popen[bytes]", series: int) -> Iterator[None]:
    """Kill the server once the third image of a series has come: most of the answer is not on the wire yet."""
    from dicomweb_client.api import DICOMwebClient

    asked: list[str] = []
    whole = DICOMwebClient.iter_series

    def part(self: Any, study: str, *given: Any) -> Iterator[Any]:
        asked.append(study)
        for number, image in enumerate(whole(self, study, *given), start=1):
            if number == 3 and len(asked) == series:
                run.kill()
                run.wait()
            yield image

    with mock.patch.object(DICOMwebClient, "iter_series", part):
        yield


def ask_with(settings: pacs.PacsSettings, uid: str) -> Any:
    """Fetch a study to ask with; the size of its volume, or why there is none."""
    try:
        with fetched_study(uid, settings) as (volume, _):
            return read_volume(volume).shape
    except MedFinderError as error:
        return str(error)


def searchable(index: Path) -> int:
    with SearchIndex.open(index) as opened:
        return len(opened)


def main(program: str, export: Path, work: Path) -> None:
    server = load("orthanc_session", HERE.parent / "sources" / "orthanc_session.py")
    model = load("stand_in", HERE / "server" / "conftest.py").StandIn()
    server.raise_loopback()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ.update({pacs.USER: server.USER, pacs.PASSWORD: server.PASSWORD})
    settings = pacs.PacsSettings(server.URL, cache=work / "cache", attempts=2)
    key, links = work / "ids.key", work / "studies.jsonl"
    Key.make(key)

    def open_place() -> intake.IndexFolder:
        return intake.IndexFolder(work / "index", model, key, links)

    told: dict[str, Any] = {}
    with server.orthanc(program, work) as run, dying(run, series=2):
        server.fill(export)
        place = open_place()
        try:
            intake.ingest(settings, place, intake.plan_ingest(settings, place))
        except MedFinderError as error:
            told["died"] = str(error)
    told["searchable after its death"] = searchable(work / "index")
    told["gone"] = refusal(settings, place)
    with server.orthanc(program, work):
        told["rest"] = vars(intake.ingest(settings, open_place(), intake.plan_ingest(settings, open_place())))
        told["again"] = len(intake.plan_ingest(settings, open_place()).todo)
        told["asked with"] = ask_with(settings, "1.2.3.1")
        told["not there"] = ask_with(settings, "1.2.3.99")
        told["voxels left"] = len(list((work / "cache").rglob("*.dcm")))
        os.environ[pacs.PASSWORD] = "another"
        told["wrong password"] = refusal(settings, place)
    with SearchIndex.open(work / "index") as index:
        vectors = index.vectors(list(index.digests()))
        query = next(iter(vectors.values()))["image"]
        hits = index.nearest("image", query, limit=10)
        cases = index.cases([case_id for case_id, _ in hits])
    viewer = ViewerLinks("http://viewer.example/?StudyInstanceUIDs={StudyInstanceUID}", links)
    told["links"] = sorted(str(viewer.of(one.case.study_id)) for one in cases.values())
    told["in the index"] = [file.name for file in (work / "index").parent.glob("index.cases/pacs/*")]
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
