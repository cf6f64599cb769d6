"""How well the keyword library reads sentences that it was not written for, and how long it takes.

    python benchmarks/keywords.py [--half a|b|c|d|e|f|g|h|i|j|l] [--findings] [--mistakes]

In: ``tests/curation/gold/sentences_{es,en}.tsv``, whose README says how they were made. Out: precision, recall, F1 of
(finding, status) and of (finding, status, side) with 95% bootstrap intervals over sentences, per language; with
``--findings`` per finding; with ``--mistakes`` every sentence of the opened halves, a to j, that is read wrongly.
"""

import argparse
import csv
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medfinder.curation.keywords import KEYWORDS, extract_findings
from medfinder.records import Language

GOLD = Path(__file__).parent.parent / "tests" / "curation" / "gold"
LANGUAGES: tuple[Language, ...] = ("es", "en")
# Those that are mended on; "l" is only ever scored.
OPENED = "abcdefghij"
SIGNS = {"+": "present", "-": "absent", "?": "uncertain"}

Fact = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    wanted: frozenset[Fact]
    read: frozenset[Fact]


def read_gold(language: Language, half: str) -> list[Sentence]:
    """Read one half of the sentences of one language, and what the library makes of them."""
    sentences = []
    names = "keywords.txt" if half in "abc" else "keywords_2.txt"
    scored = frozenset((GOLD / names).read_text(encoding="utf-8").split("\n"))
    with (GOLD / f"sentences_{language}.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["half"] != half:
                continue
            found = extract_findings(row["sentence"], language)
            read = [(finding.name, finding.status, finding.laterality) for finding in found]
            sentences.append(Sentence(row["sentence"], settle(parse(row["findings"]), scored), settle(read, scored)))
    return sentences


def parse(notation: str) -> Iterable[Fact]:
    for fact in filter(None, (part.strip() for part in notation.split(";"))):
        name, _, side = fact[1:].partition("@")
        yield name, SIGNS[fact[0]], side or None


def settle(facts: Iterable[Fact], scored: frozenset[str]) -> frozenset[Fact]:
    """Make one of two ways to say the same: left and right is bilateral; what its kind implies need not be said."""
    sides: dict[tuple[str, str], set[str | None]] = {}
    for name, status, side in facts:
        if name not in scored:
            continue
        sides.setdefault((name, status), set()).add(side)
    implied = {(parent, status) for name, status in sides for parent in ancestors(name)}
    return frozenset(
        (name, status, side)
        for (name, status), found in sides.items()
        for side in ({"bilateral"} if {"left", "right"} <= found else found)
        if (name, status) not in implied
    )


def ancestors(name: str) -> Iterable[str]:
    while parent := KEYWORDS[name].parent:
        yield parent
        name = parent


def counts(sentences: Sequence[Sentence], *, with_side: bool) -> np.ndarray:
    """Count right, wrong and missed facts of each sentence."""
    rows = []
    for sentence in sentences:
        pair = (sentence.wanted, sentence.read)
        wanted, read = ({fact if with_side else fact[:2] for fact in facts} for facts in pair)
        rows.append((len(wanted & read), len(read - wanted), len(wanted - read)))
    return np.array(rows)


def score(rows: np.ndarray) -> tuple[float, float, float]:
    right, wrong, missed = rows.sum(axis=0)
    return right / max(right + wrong, 1), right / max(right + missed, 1), 2 * right / max(2 * right + wrong + missed, 1)


def show_scores(half: str) -> None:
    print(f"half {half}      facts    n      P      R     F1   95% of F1")
    for language in LANGUAGES:
        sentences = read_gold(language, half)
        for with_side in (False, True):
            rows = counts(sentences, with_side=with_side)
            rng = np.random.default_rng(0)
            drawn = [score(rows[rng.integers(len(rows), size=len(rows))])[2] for _ in range(1000)]
            low, high = np.quantile(drawn, [0.025, 0.975])
            precision, recall, f1 = score(rows)
            what = "with side" if with_side else "status"
            print(
                f"{language} {what:<12}{rows[:, [0, 2]].sum():>4} {len(rows):>4} {precision:>6.3f} {recall:>6.3f} "
                f"{f1:>6.3f}   {low:.3f}-{high:.3f}"
            )


def show_findings(half: str) -> None:
    tallies: dict[str, Counter[str]] = {"right": Counter(), "wrong": Counter(), "missed": Counter()}
    for language in LANGUAGES:
        for sentence in read_gold(language, half):
            wanted, read = ({fact[:2] for fact in facts} for facts in (sentence.wanted, sentence.read))
            for kind, facts in (("right", wanted & read), ("wrong", read - wanted), ("missed", wanted - read)):
                tallies[kind].update(name for name, _ in facts)
    print(f"\n{'finding':<28} right wrong missed    F1")
    for name in sorted(set().union(*tallies.values())):
        right, wrong, missed = (tallies[kind][name] for kind in ("right", "wrong", "missed"))
        print(f"{name:<28} {right:>5} {wrong:>5} {missed:>6} {2 * right / (2 * right + wrong + missed):>5.2f}")


def show_mistakes() -> None:
    for language in LANGUAGES:
        for sentence in (sentence for half in OPENED for sentence in read_gold(language, half)):
            if sentence.wanted != sentence.read:
                print(f"\n{sentence.text}")
                print("   missed", sorted(sentence.wanted - sentence.read, key=str))
                print("   wrong ", sorted(sentence.read - sentence.wanted, key=str))


def seconds(text: str, language: Language) -> float:
    start = time.process_time()
    extract_findings(text, language)
    return time.process_time() - start


def show_time() -> None:
    print("\nwords      es ms    en ms   (processor time of one report; in brackets without any stop)")
    for words in (100, 2000, 20000):
        line = f"{words:<8}"
        for language in LANGUAGES:
            texts = [sentence.text.rstrip(".") for half in "ab" for sentence in read_gold(language, half)]
            said = " . ".join(texts * (1 + words // 1000)).split()[:words]
            for text in (" ".join(said), " ".join(word for word in said if word != ".")):
                elapsed = min(seconds(text, language) for _ in range(5)) * 1e3
                line += f" {elapsed:>8.1f}" if "." in text.split() else f" [{elapsed:.1f}]"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=[*OPENED, "l"], default="d")
    parser.add_argument("--findings", action="store_true", help="scores per finding")
    parser.add_argument("--mistakes", action="store_true", help="what is read wrongly, of a to j")
    asked = parser.parse_args()
    show_scores(asked.half)
    if asked.findings:
        show_findings(asked.half)
    if asked.mistakes:
        show_mistakes()
    show_time()


if __name__ == "__main__":
    main()
