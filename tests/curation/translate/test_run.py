"""The engines that run here, the cache, and what is refused."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from medfinder.curation.translate import TRANSLATORS, Translation, TranslationSettings, digest_text, translate_all
from medfinder.curation.translate.cache import TranslationCache
from medfinder.curation.translate.glossary import mask, unmask
from medfinder.errors import ConfigError, DatasetError

SPANISH = "derrame pleural izquierdo . no se observan adenopatias . nodulo de 8 mm en lsd ."
TEXTS = {digest_text(SPANISH): SPANISH}
needs_apertium = pytest.mark.skipif(shutil.which("apertium") is None, reason="apertium is not on this machine")


@pytest.mark.parametrize("engine", sorted(set(TRANSLATORS) - {"apertium"}))
def test_an_engine_without_what_it_needs_says_so(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{engine} needs"):
        translate_all(TEXTS, TranslationSettings(engine=engine), tmp_path / "cache.jsonl", are_deidentified=True)


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"timeout_s": 0.0}, {"requests_per_minute": float("nan")}, {"max_usd": -1.0}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TranslationSettings(**wrong)  # type: ignore[arg-type]


def test_without_an_engine_nothing_is_translated(tmp_path: Path) -> None:
    assert translate_all(TEXTS, TranslationSettings(), tmp_path / "cache.jsonl") == {}
    assert not (tmp_path / "cache.jsonl").exists()


# ------------------------------------------------------------------------------------------------------ recorded


@pytest.mark.parametrize("name", ["made.csv", "made.tsv", "made.jsonl"])
def test_recorded_translations_are_found_by_text_or_digest(name: str, tmp_path: Path) -> None:
    rows = [("text", digest_text(SPANISH)), ("spanish", SPANISH)]
    for column, value in rows:
        if name.endswith("jsonl"):
            content = json.dumps({column: value, "english": "Left pleural effusion."})
        else:
            tab = "\t" if name.endswith("tsv") else ","
            content = f"{column}{tab}english\n{value}{tab}Left pleural effusion.\n"
        (tmp_path / name).write_text(content)
        settings = TranslationSettings(engine="recorded", path=tmp_path / name)
        other = {**TEXTS, digest_text("otro"): "otro"}
        found = translate_all(other, settings, tmp_path / "cache.jsonl")
        assert [(one.english, one.fault) for one in found.values()] == [
            ("Left pleural effusion.", ""),
            ("", "not recorded"),
        ]


@pytest.mark.parametrize("content", ["a,b\n1,2\n", '{"english": "x"}', "{torn", "spanish,english\na,x\na,y\n"])
def test_a_recorded_file_of_another_kind_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "made.csv").write_text(content)
    settings = TranslationSettings(engine="recorded", path=tmp_path / "made.csv")
    with pytest.raises(DatasetError):
        translate_all(TEXTS, settings, tmp_path / "cache.jsonl")


# --------------------------------------------------------------------------------------------------------- cache


def open_cache(path: Path) -> TranslationCache:
    return TranslationCache(path, engine="openai", model="m", version="1")


def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    with open_cache(path) as cache:
        cache.add("a", Translation("one", "openai"))
        cache.add("b", Translation("two", "openai"))
    path.write_bytes(path.read_bytes()[:-9])
    with open_cache(path) as cache:
        assert cache.get("a") == Translation("one", "openai")
        assert cache.get("b") is None
        cache.add("c", Translation("three", "openai"))
    with open_cache(path) as cache:
        assert [cache.get(key) is not None for key in "abc"] == [True, False, True]


def test_a_process_that_is_killed_loses_nothing_that_it_was_told(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from medfinder.curation.translate.cache import TranslationCache;"
        "from medfinder.curation.translate import Translation;"
        "c = TranslationCache(Path(sys.argv[1]), engine='openai', model='m', version='1').__enter__();"
        "[c.add(str(n), Translation('x', 'openai')) for n in range(50)]; os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "cache.jsonl"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    with open_cache(path) as cache:
        assert all(cache.get(str(number)) for number in range(50))


def test_a_file_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text("path,report\na,b\n")
    with pytest.raises(ConfigError, match="no translation cache"), open_cache(path):
        pass
    assert path.read_text() == "path,report\na,b\n"


# ------------------------------------------------------------------------------------------- glossary and Apertium


def test_adjectives_come_before_their_noun_in_english() -> None:
    masked, english = mask("pequeño derrame pleural izquierdo asociado a nódulos calcificados derechos")
    assert unmask(masked, english) == "small left pleural effusion associated with right calcified nodules"


def test_a_sentence_that_the_glossary_does_not_know_stays_as_it_was() -> None:
    assert mask("esternotomia") == ("esternotomia", ())


@needs_apertium
def test_apertium_with_the_glossary_writes_radiology_and_says_that_it_is_rough(tmp_path: Path) -> None:
    [found] = translate_all(TEXTS, TranslationSettings(engine="apertium"), tmp_path / "cache.jsonl").values()
    assert found.is_rough
    assert found.english == "Left pleural effusion. No enlarged lymph nodes. Nodule of 8 mm in right upper lobe."
    again = translate_all(TEXTS, TranslationSettings(engine="apertium"), tmp_path / "cache.jsonl")
    assert list(again.values()) == [found]


@needs_apertium
def test_what_only_apertium_knows_is_translated_by_it(tmp_path: Path) -> None:
    text = "el perro come ."
    texts = {digest_text(text): text}
    [found] = translate_all(texts, TranslationSettings(engine="apertium"), tmp_path / "cache.jsonl").values()
    assert "dog" in found.english.lower()


# ------------------------------------------------------------------------------------------------- local weights


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny random Marian model as published ones are saved."""
    import sentencepiece
    import torch
    from transformers import MarianConfig, MarianMTModel

    folder = tmp_path_factory.mktemp("weights") / "tiny-es-en"
    folder.mkdir()
    lines = [SPANISH, "left pleural effusion . no enlarged lymph nodes ."] * 20
    for name in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(folder / name), vocab_size=60, hard_vocab_limit=False,
            minloglevel=2,
        )  # fmt: skip
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    words = ["</s>", "<unk>", *(pieces.id_to_piece(place) for place in range(3, pieces.vocab_size())), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "MarianTokenizer", "source_lang": "es", "target_lang": "en"})
    )
    torch.manual_seed(0)
    last = len(words) - 1
    config = MarianConfig(
        vocab_size=len(words), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=last, eos_token_id=0,
        decoder_start_token_id=last, forced_eos_token_id=0, max_position_embeddings=512,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder)
    return folder


