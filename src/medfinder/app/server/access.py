"""Who may use the server: keys with roles, sessions of browsers, how often each may ask, where the server may listen.

In: requests with ``Authorization: Bearer KEY`` or the cookie of a session. Out: the caller, or a refusal: 401 without a
good key, 403 for too low a role or a foreign origin, 429 with ``Retry-After`` for too many requests. A key is told
once, when it is made; kept is its digest, by which nobody comes in. Refused with ``ConfigError``: to listen where other
machines reach the server while there is no key, and weak keys from the environment.
"""

import hashlib
import hmac
import ipaddress
import math
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import get_args

from fastapi import Request, Response

from medfinder.app.server.database import read_secret
from medfinder.app.server.faults import Refusal
from medfinder.app.server.gate import Caller, Role
from medfinder.app.server.schema import MAX_NAME, BrowserSession, Key
from medfinder.app.server.state import State, check_text
from medfinder.errors import ConfigError

ADMIN_KEY = "MEDFINDER_ADMIN_KEY"
ROLES: tuple[Role, ...] = get_args(Role)
# Holders that are no rows: the admin key of the environment, and everybody on a machine of one's own.
FIRST_ADMIN, LOCAL = "first-admin", "local"

_KEY = re.compile(r"mf_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# NIST SP 800-63B, 5.1.1.2 wants slow digests for what people make up; 256 random bits are beyond any guessing, so one
# round of SHA-256 keeps them as well and costs each request microseconds. Hence no key that a person made up is taken.
_SECRET_BYTES = 32
_MIN_ADMIN_KEY = 32
_MIN_ADMIN_SIGNS = 10
_CLIENTS_KEPT = 10_000


@dataclass(frozen=True)
class AccessSettings:
    """How callers are treated; all ours.

    Attributes:
        per_s: requests a second that a key may make in the long run; twice what a server on two cores is
            to bear, so that a program with one key meets no limit before that.
        burst: requests at once; a page with three slices a hit asks 35.
        failures_per_min: wrong keys that may be shown from one address, a minute and at once. To show none is no guess,
            nor is the cookie of an ended session: a page that was open then asks for all its pictures with it.
        session_h: after which a browser shows its key again: a shift.
        is_tls: whether browsers reach the server by https; cookies then never travel otherwise.
        origins: addresses under which browsers know the server, where a proxy changes ``Host``.
    """

    per_s: float = 100.0
    burst: int = 200
    failures_per_min: float = 20.0
    session_h: float = 12.0
    is_tls: bool = False
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("per_s", "burst", "failures_per_min", "session_h"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} {value}; expected a number above 0")


@dataclass(frozen=True, slots=True)
class Reader(Caller):
    """A caller and what belongs to him: collections and history are kept under the holder, not under the key."""

    holder: str

    def may(self, role: Role) -> bool:
        """Tell whether the caller's role is that one or a higher one.

        Example:
            >>> Reader("k", "curator", "ward 3").may("viewer"), Reader("k", "curator", "ward 3").may("admin")
            (True, False)
        """
        return ROLES.index(self.role) >= ROLES.index(role)


def add_key(state: State, holder: str, role: str, *, days: float | None = None) -> tuple[Key, str]:
    """Make a key.

    Args:
        holder: who gets it, e.g. ``"ward 3"``; whoever holds a key of the same name sees the same collections.
        days: after which it is good for nothing; None for never.

    Returns:
        What is kept of the key, and the key, which cannot be had again.

    Raises:
        ConfigError: no such role, no usable holder, no such time.
    """
    if role not in ROLES:
        raise ConfigError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
    holder = check_text(holder, "holder of a key", MAX_NAME)
    if holder in (FIRST_ADMIN, LOCAL):
        raise ConfigError(f"{holder!r} is a name that the server uses itself; take another one")
    if days is not None and not 0 < days <= 36_500:
        raise ConfigError(f"a key for {days:g} days; expected more than 0 and at most 36500")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(_SECRET_BYTES)
    plain = f"mf_{key_id}_{secret}"
    now = state.now()
    kept = Key(key_id, holder, role, _digest(plain), now, None if days is None else now + timedelta(days=days))
    state.add_key(kept)
    return kept, plain


def read_admin_key(environment: Mapping[str, str] | None = None) -> str | None:
    """Read the first admin's key from MEDFINDER_ADMIN_KEY, or from the file that MEDFINDER_ADMIN_KEY_FILE names.

    Raises:
        ConfigError: it is too easy to guess.
    """
    key = read_secret(ADMIN_KEY, environment)
    if key is not None and (len(key) < _MIN_ADMIN_KEY or len(set(key)) < _MIN_ADMIN_SIGNS or not key.isascii()):
        raise ConfigError(
            f"{ADMIN_KEY} is too easy to guess; at least {_MIN_ADMIN_KEY} random signs, e.g. from: openssl rand -hex 32"
        )
    return key


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens there.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
        (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_listen(host: str, has_keys: bool) -> None:
    """Refuse to listen where strangers come by, unless they are asked for a key.

    Raises:
        ConfigError: other machines reach ``host``, and there is no key.
    """
    if not has_keys and not is_loopback(host):
        raise ConfigError(
            f"other machines reach {host or 'every address'}, and there is no key: make one by "
            f"medfinder keys add STATE HOLDER --role admin, set {ADMIN_KEY}, or listen on 127.0.0.1"
        )


class Access:
    """The gate of a server that knows keys; ``require`` is a ``gate.Gate``.

    Args:
        admin_key: of the first admin, as ``read_admin_key`` gives it; nothing of it is kept.
        is_open: whether everybody is admin as long as there never was a key; only where ``is_loopback``, and behind
            ``guard.Guard``, which keeps web sites elsewhere out.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        state: State,
        settings: AccessSettings | None = None,
        *,
        admin_key: str | None = None,
        is_open: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._settings = settings or AccessSettings()
        self._admin_digest = None if admin_key is None else _digest(admin_key)
        self._is_open = is_open
        self._requests = RateLimit(self._settings.per_s, self._settings.burst, clock)
        failures = self._settings.failures_per_min
        self._failures = RateLimit(failures / 60, max(1, math.ceil(failures)), clock)
        self._gates: dict[Role, Callable[[Request], Reader]] = {role: self._make_gate(role) for role in ROLES}

    def has_keys(self) -> bool:
        """Tell whether callers are asked for a key."""
        return self._admin_digest is not None or self._state.has_keys()

    def require(self, role: Role, /) -> Callable[[Request], Reader]:
        """Give the FastAPI dependency that lets callers of a role, or a higher one, pass; always the same one."""
        return self._gates[role]

    def _make_gate(self, role: Role) -> Callable[[Request], Reader]:
        def gate(request: Request) -> Reader:
            reader = self.identify(request)
            if not reader.may(role):
                raise Refusal(403, f"this takes the role {role}; your key has the role {reader.role}")
            return reader

        return gate

    def identify(self, request: Request) -> Reader:
        """Tell who asks; counted once, however many dependencies want to know.

        Raises:
            Refusal: nobody who may.
        """
        known = getattr(request.state, "reader", None)
        if isinstance(known, Reader):
            return known
        reader = self._ask(request)
        wait_s = self._requests.take(reader.key_id)
        if wait_s > 0:
            raise _too_many(wait_s)
        request.state.reader = reader
        return reader

    def _ask(self, request: Request) -> Reader:
        if self._is_open and not self.has_keys():
            return Reader(LOCAL, "admin", LOCAL)
        header = request.headers.get("authorization")
        cookie = request.cookies.get(self._cookie)
        if header is not None:
            kind, _, shown = header.partition(" ")
            found = self._by_key(shown.strip()) if kind.lower() == "bearer" else None
            if found is None:
                self._count_failure(request)
        elif cookie is not None:
            found = self._by_cookie(cookie)
            if found is not None and request.method not in _SAFE_METHODS:
                self._check_origin(request, must_tell=True)
        else:
            raise _no_key("a key is needed: send Authorization: Bearer KEY")
        if found is None:
            raise _no_key("this key is not known, has expired or was revoked")
        return found

    def log_in(self, request: Request, response: Response, shown: str) -> Reader:
        """Open a session for a browser that shows a key, and have the answer set its cookie.

        Raises:
            Refusal: the key is not good, too many wrong ones came from there, or a foreign page asks.
        """
        self._check_origin(request, must_tell=False)
        reader = self._by_key(shown.strip())
        if reader is None:
            self._count_failure(request)
            raise _no_key("this key is not known, has expired or was revoked")
        token = secrets.token_urlsafe(_SECRET_BYTES)
        ends = self._state.now() + timedelta(hours=self._settings.session_h)
        self._state.add_session(BrowserSession(_digest(token), reader.key_id, _digest(shown.strip()), ends))
        response.set_cookie(
            self._cookie,
            token,
            max_age=int(self._settings.session_h * 3600),
            httponly=True,
            samesite="strict",
            secure=self._settings.is_tls,
        )
        return reader

    def log_out(self, request: Request, response: Response) -> None:
        """End the session of a browser, here and there."""
        cookie = request.cookies.get(self._cookie)
        if cookie is not None:
            self._check_origin(request, must_tell=True)
            self._state.end_session(_digest(cookie))
        response.delete_cookie(self._cookie, httponly=True, samesite="strict", secure=self._settings.is_tls)

    @property
    def _cookie(self) -> str:
        # Browsers take a __Host- cookie from this very host by https only (RFC 6265bis, 4.1.3.2).
        return "__Host-medfinder" if self._settings.is_tls else "medfinder"

    def _by_key(self, shown: str) -> Reader | None:
        digest = _digest(shown)
        if self._admin_digest is not None and hmac.compare_digest(digest, self._admin_digest):
            return Reader(FIRST_ADMIN, "admin", FIRST_ADMIN)
        match = _KEY.fullmatch(shown)
        return None if match is None else self._by_digest(match[1], digest)

    def _by_cookie(self, token: str) -> Reader | None:
        session = self._state.session(_digest(token))
        if session is None:
            return None
        if session.key_id == FIRST_ADMIN:
            is_same = self._admin_digest is not None and hmac.compare_digest(session.key_digest, self._admin_digest)
            return Reader(FIRST_ADMIN, "admin", FIRST_ADMIN) if is_same else None
        return self._by_digest(session.key_id, session.key_digest)

    def _by_digest(self, key_id: str, digest: str) -> Reader | None:
        key = self._state.key(key_id)
        is_same = hmac.compare_digest(digest, key.digest if key is not None else _NO_DIGEST)
        if key is None or not is_same or key.revoked_at is not None or key.role not in ROLES:
            return None
        if key.expires_at is not None and key.expires_at <= self._state.now():
            return None
        return Reader(key.id, key.role, key.holder)

    def _check_origin(self, request: Request, *, must_tell: bool) -> None:
        """Refuse what a page of another site makes a browser send; browsers always tell the origin of a write."""
        origin = request.headers.get("origin")
        if origin is None and not must_tell:
            return
        host = request.headers.get("host", "")
        if origin not in (f"https://{host}", f"http://{host}", *self._settings.origins):
            raise Refusal(403, "not from here: another origin than this server's own")

    def _count_failure(self, request: Request) -> None:
        wait_s = self._failures.take(request.client.host if request.client else "")
        if wait_s > 0:
            raise _too_many(wait_s)


class RateLimit:
    """A bucket of tokens for each name, in this process; the names seen longest ago are forgotten.

    Args:
        per_s: tokens that come back a second.
        burst: tokens that a bucket holds.

    Example:
        >>> limit = RateLimit(2.0, 1, clock=lambda: 0.0)
        >>> limit.take("ward 3"), limit.take("ward 3"), limit.take("ward 4")
        (0.0, 0.5, 0.0)
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str) -> float:
        """Take a token; tell the seconds until there is one again, 0 where one was taken."""
        with self._lock:
            now = self._clock()
            tokens, then = self._buckets.pop(name, (float(self._burst), now))
            tokens = min(self._burst, tokens + (now - then) * self._per_s)
            wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
            self._buckets[name] = (tokens - 1 if wait_s == 0 else tokens, now)
            if len(self._buckets) > _CLIENTS_KEPT:
                self._buckets.popitem(last=False)
            return wait_s


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


_NO_DIGEST = _digest("")


def _no_key(message: str) -> Refusal:
    return Refusal(401, message, {"WWW-Authenticate": "Bearer"})


def _too_many(wait_s: float) -> Refusal:
    return Refusal(429, "too many requests; wait before the next one", {"Retry-After": str(math.ceil(wait_s))})
