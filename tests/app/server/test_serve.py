"""The server as the command line starts it: over TLS, with a PACS behind it; and searches that are sent to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder import Client
from medfinder.app.server import run as run_module
from medfinder.app.server.run import Archive, Listening, serve
from medfinder.app.server.settings import Limits
from medfinder.app.study_links import add_link
from medfinder.cli import main
from medfinder.client import ServerError
from medfinder.errors import ConfigError
from medfinder.models.checkpoint import load_model
from medfinder.records import Case, Finding
from medfinder.retrieval.index import SearchIndex
from medfinder.sources import pacs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

CHEST = "1.2.3.1"
TEMPLATE = "https://viewer.example/viewer?StudyInstanceUIDs={StudyInstanceUID}"


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: exit code, standard output, standard error."""

    def it(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medfinder", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(str(ended.value.code or 0)), said.out, said.err

    return it


def make_certificate(folder: Path, host: str) -> Path:
    """Make a certificate that signs itself; its key lies beside it as ``.key``."""
    certificate = folder / f"{host}.crt"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]
    files = ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    named = ["-addext", f"subjectAltName={'IP' if host[0].isdigit() else 'DNS'}:{host}"]
    subprocess.run(["openssl", *words, "-subj", "/CN=medfinder", *files, *named], capture_output=True, check=True)
    return certificate


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificate(folder, "127.0.0.1")
    make_certificate(folder, "elsewhere.example")
    return folder


