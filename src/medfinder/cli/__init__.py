"""The command line: every stage is one command, folder in, folder out.

In: words typed by a person. Out: a table for people or, with ``--json``, one JSON value on standard output; progress
and remarks go to standard error. Refused: whatever a room refuses, as one line and exit code 2. No logic lives here.
"""

from importlib import import_module

from medfinder.cli.face import app, main

# Each module brings its commands; help lists them in this order.
_MODULES = (
    "build",
    "series",
    "quality",
    "pairing",
    "keywords",
    "review",
    "deidentify",
    "translate",
    "stats",
    "release",
    "ask",
    "ingest",
    "receive",
    "serve",
    "benchmark",
    "keys",
    "backup",
)
for _module in _MODULES:
    import_module(f"{__name__}.{_module}")

__all__ = ["app", "main"]
