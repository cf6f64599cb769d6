"""How the server bears a load: searches at a rate, clients at once, a CT that comes in, the page's first hits.

    python benchmarks/serve_load.py INDEX [--model CKPT] [--rate 50] [--seconds 60] [--clients 200] [--ingest] [--page]

Copies the index, starts ``medfinder serve`` on the copy in a process of its own, on loopback, and asks it over real
connections. The rate is an open loop: a search is sent when its time has come, whether or not those before it were
answered, and its time counts from that moment, so that a server which stands still is not spared the ones it kept
waiting. Half of the texts are new to the server, the others come from thirty; with them come keywords, filters, more
like this, and second pages. Then ``--clients`` connections ask at the same moment. ``--ingest`` sends one
zip of 500 DICOM slices of 512 x 512 while five searches a second go on, ``--page`` opens the page in Debian's
chromium. Processor time and memory are the server's with its children's.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from medfinder.client import Client
from medfinder.curation.keywords import KEYWORDS

CHROMIUM = "/usr/bin/chromium"
SIDES = ("", "left ", "right ", "bilateral ")
PLACES = ("", " in the upper lobe", " in the lower lobe", " at the base", " near the hilum")
SIZES = ("", "small ", "large ", "new ", "stable ", "moderate ")
FILTERS = ("sex = F", "age >= 60", "sex = M and age < 60", "finding = emphysema", "spacing <= 3")
KNOWN_TEXTS = 30
SLICES, SIDE = 500, 512


@dataclass
class Answers:
    """What came back: seconds until it did, how often each status; 0 is a connection that failed."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    took_s: float = 0.0

    def told(self) -> str:
        if not self.seconds:
            return f"none answered; by status {dict(self.statuses)}"
        p50, p95, p99 = (np.percentile(self.seconds, q) * 1000 for q in (50, 95, 99))
        figures = f"p50 {p50:.0f}  p95 {p95:.0f}  p99 {p99:.0f}  max {max(self.seconds) * 1000:.0f} ms"
        rate = self.answered / self.took_s
        return f"{sum(self.statuses.values())} asked, {rate:.1f}/s answered, {figures}, by status {dict(self.statuses)}"

    @property
    def answered(self) -> int:
        """Searches that brought hits: to refuse one takes little."""
        return self.statuses[200]


# ---- what is asked ---------------------------------------------------------------------------------------------------


def questions(case_ids: list[str], seed: int) -> Iterator[dict[str, Any]]:
    """Make searches without end: of ten, five texts, one keyword, one filter, one more like this, two pages."""
    rng = random.Random(seed)
    combinations = [
        f"{size}{side}{name}{place}".strip()
        for size, side, name, place in itertools.product(SIZES, SIDES, KEYWORDS, PLACES)
    ]
    rng.shuffle(combinations)
    known, new = combinations[:KNOWN_TEXTS], itertools.cycle(combinations[KNOWN_TEXTS:])
    texts = (next(new) if rng.random() < 0.5 else rng.choice(known) for _ in itertools.count())
    makers: tuple[Callable[[], dict[str, Any]], ...] = (
        *(lambda: {"text": next(texts)} for _ in range(5)),
        lambda: {"keyword": rng.choice(list(KEYWORDS))},
        lambda: {"text": next(texts), "where": rng.choice(FILTERS), "facets": True},
        lambda: {"case_id": rng.choice(case_ids)},
        lambda: {"text": next(texts), "offset": 10},
        lambda: {"text": next(texts), "k": 25, "facets": True, "group": "patient"},
    )
    while True:
        yield rng.choice(makers)()