def make_index(path: Path) -> None:
    """Make an index of two cases as the shipped model's; the vectors are drawn."""
    model = load_model()
    cases = [
        Case(
            case_id=f"case{number}",
            study_id=f"study{number}",
            patient_id=f"p{number}",
            source="dicom",
            split="test",
            volume=f"volumes/case{number}.nii",
            report=f"{finding.capitalize()}.",
            report_es="",
            findings=(Finding(finding),),
            findings_from="report",
            age_years=50,
            sex="F",
            date_offset_days=None,
            spacing_mm=(1.0, 1.0, 1.0),
            shape=(9, 9, 9),
            region="chest",
            is_synthetic=True,
        )
        for number, finding in enumerate(("emphysema", "pleural effusion"))
    ]
    drawn = np.random.default_rng(0).normal(size=(2, model.width)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    with SearchIndex.create(path, model_digest=model.digest, width=model.width, model_name=model.name) as index:
        index.add(cases, drawn, drawn, path.parent, model_digest=model.digest)


def start(*words: str | Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a command that ends by Ctrl-C, in a group of its own; a suite in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = [sys.executable, "-m", "medfinder.cli", *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def served(archive: Any, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server over TLS; ``told`` holds what it printed, once it has ended."""
    work = tmp_path_factory.mktemp("served")
    make_index(work / "index")
    add_link(work / "studies.jsonl", "study1", "1.2.840.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    certificate = certificates / "127.0.0.1.crt"
    proxies = ("http_proxy", "https_proxy", "all_proxy", pacs.USER.lower(), pacs.PASSWORD.lower())
    environment = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    words: list[str | Path] = ["serve", work / "index", "--port", str(port), "--dicomweb", archive.url]
    words += ["--tls-certificate", certificate, "--tls-key", certificate.with_suffix(".key")]
    words += ["--viewer-link", TEMPLATE, "--study-map", work / "studies.jsonl"]
    about = {"url": f"https://127.0.0.1:{port}", "certificate": str(certificate)}
    with start(*words, environment=environment) as process:
        try:
            wait_for(port, process)
            yield about
        finally:
            os.killpg(process.pid, signal.SIGINT)
            out, told = process.communicate(timeout=60)
    assert out == ""
    assert "Traceback" not in told
    assert "links into the PACS viewer: 1 study" in told
    assert process.returncode in (0, 130), told


def wait_for(port: int, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


def test_a_search_at_a_server_prints_what_a_search_in_its_index_would(
    served: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", served["certificate"])
    code, out, told = run("search", "--server", served["url"], "--keyword", "emphysema", "--explain")
    assert code == 0, told
    assert "case0" in out
    assert "Not for diagnosis." in out
    _, out, _ = run("search", "--server", served["url"], "--text", "effusion", "-k", "1", "--json")
    [hit] = json.loads(out)
    assert {"rank", "case_id", "score", "findings", "report", "source"} <= set(hit)
    assert hit["volume"] is None


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_who_lets_others_in_without_tls_is_told_what_that_means(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server itself is left out: nothing here listens to other machines."""
    make_index(tmp_path / "index")
    monkeypatch.setenv("MEDFINDER_ADMIN_KEY", "0123456789abcdef" * 4)
    monkeypatch.setattr(run_module, "compute_in_one_thread", lambda: None)
    monkeypatch.setattr(run_module.uvicorn, "run", lambda *_, **__: None)
    told: list[str] = []
    serve(
        tmp_path / "index",
        None,
        listening=Listening(host),
        archive=Archive(),
        folder=tmp_path / "state",
        limits=Limits(),
        told=told.append,
    )
    assert any("in the clear" in line for line in told) == (host == "0.0.0.0")


def test_a_study_of_the_pacs_is_asked_with_by_its_uid(
    served: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", served["certificate"])
    code, out, told = run("search", "--server", served["url"], "--study", CHEST, "-k", "2", "--json")
    assert code == 0, told
    assert {hit["case_id"] for hit in json.loads(out)} == {"case0", "case1"}
    code, _, told = run("search", "--server", served["url"], "--study", "1.2.3.99")
    assert (code, told.count("\n")) == (2, 1)
    assert "the PACS has no CT study" in told


def test_an_index_is_asked_with_a_study_that_is_not_in_it(
    archive: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_index(tmp_path / "index")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, told = run("search", tmp_path / "index", "--study", CHEST, "--dicomweb", archive.url, "--json")
    assert code == 0, told
    assert {hit["case_id"] for hit in json.loads(out)} == {"case0", "case1"}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    code, _, told = run("search", tmp_path / "index", "--study", "1.2.3.99", "--dicomweb", archive.url)
    assert (code, told.count("\n")) == (2, 1)
    assert "the PACS has no CT study" in told


def test_the_client_speaks_tls_and_says_which_certificate_it_misses(
    served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServerError, match=r"is not trusted: self.signed certificate; .* SSL_CERT_FILE") as refused:
        Client(served["url"]).info()
    assert refused.value.code == "certificate"
    monkeypatch.setenv("SSL_CERT_FILE", served["certificate"])
    client = Client(served["url"])
    assert client.info()["has_viewer"]
    assert len(client.search_study(CHEST, k=1)["hits"]) == 1
    link = client.case("case1")["links"]["viewer"]
    assert link == "https://viewer.example/viewer?StudyInstanceUIDs=1.2.840.1"
    with pytest.raises(ServerError, match="does not answer"):
        Client(served["url"].replace("https", "http")).info()


def test_what_is_no_certificate_is_refused_in_one_line_before_anything_is_opened(
    certificates: Path, tmp_path: Path, run: Run
) -> None:
    good, other = certificates / "127.0.0.1.crt", certificates / "elsewhere.example.key"
    (tmp_path / "text.crt").write_text("no certificate")
    for certificate, key in ((tmp_path / "none.crt", other), (tmp_path / "text.crt", other), (good, other)):
        with pytest.raises(ConfigError, match="cannot be used"):
            Listening(certificate=certificate, key=key)
    with pytest.raises(ConfigError, match="give the other one"):
        Listening(certificate=good)
    code, _, told = run("serve", tmp_path / "index", "--tls-certificate", good, "--tls-key", other)
    assert (code, told.count("\n")) == (2, 1)
    assert not list(tmp_path.glob("index*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give INDEX or --server"),
        (("index", "--server", "http://127.0.0.1:9"), "give INDEX or --server"),
        (("--server", "http://127.0.0.1:9", "--model", "m"), "leave out --model"),
        (("index", "--study", "1.2.3"), "--study and --dicomweb belong together"),
        (("index", "--dicomweb", "http://127.0.0.1:9", "--text", "mass"), "--study and --dicomweb belong together"),
        (("index", "--study", "1.2", "--dicomweb", "http://127.0.0.1:9", "--ct", "a.nii"), "give one of them"),
        (("index", "--study", "1.2.*", "--dicomweb", "http://127.0.0.1:9/dicom-web"), "no StudyInstanceUID"),
        (("--server", "http://127.0.0.1:9", "--text", "mass"), "does not answer"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(words: tuple[str, ...], told: str, run: Run) -> None:
    code, _, said = run("search", *words)
    assert (code, said.count("\n")) == (2, 1)
    assert told in said
