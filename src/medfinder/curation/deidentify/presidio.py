"""Presidio, the engine that runs our recognisers and its own.

In: recognisers. Out: an ``AnalyzerEngine`` that knows English and Spanish, loads no language model and fetches nothing.
Refused: a machine without Presidio. Its recognisers of e-mail and URLs are left out: they ask the network for a list of
suffixes. Those with a check digit or letter are taken: DNI, NIE, IBAN, credit card, NHS number.
"""

# ruff: noqa: ARG002 - Presidio hands over more than ours ask for.

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from medfinder.curation.deidentify.spans import Kind, Recogniser
from medfinder.errors import MissingExtraError
from medfinder.records import Language

_CHECKED = ("EsNifRecognizer", "EsNieRecognizer", "IbanRecognizer", "CreditCardRecognizer", "NhsRecognizer")
_LANGUAGES: tuple[Language, ...] = ("en", "es")


def build_engine(recognisers: Iterable[tuple[Recogniser, tuple[Kind, ...]]]) -> Any:
    """Build an analyser of our recognisers and Presidio's checked ones.

    Raises:
        MissingExtraError: Presidio is not installed.
    """
    try:
        with _hidden("torch", "transformers"):
            import presidio_analyzer as presidio
            from presidio_analyzer import predefined_recognizers as theirs
    except ModuleNotFoundError as error:
        raise MissingExtraError("Presidio, which de-identifies texts,", "deid") from error
    ours, blank = _adapt(presidio)
    languages: list[str] = list(_LANGUAGES)
    registry = presidio.RecognizerRegistry(supported_languages=languages)
    for language in _LANGUAGES:
        for find, kinds in recognisers:
            registry.add_recognizer(ours(find, kinds, language))
        for name in _CHECKED:
            registry.add_recognizer(getattr(theirs, name)(supported_language=language))
    return presidio.AnalyzerEngine(registry=registry, nlp_engine=blank(), supported_languages=languages)


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Hide libraries while others are imported: Presidio loads every engine that is installed, for seconds, unused."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def _adapt(presidio: Any) -> tuple[Any, Any]:
    """Make the two classes that Presidio wants to meet, once it is there to derive them from."""
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

    base: Any = presidio.EntityRecognizer
    artifacts: Any = NlpArtifacts

    class Ours(base):  # type: ignore[misc]
        """One recogniser of ours."""

        def __init__(self, find: Recogniser, kinds: tuple[Kind, ...], language: Language) -> None:
            self.find, self.language = find, language
            super().__init__(list(kinds), name=find.__name__, supported_language=language)

        def load(self) -> None:
            """Load nothing."""

        def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> Any:
            found = self.find(text, self.language)
            return [presidio.RecognizerResult(span.kind, span.start, span.end, span.score) for span in found]

    class Blank(NlpEngine):
        """No language model: patterns and lists do the work."""

        def load(self) -> None:
            """Load nothing."""

        def is_loaded(self) -> bool:
            return True

        def process_text(self, text: str, language: str) -> Any:
            return artifacts([], None, [], [], self, language)

        def process_batch(
            self, texts: Iterable[str], language: str, batch_size: int = 1, n_process: int = 1, **kwargs: Any
        ) -> Any:
            return ((text, self.process_text(text, language)) for text in texts)

        def is_stopword(self, word: str, language: str) -> bool:
            return False

        def is_punct(self, word: str, language: str) -> bool:
            return False

        def get_supported_entities(self) -> list[str]:
            return []

        def get_supported_languages(self) -> list[str]:
            return list(_LANGUAGES)

    return Ours, Blank