class Connections:
    """Kept-alive connections to the server; a client of a few lines, so that its own time is not what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: dict[str, Any]) -> int:
        """Send JSON and read the whole answer; give its status, 0 where the connection fails."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        try:
            reader, writer = self._take() or await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(answer.split(b"content-length:")[1].split(b"\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError):
            return 0
        if b"connection: close" in answer:
            writer.close()
        else:
            self._free.append((reader, writer))
        return int(answer.split()[1])

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Take a free connection; those of a burst lie idle after it until the server closes them, as it should."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None


async def ask_at_rate(port: int, asked: Iterator[dict[str, Any]], rate: float, seconds: float) -> Answers:
    """Send searches when their time has come."""
    answers, connections, waiting = Answers(), Connections(port), set()
    start = time.perf_counter()

    async def ask(due: float, body: dict[str, Any]) -> None:
        answers.statuses[await connections.post("/v1/search", body)] += 1
        answers.seconds.append(time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(ask(due, next(asked)))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    answers.took_s = time.perf_counter() - start
    return answers


async def ask_at_once(port: int, asked: Iterator[dict[str, Any]], clients: int) -> Answers:
    """Have many clients ask at the same moment."""
    answers, start = Answers(), time.perf_counter()

    async def ask(body: dict[str, Any]) -> None:
        answers.statuses[await Connections(port).post("/v1/search", body)] += 1
        answers.seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(ask(next(asked)) for _ in range(clients)))
    answers.took_s = time.perf_counter() - start
    return answers


# ---- the server ------------------------------------------------------------------------------------------------------


class Watched:
    """A running server, with what it takes of the machine."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._root = psutil.Process(process.pid)

    def all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def processor_s(self) -> tuple[float, float]:
        """Give what the server itself has taken, and what its children have."""
        own, *others = (sum(one.cpu_times()[:2]) for one in self.all())
        return float(own), float(sum(others))

    def memory_mb(self) -> tuple[float, float]:
        """Give the peak of the server itself, and what its children hold now."""
        peak = int(Path(f"/proc/{self._root.pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        return peak, sum(one.memory_info().rss for one in self.all()[1:]) / 2**20


@contextmanager
def serving(index: Path, model: Path | None) -> Iterator[Watched]:
    """Run ``medfinder serve`` on a copy of an index until the block ends."""
    with tempfile.TemporaryDirectory() as place, socket.socket() as probe:
        # The copy keeps the holes of the engine's files.
        subprocess.run(["cp", "--recursive", "--sparse=always", index, f"{place}/index"], check=True)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        words = [sys.executable, "-m", "medfinder.cli", "serve", f"{place}/index", "--port", str(port)]
        with subprocess.Popen([*words, *(["--model", str(model)] if model else [])], stderr=subprocess.PIPE) as process:
            try:
                started = time.perf_counter()
                while process.poll() is None and not _answers(port):
                    time.sleep(0.1)
                if process.poll() is not None:
                    raise SystemExit(f"the server ended: {process.stderr.read().decode() if process.stderr else ''}")
                print(f"server up after {time.perf_counter() - started:.1f} s")
                while not _is_warm(port):
                    time.sleep(0.5)
                yield Watched(process, port)
            finally:
                process.terminate()
                process.wait(60)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_warm(port: int) -> bool:
    """Tell whether texts have their process, if they are to have one; before, searches are slower."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
        return bool(json.load(answer).get("is_text_process_warm", True))


# ---- a CT that comes in ----------------------------------------------------------------------------------------------


def write_study(folder: Path) -> Path:
    """Write a phantom chest as a zip of 500 DICOM files of 512 x 512, as a scanner would give it."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    from medfinder.sources.phantoms.write import write_phantoms
    from medfinder.volume import read_volume

    write_phantoms(folder / "phantom", studies=1, seed=3, size=SIDE)
    volume = read_volume(next((folder / "phantom").rglob("*.nii.gz")))
    spacing = [float(np.linalg.norm(volume.affine[:3, axis])) for axis in range(3)]
    # RAS+ voxels become rows to the back and columns to the left.
    planes = np.asarray(volume.hu)[::-1, ::-1].transpose(2, 1, 0).astype(np.int16)
    step = spacing[2] * (len(planes) - 1) / (SLICES - 1)
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, place in enumerate(np.linspace(0, len(planes) - 1, SLICES)):
            # Between two planes: curation holds volumes whose slices repeat.
            below, share = min(int(place), len(planes) - 2), place - min(int(place), len(planes) - 2)
            plane = ((1 - share) * planes[below] + share * planes[below + 1]).round().astype(np.int16)
            image = Dataset()
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"1.2.3.4.9.{number + 1}"
            image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3.4", "1.2.3.4.1", "1.2.3"
            image.Modality, image.ImageType, image.PatientID = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "load"
            image.InstanceNumber, image.Rows, image.Columns = number + 1, *planes.shape[1:]
            image.PixelSpacing, image.SliceThickness = [round(spacing[1], 6), round(spacing[0], 6)], round(step, 6)
            image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
            image.ImagePositionPatient = [0.0, 0.0, round(step * number, 6)]
            image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
            image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
            image.RescaleSlope, image.RescaleIntercept = 1, 0
            image.add_new("PixelData", "OW", plane.tobytes())
            content = io.BytesIO()
            image.save_as(content, enforce_file_format=True)
            archive.writestr(f"{number:04}.dcm", content.getvalue())
    return path


async def ingest(server: Watched, study: Path, asked: Iterator[dict[str, Any]]) -> None:
    """Send the study while searches go on; tell when it was taken over, and when it could be found."""
    before, start = server.processor_s(), time.perf_counter()
    client = Client(server.url, timeout_s=600)
    taken = asyncio.create_task(asyncio.to_thread(client.ingest, study, report="Left pleural effusion.", wait_s=None))
    found: list[dict[str, Any]] = []

    async def follow() -> None:
        job = (await taken)["id"]
        print(f"  acknowledged after {time.perf_counter() - start:.1f} s")
        while not found:
            told = await asyncio.to_thread(client.job, job)
            found.extend([told] if told["status"] in ("done", "failed") else [])
            await asyncio.sleep(0.2)

    searched: list[Answers] = []
    following = asyncio.create_task(follow())
    while not following.done():
        searched.append(await ask_at_rate(server.port, asked, 5, 2))
    await following
    print(f"  {found[0]['status']} {time.perf_counter() - start:.1f} s after the first byte {found[0]['message']}")
    print(f"  {sum(server.processor_s()) - sum(before):.1f} s of processor time, those searches included")
    meanwhile = Answers(took_s=sum(some.took_s for some in searched))
    for some in searched:
        meanwhile.seconds += some.seconds
        meanwhile.statuses += some.statuses
    print(f"  meanwhile: {meanwhile.told()}")


# ---- the page --------------------------------------------------------------------------------------------------------


def paint(server: Watched, texts: list[str]) -> None:
    """Measure in a browser from the key that asks to the first hit that stands on the screen, and to its picture."""
    from playwright.sync_api import sync_playwright

    hits, pictures = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        started = time.perf_counter()
        page.goto(server.url)
        page.wait_for_selector("#words:visible")
        print(f"  page open after {(time.perf_counter() - started) * 1000:.0f} ms")
        for text in texts:
            page.goto(server.url)
            page.fill("#words", text)
            taken = page.evaluate(PAINTED)
            hits.append(taken["hit"])
            pictures.append(taken["picture"])
        browser.close()
    for name, found in (("first hit", hits), ("its picture", pictures)):
        print(
            f"  {name} painted: median {statistics.median(found):.0f} ms, slowest {max(found):.0f} ms of {len(found)}"
        )


# A frame after the hit stands in the page, it is on the screen.
PAINTED = """async () => {
  const box = document.querySelector("#words");
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const until = async (is) => { while (!is()) await frame(); await frame(); return performance.now() - start; };
  const start = performance.now();
  box.form.requestSubmit();
  const hit = await until(() => document.querySelector("#hits .hit-title"));
  const shown = () => [...document.querySelectorAll("#hits img")].some((one) => one.complete && one.naturalWidth);
  return { hit, picture: await until(shown) };
}"""


# ---- all of it -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ingest", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load of others {os.getloadavg()[0]:.1f}")
    with serving(given.index, given.model) as server:
        client = Client(server.url, timeout_s=120)
        case_ids = [hit["case_id"] for hit in client.search("pleural effusion", k=100)["hits"]]
        asked = questions(case_ids, given.seed)
        if given.page:
            print("page")
            paint(server, [next(one["text"] for one in asked if "text" in one) for _ in range(10)])
        if given.rate:
            before = server.processor_s()
            answers = asyncio.run(ask_at_rate(server.port, asked, given.rate, given.seconds))
            print(f"{given.rate:g}/s for {given.seconds:g} s: {answers.told()}")
            own, others = (now - then for now, then in zip(server.processor_s(), before, strict=True))
            each = 1000 / max(1, answers.answered)
            print(f"  {(own + others) / answers.took_s:.2f} cores; processor time of each search that was answered:")
            print(f"  {own * each:.1f} ms of the server itself, {others * each:.1f} ms of its other processes")
        if given.clients:
            print(f"{given.clients} at once: {asyncio.run(ask_at_once(server.port, asked, given.clients)).told()}")
        print("memory: server at most {:.0f} MB, its children {:.0f} MB".format(*server.memory_mb()))
        if given.ingest:
            with tempfile.TemporaryDirectory() as place:
                study = write_study(Path(place))
                print(f"{SLICES} slices of {SIDE} x {SIDE}, a zip of {study.stat().st_size / 2**20:.0f} MB")
                asyncio.run(ingest(server, study, asked))
            print("memory: server at most {:.0f} MB, its children {:.0f} MB".format(*server.memory_mb()))


if __name__ == "__main__":
    main()
