"""Which patients train, validate and test: by patient, seeded, stratified by finding.

In: each patient's findings. Out: a split for each patient. The result depends on the set of patients and the seed, not
on any order. It is not stable under added patients: a dataset is built once and carries its split with it.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import get_args

from medfinder.errors import ConfigError
from medfinder.records import Split

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class SplitShares:
    """Shares of the patients.

    Source: the paper splits 70/10/20 and does not say by what; we split by patient.
    """

    train: float = 0.7
    val: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        shares = (self.train, self.val, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ConfigError(f"split shares {shares}; expected three numbers of at least 0 that add up to 1")


def split_patients(findings: Mapping[str, Collection[str]], shares: SplitShares, *, seed: int) -> dict[str, Split]:
    """Give each patient a split, so that every split holds its share of every stratum.

    A patient's stratum is the rarest of its findings. Patients are lined up by stratum and, within it, by a seeded
    hash; walking the line, each goes to the split that lacks most. So shares hold overall to within one patient, and
    nearly so within each stratum (systematic sampling).

    Args:
        findings: names of what each patient has.
    """
    counts = Counter(name for names in findings.values() for name in names)
    line = sorted(findings, key=lambda patient: (_stratum(findings[patient], counts), _shuffle(patient, seed)))
    given: Counter[Split] = Counter()
    splits: dict[str, Split] = {}
    for place, patient in enumerate(line, start=1):
        lacking = {split: getattr(shares, split) * place - given[split] for split in SPLITS}
        splits[patient] = max(SPLITS, key=lambda split: lacking[split])
        given[splits[patient]] += 1
    return splits


def _stratum(names: Collection[str], counts: Counter[str]) -> tuple[int, str]:
    return min(((counts[name], name) for name in names), default=(0, ""))


def _shuffle(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{patient}".encode()).digest()
