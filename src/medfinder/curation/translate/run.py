"""Translate many texts by one engine: cached, resumable, its cost told before it begins.

In: Spanish texts by their digests, the settings, a cache file. Out: a translation of every text, or the reason why
there is none; a text that fails never stops the others. Refused: an engine that is not known, texts that are not said
to be de-identified for an engine that sends them somewhere, and work that is estimated to cost more than allowed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medfinder.curation.translate.apertium import open_apertium
from medfinder.curation.translate.cache import TranslationCache
from medfinder.curation.translate.endpoint import count_tokens, open_endpoint
from medfinder.curation.translate.recorded import open_recorded
from medfinder.curation.translate.settings import Translation, TranslationSettings, Translator, digest_text
from medfinder.curation.translate.weights import open_ctranslate2, open_marian
from medfinder.errors import ConfigError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do, before anything is sent.

    Attributes:
        cached: texts that need no work.
        tokens_in, tokens_out: about; 0 for engines that run here.
        usd: about; None where no price is set.
        minutes: at least, as the rate limit has it; None for engines that run here.
    """

    texts: int
    cached: int
    words: int
    tokens_in: int
    tokens_out: int
    usd: float | None
    minutes: float | None


def translate_all(
    texts: Mapping[str, str],
    settings: TranslationSettings,
    cache: Path,
    progress: Progress | None = None,
    *,
    are_deidentified: bool = False,
) -> Mapping[str, Translation]:
    """Translate every text, or take it from the cache.

    Args:
        texts: Spanish, by ``digest_text``.
        cache: a file that every translation is appended to at once; a run that was killed goes on from it.
        progress: called with (done, total).
        are_deidentified: the caller's word that no text names a person.

    Returns:
        One entry for each text, in the same order; none at all for the engine ``"none"``.

    Raises:
        ConfigError: the settings cannot be honoured; nothing was sent.
        DatasetError: the endpoint answers nothing any more; what is done is in the cache.
    """
    if settings.engine == "none" or not texts:
        return {}
    translator = _open(settings)
    _check(texts, translator, settings, are_deidentified)
    with TranslationCache(cache, engine=settings.engine, model=translator.model, version=translator.version) as known:
        found = {digest: old for digest in texts if (old := known.get(digest)) is not None}
        todo = {digest: text for digest, text in texts.items() if digest not in found}
        _refuse_costs(_estimate(texts, todo, translator, settings), settings)

        def keep(digest: str, translation: Translation) -> None:
            known.add(digest, translation)
            found[digest] = translation
            if progress is not None:
                progress(len(found), len(texts))

        blank = [digest for digest, text in todo.items() if not text.strip()]
        for digest in blank:
            keep(digest, Translation("", settings.engine, fault="nothing to translate"))
        if progress is not None:
            progress(len(found), len(texts))
        translator.translate({digest: text for digest, text in todo.items() if text.strip()}, keep)
    return {digest: found[digest] for digest in texts}


def estimate(texts: Mapping[str, str], settings: TranslationSettings, cache: Path) -> Estimate:
    """Tell what ``translate_all`` would do, without doing it."""
    if settings.engine == "none":
        return Estimate(len(texts), len(texts), 0, 0, 0, None, None)
    translator = _open(settings)
    maker = TranslationCache(cache, engine=settings.engine, model=translator.model, version=translator.version)
    with maker as known:
        todo = {digest: text for digest, text in texts.items() if known.get(digest) is None}
    return _estimate(texts, todo, translator, settings)


def check_engine(settings: TranslationSettings) -> None:
    """Refuse an engine that is not known, whether there is a text for it or not."""
    if settings.engine not in ("none", *TRANSLATORS):
        raise ConfigError(f"unknown translation engine {settings.engine!r}; known: none, {', '.join(TRANSLATORS)}")


def _open(settings: TranslationSettings) -> Translator:
    check_engine(settings)
    return TRANSLATORS[settings.engine](settings)


def _check(texts: Mapping[str, str], translator: Translator, settings: TranslationSettings, is_clean: bool) -> None:
    if translator.sends_text and not is_clean:
        raise ConfigError(
            f"engine {settings.engine} sends texts to {settings.base_url}, and they are not said to be de-identified;"
            " de-identify them first, or take an engine that runs here: apertium, ctranslate2, marian"
        )
    wrong = sum(digest != digest_text(text) for digest, text in texts.items())
    if wrong:
        raise ConfigError(f"{wrong} of {len(texts)} texts are not keyed by their digest; use digest_text")


def _estimate(
    texts: Mapping[str, str], todo: Mapping[str, str], translator: Translator, settings: TranslationSettings
) -> Estimate:
    words = sum(len(text.split()) for text in todo.values())
    if not translator.sends_text:
        return Estimate(len(texts), len(texts) - len(todo), words, 0, 0, None, None)
    tokens_in, tokens_out = count_tokens(todo.values())
    prices = settings.usd_per_million_in, settings.usd_per_million_out
    usd = None
    if prices[0] is not None and prices[1] is not None:
        usd = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
    minutes = len(todo) / settings.requests_per_minute
    return Estimate(len(texts), len(texts) - len(todo), words, tokens_in, tokens_out, usd, minutes)


def _refuse_costs(expected: Estimate, settings: TranslationSettings) -> None:
    if settings.max_usd is None or expected.usd is None or expected.usd <= settings.max_usd:
        return
    raise ConfigError(
        f"translating {expected.texts - expected.cached} texts would cost about {expected.usd:.2f} USD, more than"
        f" max_usd {settings.max_usd:g}; raise it, or take fewer texts or a cheaper model"
    )


# To add an engine: write a Translator, add one line.
TRANSLATORS: dict[str, Callable[[TranslationSettings], Translator]] = {
    "openai": open_endpoint,
    "marian": open_marian,
    "ctranslate2": open_ctranslate2,
    "apertium": open_apertium,
    "recorded": open_recorded,
}
