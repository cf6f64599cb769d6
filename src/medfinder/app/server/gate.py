"""Who may call what: the three roles, and what the routes ask of whoever knows the callers.

In: a request. Out: the caller, by whom limits and the log know him; ``medfinder.app.server.access`` makes it so.
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
