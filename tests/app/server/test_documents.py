"""The documents know every route, every code of a refusal, every metric, and files of deployment fit the server."""

import re
import tomllib
from pathlib import Path

import yaml
from fastapi.testclient import TestClient

from medfinder.app.server import faults
from medfinder.app.server.settings import Limits

ROOT = Path(__file__).resolve().parents[3]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_route_and_method_is_documented(client: TestClient) -> None:
    told = read("docs/api.md")
    named = {
        (method, path.split("?")[0])
        for methods, path in re.findall(
            r"`((?:[A-Z]+)(?:`(?:, | and )`[A-Z]+)*) (/[^`\s]*)`", told.replace("` and `", "`, `")
        )
        for method in re.findall(r"[A-Z]+", methods)
    }
    for path, methods in client.get("/v1/openapi.json").json()["paths"].items():
        for method in methods:
            assert (method.upper(), path) in named, f"{method} {path} is not in docs/api.md"


def test_every_code_of_a_refusal_is_documented() -> None:
    table = read("docs/api.md").split("## Errors", 1)[1].split("## Limits", 1)[0]
    codes = {*faults._CODES.values(), *(code for _, _, code in faults._STATUS), "disk", "internal"}
    told = {
        code.strip() for row in re.findall(r"^\| \d+ \| ([^|]+) \|", table, re.MULTILINE) for code in row.split(",")
    }
    assert codes - {"conflict", "no length", "range not satisfiable"} <= told


def test_every_metric_is_documented(client: TestClient) -> None:
    client.get("/healthz")
    names = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    assert set(re.findall(r"`(medfinder_\w+)` \|", read("docs/deployment.md"))) == names


def test_the_upload_limits_told_are_those_of_the_server() -> None:
    limits, told = Limits(), read("docs/api.md").split("## Limits", 1)[1].split("## Searching", 1)[0]
    for value in (
        limits.body_kb,
        limits.upload_mb,
        limits.upload_s,
        limits.unpacked_mb,
        limits.silence_s,
        limits.read_s,
    ):
        assert f"{value:g}" in told.replace(",", "")


def test_the_image_installs_extras_that_are_there_and_only_what_is_sent_to_the_builder() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    lines = read("Dockerfile")
    wanted = re.search(r"install '\.\[([a-z,]+)\]'", lines)
    assert wanted is not None
    assert set(wanted[1].split(",")) <= set(extras)
    sent = {line.removeprefix("!") for line in read(".dockerignore").splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE) for word in line.split()}
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)


def test_the_compose_files_run_a_server_that_may_write_to_its_data_alone() -> None:
    service = yaml.safe_load(read("deploy/compose.yaml"))["services"]["medfinder"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["volumes"] == ["data:/data"]
    given = set(service["secrets"])
    used = set(re.findall(r"/run/secrets/(\w+)", str(service)))
    assert used == given == set(yaml.safe_load(read("deploy/compose.yaml"))["secrets"])
