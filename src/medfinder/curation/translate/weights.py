"""Translation by local weights of the Marian kind (OPUS-MT's Spanish-English and their like), run by CTranslate2.

In: a folder of weights, as CTranslate2 keeps them or as ``transformers`` saves a Marian model, with the SentencePiece
models ``source.spm`` and ``target.spm``. Out: English, sentence by sentence. Weights in the second form are converted
into a temporary folder first. Nothing is fetched and nothing leaves the machine. Refused: a folder that lacks a part.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfinder.curation.keywords import split_sentences
from medfinder.curation.translate.settings import Keep, Translation, TranslationSettings
from medfinder.errors import ConfigError, MissingExtraError
from medfinder.sources.files import fingerprint, hash_id

if TYPE_CHECKING:
    from ctranslate2 import Translator as Engine

_PIECES = ("source.spm", "target.spm")
# Marian's own beam; and ours: these models see 512 pieces at most and were trained on far fewer.
_BEAM = 4
_LONGEST_WORDS = 80
_LONGEST_PIECES = 400


@dataclass(frozen=True)
class WeightsTranslator:
    """Weights that are there, not yet loaded."""

    engine: str
    folder: Path
    convert: Callable[[Path, Path], Path]
    version: str
    model: str
    sends_text: bool = False

    def translate(self, texts: Mapping[str, str], keep: Keep) -> None:
        """Load the weights and translate text by text."""
        if not texts:
            return
        with tempfile.TemporaryDirectory() as scratch, _load(self.convert(self.folder, Path(scratch))) as engine:
            speak = _Speaker.load(engine, self.folder)
            for digest, text in texts.items():
                english, fault = speak.translate(text)
                keep(digest, Translation("" if fault else english, self.engine, fault=fault))


def open_ctranslate2(settings: TranslationSettings) -> WeightsTranslator:
    """Check a folder of CTranslate2's own form."""
    return _open(settings, "ctranslate2", ("model.bin",), _take_as_it_is)


def open_marian(settings: TranslationSettings) -> WeightsTranslator:
    """Check a folder that ``transformers`` saved a Marian model into."""
    return _open(settings, "marian", ("model.safetensors", "pytorch_model.bin"), _convert)


def _open(
    settings: TranslationSettings, engine: str, weights: Sequence[str], convert: Callable[[Path, Path], Path]
) -> WeightsTranslator:
    folder = settings.path
    if folder is None or not folder.is_dir():
        raise ConfigError(f"engine {engine} needs path, a folder of weights; {folder or 'nothing'} is none")
    found = [name for name in weights if (folder / name).is_file()]
    missing = [name for name in ("config.json", *_PIECES) if not (folder / name).is_file()]
    missing += [] if found else [" or ".join(weights)]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; engine {engine} needs them in one folder")
    version = hash_id("weights", *(fingerprint(folder / name) for name in (found[0], "config.json", *_PIECES)))
    return WeightsTranslator(engine, folder, convert, version, folder.name)


def _take_as_it_is(folder: Path, scratch: Path) -> Path:
    del scratch
    return folder


def _convert(folder: Path, scratch: Path) -> Path:
    """Convert what ``transformers`` saved; torch is loaded by the converter, and only for this."""
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers (to convert Marian weights)", "model") from error
    try:
        from ctranslate2.converters import TransformersConverter
    except ModuleNotFoundError as error:
        raise MissingExtraError("ctranslate2", "translate") from error
    with warnings.catch_warnings():
        # The tokenizer recommends a package that nothing here uses.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return Path(TransformersConverter(str(folder)).convert(str(scratch / "converted")))
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            what = f"{folder} holds no Marian model that can be converted ({type(error).__name__})"
            raise ConfigError(f"{what}; expected what MarianMTModel.save_pretrained writes") from error


@contextmanager
def _load(folder: Path) -> Iterator["Engine"]:
    try:
        import ctranslate2
    except ModuleNotFoundError as error:
        raise MissingExtraError("ctranslate2", "translate") from error
    try:
        engine = ctranslate2.Translator(str(folder), device="auto")
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{folder} holds no weights that CTranslate2 can load: {error}") from error
    try:
        yield engine
    finally:
        engine.unload_model()


@dataclass(frozen=True)
class _Speaker:
    """Loaded weights and the pieces that they read and write."""

    engine: "Engine"
    source: Any
    target: Any
    ends_source: bool

    @classmethod
    def load(cls, engine: "Engine", folder: Path) -> "_Speaker":
        try:
            import sentencepiece
        except ModuleNotFoundError as error:
            raise MissingExtraError("sentencepiece", "translate") from error
        pieces = []
        for name in _PIECES:
            try:
                pieces.append(sentencepiece.SentencePieceProcessor(model_file=str(folder / name)))
            except (RuntimeError, OSError) as error:
                raise ConfigError(f"{folder / name} is no SentencePiece model") from error
        # Weights converted from Marian's own files add the end themselves, those from transformers do not.
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(engine, pieces[0], pieces[1], ends_source=not config.get("add_source_eos", False))

    def translate(self, text: str) -> tuple[str, str]:
        """Translate one report: (English, fault)."""
        parts = [part for sentence in split_sentences(text) for part in _cut(sentence)]
        end = ["</s>"] if self.ends_source else []
        batch = [[*self.source.encode(part, out_type=str), *end] for part in parts]
        if not batch:
            return "", "nothing to translate"
        answers = self.engine.translate_batch(batch, beam_size=_BEAM, max_decoding_length=_LONGEST_PIECES)
        told = [answer.hypotheses[0] for answer in answers]
        if any(len(pieces) >= _LONGEST_PIECES for pieces in told):
            return "", "does not end"
        sentences = [self.target.decode(pieces).strip() for pieces in told]
        return " ".join(s if s.endswith((".", ":", "?")) else f"{s}." for s in sentences if s), ""


def _cut(sentence: str) -> Iterator[str]:
    """Cut a sentence that is longer than such models can read."""
    words = sentence.split()
    for start in range(0, len(words), _LONGEST_WORDS):
        yield " ".join(words[start : start + _LONGEST_WORDS])
