"""CLIP4Clip and 3D-MIR: what is trained learns, what is frozen stays, and each sees what its authors say."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medfinder.config import build_settings
from medfinder.errors import ConfigError
from medfinder.models.augment import Variation
from medfinder.models.baselines import (
    BaselineLearner,
    BaselineObjectiveSettings,
    Clip4Clip,
    Clip4ClipSettings,
    Mir3d,
    Mir3dSettings,
)
from medfinder.models.checkpoint import load_model
from medfinder.models.examples import Examples
from medfinder.models.image_tower import CLIP_MEAN, TowerShape
from medfinder.models.learner import Batch
from medfinder.models.open_clip_text import CLIP, OpenClipText
from medfinder.models.slices import GREY_WINDOW, SliceSettings, pictures_of, slice_places
from medfinder.models.texts import PieceTable
from medfinder.models.train import TrainSettings, train
from medfinder.models.trained import TrainedEncoder

from .conftest import PLACES, TINY_GRID, WordEncoder, volume

GOLD = Path(__file__).parent / "gold"
TINY_TOWER = TowerShape(side=8, patch=4, inner=32, layers=1, heads=2, mlp=64, width=16)
STILL = BaselineObjectiveSettings(Variation(shift_voxels=0, gain=0.0, offset_hu=0.0, noise_hu=0.0))
WORDS = WordEncoder()


def clip4clip(seed: int = 0, **changes: object) -> Clip4Clip:
    values = {"text_encoder": "minilm", "tower": "random_vit", "tower_shape": TINY_TOWER, "first_scale": 14.0}
    values |= {"slices": SliceSettings(most=4), "layers": 1}
    torch.manual_seed(seed)
    return Clip4Clip(Clip4ClipSettings(**values | changes), grid=TINY_GRID, labels=(), token_width=WORDS.pooled_width)


def mir3d(seed: int = 0, **changes: object) -> Mir3d:
    values = {"text_encoder": "minilm", "tower": "random_vit", "tower_shape": TINY_TOWER, "is_tower_frozen": False}
    values |= {"slices": SliceSettings(most=4, windows_hu=GREY_WINDOW)}
    torch.manual_seed(seed)
    return Mir3d(Mir3dSettings(**values | changes), grid=TINY_GRID, labels=(), token_width=WORDS.pooled_width)


BUILDERS: dict[str, Callable[[], Clip4Clip | Mir3d]] = {
    "meanP": clip4clip,
    "seqTransf": lambda: clip4clip(head="seqTransf"),
    "mir3d": mir3d,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads than that only wait for one another on pictures this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def volumes() -> Tensor:
    """A block of tissue in each of eight corners."""
    return torch.from_numpy(np.stack([volume(place) for place in range(8)]))


def columns() -> Tensor:
    """Eight patterns, each the same in every slice."""
    patterns = np.random.default_rng(0).choice([-1000, 100], (8, 4, 4)).repeat(4, 1).repeat(4, 2)
    return torch.from_numpy(patterns[..., None].repeat(16, 3).astype(np.int16))


def batch_of(network: Clip4Clip | Mir3d, texts: list[str], groups: list[int] | None = None) -> Batch:
    pieces = [network.cut(text) for text in texts]
    distinct = sorted({piece for some in pieces for piece in some})
    table = PieceTable({piece: place for place, piece in enumerate(distinct)}, network.freeze(WORDS, distinct))
    examples = Examples(
        hu=lambda place: volume(place),
        pieces=[table.numbers(some) for some in pieces],
        groups=np.arange(len(texts)) if groups is None else np.array(groups),
        findings=[()] * len(texts),
        queries=[[]] * len(texts),
    )
    return Batch(0, np.arange(len(texts)), examples, table, 0)


REPORTS = [f"mass at {place}" for place in PLACES]


def orders() -> Tensor:
    """Eight volumes of the same four patterns, which come in another order in each."""
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1000, 100], (4, 4, 4)).repeat(4, 1).repeat(4, 2)
    found = [patterns[list(order)].repeat(4, 0) for order in list(permutations(range(4)))[::3]]
    return torch.from_numpy(np.stack(found).transpose(0, 2, 3, 1).astype(np.int16))


# Slices and pictures


def test_pictures_lie_as_radiologists_see_them() -> None:
    hu = torch.full((1, 4, 4, 3), -1000, dtype=torch.int16)
    hu[0, 3, 3, 2] = 1000  # the patient's right, in front, in the slice nearest to the head
    pictures = pictures_of(hu, SliceSettings(windows_hu=GREY_WINDOW), side=4)
    expected = torch.zeros(1, 3, 3, 4, 4)
    expected[0, 2, :, 0, 0] = 1.0
    assert torch.equal(pictures, expected)


def test_every_colour_shows_its_window() -> None:
    hu = torch.tensor([-1000.0, 0.0, 500.0, 1000.0]).view(1, 2, 2, 1)
    windows = ((-1000.0, 0.0), (0.0, 1000.0), (-1000.0, 1000.0))
    red, green, blue = pictures_of(hu, SliceSettings(windows_hu=windows), side=2)[0, 0]
    # x grows to the right of the patient, y to the front: the corner at (0, 0) is at the bottom right.
    assert torch.equal(red, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(green, torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    assert torch.equal(blue, torch.tensor([[1.0, 0.5], [0.75, 0.0]]))


def test_a_slice_that_is_not_square_gets_air_and_is_not_stretched() -> None:
    hu = torch.full((1, 8, 4, 1), 400, dtype=torch.int16)
    picture = pictures_of(hu, SliceSettings(windows_hu=GREY_WINDOW), side=8)[0, 0, 0]
    assert picture[2:6].min() == 1.0
    assert picture[:2].max() == picture[6:].max() == 0.0
    assert pictures_of(hu, SliceSettings(windows_hu=GREY_WINDOW), side=16)[0, 0, 0].mean() == pytest.approx(
        0.5, abs=0.02
    )


def test_a_ct_with_fewer_slices_than_asked_shows_all_it_has() -> None:
    assert slice_places(5, SliceSettings(most=12)) == [0, 1, 2, 3, 4]
    assert slice_places(1, SliceSettings(every=7, most=12)) == [0]
    own = clip4clip(slices=SliceSettings(most=100), head="seqTransf")
    assert own.embed_volumes(volumes()).shape == (8, 16)
    assert own.slices(volumes()).shape == (8, 16, 16)


@pytest.mark.parametrize(
    "changes", [{"every": 0}, {"most": -1}, {"windows_hu": GREY_WINDOW * 2}, {"windows_hu": ((40.0, -160.0),)}]
)
def test_slices_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        SliceSettings(**changes)  # type: ignore[arg-type]


# Networks


@pytest.mark.parametrize("name", BUILDERS)
def test_volumes_and_texts_become_unit_vectors_of_one_space(name: str) -> None:
    network = BUILDERS[name]()
    batch = batch_of(network, REPORTS)
    with torch.inference_mode():
        images = network.embed_volumes(columns())
        texts = network.embed_texts(batch.examples.pieces, batch.table.vectors)
    assert images.shape == texts.shape == (8, network.width)
    for rows in (images, texts):
        assert rows.norm(dim=1).numpy() == pytest.approx(np.ones(8), abs=1e-5)
        assert rows.std(0).max() > 1e-3


@pytest.mark.parametrize("name", BUILDERS)
def test_a_volume_has_the_same_row_whatever_is_in_the_batch(name: str) -> None:
    learner = BaselineLearner(BUILDERS[name](), STILL)
    views = learner.views(volumes(), np.random.default_rng(0))
    assert views.shape == (8, 1, 16, 16, 16)
    with torch.inference_mode():
        whole = learner.encode(views)[0]
        parts = torch.cat([learner.encode(part)[0] for part in views.split(3)])
    assert parts.numpy() == pytest.approx(whole.numpy(), abs=1e-5)


def test_the_order_of_the_slices_matters_to_seq_transf_alone() -> None:
    slices = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    turned = slices.flip(1)
    plain, ordered = clip4clip(), clip4clip(head="seqTransf")
    with torch.inference_mode():
        assert plain.join(turned).numpy() == pytest.approx(plain.join(slices).numpy(), abs=1e-6)
        assert (ordered.join(turned) - ordered.join(slices)).abs().max() > 1e-3


def test_mean_pooling_is_the_direction_of_the_mean_direction() -> None:
    slices = torch.zeros(1, 2, 16)
    slices[0, 0, 0], slices[0, 1, 1] = 2.0, 0.5
    expected = np.zeros(16)
    expected[:2] = np.sqrt(0.5)
    assert clip4clip().join(slices)[0].detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_a_sequence_transformer_that_adds_nothing_is_mean_pooling() -> None:
    own = clip4clip(head="seqTransf", layers=2)
    slices = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (own.join(slices) - clip4clip().join(slices)).abs().max() > 1e-3
        for name, weight in own.sequence.named_parameters():
            if name == "position" or ".out." in name or ".down." in name:
                weight.zero_()
        assert own.join(slices).numpy() == pytest.approx(clip4clip().join(slices).numpy(), abs=1e-6)


def test_sixteen_bits_hardly_change_the_rows() -> None:
    for build in BUILDERS.values():
        network = build()
        with torch.inference_mode():
            exact = network.embed_volumes(columns())
            with torch.autocast("cpu", torch.bfloat16):
                rough = network.embed_volumes(columns()).float()
        assert (rough * exact).sum(1).min() > 0.99


def test_a_slice_alone_has_the_vector_of_a_ct_of_nothing_else() -> None:
    own = mir3d()
    rows = own.encode_slices(volume(3))
    assert (rows.shape, rows.dtype) == ((4, own.width), np.float32)
    repeated = np.repeat(volume(3)[:, :, 2:3], 16, axis=2)
    with torch.inference_mode():
        whole = own.embed_volumes(torch.from_numpy(repeated[None]))[0].numpy()
    assert rows[0] == pytest.approx(whole, abs=1e-5)


def test_a_long_report_is_the_mean_direction_of_its_runs() -> None:
    own = mir3d(width=0, words=2, tower_shape=replace(TINY_TOWER, width=12))
    assert own.cut("no effusion is seen today") == ("no effusion", "is seen", "seen today")
    assert own.cut("") == ("",)
    batch = batch_of(own, ["no effusion is seen", "no effusion"])
    runs = WORDS.pool(["no effusion", "is seen"])
    runs /= np.linalg.norm(runs, axis=1, keepdims=True)
    expected = runs.mean(0) / np.linalg.norm(runs.mean(0))
    found = own.embed_texts(batch.examples.pieces, batch.table.vectors).detach().numpy()
    assert found == pytest.approx(np.stack([expected, runs[0]]), abs=1e-5)


# Training


@pytest.mark.parametrize("name", BUILDERS)
def test_eight_pairs_can_be_memorised(name: str) -> None:
    hu = columns()
    learner = BaselineLearner(BUILDERS[name](), STILL)
    batch, rng = batch_of(learner.network, REPORTS), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(learner.network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 150)
    for step in range(150):
        loss = sum(learner.terms(learner.encode(learner.views(hu, rng)), batch).values())
        if step == 0:
            assert loss > 1.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        texts = learner.network.embed_texts(batch.examples.pieces, batch.table.vectors)
        scores = texts @ learner.network.embed_volumes(hu).T
    assert scores.argmax(1).tolist() == scores.argmax(0).tolist() == list(range(8))


def test_mean_pooling_cannot_tell_an_order_of_slices_from_another() -> None:
    with torch.inference_mode():
        rows = clip4clip().embed_volumes(orders())
    assert rows.numpy() == pytest.approx(rows[:1].expand(8, -1).numpy(), abs=1e-5)


def test_a_frozen_tower_does_not_move_and_the_transformer_after_it_does(pair: Path) -> None:
    network = clip4clip(tower=f"clip:{pair}", tower_shape=None, is_tower_frozen=True, head="seqTransf")
    learner = BaselineLearner(network, STILL)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=0.1)
    encoded = learner.encode(learner.views(volumes(), np.random.default_rng(0)))
    sum(learner.terms(encoded, batch_of(network, REPORTS)).values()).backward()
    trained = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert all(weight.grad.abs().max() > 0 for weight in network.sequence.parameters() if weight.ndim > 1)
    optimizer.step()
    moved = {name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])}
    assert not any(name.startswith("slices.tower") for name in trained | moved)
    assert {"sequence.position", "log_scale", "text_projection.weight"} <= moved


def test_gradients_reach_every_weight_of_a_trained_tower() -> None:
    for build in BUILDERS.values():
        learner = BaselineLearner(build(), STILL)
        encoded = learner.encode(learner.views(volumes(), np.random.default_rng(0)))
        sum(learner.terms(encoded, batch_of(learner.network, REPORTS)).values()).backward()
        assert all(weight.grad is not None for weight in learner.network.parameters())
        assert learner.network.slices.tower.patches.weight.grad.abs().max() > 0


def test_the_loss_is_the_cross_entropy_of_both_directions() -> None:
    learner = BaselineLearner(clip4clip(), STILL)
    batch = batch_of(learner.network, REPORTS)
    encoded = learner.encode(learner.views(volumes(), np.random.default_rng(0)))
    texts = learner.network.embed_texts(batch.examples.pieces, batch.table.vectors)
    scores, right = texts @ encoded[0].T * 14.0, torch.arange(8)
    ways = [torch.nn.functional.cross_entropy(some, right) for some in (scores, scores.T)]
    found = learner.terms(encoded, batch)["contrastive"].item()
    assert found == pytest.approx((sum(ways) / 2).item(), rel=1e-4)


def test_cases_of_one_study_are_not_each_others_negatives() -> None:
    learner = BaselineLearner(clip4clip(), STILL)
    encoded = learner.encode(learner.views(volumes(), np.random.default_rng(0)))
    apart = learner.terms(encoded, batch_of(learner.network, REPORTS))["contrastive"]
    together = learner.terms(encoded, batch_of(learner.network, REPORTS, groups=[0] * 8))["contrastive"]
    assert apart > 0.5
    assert together.item() == pytest.approx(0.0, abs=1e-6)


# Zero-shot, and what a checkpoint needs


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with both tiny towers of CLIP; the stored image tower is all 0, so it is drawn anew."""
    folder = Path(shutil.copytree(GOLD / "clip", tmp_path / "pair"))
    weights = load_file(folder / "open_clip_model.safetensors")
    generator = torch.Generator().manual_seed(4)
    for name, weight in weights.items():
        if name.startswith("visual."):
            torch.nn.init.normal_(weight, 1.0 if "ln_" in name else 0.0, 0.3, generator=generator)
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def test_a_pair_of_towers_needs_no_training(pair: Path) -> None:
    encoder = OpenClipText(CLIP, pair)
    settings = Mir3dSettings(text_encoder="clip", tower=f"clip:{pair}", width=0)
    network = Mir3d(settings, grid=TINY_GRID, labels=(), token_width=encoder.pooled_width)
    assert network.is_zero_shot
    ready = TrainedEncoder(network, encoder, grid=TINY_GRID, name="3D-MIR", digest="0", is_synthetic=False)
    images, texts = ready.encode_volumes([volume(0), volume(3)]), ready.encode_texts(["no nodule", "left lung nodule"])
    assert images.shape == texts.shape == (2, 16)
    assert np.abs(images[0] - images[1]).max() > 1e-3
    pooled = encoder.pool(["no nodule"])[0]
    assert texts[0] == pytest.approx(pooled / np.linalg.norm(pooled), abs=1e-5)
    with pytest.raises(ConfigError, match="nothing to train"):
        BaselineLearner(network, STILL)


