"""A disk that is really full: a server whose state lies on a small file system of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from .conftest import make_index
from .test_killed import REPORT, SERVER, listens, wait_until

WITHIN = ("unshare", "--map-root-user", "--mount")


def may_mount() -> bool:
    words = [*WITHIN, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not may_mount(), reason="no file system can be mounted in a namespace of one's own"),
]


class Full:
    """A running server, and its state folder as that server sees it."""

    def __init__(self, client: httpx.Client, state: Path) -> None:
        self.client = client
        self.state = state

    def leave(self, free: int) -> None:
        """Fill the file system but for so many bytes."""
        filler = self.state / "filler"
        filler.unlink(missing_ok=True)
        found = os.statvfs(self.state)
        handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(handle, 0, found.f_bavail * found.f_frsize - free)
        os.close(handle)

    def send(self, content: bytes) -> httpx.Response:
        return self.client.post("/v1/ingest", files={"file": ("ct", content)}, data={"report": REPORT})

    def left(self) -> list[str]:
        return [
            str(one.relative_to(self.state)) for place in ("uploads", "jobs") for one in (self.state / place).iterdir()
        ]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Full]:
    make_index(tmp_path).close()
    (tmp_path / "state").mkdir()
    hurried = SERVER.replace(
        "if __name__", "from medfinder.app.server import jobs\njobs._PAUSE_S = 1.0\nif __name__", 1
    )
    (tmp_path / "server.py").write_text(hurried)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mount = 'mount -t tmpfs -o size=48m tmpfs "$0" && exec "$@"'
    words = [*WITHIN, "sh", "-c", mount, tmp_path / "state", sys.executable, tmp_path / "server.py"]
    words += [Path(__file__).parent, tmp_path, port]
    with subprocess.Popen(list(map(str, words)), start_new_session=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
                yield Full(client, Path(f"/proc/{process.pid}/root{tmp_path}/state"))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_full_disk_is_told_and_what_was_acknowledged_waits_for_room(full: Full, samples: Path) -> None:
    ct = (samples / "LIDC-IDRI-0314.nii.gz").read_bytes()
    # Noise in the NIfTI's voxels: nothing makes it smaller.
    large = b"\x5c\x01\0\0" + np.random.default_rng(0).bytes(4_000_000)
    for free in (200_000, 3_950_000, 4_001_000):
        full.leave(free)
        answer = full.send(large)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk full"), (free, answer.text)
        assert full.left() == []
    asked = full.client.post("/v1/search/ct", files={"file": ("ct", large)})
    assert asked.status_code == 507
    assert full.left() == []
    assert full.client.post("/v1/search", json={"text": "nodule"}).status_code == 200

    full.leave(len(ct) + 100_000)
    told = full.send(ct)
    assert told.status_code == 202
    link = told.json()["link"]
    wait_until(lambda: full.client.get(link).json()["message"])
    job = full.client.get(link).json()
    assert job["status"] in ("waiting", "working")
    assert "no space left on the server's disk" in job["message"] or job["status"] == "working"
    assert str(full.state) not in str(job)
    (full.state / "filler").unlink()
    wait_until(lambda: full.client.get(link).json()["status"] in ("done", "failed"))
    job = full.client.get(link).json()
    assert (job["status"], job["message"], len(job["cases"])) == ("done", "", 1), job
