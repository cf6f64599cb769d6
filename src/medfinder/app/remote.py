"""A question put to a running server instead of an index: the same words, the same hits.

In: the address of a server, a query, maybe a StudyInstanceUID of the PACS behind the server. Out: hits as the search
room gives them, without the places of volumes, which are the server's own; notes for the reader. Refused: what the
server refuses, with its sentence; a server that speaks another version.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from medfinder.client import Client, ServerError
from medfinder.records import Box, Evidence, Hit, Query

SERVER_KEY = "MEDFINDER_SERVER_KEY"

_TEXTS = ("text", "report", "keyword", "case_id", "where", "group")
_NUMBERS = ("k", "offset")
_TUPLES = ("findings", "matched", "negated", "missing")
# In the order of Evidence.slices.
_PLANES = ("sagittal", "coronal", "axial")


def open_client(url: str) -> Client:
    """Open a client whose key comes from the environment (``MEDFINDER_SERVER_KEY``)."""
    return Client(url, key=os.environ.get(SERVER_KEY))


def search_server(
    client: Client, query: Query, *, study: str | None = None, explain: bool = False
) -> tuple[tuple[Hit, ...], tuple[str, ...]]:
    """Ask a server.

    Args:
        study: StudyInstanceUID to ask with.
        explain: also ask for the place in the volume.

    Returns:
        Hits and notes.

    Raises:
        ServerError: the server refuses, or does not answer.
    """
    wanted = _as_wanted(query) | ({"explain": True} if explain else {})
    if study is not None:
        found = client.search_study(study, **wanted)
    elif query.ct is not None:
        found = client.search(ct=query.ct, **wanted)
    else:
        found = client.search(**wanted)
    try:
        return tuple(_as_hit(facts) for facts in found["hits"]), tuple(found["notes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError("the server's answer is not understood; is it of another version?") from error


def _as_wanted(query: Query) -> dict[str, Any]:
    wanted: dict[str, Any] = {name: getattr(query, name) for name in (*_TEXTS, *_NUMBERS) if getattr(query, name)}
    wanted["k"] = query.k
    for name in ("liked", "disliked"):
        if getattr(query, name):
            wanted[name] = list(getattr(query, name))
    if query.box is not None:
        wanted["box"] = asdict(query.box)
    return wanted


def _as_hit(facts: Mapping[str, Any]) -> Hit:
    known = {field.name: facts[field.name] for field in fields(Hit) if field.name in facts}
    return Hit(
        **{
            **known,
            **{name: tuple(facts[name]) for name in _TUPLES},
            "volume": None,
            "parts": tuple(facts["parts"].items()),
            "shares": tuple(facts["shares"].items()),
            "sentences": tuple((one["text"], one["score"]) for one in facts["sentences"]),
            "evidence": _as_evidence(facts["evidence"]),
        }
    )


def _as_evidence(facts: Mapping[str, Any] | None) -> Evidence | None:
    if facts is None:
        return None
    box = Box(tuple(facts["box"]["lo_mm"]), tuple(facts["box"]["hi_mm"]))
    x, y, z = (facts["slices"][plane] for plane in _PLANES)
    return Evidence(facts["asked"], box, (x, y, z), facts["score"])
