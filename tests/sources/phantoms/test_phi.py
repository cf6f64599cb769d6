"""Reports with planted PHI: the truth stands where it says, and the pools share nothing."""

import tomllib
from importlib import resources
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.sources.phantoms.phi import write_phi_report

REPORT = "tc torax sin contraste . derrame pleural izquierdo . sin neumotorax ."


def tables() -> dict[str, Any]:
    return tomllib.loads(resources.files("medfinder.sources.phantoms").joinpath("phi.toml").read_text(encoding="utf-8"))


def test_the_same_seed_gives_the_same_report() -> None:
    first, again = (write_phi_report(REPORT, "es", "tuning", np.random.default_rng(3)) for _ in range(2))
    assert first == again


def test_without_its_phi_and_traps_a_report_is_what_it_was() -> None:
    for seed in range(40):
        planted = write_phi_report(REPORT, "es", "tuning", np.random.default_rng(seed))
        folded = planted.text.lower()
        assert all(sentence in folded for sentence in ("derrame pleural izquierdo", "sin neumotorax"))
        assert len(planted.phi) >= 4
        assert all(planted.text[phi.start : phi.end].strip() for phi in planted.phi)
        ages = [planted.text[phi.start : phi.end] for phi in planted.phi if phi.kind == "age"]
        assert all(age.isdigit() and int(age) > 89 for age in ages)


def entries(listed: str | list[str]) -> set[str]:
    names = " ".join(listed.split()).split(" / ") if isinstance(listed, str) else listed
    return {name.lower() for name in names}


def test_no_two_pools_share_a_name_a_template_or_a_place() -> None:
    for table in ("templates", "parts", "names"):
        for one, other in combinations(tables()[table].values(), 2):
            for kind in one:
                mine, yours = (entries(pool[kind]) for pool in (one, other))
                assert not mine & yours


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="held_out"):
        write_phi_report(REPORT, "es", "fifth", np.random.default_rng(0))  # type: ignore[arg-type]
