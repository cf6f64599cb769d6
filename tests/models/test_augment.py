"""Augmentations change what they should and keep left on the left."""

import numpy as np
import torch

from medfinder.models import augment


def corner() -> torch.Tensor:
    hu = torch.full((2, 12, 10, 8), -1000.0)
    hu[:, :4] = 500.0
    return hu


def test_a_shift_moves_whole_voxels_and_lets_air_in() -> None:
    hu = torch.arange(2 * 4 * 4 * 4).reshape(2, 4, 4, 4).to(torch.int16)
    for seed in range(10):
        moves = np.random.default_rng(seed).integers(0, 3, (2, 3)) - 1
        moved = augment.shift(hu, 1, np.random.default_rng(seed))
        for before, after, (a, b, c) in zip(hu, moved, moves.tolist(), strict=True):
            for x, y, z in np.ndindex(4, 4, 4):
                u, v, w = x + a, y + b, z + c
                is_inside = 0 <= u < 4 and 0 <= v < 4 and 0 <= w < 4
                assert after[x, y, z] == (before[u, v, w] if is_inside else -1024)


def test_a_volume_is_never_flipped() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changed = augment.add_noise(augment.change_scale(corner(), 0.1, 50.0, rng), 50.0, rng)
        changed = augment.rotate(changed, 0.3, rng, zoom=(0.9, 1.1))
        assert (changed[:, :3].mean((1, 2, 3)) > changed[:, 9:].mean((1, 2, 3)) + 200).all()


def test_turning_by_nothing_changes_nothing() -> None:
    hu = torch.randn(3, 6, 5, 4) * 300
    assert torch.allclose(augment.rotate(hu, 0.0, np.random.default_rng(0)), hu, atol=1e-2)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    class Quarter(np.random.Generator):
        def uniform(self, _low: float, _high: float, size: tuple[int, ...]) -> np.ndarray:  # type: ignore[override]
            return np.broadcast_to([0.0, 0.0, np.pi / 2], size) if size[-1] == 3 else np.ones(size)

    hu = torch.full((1, 6, 6, 6), -1000.0)
    hu[0, 5, 2, 3] = 1000.0
    turned = augment.rotate(hu, 1.0, Quarter(np.random.PCG64(0)))
    # Seen from the centre, the voxel lay at (2.5, -0.5): a quarter turn brings it to (0.5, 2.5) or (-0.5, -2.5).
    brightest = np.unravel_index(int(turned.argmax()), (6, 6, 6))
    assert brightest in {(3, 5, 3), (2, 0, 3)}
    assert float(turned.max()) > 990


def test_noise_differs_by_volume_and_is_as_strong_as_asked() -> None:
    noisy = augment.add_noise(torch.zeros(40, 8, 8, 8), 30.0, np.random.default_rng(1))
    strength = noisy.std((1, 2, 3))
    assert strength.max() < 33
    assert strength.std() > 5
    assert not torch.equal(noisy[0], noisy[1])


def test_cutmix_pastes_a_box_of_another_volume_and_no_more_than_its_share() -> None:
    hu = torch.arange(4.0)[:, None, None, None].expand(4, 16, 16, 16)
    shares = []
    for seed in range(30):
        mixed = augment.cutmix(hu, 0.5, np.random.default_rng(seed))
        for case in range(4):
            foreign = mixed[case] != case
            shares.append(float(foreign.float().mean()))
            assert len(mixed[case][foreign].unique()) <= 1
            if foreign.any():
                places = foreign.nonzero()
                box = (places.max(0).values - places.min(0).values + 1).prod()
                assert int(box) == int(foreign.sum())
    assert max(shares) <= 0.55
    assert 0.15 < np.mean(shares) < 0.35


def test_one_volume_alone_is_not_mixed() -> None:
    hu = torch.randn(1, 4, 4, 4)
    assert torch.equal(augment.cutmix(hu, 0.5, np.random.default_rng(0)), hu)
