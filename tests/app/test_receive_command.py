"""``medfinder receive`` as a person starts it: a scanner sends a chest, the study is indexed, Ctrl-C ends it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

pynetdicom = pytest.importorskip("pynetdicom")

from medfinder.app.study_links import ViewerLinks  # noqa: E402
from medfinder.retrieval.index import SearchIndex  # noqa: E402

pytestmark = pytest.mark.slow

UID = "1.2.3.1"


def start(*words: str | Path) -> "subprocess.Popen[str]":
    """Start the command; a suite that runs in the background ignores SIGINT, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = [sys.executable, "-m", "medfinder.cli", *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)


def send(port: int, folder: Path) -> list[int]:
    """Send a folder by C-STORE; the status of each image, 0 for what was acknowledged."""
    ae = pynetdicom.AE("CT1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="MEDFINDER")
    assert association.is_established
    statuses = [association.send_c_store(pydicom.dcmread(file)).Status for file in sorted(folder.iterdir())]
    association.release()
    return statuses


def test_what_a_scanner_sends_is_indexed_and_ctrl_c_ends_the_receiver(
    tmp_path: Path, samples: Path, write_chest: Callable[..., None]
) -> None:
    write_chest(tmp_path / "sent", UID, samples / "LIDC-IDRI-0314.nii.gz")
    words: list[str | Path] = ["receive", tmp_path / "index", "--allow", "CT1@127.0.0.1", "--port", "0", "--quiet", "1"]
    words += ["--key-file", tmp_path / "ids.key", "--make-key", "--study-map", tmp_path / "studies.jsonl"]
    with start(*words) as process:
        assert process.stderr is not None
        # A receiver that never says what is waited for must not hold the suite up.
        watch = threading.Timer(600, process.kill)
        watch.start()
        try:
            listening = re.search(r"receives CT images on 127\.0\.0\.1:(\d+)", process.stderr.readline())
            assert listening is not None
            assert set(send(int(listening[1]), tmp_path / "sent")) == {0}
            told = ""
            while ": 1 case" not in told:
                line = process.stderr.readline()
                assert line, told
                told += line
            os.killpg(process.pid, signal.SIGINT)
            out, rest = process.communicate(timeout=60)
        finally:
            watch.cancel()
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert rest == "medfinder: stopped; run the same command again to go on\n"
    assert not any(word in told for word in ("Perez", "HNC", "20200131", UID))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(listening[1]))) != 0
    with SearchIndex.open(tmp_path / "index") as index:
        [case] = index.cases(list(index.digests())).values()
    viewer = ViewerLinks("https://viewer.example/{StudyInstanceUID}", tmp_path / "studies.jsonl")
    assert viewer.of(case.case.study_id) == f"https://viewer.example/{UID}"
