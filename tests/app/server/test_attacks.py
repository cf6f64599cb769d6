"""Attacks on a real server over real connections: slow callers, files of two kinds, headers that promise too much."""

import contextlib
import io
import itertools
import multiprocessing
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import psutil
import pydicom
import pytest
from fastapi.testclient import TestClient
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit

from medfinder.app.server import run
from medfinder.app.server.settings import Limits
from medfinder.models.protocol import DualEncoder
from medfinder.retrieval.index import SearchIndex

from .conftest import listen

SCRIPT = b"<script>alert(document.cookie)</script>"
# Ours: a caller is cut after a second or two, and the machine may be busy.
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacked")


@pytest.fixture(scope="module")
def port(library: SearchIndex, stand_in: DualEncoder, folder: Path) -> Iterator[int]:
    """A server that loses its patience soon."""
    limits = Limits(silence_s=0.5, upload_s=1.5, read_s=30, memory_mb=8_192)
    with listen(library, stand_in, folder, limits) as port:
        yield port


@pytest.fixture
def others(port: int) -> Iterator[httpx.Client]:
    """Somebody who means well."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        yield client


# ---- slow callers ----------------------------------------------------------------------------------------------------


def begin_upload(port: int) -> socket.socket:
    """Begin to send a form whose file never ends."""
    caller = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    head = (
        f"POST /v1/ingest HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="x.nii"\r\n\r\n'
    )
    caller.sendall(head.encode() + b"\x5c\x01\0\0")
    return caller


def ending_of(caller: socket.socket) -> bytes:
    """Read until the server hangs up, which it must; what was on its way to it then is answered by a reset."""
    told = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := caller.recv(4_096):
            told += piece
    return told


@pytest.mark.parametrize("pause_s", [None, 0.2], ids=["silent", "a byte now and then"])
def test_slow_uploads_are_cut_and_hold_up_nobody(
    port: int, others: httpx.Client, folder: Path, pause_s: float | None
) -> None:
    callers = [begin_upload(port) for _ in range(30)]
    is_over = threading.Event()

    def drip() -> None:
        while pause_s is not None and not is_over.wait(pause_s):
            for caller in callers:
                try:
                    caller.send(b"\0")
                except OSError:
                    return

    dripping = threading.Thread(target=drip)
    dripping.start()
    started = time.monotonic()
    try:
        answer = others.post("/v1/search", json={"text": "effusion"})
        assert (answer.status_code, time.monotonic() - started < PATIENCE_S) == (200, True)
        for caller in callers:
            told = ending_of(caller)
            assert told.startswith(b"HTTP/1.1 408 ")
            assert b"came too slowly" in told
    finally:
        is_over.set()
        dripping.join()
        for caller in callers:
            caller.close()
    assert time.monotonic() - started < PATIENCE_S
    wait_until(lambda: not list((folder / "uploads").iterdir()))


def test_heads_that_never_end_hold_up_nobody(port: int, others: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_HEAD_S", 1.0)
    callers = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(30)]
    for number in itertools.count():
        for caller in callers:
            try:
                caller.send(b"GET / HTTP/1.1\r\n" if number == 0 else b"X-Slow: 1\r\n")
            except OSError:
                break
        else:
            assert others.get("/readyz").status_code == 200
            assert number < 100
            time.sleep(0.2)
            continue
        break
    for caller in callers:
        assert was_cut(caller)
        caller.close()


def test_callers_who_never_read_are_cut(port: int, others: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_READ_S", 1.0)
    asked = f"GET /web/vendor/niivue/niivue.umd.js HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    callers = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(5)]
    for caller in callers:
        caller.sendall(10 * asked)  # 23 MB, which no buffer between holds
    started = time.monotonic()
    while any(is_open(port, caller) for caller in callers):
        assert others.get("/readyz").status_code == 200
        assert time.monotonic() - started < PATIENCE_S
        time.sleep(0.2)
    for caller in callers:
        caller.close()


def is_open(port: int, caller: socket.socket) -> bool:
    """Tell whether this process still has the server's end of a connection, without reading from the caller's."""
    own = caller.getsockname()
    return any(
        one.raddr == own and one.laddr[1] == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp")
    )


def was_cut(caller: socket.socket) -> bool:
    """Tell whether the server hung up, waiting for it if it has not yet."""
    try:
        return ending_of(caller) == b""
    except ConnectionError:
        return True


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


# ---- files of two kinds ----------------------------------------------------------------------------------------------


def a_zip(*members: tuple[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return content.getvalue()


def send(client: httpx.Client | TestClient, path: str, content: bytes) -> httpx.Response:
    return client.post(path, files={"file": ("x.html", content, "text/html")})  # type: ignore[return-value]


@pytest.mark.parametrize(
    "head", [b"GIF89a\1\0\1\0\0\0\0;", b"%PDF-1.7\n", b"<html>" + SCRIPT, b"\x7fELF", b"\xff\xd8\xff\xe0"]
)
def test_a_zip_behind_another_head_is_refused(others: httpx.Client, chest: Path, head: bytes) -> None:
    hidden = a_zip(("ct.nii.gz", chest.read_bytes()))
    assert zipfile.ZipFile(io.BytesIO(head + hidden)).namelist() == ["ct.nii.gz"]
    answer = send(others, "/v1/search/ct", head + hidden)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unknown kind of body")


@pytest.mark.parametrize("name", ["page.html", "page.nii", "page.dcm"])
def test_a_page_in_a_zip_is_no_ct_whatever_its_name(others: httpx.Client, name: str) -> None:
    answer = send(others, "/v1/search/ct", a_zip((name, b"<html>" + SCRIPT * 20)))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert "script" not in answer.text


@pytest.mark.slow
def test_what_hides_in_a_ct_is_not_served_with_it(own_client: TestClient, samples: Path) -> None:
    """A NIfTI with a page in its header, another behind its voxels, and a zip at its end."""
    image = nib.load(samples / "LIDC-IDRI-0314.nii.gz")
    header = image.header.copy()
    header["descrip"], header["aux_file"], header["intent_name"] = SCRIPT[:79], b"<script>", b"<img src=x>"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", SCRIPT))
    plain = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, header).to_bytes()
    sent = plain + b"<html>" + SCRIPT + a_zip(("evil.html", SCRIPT))
    accepted = send(own_client, "/v1/ingest", sent)
    assert accepted.status_code == 202
    wait_for = time.monotonic() + 60
    while (job := own_client.get(accepted.json()["link"]).json())["status"] not in ("done", "failed"):
        assert time.monotonic() < wait_for
        time.sleep(0.05)
    assert job["status"] == "done", job
    [case_id] = job["cases"]
    served = own_client.get(f"/v1/cases/{case_id}/volume")
    assert served.headers["content-type"] == "application/octet-stream"
    assert served.headers["content-disposition"].startswith("attachment")
    assert served.headers["x-content-type-options"] == "nosniff"
    preview = own_client.get(f"/v1/cases/{case_id}/volume?preview=1")
    for content in (served.content, preview.content, own_client.get(f"/v1/cases/{case_id}").content):
        assert not any(hidden in content for hidden in (b"script", b"<html", b"<img", b"evil", b"PK\3\4"))


# ---- headers that promise too much -----------------------------------------------------------------------------------


def a_slice(**attributes: object) -> pydicom.Dataset:
    image = pydicom.Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, "1.2.3.9.1"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.Modality = "1.2.3", "1.2.3.9", "CT"
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    image.PixelSpacing, image.SliceThickness, image.InstanceNumber = [1, 1], 1, 1
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.ImageType, image.PatientID, image.FrameOfReferenceUID = ["ORIGINAL", "PRIMARY", "AXIAL"], "p", "1.2.3.8"
    image.Rows, image.Columns = 8, 8
    image.add_new("PixelData", "OW", bytes(128))
    for name, value in attributes.items():
        setattr(image, name, value)
    return image


def written(image: pydicom.Dataset) -> bytes:
    content = io.BytesIO()
    image.save_as(content, enforce_file_format=True)
    return content.getvalue()


def promising(length: int) -> bytes:
    """Write a slice whose pixels say that they have so many bytes, of which a handful follow."""
    content = written(a_slice(SOPInstanceUID="1.2.9.40", ImagePositionPatient=[0, 0, 40], InstanceNumber=40))
    told = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 128)
    assert content.count(told) == 1
    return content.replace(told, told[:-4] + struct.pack("<I", length))[:-64]


def many_frames() -> bytes:
    image = a_slice(Rows=65_535, Columns=65_535, NumberOfFrames=2**31 - 1)
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    image.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    image["PixelData"].is_undefined_length = True
    return written(image)


def a_series(**attributes: object) -> list[bytes]:
    return [
        written(a_slice(SOPInstanceUID=f"1.2.9.{n}", ImagePositionPatient=[0, 0, n], InstanceNumber=n, **attributes))
        for n in range(40)
    ]


PROMISES: dict[str, Callable[[], list[bytes]]] = {
    "pixels of 4 GB": lambda: [*a_series(), promising(0xFFFFFFF0)],
    "pixels of 2 GB": lambda: [*a_series(), promising(0x7FFFFFF0)],
    "300 GB in slices": lambda: a_series(Rows=65_535, Columns=65_535),
    "100 GB in frames": lambda: [written(a_slice(Rows=8_192, Columns=8_192, NumberOfFrames=800))],
    "frames without end": lambda: [many_frames()],
}


def test_a_series_that_keeps_its_promises_is_read(others: httpx.Client) -> None:
    content = a_zip(*((f"{n}.dcm", one) for n, one in enumerate(a_series())))
    assert send(others, "/v1/embed", content).status_code == 200


@pytest.mark.parametrize("what", PROMISES)
def test_a_dicom_that_promises_gigabytes_is_refused_at_little_cost(others: httpx.Client, what: str) -> None:
    content = a_zip(*((f"{n}.dcm", one) for n, one in enumerate(PROMISES[what]())))
    started = time.monotonic()
    answer = send(others, "/v1/search/ct", content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable CT"), answer.text
    assert "was not read within" not in answer.text
    assert time.monotonic() - started < 30
    # Of the processes that read uploads; torch is in none of them.
    peaks = [peak_mb(child.pid) for child in multiprocessing.active_children() if child.pid]
    assert peaks
    assert max(peaks) < 1_000
    assert others.get("/readyz").status_code == 200


def peak_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024 if "VmHWM:" in status else 0.0


def test_a_nifti_that_promises_gigabytes_is_refused_at_little_cost(others: httpx.Client) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((4_096, 4_096, 4_096))
    header.set_data_dtype(np.float64)
    header["vox_offset"] = 352
    answer = send(others, "/v1/search/ct", header.binaryblock + bytes(4 + 4_096))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable CT"), answer.text


def test_a_worker_that_was_killed_is_replaced(others: httpx.Client, chest: Path) -> None:
    assert send(others, "/v1/embed", chest.read_bytes()).status_code == 200
    killed = multiprocessing.active_children()
    assert killed
    for child in killed:
        child.kill()
        child.join(PATIENCE_S)
    assert send(others, "/v1/embed", chest.read_bytes()).status_code == 200