def test_marian_weights_are_read_as_transformers_reads_them(marian: Path, tmp_path: Path) -> None:
    import torch
    from transformers import MarianMTModel, MarianTokenizer

    from medfinder.curation.translate import weights

    sentence = "derrame pleural izquierdo"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tokens = MarianTokenizer.from_pretrained(marian)(sentence, return_tensors="pt")
    model = MarianMTModel.from_pretrained(marian).eval()
    with torch.no_grad():
        expected = model(**tokens, decoder_input_ids=torch.tensor([[model.config.pad_token_id]])).logits[0, -1]
    expected[model.config.pad_token_id] = -torch.inf  # no translator may answer with padding
    words = {place: word for word, place in json.loads((marian / "vocab.json").read_text()).items()}

    converted = weights._convert(marian, tmp_path)
    with weights._load(converted) as engine:
        speaker = weights._Speaker.load(engine, marian)
        batch = [[*speaker.source.encode(sentence, out_type=str), "</s>"]]
        answer = engine.translate_batch(batch, beam_size=1, max_decoding_length=1)
    assert answer[0].hypotheses[0][:1] == [words[int(expected.argmax())]]


@pytest.mark.parametrize("engine", ["marian", "ctranslate2"])
def test_local_weights_answer_for_every_text(engine: str, marian: Path, tmp_path: Path) -> None:
    folder = marian
    if engine == "ctranslate2":
        from medfinder.curation.translate.weights import _convert

        folder = _convert(marian, tmp_path)
        for name in ("source.spm", "target.spm"):
            shutil.copy(marian / name, folder / name)
    settings = TranslationSettings(engine=engine, path=folder)
    [found] = translate_all(TEXTS, settings, tmp_path / "cache.jsonl").values()
    # Random weights babble until they are stopped, which must be told and not be kept.
    assert bool(found.english) != (found.fault == "does not end")


def test_weights_that_lack_a_part_are_named(marian: Path, tmp_path: Path) -> None:
    shutil.copytree(marian, tmp_path / "weights")
    (tmp_path / "weights" / "target.spm").unlink()
    settings = TranslationSettings(engine="marian", path=tmp_path / "weights")
    with pytest.raises(ConfigError, match=r"lacks target\.spm"):
        translate_all(TEXTS, settings, tmp_path / "cache.jsonl")


def test_weights_of_another_kind_are_refused(marian: Path, tmp_path: Path) -> None:
    shutil.copytree(marian, tmp_path / "weights")
    (tmp_path / "weights" / "config.json").write_text('{"model_type": "parrot"}')
    settings = TranslationSettings(engine="marian", path=tmp_path / "weights")
    with pytest.raises(ConfigError, match="no Marian model"):
        translate_all(TEXTS, settings, tmp_path / "cache.jsonl")
