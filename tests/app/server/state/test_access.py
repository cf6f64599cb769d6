"""Who comes in: keys, roles, sessions, limits, as a client of a small application meets them."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient

from medfinder.app.server.access import (
    Access,
    AccessSettings,
    Reader,
    add_key,
    check_listen,
    read_admin_key,
)
from medfinder.app.server.state import State
from medfinder.errors import ConfigError

ADMIN = "0123456789abcdef0123456789abcdef"
URL = "http://here:8080"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(sqlite_place: Any) -> Iterator[State]:
    opened: State = sqlite_place.open()
    yield opened
    opened.close()


@pytest.fixture
def ask(state: State, clock: Clock) -> Iterator[Callable[..., TestClient]]:
    """Start an application that three roles may call, and log in to and out of."""
    clients = []

    def start(*, admin_key: str | None = ADMIN, is_open: bool = False, **settings: Any) -> TestClient:
        access = Access(state, AccessSettings(**settings), admin_key=admin_key, is_open=is_open, clock=clock)
        app = FastAPI(dependencies=[Depends(access.require("viewer"))])
        outside = FastAPI()

        @app.api_route("/{role}", methods=["GET", "POST"])
        def call(role: str, request: Request) -> dict[str, str]:
            reader = access.require(role)(request)  # type: ignore[arg-type]
            return {"key": reader.key_id, "holder": reader.holder, "role": reader.role}

        @outside.post("/session")
        def log_in(request: Request, response: Response, key: str) -> str:
            return access.log_in(request, response, key).role

        @outside.delete("/session")
        def log_out(request: Request, response: Response) -> None:
            access.log_out(request, response)

        outside.mount("/v1", app)
        client = TestClient(outside, base_url="https://here" if settings.get("is_tls") else URL)
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("role", "passes"), [("viewer", (200, 403, 403)), ("curator", (200, 200, 403)), ("admin", (200, 200, 200))]
)
def test_a_role_may_what_lower_ones_may_and_no_more(
    state: State, ask: Callable[..., TestClient], role: str, passes: tuple[int, ...]
) -> None:
    _, key = add_key(state, "ward 3", role)
    client = ask()
    got = tuple(client.get(f"/v1/{asked}", headers=bearer(key)).status_code for asked in ("viewer", "curator", "admin"))
    assert got == passes


def test_a_key_is_told_once_and_kept_as_a_digest(state: State, sqlite_place: Any) -> None:
    kept, key = add_key(state, "ward 3", "viewer")
    secret = key.split("_", 2)[2]
    assert len(secret) == 43
    assert kept.id in key
    assert kept.digest not in repr(kept)
    stored = b"".join(path.read_bytes() for path in sqlite_place.folder.iterdir())
    assert b"ward 3" in stored
    assert secret.encode() not in stored


def test_a_wrong_an_ended_and_no_key_are_refused_alike(state: State, ask: Callable[..., TestClient]) -> None:
    kept, key = add_key(state, "ward 3", "viewer", days=1)
    gone, gone_key = add_key(state, "ward 4", "viewer")
    state.revoke_key(gone.id)
    client = ask()
    assert client.get("/v1/viewer", headers=bearer(key)).json()["holder"] == "ward 3"
    other = "A" if key[-2] != "A" else "B"
    for wrong in (
        gone_key,
        key[:-2] + other + key[-1],
        key.replace(kept.id, "0" * 12),
        "x",
        "é",
        "mf_",
        key * 1000,
        "",
    ):
        answer = client.get("/v1/viewer", headers={"Authorization": f"Bearer {wrong}".encode("latin-1")})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json() == {"detail": "this key is not known, has expired or was revoked"}
    assert client.get("/v1/viewer", headers={"Authorization": f"Basic {key}"}).status_code == 401
    assert client.get("/v1/viewer").status_code == 401
    now = state.now()
    state.now = lambda: now + timedelta(days=1)
    assert client.get("/v1/viewer", headers=bearer(key)).status_code == 401


def test_the_admin_key_of_the_environment_counts_as_long_as_it_stands_there(ask: Callable[..., TestClient]) -> None:
    before, after = ask(), ask(admin_key="another-" + ADMIN)
    assert before.get("/v1/admin", headers=bearer(ADMIN)).json()["key"] == "first-admin"
    assert after.get("/v1/admin", headers=bearer(ADMIN)).status_code == 401
    assert before.post("/session", params={"key": ADMIN}).status_code == 200
    after.cookies = before.cookies
    assert before.get("/v1/admin").status_code == 200
    assert after.get("/v1/admin").status_code == 401


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(
    state: State, ask: Callable[..., TestClient]
) -> None:
    kept, key = add_key(state, "ward 3", "curator")
    client = ask()
    answer = client.post("/session", params={"key": key}, headers={"Origin": URL})
    words = {word.strip().lower() for word in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/"} <= words
    assert key not in answer.headers["set-cookie"]
    assert client.get("/v1/curator").json()["key"] == kept.id
    assert client.post("/v1/curator", headers={"Origin": URL}).status_code == 200
    for origin in ("http://evil.example", "null", "http://[", "http://here:8080.evil.example"):
        assert client.post("/v1/curator", headers={"Origin": origin}).status_code == 403
        assert client.post("/session", params={"key": key}, headers={"Origin": origin}).status_code == 403
    assert client.post("/v1/curator").status_code == 403
    stolen = dict(client.cookies)
    assert client.request("DELETE", "/session", headers={"Origin": URL}).status_code == 200
    assert client.get("/v1/curator").status_code == 401
    assert client.get("/v1/curator", headers={"Cookie": f"medfinder={stolen['medfinder']}"}).status_code == 401


def test_a_session_ends_with_its_key(state: State, ask: Callable[..., TestClient]) -> None:
    kept, key = add_key(state, "ward 3", "viewer")
    client = ask()
    client.post("/session", params={"key": key})
    assert client.get("/v1/viewer").status_code == 200
    state.revoke_key(kept.id)
    assert client.get("/v1/viewer").status_code == 401


def test_under_tls_the_cookie_never_travels_otherwise(state: State, ask: Callable[..., TestClient]) -> None:
    _, key = add_key(state, "ward 3", "viewer")
    client = ask(is_tls=True)
    told = client.post("/session", params={"key": key}).headers["set-cookie"]
    assert told.startswith("__Host-medfinder=")
    assert "secure" in told.lower()
    assert "domain" not in told.lower()
    assert client.get("/v1/viewer").status_code == 200


def test_a_key_that_asks_too_often_waits_as_long_as_it_is_told(
    state: State, ask: Callable[..., TestClient], clock: Clock
) -> None:
    (_, busy), (_, calm) = add_key(state, "busy", "viewer"), add_key(state, "calm", "viewer")
    client = ask(per_s=0.5, burst=3)
    # The router and the route both ask for the gate: a request still counts once.
    assert [client.get("/v1/viewer", headers=bearer(busy)).status_code for _ in range(4)] == [200, 200, 200, 429]
    wait = int(client.get("/v1/viewer", headers=bearer(busy)).headers["Retry-After"])
    assert wait == 2
    assert client.get("/v1/viewer", headers=bearer(calm)).status_code == 200
    clock.now_s += wait
    assert client.get("/v1/viewer", headers=bearer(busy)).status_code == 200
    assert client.get("/v1/viewer", headers=bearer(busy)).status_code == 429


def test_who_guesses_is_told_to_wait_but_a_good_key_passes(state: State, ask: Callable[..., TestClient]) -> None:
    _, key = add_key(state, "ward 3", "viewer")
    client = ask(failures_per_min=2)
    codes = [client.get("/v1/viewer", headers=bearer("wrong")).status_code for _ in range(3)]
    assert codes == [401, 401, 429]
    assert client.post("/session", params={"key": "wrong"}).status_code == 429
    assert client.get("/v1/viewer", headers=bearer(key)).status_code == 200


def test_a_page_whose_session_ended_does_not_lock_its_reader_out(state: State, ask: Callable[..., TestClient]) -> None:
    _, key = add_key(state, "ward 3", "viewer")
    client = ask(failures_per_min=2)
    assert {client.get("/v1/viewer").status_code for _ in range(5)} == {401}
    client.cookies.set("medfinder", "ended")
    assert {client.get("/v1/viewer").status_code for _ in range(5)} == {401}
    assert client.post("/session", params={"key": key}).status_code == 200


def test_an_open_server_closes_when_the_first_key_is_made_and_never_opens_again(
    state: State, ask: Callable[..., TestClient]
) -> None:
    client = ask(admin_key=None, is_open=True)
    assert client.get("/v1/admin").json() == {"key": "local", "holder": "local", "role": "admin"}
    kept, _ = add_key(state, "ward 3", "viewer")
    assert client.get("/v1/viewer").status_code == 401
    state.revoke_key(kept.id)
    assert client.get("/v1/viewer").status_code == 401
    assert ask(admin_key=ADMIN, is_open=True).get("/v1/viewer").status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_this_machine_alone_may_be_served_without_keys(host: str) -> None:
    check_listen(host, has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.4", "localhost.evil.example", "ct.hospital.example"])
def test_other_machines_are_not_served_without_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="there is no key"):
        check_listen(host, has_keys=False)
    check_listen(host, has_keys=True)


def test_weak_admin_keys_are_refused_without_repeating_them(tmp_path: Path) -> None:
    for weak in ("short", "a" * 64, "ñ" * 16 + ADMIN):
        with pytest.raises(ConfigError, match="too easy to guess") as told:
            read_admin_key({"MEDFINDER_ADMIN_KEY": weak})
        assert weak not in str(told.value)
    (tmp_path / "key").write_text(f"{ADMIN}\n")
    assert read_admin_key({"MEDFINDER_ADMIN_KEY_FILE": str(tmp_path / "key")}) == ADMIN
    assert read_admin_key({}) is None


def test_a_key_that_makes_no_sense_is_not_made(state: State) -> None:
    for holder, role, days in (
        ("", "viewer", None),
        ("local", "viewer", None),
        ("first-admin", "viewer", None),
        ("x" * 201, "viewer", None),
        ("ward 3", "king", None),
        ("ward 3", "viewer", 0),
        ("ward 3", "viewer", float("nan")),
        ("ward 3", "viewer", float("inf")),
    ):
        with pytest.raises(ConfigError):
            add_key(state, holder, role, days=days)
    assert list(state.list_keys()) == []


def test_settings_that_let_nobody_in_are_refused() -> None:
    for name in ("per_s", "burst", "failures_per_min", "session_h"):
        with pytest.raises(ConfigError, match=name):
            AccessSettings(**{name: 0})
    assert not Reader("k", "viewer", "h").may("curator")
