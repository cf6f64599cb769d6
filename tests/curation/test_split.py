"""Patients are split as promised: whole, seeded, in any order, each finding in every split."""

import random
from collections import Counter

import pytest

from medfinder.curation.split import SplitShares, split_patients
from medfinder.errors import ConfigError


def patients(count: int) -> dict[str, set[str]]:
    """Every third patient has a mass, every tenth a cavity."""
    names = ((n, {"mass"} if n % 3 == 0 else set()) for n in range(count))
    return {f"p{n}": found | ({"cavity"} if n % 10 == 0 else set()) for n, found in names}


@pytest.mark.parametrize("count", [1, 2, 10, 33, 1000])
def test_shares_hold_to_within_one_patient(count: int) -> None:
    counts = Counter(split_patients(patients(count), SplitShares(), seed=0).values())
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert abs(counts[split] - share * count) <= 1  # type: ignore[index]


def test_ten_patients_are_seven_one_and_two() -> None:
    counts = Counter(split_patients(patients(10), SplitShares(), seed=3).values())
    assert counts == {"train": 7, "val": 1, "test": 2}


def test_a_rare_finding_is_in_every_split_in_its_share() -> None:
    everyone = patients(300)
    splits = split_patients(everyone, SplitShares(), seed=0)
    rare = Counter(splits[name] for name, found in everyone.items() if "cavity" in found)
    assert rare["train"] == pytest.approx(21, abs=1)
    assert rare["val"] == pytest.approx(3, abs=1)
    assert rare["test"] == pytest.approx(6, abs=1)


def test_order_does_not_matter_and_the_seed_does() -> None:
    everyone = patients(200)
    names = list(everyone)
    random.Random(1).shuffle(names)
    shuffled = {name: everyone[name] for name in names}
    assert split_patients(shuffled, SplitShares(), seed=0) == split_patients(everyone, SplitShares(), seed=0)
    assert split_patients(everyone, SplitShares(), seed=1) != split_patients(everyone, SplitShares(), seed=0)


def test_a_share_of_nothing_stays_empty() -> None:
    splits = split_patients(patients(50), SplitShares(0.0, 0.0, 1.0), seed=0)
    assert set(splits.values()) == {"test"}


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.1), (1.2, -0.1, -0.1)])
def test_shares_that_are_none_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        SplitShares(*shares)
