"""A real Orthanc, filled with an export and asked by the ``pacs`` source; run by ``test_pacs_orthanc.py``.

Orthanc listens on every address of the machine, so this runs in a network of its own (``unshare --net``), where there
is nothing but the loopback. Printed is one JSON object: what the source made of the server, told in plain values.

    unshare --map-root-user --net python orthanc_session.py ORTHANC EXPORT WORK
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import requests

from medfinder.curation.curate import CurationSettings, curate
from medfinder.errors import MedFinderError
from medfinder.records import Dropped, Study
from medfinder.sources import dicom, pacs
from medfinder.volume import read_volume

PORT = 18042
URL = f"http://127.0.0.1:{PORT}/dicom-web"
USER, PASSWORD = "reader", "a word"
# ioctl request and flag to bring an interface up (linux/sockios.h, linux/if.h).
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))


@contextlib.contextmanager
def orthanc(program: str, work: Path) -> Iterator["subprocess.Popen[bytes]"]:
    config = work / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
                "StorageDirectory": str(work / "storage"),
                "IndexDirectory": str(work / "storage"),
                "HttpPort": PORT,
                "DicomServerEnabled": False,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": {USER: PASSWORD},
                "DicomWeb": {
                    "Enable": True,
                    "Root": "/dicom-web/",
                    "StudiesMetadata": "Full",
                    "SeriesMetadata": "Full",
                },
            }
        )
    )
    with (
        (work / "orthanc.log").open("w") as log,
        subprocess.Popen([program, str(config)], stdout=log, stderr=log) as run,
    ):
        try:
            wait_until_up(run)
            yield run
        finally:
            run.terminate()


def wait_until_up(run: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        if run.poll() is not None:
            raise SystemExit("Orthanc ended before it answered; see orthanc.log")
        with contextlib.suppress(requests.exceptions.ConnectionError):
            requests.get(f"{URL}/studies", auth=(USER, PASSWORD), timeout=5)
            return
        time.sleep(0.2)
    raise SystemExit("Orthanc did not answer within a minute")


def fill(export: Path) -> int:
    files = sorted(export.rglob("*.dcm"))
    for file in files:
        answer = requests.post(
            f"http://127.0.0.1:{PORT}/instances", data=file.read_bytes(), auth=(USER, PASSWORD), timeout=60
        )
        answer.raise_for_status()
    return len(files)


def tell(entry: Study | Dropped) -> dict[str, Any]:
    """Tell a study by what does not depend on where its files lie, its voxels by their digest."""
    if isinstance(entry, Dropped):
        return {"kind": "dropped", **asdict(entry)}
    series = [
        (one.series_id, digest(one.path, one.series_instance_uid), asdict(one.tags))
        for one in entry.series
        if (one.tags.slices or 0) > 10
    ]
    told = asdict(replace(entry, series=()))
    return {"kind": "study", **told, "series": series, "series_ids": [one.series_id for one in entry.series]}


def digest(path: Path, uid: str | None) -> str:
    volume = read_volume(path, series_instance_uid=uid)
    return hashlib.sha256(volume.hu.tobytes() + volume.affine.tobytes()).hexdigest()


def find(settings: pacs.PacsSettings, **search: Any) -> list[str]:
    studies = pacs.list_studies(replace(settings, **search))
    return sorted({entry.study_id for entry in studies if isinstance(entry, Study)})


def curated(source: Path, out: Path) -> dict[str, Any]:
    """Curate in passing, and tell what became of it."""
    summary = curate(source, out, CurationSettings(deidentify=False))
    volumes = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in (out / "volumes").iterdir())
    return {"reasons": dict(summary.reasons), "cases": summary.cases, "held": summary.held, "volumes": volumes}


def refusal(settings: pacs.PacsSettings) -> str:
    try:
        list(pacs.list_studies(settings))
    except MedFinderError as error:
        return f"{type(error).__name__}: {error}"
    return "no refusal"


def main(program: str, export: Path, work: Path) -> None:
    raise_loopback()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ.update({pacs.USER: USER, pacs.PASSWORD: PASSWORD})
    source = work / "pacs.toml"
    source.write_text(f'url = "{URL}"\ncache = "{work / "cache"}"\n')
    settings = pacs.read_settings(source)
    with orthanc(program, work):
        told: dict[str, Any] = {"images": fill(export)}
        told["entries"] = [tell(entry) for entry in pacs.read(source)]
        told["exported"] = [tell(replace(entry, source="pacs")) for entry in dicom.read(export)]
        before = times(work / "cache")
        told["ids again"] = [entry.study_id for entry in pacs.read(source)]
        told["fetched again"] = len(before.items() ^ times(work / "cache").items())
        told["curated"] = curated(source, work / "out")
        told["curated export"] = curated(export, work / "out of export")
        told["voxels left"] = len(list((work / "cache" / "voxels").rglob("*.dcm")))
        told["patients"] = find(settings, patients=("HNC-1234",))
        told["patient with a blank"] = find(settings, patients=("HNC 77",))
        told["from 2021 on"] = find(settings, since=date(2021, 1, 1))
        told["until 2020"] = find(settings, until=date(2020, 12, 31))
        told["limit"] = find(settings, limit=1)
        told["wrong path"] = refusal(replace(settings, url=f"http://127.0.0.1:{PORT}/nowhere"))
        told["no DICOMweb"] = refusal(replace(settings, url=f"http://127.0.0.1:{PORT}/system"))
        os.environ[pacs.PASSWORD] = "another"
        told["wrong password"] = refusal(settings)
    told["gone"] = refusal(settings)
    sys.stdout.write(json.dumps(told, default=str))


def times(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*.dcm")}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
