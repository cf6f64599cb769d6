"""What every translator shares: the settings, what comes out, and how a text is known again.

In: plain values. Out: frozen records. Refused: numbers out of range; everything that only one engine needs is checked
by that engine when it is opened.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medfinder.errors import ConfigError


@dataclass(frozen=True)
class TranslationSettings:
    """Which engine translates, and how.

    Attributes:
        engine: a key of ``TRANSLATORS``, or ``"none"``.
        model: what the endpoint calls the model; needed by ``openai`` alone.
        base_url: of an OpenAI-compatible endpoint, e.g. vLLM's or Ollama's ``http://localhost:11434/v1``.
        path: the folder of local weights, or the recorded file.
        key_variable: environment variable that holds the endpoint's key; the key itself is never a setting.
        key_file: file that holds the key, read where the variable is not set.
        answers_as: the name that the endpoint answers with, where it is not ``model``.
        concurrency: requests under way at once. Ours, because small endpoints queue more than that.
        requests_per_minute: at most. Ours: below the lowest paid tier of the public endpoints.
        timeout_s: for one answer; ours, because a local model of 8 B writes 300 words in less.
        attempts: how often one text is tried when the endpoint is busy or broken.
        temperature: 0 for the likeliest translation; None for models that take no temperature.
        usd_per_million_in, usd_per_million_out: price of a million tokens; None where unknown or free.
        max_usd: refuse to begin what is estimated to cost more.
    """

    engine: str = "none"
    model: str = ""
    base_url: str = "https://api.openai.com/v1"
    path: Path | None = None
    key_variable: str = "OPENAI_API_KEY"
    key_file: Path | None = None
    answers_as: str = ""
    concurrency: int = 8
    requests_per_minute: float = 60.0
    timeout_s: float = 120.0
    attempts: int = 5
    temperature: float | None = 0.0
    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None
    max_usd: float | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}; expected 1 or more")
        for name in ("requests_per_minute", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}; expected more than 0")
        for name in ("temperature", "usd_per_million_in", "usd_per_million_out", "max_usd"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} {value}; expected 0 or more")


@dataclass(frozen=True, slots=True)
class Translation:
    """What became of one text.

    Attributes:
        english: empty when there is a fault.
        engine: a key of ``TRANSLATORS``.
        is_rough: by rules or words alone: for finding cases, not for reading.
        fault: why there is no translation, a short stable code such as ``"time-out"``; empty when there is one.
    """

    english: str
    engine: str
    is_rough: bool = False
    fault: str = ""


# Called with the digest of a text as soon as something has become of it.
Keep = Callable[[str, Translation], None]


class Translator(Protocol):
    """One engine, opened.

    Attributes:
        model, version: with the engine's name, what a cached translation was made by; whatever changes the English
            (prompt, glossary, weights) changes the version.
        sends_text: whether texts leave this process for a service; only de-identified ones may.
    """

    @property
    def model(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> str: ...  # noqa: D102

    @property
    def sends_text(self) -> bool: ...  # noqa: D102

    def translate(self, texts: Mapping[str, str], keep: Keep) -> None:
        """Translate texts by their digests, in any order, and hand each over when it is done."""


def digest_text(spanish: str) -> str:
    """Make the key by which a text is known: the same text is translated once.

    Example:
        >>> digest_text("derrame pleural .")[:12]
        '1d2295fa69e6'
    """
    return hashlib.sha256(spanish.encode("utf-8", "surrogateescape")).hexdigest()
