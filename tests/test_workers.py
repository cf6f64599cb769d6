"""Worker processes."""

import subprocess
import sys
from pathlib import Path

ASK = """
import signal

from medfinder.workers import open_pool

if __name__ == "__main__":
    for _ in range(2):
        with open_pool(2) as pool:
            masks = [pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result() for _ in range(4)]
        print(all(signal.SIGINT in mask for mask in masks))
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_every_worker_holds_ctrl_c_back_and_the_parent_does_not(tmp_path: Path) -> None:
    """Those of the first pool, too, with which Python starts a process of its own."""
    script = tmp_path / "ask.py"
    script.write_text(ASK, encoding="utf-8")
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.split() == ["True", "True", "False"]
