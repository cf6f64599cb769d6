"""Settings: frozen dataclasses filled from TOML and the command line, checked once.

In: a dataclass type, an optional TOML file, overrides. Out: an instance of that type. Refused: unknown keys (the
message lists the known ones), values of the wrong type, files that are not TOML. No environment variables, no
Python objects named in files.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from medfinder.errors import ConfigError

S = TypeVar("S")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into plain values.

    Raises:
        ConfigError: the file is absent or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no settings file at {path}; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error


def build_settings(kind: type[S], values: Mapping[str, Any], *, where: str = "settings") -> S:
    """Fill the dataclass ``kind`` from plain values and check every one.

    Args:
        values: nested tables for nested dataclasses; what is left out keeps its default.
        where: how messages name the origin, e.g. a file name.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or range.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Window:
        ...     low_hu: float = -1000.0
        >>> build_settings(Window, {"low_hu": -160})
        Window(low_hu=-160.0)
        >>> build_settings(Window, {"low": 1})
        Traceback (most recent call last):
        medfinder.errors.ConfigError: unknown key 'low' in settings; known: low_hu
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(kind, values, where)
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key} in {where}: {first['msg']}, got {first['input']!r}") from error


def _refuse_unknown(kind: Any, values: Mapping[str, Any], where: str) -> None:
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"unknown key {key!r} in {where}; known: {', '.join(sorted(fields))}")
        if dataclasses.is_dataclass(fields[key]) and isinstance(value, Mapping):
            _refuse_unknown(fields[key], value, f"{where}.{key}")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``over`` upon ``base``; nested tables are merged, other values replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged
