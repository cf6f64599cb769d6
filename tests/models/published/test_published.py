"""Published encoders: against what their own code gave, against damaged files, and through the command line."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medfinder.app.ingest import open_or_curate
from medfinder.errors import CheckpointError, ConfigError, VolumeError
from medfinder.models import published
from medfinder.models.published import is_published, load_published
from medfinder.models.published.colipri import Colipri, ColipriSizes, load_colipri, rotary_angles
from medfinder.models.published.ct_clip import CtClip, CtClipSizes, load_ct_clip
from medfinder.models.published.encoder import PublishedEncoder
from medfinder.models.published.merlin import WEIGHTS as MERLIN_WEIGHTS
from medfinder.models.published.merlin import Merlin, MerlinSizes, load_merlin
from medfinder.records import Query
from medfinder.retrieval.build import build_index
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher
from medfinder.sources.phantoms.write import write_phantoms
from medfinder.volume import Grid, standardise_file

GOLD = Path(__file__).parent / "gold"
WINDOW = (-1000, 1000)

# The sizes of the tiny models of make_published_gold.py.
COLIPRI = ColipriSizes(
    grid=Grid((2.0, 2.0, 2.0), (16, 12, 8), WINDOW, "colipri"),
    patch=4, width=24, depth=2, heads=2, shared=24, pool_heads=2, vocabulary=27, context=20, text_depth=2,
    text_heads=2, text_hidden=40,
)  # fmt: skip
MERLIN = MerlinSizes(
    grid=Grid((1.5, 1.5, 3.0), (38, 32, 20), WINDOW, "merlin"),
    blocks=(2, 1, 1, 1), channels=4, phenotypes=3, shared=8, vocabulary=275, context=60, positions=80, text_width=16,
    text_depth=2, text_heads=2, text_hidden=24, attention_window=8,
)  # fmt: skip
CT_CLIP = CtClipSizes(
    grid=Grid((0.75, 0.75, 1.5), (12, 8, 10), WINDOW, "ct-clip"),
    patch=4, slices=2, width=24, depth=2, heads=2, head_width=8, codes=40, shared=8, vocabulary=27, context=20,
    text_width=24, text_depth=2, text_heads=2, text_hidden=40,
)  # fmt: skip
LOAD: dict[str, Callable[[Path | None], PublishedEncoder]] = {
    "colipri": lambda folder: load_colipri(folder, COLIPRI),
    "merlin": lambda folder: load_merlin(folder, MERLIN),
    "ct-clip": lambda folder: load_ct_clip(folder, CT_CLIP),
}
WEIGHTS = {"colipri": "model.safetensors", "merlin": MERLIN_WEIGHTS, "ct-clip": "CT-CLIP_v2.pt"}
NAMES = sorted(LOAD)


def expected(name: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read what the published code gave."""
    path = GOLD / name / "expected.safetensors"
    with safe_open(path, "pt") as file:
        texts = json.loads(file.metadata()["texts"])
    return {key: tensor.numpy() for key, tensor in load_file(path).items()}, texts


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """Copy a tiny model's folder, to be damaged."""
    return lambda name: Path(shutil.copytree(GOLD / name, tmp_path / name))


@pytest.mark.parametrize("name", NAMES)
def test_a_volume_gets_the_vector_that_the_published_code_gives(name: str) -> None:
    gold, _ = expected(name)
    vectors = LOAD[name](GOLD / name).encode_volumes([gold["hu"]])
    np.testing.assert_allclose(vectors, gold["image"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_texts_get_the_vectors_that_the_published_code_gives(name: str) -> None:
    gold, texts = expected(name)
    vectors = LOAD[name](GOLD / name).encode_texts(texts)
    np.testing.assert_allclose(vectors, gold["text"], rtol=0, atol=2e-5)
    assert np.linalg.norm(vectors[0] - vectors[1]) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_mirrored_volume_gets_another_vector(name: str) -> None:
    gold, _ = expected(name)
    encoder = LOAD[name](GOLD / name)
    vectors = encoder.encode_volumes([gold["hu"], gold["hu"][::-1], gold["hu"]])
    assert np.linalg.norm(vectors[0] - vectors[1]) > 1e-3
    assert np.array_equal(vectors[0], vectors[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_published_encoder_keeps_the_protocol(name: str) -> None:
    encoder = LOAD[name](GOLD / name)
    assert (encoder.name, encoder.grid.recipe, encoder.is_synthetic) == (name, name, False)
    assert encoder.encode_volumes([]).shape == encoder.encode_texts([]).shape == (0, encoder.width)
    sentence = encoder.encode_sentences(["nodule"])
    assert sentence.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(sentence, axis=1), 1.0, atol=1e-6)
    with pytest.raises(VolumeError, match="3x3x3 voxels"):
        encoder.encode_volumes([np.zeros((3, 3, 3), np.float32)])


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_have_another_digest(name: str, copied: Callable[[str], Path]) -> None:
    folder = copied(name)
    before = LOAD[name](folder).digest
    path = folder / WEIGHTS[name]
    weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    first = next(key for key, weight in weights.items() if weight.ndim > 1 and weight.numel())
    weights[first][0] += 1
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    assert LOAD[name](GOLD / name).digest == before != LOAD[name](folder).digest


@pytest.mark.parametrize("name", NAMES)
def test_weights_cut_short_are_refused(name: str, copied: Callable[[str], Path]) -> None:
    path = copied(name) / WEIGHTS[name]
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="truncated"):
        LOAD[name](path.parent)


@pytest.mark.parametrize(
    "load",
    [
        lambda: load_colipri(GOLD / "colipri", replace(COLIPRI, depth=3, shared=48)),
        lambda: load_merlin(GOLD / "merlin", replace(MERLIN, blocks=(2, 2, 1, 1), shared=4)),
        lambda: load_ct_clip(GOLD / "ct-clip", replace(CT_CLIP, depth=3, shared=4)),
    ],
    ids=["colipri", "merlin", "ct-clip"],
)
def test_weights_of_another_model_are_refused_by_name(load: Callable[[], PublishedEncoder]) -> None:
    with pytest.raises(CheckpointError, match=r"is not the published model: missing .* more"):
        load()


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_that_runs_code_is_refused(name: str, copied: Callable[[str], Path]) -> None:
    path = copied(name) / WEIGHTS[name]
    torch.save({"weights": Path("x")}, path)
    with pytest.raises(CheckpointError, match=r"more than tensors|truncated"):
        LOAD[name](path.parent)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_its_files_is_refused(name: str, copied: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no .*{WEIGHTS[name]}"):
        LOAD[name](tmp_path)
    folder = copied(name)
    for path in folder.glob("vocab*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no vocab"):
        LOAD[name](folder)


@pytest.mark.parametrize("name", ["colipri", "merlin"])
def test_offline_the_message_says_what_to_copy(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS[name]}.*--model {name}:FOLDER"):
        load_published(name)


def test_ct_clip_is_never_fetched_and_tells_its_licence(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CheckpointError, match="CC BY-NC-SA"):
        load_published("ct-clip")
    LOAD["ct-clip"](GOLD / "ct-clip")
    assert "not for commercial use" in caplog.text


def test_names_are_told_apart_from_checkpoint_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [is_published(name) for name in ("colipri", "ct-clip:weights", "colpri", "models/merlin")] == [1, 1, 0, 0]
    (tmp_path / "merlin").mkdir()
    assert not is_published("merlin")
    with pytest.raises(ConfigError, match="known: colipri, ct-clip, merlin"):
        load_published("colpri")
    monkeypatch.setitem(published.PUBLISHED, "colipri", LOAD["colipri"])
    assert load_published(f"colipri:{GOLD / 'colipri'}").width == COLIPRI.shared


def test_rotary_angles_grow_along_their_own_axis() -> None:
    # Width 12: two frequencies an axis, 1 and 1/100; token (1, 0, 2) is the last of 2 x 1 x 3.
    assert rotary_angles([2, 1, 3], 12)[-1].tolist() == pytest.approx([1, 1, 0.01, 0.01, 0, 0, 0, 0, 2, 2, 0.02, 0.02])


@pytest.mark.parametrize(
    ("build", "millions"),
    # By hand from the configurations: COLIPRI 144 (Primus-M) + 109 (BERT base without pooler) + 5; Merlin's checkpoint
    # 121 + 149 (Longformer base); CT-CLIP's 151 is the projection of 294,912 numbers alone.
    [
        (lambda: Colipri(ColipriSizes()), 258),
        (lambda: Merlin(MerlinSizes()), 270),
        (lambda: CtClip(CtClipSizes()), 286),
    ],
    ids=["colipri", "merlin", "ct-clip"],
)
def test_full_sizes_have_the_published_number_of_weights(build: Callable[[], torch.nn.Module], millions: int) -> None:
    with torch.device("meta"):
        network = build()
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_raw_cts_are_curated_on_the_models_grid_indexed_and_found(name: str, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "raw", studies=3, seed=5, size=48)
    encoder = LOAD[name](GOLD / name)
    dataset = open_or_curate(tmp_path / "raw", beside=tmp_path / "index", grid=encoder.grid)
    assert dataset.provenance["settings"]["grid"]["recipe"] == name
    summary = build_index(dataset, tmp_path / "index", encoder)
    assert (summary.added, summary.cases) == (3, 3)
    with SearchIndex.open(tmp_path / "index") as index:
        searcher = Searcher(index, encoder)
        case = dataset.cases[1]
        hits = searcher.search(Query(ct=next((tmp_path / "raw" / "volumes").glob(f"{case.study_id}*")), k=3))
        assert hits[0].case_id == case.case_id
        assert len(searcher.search(Query(text="nodule", k=3))) == 3


def test_a_curated_volume_is_the_prepared_one_to_the_last_bit(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "raw", studies=1, seed=6, size=48)
    dataset = open_or_curate(tmp_path / "raw", beside=tmp_path / "index", grid=MERLIN.grid)
    (raw,) = (tmp_path / "raw" / "volumes").iterdir()
    stored = dataset.volume(dataset.cases[0])
    assert stored.dtype == np.float32
    assert np.array_equal(stored, standardise_file(raw, MERLIN.grid).hu)
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    assert "as the published model merlin expects" in card
    assert "float32 HU" in card


def test_a_dataset_on_our_grid_is_refused_by_a_published_model(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "raw", studies=1, seed=7, size=48)
    ours = replace(COLIPRI.grid, recipe="")
    dataset = open_or_curate(tmp_path / "raw", beside=tmp_path / "index", grid=ours)
    with pytest.raises(ConfigError, match="recipe='colipri'"):
        build_index(dataset, tmp_path / "index", LOAD["colipri"](GOLD / "colipri"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [lambda: Merlin(MerlinSizes()), lambda: CtClip(CtClipSizes())], ids=["merlin", "ct-clip"]
)
def test_full_sizes_embed_a_whole_volume(build: Callable[[], Merlin | CtClip]) -> None:
    # COLIPRI's 13,824 tokens in 16 layers take two cores many minutes: it is run at full size by hand only.
    network = build().eval()
    with torch.inference_mode():
        vectors = network.embed_volumes(torch.full((1, *network.grid.shape), -500.0))
    assert vectors.shape == (1, network.width)
    assert torch.isfinite(vectors).all()
