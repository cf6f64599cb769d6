"""How much known PHI is found in generated reports, what else is taken with it, and how long it takes.

    python benchmarks/phi.py [--pool tuning|second|third|fourth|held_out] [--studies 200] [--missed] SEED [SEED ...]

In: a pool of ``medfinder.sources.phantoms.phi`` and seeds; each study gives a Spanish and an English report. Out: per
seed the pieces of PHI and the part that was found whole (every letter and digit covered), the words of all else that
were kept, the traps that were kept, milliseconds a report; then what was missed by kind and language. With ``--missed``
each missed piece with the words around it, never of the pool that is held out.
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from medfinder.curation.deidentify import find_phi
from medfinder.records import Language
from medfinder.sources.phantoms.phi import PhiReport, Pool, write_phi_report
from medfinder.sources.phantoms.plan import draw_study
from medfinder.sources.phantoms.report import write_report

LANGUAGES: tuple[Language, ...] = ("es", "en")
POOLS: tuple[Pool, ...] = ("tuning", "second", "third", "fourth", "held_out")
AROUND = 40


@dataclass
class Score:
    """Counts of one seed."""

    pieces: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: Counter[tuple[str, str]] = field(default_factory=Counter)
    words: list[bool] = field(default_factory=list)
    traps: list[bool] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    seconds: float = 0.0
    reports: int = 0


def write_reports(pool: Pool, seed: int, studies: int) -> Iterator[tuple[Language, PhiReport]]:
    for number in range(studies):
        rng = np.random.default_rng([seed, number])
        plan = draw_study(number, seed=seed, size=64)
        report = write_report(
            findings=plan.findings,
            sex=plan.patient.sex,
            age_years=plan.patient.age_years,
            contrast=plan.contrast,
            rng=rng,
        )
        for language, text in zip(LANGUAGES, (report.spanish, report.english), strict=True):
            yield language, write_phi_report(text, language, pool, rng)


def score(pool: Pool, seed: int, studies: int) -> Score:
    result = Score()
    for language, report in write_reports(pool, seed, studies):
        start = time.process_time()
        spans = find_phi(report.text, language)
        result.seconds += time.process_time() - start
        result.reports += 1
        mask = np.zeros(len(report.text), bool)
        for span in spans:
            mask[span.start : span.end] = True
        truth = np.zeros(len(report.text), bool)
        for phi in report.phi:
            truth[phi.start : phi.end] = True
            result.pieces[language, phi.kind] += 1
            letters = [at for at in range(phi.start, phi.end) if report.text[at].isalnum()]
            if not mask[letters].all():
                result.missed[language, phi.kind] += 1
                before, behind = report.text[max(0, phi.start - AROUND) : phi.start], report.text[phi.end :][:AROUND]
                result.shown.append(f"{language} {phi.kind}: {before}<<{report.text[phi.start : phi.end]}>>{behind}")
        rest = (found for found in re.finditer(r"\w+", report.text) if not truth[found.start() : found.end()].any())
        result.words += [not mask[found.start() : found.end()].any() for found in rest]
        result.traps += [not mask[trap.start : trap.end].any() for trap in report.traps]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--pool", choices=POOLS, default="held_out")
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--missed", action="store_true", help="show what was missed; not of the pool that is held out")
    asked = parser.parse_args()
    if asked.missed and asked.pool == "held_out":
        parser.error("what is missed of the pool held_out is not shown: nothing is tuned on it; name another --pool")
    print("seed        pieces    found   words kept   traps kept   ms a report")
    for seed in asked.seeds:
        result = score(asked.pool, seed, asked.studies)
        pieces, missed = result.pieces.total(), result.missed.total()
        print(
            f"{seed:<10} {pieces:>7} {1 - missed / pieces:>8.2%} {np.mean(result.words):>12.2%} "
            f"{np.mean(result.traps):>12.2%} {result.seconds / result.reports * 1e3:>13.1f}"
        )
        for (language, kind), count in sorted(result.missed.items()):
            print(f"    missed {language} {kind:<10} {count} of {result.pieces[language, kind]}")
        print(*result.shown if asked.missed else (), sep="\n")


if __name__ == "__main__":
    main()
