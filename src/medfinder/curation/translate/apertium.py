"""Translation by Apertium's Spanish-English rules (Debian ``apertium-eng-spa``) with our glossary laid on first.

In: Spanish texts. Out: rough English, marked so: good enough to find cases by, not to be read as a report. Nothing
leaves the machine. Refused: a machine without Apertium or without the pair.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medfinder.curation.keywords import split_sentences
from medfinder.curation.translate.glossary import glossary_version, has_words, mask, unmask
from medfinder.curation.translate.settings import Keep, Translation, TranslationSettings
from medfinder.errors import ConfigError

_PAIR = "spa-eng"
_INSTALL = "install it, e.g. apt-get install apertium apertium-eng-spa"
# Ours: a report takes 0.1 s, so that a minute means that it hangs.
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ApertiumTranslator:
    """Apertium on this machine.

    Attributes:
        with_glossary: False only to measure what the glossary is worth.
    """

    with_glossary: bool = True
    sends_text: bool = False
    model: str = _PAIR

    @property
    def version(self) -> str:
        """Name the glossary that is in use."""
        return glossary_version() if self.with_glossary else "bare"

    def translate(self, texts: Mapping[str, str], keep: Keep) -> None:
        """Translate text by text, each in a process of its own."""
        for digest, text in texts.items():
            try:
                english, fault = self._translate(text), ""
            except subprocess.TimeoutExpired:
                english, fault = "", "time-out"
            except subprocess.CalledProcessError:
                english, fault = "", "apertium failed"
            keep(digest, Translation(english, "apertium", is_rough=True, fault=fault))

    def _translate(self, text: str) -> str:
        masked = [mask(sentence) if self.with_glossary else (sentence, ()) for sentence in split_sentences(text)]
        translated = _run([sentence for sentence, _ in masked])
        english = (unmask(told, phrases) for told, (_, phrases) in zip(translated, masked, strict=True))
        return " ".join(_tidy(sentence) for sentence in english if sentence)


def open_apertium(settings: TranslationSettings) -> ApertiumTranslator:
    """Check that Apertium and the pair are there."""
    del settings
    if shutil.which("apertium") is None:
        raise ConfigError(f"apertium is not on this machine; {_INSTALL}")
    modes = subprocess.run(["apertium", "-l"], capture_output=True, text=True, check=False).stdout.split()
    if _PAIR not in modes:
        raise ConfigError(f"apertium has no pair {_PAIR}; {_INSTALL}")
    return ApertiumTranslator()


def _run(sentences: Sequence[str]) -> list[str]:
    """Translate sentences in one process; those that hold nothing but marks stay as they are."""
    todo = [place for place, sentence in enumerate(sentences) if has_words(sentence)]
    told = list(sentences)
    if todo:
        # One sentence a paragraph: Apertium takes each for itself and keeps the blank lines.
        text = "\n\n".join(sentences[place] for place in todo)
        answers = _apertium(text).strip("\n").split("\n\n")
        if len(answers) != len(todo):
            answers = [_apertium(sentences[place]) for place in todo]
        for place, answer in zip(todo, answers, strict=True):
            told[place] = answer
    return told


def _apertium(text: str) -> str:
    command = ["apertium", "-u", _PAIR]
    answer = subprocess.run(
        command, input=text, capture_output=True, text=True, encoding="utf-8", timeout=_TIMEOUT_S, check=True
    )
    return answer.stdout


def _tidy(sentence: str) -> str:
    """Write a sentence as English has it: no blank before a comma, a capital first, a stop last."""
    sentence = re.sub(r"\s+([,;:)])", r"\1", " ".join(sentence.split())).replace("( ", "(").rstrip(" .")
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""
