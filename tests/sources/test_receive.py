"""The C-STORE receiver, sent to by pynetdicom's own sender."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

pynetdicom = pytest.importorskip("pynetdicom")

from medfinder.errors import ConfigError  # noqa: E402
from medfinder.sources.files import hash_id  # noqa: E402
from medfinder.sources.receive import Inbox, Partner, ReceiveSettings, receiver  # noqa: E402

WriteSeries = Callable[..., list[Path]]
MR = "1.2.840.10008.5.1.4.1.1.4"
SETTINGS = ReceiveSettings(allow=(Partner("CT1", "127.0.0.1"),), port=0, silence_s=10.0)
STUDY = hash_id("study", "1.2.3.1")


@contextlib.contextmanager
def receiving(folder: Path, **limits: Any) -> Iterator[tuple[Inbox, int, list[str]]]:
    told: list[str] = []
    inbox = Inbox(folder, max_gb=limits.get("max_gb", 1.0), max_images=limits.get("max_images", 1000))
    settings = ReceiveSettings(**{**vars(SETTINGS), **limits})
    with receiver(inbox, settings, told.append) as port:
        yield inbox, port, told


@contextlib.contextmanager
def sender(port: int, *, aet: str = "CT1", called: str = "MEDFINDER", kind: str = CTImageStorage) -> Iterator[Any]:
    ae = pynetdicom.AE(aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.add_requested_context(kind, ExplicitVRLittleEndian)
    # Its own sockets: where the other side has hung up first, pynetdicom's sender leaves its socket open.
    opened: list[socket.socket] = []
    create = ae._create_socket

    def remember(*args: Any) -> Any:
        line = create(*args)
        opened.append(line.socket)
        return line

    ae._create_socket = remember  # type: ignore[method-assign]
    try:
        association = ae.associate("127.0.0.1", port, ae_title=called)
        yield association
        if association.is_established:
            association.release()
    finally:
        for one in opened:
            one.close()


def test_what_is_acknowledged_is_there_whole_and_as_it_was_sent(tmp_path: Path, write_series: WriteSeries) -> None:
    files = write_series(tmp_path / "sent", slices=3)
    with receiving(tmp_path / "inbox") as (inbox, port, _), sender(port) as association:
        for file in [*files, files[0]]:
            assert association.send_c_store(pydicom.dcmread(file)).Status == 0x0000
        [study] = inbox.due(quiet_s=0)
        assert study.name == STUDY
        assert inbox.count(study) == 3
    stored = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file) for file in study.glob("*.dcm")}
    for file in files:
        sent = pydicom.dcmread(file)
        assert stored[sent.SOPInstanceUID] == sent


def test_a_study_is_due_once_it_is_quiet_and_again_when_it_has_grown(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, max_gb=1, max_images=10)
    inbox.store("1.2.3.1", "1.1", b"x")
    assert inbox.due(quiet_s=60) == []
    [study] = inbox.due(quiet_s=0)
    inbox.mark_taken(study, 1)
    assert inbox.due(quiet_s=0) == []
    assert inbox.forget(keep_h=1) == 0
    inbox.store("1.2.3.1", "1.2", b"x")
    assert inbox.forget(keep_h=0) == 0
    assert inbox.due(quiet_s=0) == [study]
    inbox.mark_taken(study, 2)
    assert Inbox(tmp_path, max_gb=1, max_images=10).due(quiet_s=0) == []
    assert inbox.forget(keep_h=0) == 1


def test_strangers_are_refused_by_title_by_address_and_when_they_call_somebody_else(tmp_path: Path) -> None:
    with receiving(tmp_path) as (_, port, told):
        for words in ({"aet": "CT2"}, {"called": "OTHER"}):
            with sender(port, **words) as association:
                assert association.is_rejected
        assert "an association was refused" in told[0]
    with receiving(tmp_path, allow=(Partner("CT1", "192.0.2.7"),)) as (_, port, _), sender(port) as association:
        assert not association.is_established


def test_what_is_no_ct_or_lies_about_itself_is_not_acknowledged(tmp_path: Path, write_series: WriteSeries) -> None:
    [file] = write_series(tmp_path / "sent", slices=1)
    image = pydicom.dcmread(file)
    with receiving(tmp_path / "inbox") as (inbox, port, told):
        with sender(port, kind=MR) as association:
            assert not association.is_established
        with sender(port) as association:
            # As a broken scanner sends it; pydicom would not write it.
            image.add(pydicom.DataElement(0x0020000D, "UI", "../../etc", validation_mode=pydicom.config.IGNORE))
            assert association.send_c_store(image).Status == 0xA900
        assert inbox.due(quiet_s=0) == []
        assert not any("etc" in line for line in told)


def test_a_full_inbox_says_so_and_keeps_what_it_has(tmp_path: Path, write_series: WriteSeries) -> None:
    files = write_series(tmp_path / "sent", slices=3)
    with receiving(tmp_path / "inbox", max_images=2) as (inbox, port, _), sender(port) as association:
        answers = [association.send_c_store(pydicom.dcmread(file)).Status for file in files]
        assert answers == [0, 0, 0xA700]
        assert inbox.count(inbox.due(quiet_s=0)[0]) == 2


def test_an_object_larger_than_allowed_is_cut_off(tmp_path: Path, write_series: WriteSeries) -> None:
    [file] = write_series(tmp_path / "sent", slices=1)
    image = pydicom.dcmread(file)
    image.PixelData = bytes(1_000_000)
    with receiving(tmp_path / "inbox", max_image_mb=0.3) as (inbox, port, _), sender(port) as association:
        assert "Status" not in association.send_c_store(image)
        assert inbox.due(quiet_s=0) == []


def test_a_message_that_claims_four_gigabytes_is_not_waited_for(tmp_path: Path) -> None:
    with receiving(tmp_path, max_image_mb=1) as (_, port, _), socket.create_connection(("127.0.0.1", port), 5) as line:
        line.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF))
        line.settimeout(8)
        with contextlib.suppress(ConnectionResetError):
            while line.recv(100):
                pass


def test_a_receiver_that_is_killed_has_all_that_it_acknowledged(tmp_path: Path, write_series: WriteSeries) -> None:
    files = write_series(tmp_path / "sent", slices=40)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from medfinder.sources.receive import *\n"
        "with receiver(Inbox(Path(sys.argv[1]), max_gb=1, max_images=100),\n"
        "              ReceiveSettings(allow=(Partner('CT1', '127.0.0.1'),), port=0), print) as port:\n"
        "    print(port, flush=True); time.sleep(120)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "inbox")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        acknowledged = []
        with sender(int(run.stdout.readline())) as association:
            for number, file in enumerate(files):
                if number == 20:
                    os.kill(run.pid, signal.SIGKILL)
                image = pydicom.dcmread(file)
                try:
                    answer = association.send_c_store(image)
                except RuntimeError:
                    break
                if "Status" in answer and answer.Status == 0:
                    acknowledged.append(str(image.SOPInstanceUID))
    assert 20 <= len(acknowledged) < 40
    inbox = Inbox(tmp_path / "inbox", max_gb=1, max_images=100)
    [study] = inbox.due(quiet_s=0)
    there = {str(pydicom.dcmread(file).SOPInstanceUID) for file in study.glob("*.dcm")}
    assert there >= set(acknowledged)
    assert all(pydicom.dcmread(file).PixelData for file in study.glob("*.dcm"))


@pytest.mark.parametrize("word", ["CT1", "@127.0.0.1", "A\\B@127.0.0.1", "seventeen-letters@127.0.0.1"])
def test_what_is_no_partner_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"--allow|AE title"):
        Partner.parse(word)


def test_nobody_allowed_or_half_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody may send"):
        ReceiveSettings(allow=())
    with pytest.raises(ConfigError, match="--tls-key"):
        ReceiveSettings(allow=SETTINGS.allow, certificate=tmp_path / "server.crt")


def test_a_silent_stranger_holds_nobody_up(tmp_path: Path, write_series: WriteSeries) -> None:
    [file] = write_series(tmp_path / "sent", slices=1)
    with receiving(tmp_path / "inbox") as (_, port, _), socket.create_connection(("127.0.0.1", port), 5):
        started = time.monotonic()
        with sender(port) as association:
            assert association.send_c_store(pydicom.dcmread(file)).Status == 0
        assert time.monotonic() - started < SETTINGS.silence_s