def test_clip4clip_of_a_pair_has_no_projection_of_texts(pair: Path) -> None:
    settings = Clip4ClipSettings(tower=f"clip:{pair}", is_tower_frozen=True)
    network = Clip4Clip(settings, grid=TINY_GRID, labels=(), token_width=16)
    assert network.is_zero_shot
    assert [name for name, _ in network.named_parameters() if not name.startswith("slices.")] == ["log_scale"]
    mixed = Clip4Clip(replace(settings, text_encoder="biomedclip"), grid=TINY_GRID, labels=(), token_width=16)
    assert "text_projection.weight" in dict(mixed.named_parameters())


def test_a_checkpoint_needs_none_of_the_towers_files(pair: Path) -> None:
    settings = Clip4ClipSettings(tower=f"clip:{pair}", head="seqTransf", layers=1)
    network = Clip4Clip(settings, grid=TINY_GRID, labels=(), token_width=16)
    stored = json.loads(json.dumps(asdict(network.settings)))
    assert str(pair) not in json.dumps(stored)
    shutil.rmtree(pair)
    again = Clip4Clip(build_settings(Clip4ClipSettings, stored), grid=TINY_GRID, labels=(), token_width=16)
    assert again.settings == network.settings
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(again.embed_volumes(volumes()), network.embed_volumes(volumes()))


