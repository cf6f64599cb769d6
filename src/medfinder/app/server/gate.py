"""Who may call what: the three roles, and the gate of a server on one's own machine that asks for no key.

In: a request. Out: the caller, by whom limits and the log know him. ``medfinder.app.server.access`` asks for keys;
``open_gate`` is for a server that only this machine can reach.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Role = Literal["viewer", "curator", "admin"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the id of a key, never the key."""

    key_id: str
    role: Role


class Gate(Protocol):
    """Makes the FastAPI dependency that lets callers of a role, or a higher one, pass."""

    def __call__(self, role: Role, /) -> Callable[..., Any]:
        """Give the dependency."""
        ...


def open_gate(_: Role) -> Callable[..., Any]:
    """Let everybody pass as admin, whatever is asked for: for a server that listens on this machine alone."""
    caller = Caller("local", "admin")

    def pass_all() -> Caller:
        return caller

    return pass_all
