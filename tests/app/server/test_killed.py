"""A server that is killed in the middle of its work, and two that want the same index; real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from medfinder.app.server.audit import open_audit
from medfinder.app.server.state import open_state
from medfinder.retrieval.index import SearchIndex

from .conftest import CASES, make_index

pytestmark = pytest.mark.slow

REPORT = "Nódulo pulmonar en lóbulo superior derecho. Sin derrame pleural."

SERVER = """
import sys
from pathlib import Path
import uvicorn
from medfinder.app.server.application import make_app
from medfinder.retrieval.index import SearchIndex

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from conftest import StandIn

    folder = Path(sys.argv[2])
    with SearchIndex.open(folder / "index", wait_s=20) as index:
        app = make_app(index, StandIn(), folder=folder / "state")
        uvicorn.run(app, port=int(sys.argv[3]), log_level="error")
"""


@contextmanager
def running(folder: Path) -> Iterator[tuple[httpx.Client, "subprocess.Popen[str]"]]:
    """Run a server in a process of its own; whatever is left of it afterwards is killed."""
    (folder / "server.py").write_text(SERVER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, folder / "server.py", Path(__file__).parent, folder, str(port)]
    with subprocess.Popen(list(map(str, words)), text=True, start_new_session=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
                yield client, process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Any) -> None:
    until = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_was_acknowledged_outlives_kill_9_in_the_middle_of_it(tmp_path: Path, samples: Path) -> None:
    make_index(tmp_path).close()
    with running(tmp_path) as (client, process):
        kept = client.post("/v1/collections", json={"name": "interesting"}).json()["id"]
        files = {"file": ("ct.nii.gz", (samples / "LIDC-IDRI-0314.nii.gz").read_bytes())}
        told = client.post("/v1/ingest", files=files, data={"report": REPORT})
        assert told.status_code == 202
        link = told.json()["link"]
        wait_until(lambda: client.get(link).json()["status"] != "waiting")
        assert client.get(link).json()["status"] == "working"
        # The server alone: its children must see for themselves that it has gone.
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    with running(tmp_path) as (client, process):
        wait_until(lambda: client.get(link).json()["status"] in ("done", "failed"))
        job = client.get(link).json()
        assert (job["status"], job["tries"]) == ("done", 2), job
        assert client.get("/readyz").json()["cases"] == len(CASES) + 1
        found = client.post("/v1/search", json={"text": "nodule", "where": "source = nifti"}).json()
        assert [hit["case_id"] for hit in found["hits"]] == job["cases"]
        assert kept in client.get("/v1/collections").text
        second = subprocess.run(
            [sys.executable, "-m", "medfinder.cli", "serve", tmp_path / "index", "--state", tmp_path / "other"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (second.returncode, second.stdout) == (2, "")
        assert "is in use by another process" in second.stderr
        assert second.stderr.count("\n") == 1
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    state = open_state(tmp_path / "state")
    assert open_audit(state, tmp_path / "state").verify().is_sound
    state.close()
    with SearchIndex.open(tmp_path / "index", wait_s=20) as index:
        assert len(index) == len(CASES) + 1