def test_the_published_towers_colours_are_taken_off(pair: Path) -> None:
    assert clip4clip(tower=f"clip:{pair}", tower_shape=None).slices.shape.mean == (0.5, 0.5, 0.5)
    assert TINY_TOWER.mean == CLIP_MEAN


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: clip4clip(head="tightTransf"), "unknown head 'tightTransf'; known: meanP, seqTransf"),
        (lambda: clip4clip(is_tower_frozen=True), "the tower random_vit is frozen, but has random weights"),
        (lambda: clip4clip(words=0), "must be above 0, found 0"),
        (lambda: mir3d(width=-1), "width is -1, expected 0"),
        (lambda: mir3d(width=0), "gives vectors of 16, the text encoder minilm of 12; take a pair, or give a width"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build: Callable[[], object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build()


def test_text_vectors_of_another_encoder_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"texts have vectors of \(1, 5\); expected one of 12 for each run"):
        clip4clip().embed_texts([(0,)], [np.zeros((1, 5), np.float32)])


@pytest.mark.parametrize("method", ["clip4clip", "mir3d"])
def test_a_baseline_is_trained_and_read_back_like_any_method(
    method: str, dataset: Path, tmp_path: Path, tiny: TrainSettings
) -> None:
    like = {"text_encoder": "minilm", "tower": "random_vit", "tower_shape": TINY_TOWER}
    model = Clip4ClipSettings(**like, head="seqTransf", layers=1)
    if method == "mir3d":
        model = Mir3dSettings(**like, is_tower_frozen=False, width=8)
    settings = replace(tiny, method=method, model=model, objective=STILL, epochs=1, chunk=3)
    summary = train(dataset, tmp_path / "out", settings, text_encoder=WORDS)
    assert summary.is_finished
    ready = load_model(tmp_path / "out", text_encoder=WORDS)
    assert ready.encode_volumes([volume(0)]).shape == ready.encode_texts(["mass"]).shape == (1, ready.width)
