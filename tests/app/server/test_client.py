"""A real server on this machine, asked by the client: the same words, the same refusals, slow and silent callers."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from medfinder import Client
from medfinder.app.server import run
from medfinder.client import ServerError
from medfinder.errors import ConfigError
from medfinder.models.protocol import DualEncoder
from medfinder.retrieval.index import SearchIndex

from .conftest import listen


@pytest.fixture(scope="module")
def port(library: SearchIndex, stand_in: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with listen(library, stand_in, tmp_path_factory.mktemp("state")) as port:
        yield port


@pytest.fixture
def client(port: int) -> Client:
    return Client(f"http://127.0.0.1:{port}")


def test_the_client_finds_opens_and_fetches_a_case(client: Client, tmp_path: Path) -> None:
    hit = client.search("pleural effusion", k=1)["hits"][0]
    assert client.case(hit["case_id"])["report"] == hit["report"]
    assert client.volume(hit["case_id"], tmp_path / "v.nii").stat().st_size == 352 + 2 * 32 * 28 * 32
    assert client.keywords("derrame pl")[0]["name"] == "pleural effusion"
    assert len(client.embed("nodule")) == 16


def test_the_client_tells_what_the_server_refuses(client: Client) -> None:
    with pytest.raises(ServerError, match="no such case") as refused:
        client.case("none")
    assert (refused.value.status, refused.value.code) == (404, "not found")
    with pytest.raises(ServerError, match="k:"):
        client.search("x", k=0)


def test_the_client_sends_a_ct(client: Client, chest: Path) -> None:
    near = client.search(ct=chest, k=2)["hits"]
    assert len(near) == 2
    liked = client.search(ct=chest, liked=[hit["case_id"] for hit in near])["hits"]
    assert not {hit["case_id"] for hit in near} & {hit["case_id"] for hit in liked}
    assert len(client.embed(ct=chest)) == 16


def test_the_client_refuses_what_cannot_be_asked() -> None:
    with pytest.raises(ConfigError, match="no address"):
        Client("localhost:8080")
    with pytest.raises(ConfigError, match="no file"):
        Client("http://127.0.0.1:9").search(ct="nothing.nii")
    with pytest.raises(ServerError, match="does not answer"):
        Client("http://127.0.0.1:9").info()


def test_who_does_not_say_what_he_wants_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_HEAD_S", 0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        assert caller.recv(100) == b""
