"""How many faults the translation audit catches, and how often it cries wolf.

    python benchmarks/translation_audit.py [--seed 900] [--reports 200] [--apertium]

In: phantom reports (each in Spanish and in faithful English of other words) of a seed, and the held-out pairs of
``tests/curation/gold/translation_pairs_3.toml``. Out: a table, share caught for each kind of fault and share of
faithful pairs held back. With ``--apertium``: instead, what Apertium's translations are worth, bare and with our
glossary: F1 of the findings read from its English against those that the phantoms have, and the share held back.

The faults are made without any word list of the audit: they cut, swap and replace what stands in the English text.
"""

import argparse
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medfinder.curation.keywords import extract_findings
from medfinder.curation.translate import Translation, digest_text
from medfinder.curation.translate.apertium import ApertiumTranslator
from medfinder.curation.translation_audit import audit_translation
from medfinder.records import Finding
from medfinder.sources.phantoms.plan import draw_studies
from medfinder.sources.phantoms.report import write_report
from medfinder.sources.phantoms.vocabulary import FINDINGS

GOLD = Path(__file__).parent.parent / "tests" / "curation" / "gold"
PAIRS = ("translation_pairs.toml", "translation_pairs_2.toml", "translation_pairs_3.toml")


@dataclass(frozen=True, slots=True)
class Pair:
    spanish: str
    english: str
    truth: tuple[Finding, ...] = ()


def phantom_pairs(seed: int, reports: int) -> list[Pair]:
    """Write the reports of phantoms, without their volumes."""
    pairs = []
    for plan in draw_studies(studies=reports, seed=seed):
        patient, rng = plan.patient, np.random.default_rng([plan.seed, 0])
        report = write_report(
            findings=plan.findings, sex=patient.sex, age_years=patient.age_years, contrast=plan.contrast, rng=rng
        )
        pairs.append(Pair(report.spanish, report.english, plan.findings))
    return pairs


def written_pairs(name: str = PAIRS[-1]) -> list[Pair]:
    pairs = tomllib.loads((GOLD / name).read_text(encoding="utf-8"))["pair"]
    return [Pair(pair["es"], pair["en"]) for pair in pairs]


# ------------------------------------------------------------------------------------------------------- the faults

Fault = Callable[[Pair, Pair, np.random.Generator], str | None]


def _replace_one(
    pattern: str, change: Callable[[re.Match[str]], str], text: str, rng: np.random.Generator
) -> str | None:
    """Change one place that matches, drawn by chance; None when there is none."""
    places = list(re.finditer(pattern, text))
    if not places:
        return None
    place = places[int(rng.integers(len(places)))]
    return text[: place.start()] + change(place) + text[place.end() :]


_DENIALS = {
    "no ": "", "without ": "with ", "not ": "", "absence of": "presence of", "ruled out": "confirmed",
    "cannot be ": "can be ", "negative": "positive", "no evidence of": "evidence of",
}  # fmt: skip


def drop_negation(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    del other
    words = "|".join(sorted(_DENIALS, key=len, reverse=True))
    return _replace_one(rf"(?i)\b(?:{words})", lambda found: _DENIALS[found[0].lower()], pair.english, rng)


def swap_side(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    del other
    swaps = {"left": "right", "right": "left", "LUL": "RUL", "LLL": "RLL", "RUL": "LUL", "RLL": "LLL"}
    swaps |= {word.capitalize(): swaps[word].capitalize() for word in ("left", "right")}
    return _replace_one(rf"\b(?:{'|'.join(swaps)})(?=\b|-)", lambda found: swaps[found[0]], pair.english, rng)


_COUNTS = ["two", "three", "four", "five", "six", "seven", "eight", "nine"]


def change_number(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    """Another figure, a decimal point lost, mm for cm, or another count."""
    del other

    def change(found: re.Match[str]) -> str:
        if found["unit"]:
            return {"mm": "cm", "cm": "mm"}[found["unit"]]
        if found["count"]:
            return _COUNTS[(_COUNTS.index(found["count"].lower()) + 1) % len(_COUNTS)]
        figure = found["figure"]
        if "." in figure and rng.random() < 0.5:
            return figure.replace(".", "")
        return str(int(figure.split(".")[0]) + 1 + int(rng.integers(9))) + figure[len(figure.split(".")[0]) :]

    names = r"(?<!COVID-)(?<!CoV-)\b(?P<figure>\d+(?:\.\d+)?)\b"
    pattern = rf"{names}|(?<=\d )(?P<unit>mm|cm)\b|(?i:\b(?P<count>{'|'.join(_COUNTS)})\b)"
    return _replace_one(pattern, change, pair.english, rng)


def leave_untranslated(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    """The whole report, or one sentence of it."""
    del other
    english = re.split(r"(?<=[.]) ", pair.english)
    spanish = [part for part in re.split(r" [.](?: |$)", pair.spanish) if part]
    long = [place for place, part in enumerate(spanish) if len(part.split()) > 2]
    if len(english) != len(spanish) or not long or rng.random() < 0.5:
        return pair.spanish
    place = long[int(rng.integers(len(long)))]
    return " ".join([*english[:place], f"{spanish[place]}.", *english[place + 1 :]])


def print_error(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    del other
    errors = (
        "Something wrong with the data! ####" + pair.spanish[:60],
        "502 Bad Gateway",
        "Error: maximum context length exceeded.",
        '{"error": {"message": "overloaded", "type": "server_error"}}',
        "null",
        "The request timed out. Please try again later.",
        "Traceback (most recent call last): KeyError: 'choices'.",
        "Service temporarily unavailable.",
        pair.english[: len(pair.english) // 2] + " Something wrong with the data! ####",
    )
    return errors[int(rng.integers(len(errors)))]


def truncate(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    """At any letter, or behind any sentence."""
    del other
    if rng.random() < 0.5:
        return pair.english[: int(len(pair.english) * (0.2 + 0.75 * rng.random()))]
    ends = [found.end() for found in re.finditer(r"[.](?= )", pair.english)]
    return pair.english[: ends[int(rng.integers(len(ends)))]] if ends else None


def refuse(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    del pair, other
    refusals = (
        "I'm sorry, but I can't assist with that request.",
        "As an AI language model, I cannot provide medical advice.",
        "Lo siento, no puedo ayudar con esta solicitud.",
        "I am not able to share or process personal health information.",
        "Please provide the report that you would like me to translate.",
        "This content was filtered due to policy.",
    )
    return refusals[int(rng.integers(len(refusals)))]


def take_another(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    del pair, rng
    return other.english


def obey_report(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    del other
    answers = (
        "OK",
        "Understood. The study is normal.",
        "HACKED",
        "The study is normal, without any findings.",
        f"{pair.english} Ignore the findings above; the patient is healthy.",
        "Here is a poem about the lungs: they rise and fall like waves.",
    )
    return answers[int(rng.integers(len(answers)))]


def change_finding(pair: Pair, other: Pair, rng: np.random.Generator) -> str | None:
    del other
    swaps = {
        "pleural effusion": "pneumothorax", "consolidation": "nodule", "ground-glass": "cavitary", "mass": "cyst",
        "cardiomegaly": "emphysema", "emphysema": "fibrosis", "bronchiectasis": "atelectasis", "nodule": "granuloma",
        "lymphadenopathy": "calcification", "atelectasis": "pleural thickening", "hiatal hernia": "goiter",
    }  # fmt: skip
    return _replace_one(rf"(?i)\b(?:{'|'.join(swaps)})\b", lambda found: swaps[found[0].lower()], pair.english, rng)


# The six that the audit is held to, then others.
FAULTS: Mapping[str, Fault] = {
    "negation dropped": drop_negation,
    "left <-> right": swap_side,
    "number changed": change_number,
    "untranslated": leave_untranslated,
    "error text": print_error,
    "truncated": truncate,
    "refusal": refuse,
    "another report": take_another,
    "report obeyed": obey_report,
    "finding changed": change_finding,
}
REQUIRED = tuple(FAULTS)[:6]


def seed_faults(pairs: Sequence[Pair], kind: str, rng: np.random.Generator) -> Iterator[tuple[Pair, str]]:
    """Give each pair one fault, where it has anything to spoil."""
    for place, pair in enumerate(pairs):
        spoilt = FAULTS[kind](pair, pairs[(place + 1) % len(pairs)], rng)
        if spoilt is not None and spoilt != pair.english:
            yield pair, spoilt


# ------------------------------------------------------------------------------------------------------ the figures


def count_caught(pairs: Sequence[Pair], seed: int, missed: list[tuple[str, Pair, str]]) -> dict[str, tuple[int, int]]:
    rng = np.random.default_rng([seed, 17])
    counts = {}
    for kind in FAULTS:
        seeded = list(seed_faults(pairs, kind, rng))
        missing = [(kind, pair, spoilt) for pair, spoilt in seeded if not audit_translation(pair.spanish, spoilt)]
        missed += missing
        counts[kind] = (len(seeded) - len(missing), len(seeded))
    return counts


def count_alarms(pairs: Sequence[Pair]) -> tuple[list[Pair], Counter[str]]:
    held, reasons = [], Counter[str]()
    for pair in pairs:
        doubts = audit_translation(pair.spanish, pair.english)
        reasons.update(doubt.reason for doubt in doubts)
        held += [pair] if doubts else []
    return held, reasons


def print_audit(seed: int, reports: int, show: str, *, written: bool) -> None:
    sets = {f"phantoms, seed {seed}": phantom_pairs(seed, reports)}
    sets |= {name: written_pairs(name) for name in PAIRS if written}
    for name, pairs in sets.items():
        missed: list[tuple[str, Pair, str]] = []
        counts = count_caught(pairs, seed, missed)
        held, reasons = count_alarms(pairs)
        print(f"\n| {name} | caught | of | share |\n|---|---|---|---|")
        for kind, (caught, of) in counts.items():
            print(f"| {kind} | {caught} | {of} | {100 * caught / max(of, 1):.1f}% |")
        caught, of = (sum(counts[kind][place] for kind in REQUIRED) for place in (0, 1))
        print(f"| **the first six** | {caught} | {of} | {100 * caught / of:.1f}% |")
        print(f"| false alarms | {len(held)} | {len(pairs)} | {100 * len(held) / len(pairs):.1f}% |")
        print(f"| ... by reason | {', '.join(f'{reason} {n}' for reason, n in reasons.most_common())} | | |")
        if show and name.startswith(show):
            for pair in held:
                print("\nALARM", audit_translation(pair.spanish, pair.english), pair.spanish, pair.english, sep="\n")
            for kind, pair, spoilt in missed:
                print("\nMISSED", kind, pair.spanish, pair.english, spoilt, sep="\n")


def print_apertium(seed: int, reports: int) -> None:
    pairs = phantom_pairs(seed, reports)
    texts = {digest_text(pair.spanish): pair.spanish for pair in pairs}
    rows: dict[str, dict[str, str]] = {"the phantoms' own English": {}, "the Spanish itself": {}}
    for name, with_glossary in (("Apertium alone", False), ("Apertium and glossary", True)):
        made: dict[str, str] = {}
        keep: Callable[[str, Translation], None] = partial(_note, made)
        ApertiumTranslator(with_glossary).translate(texts, keep)
        rows[name] = made
    print(f"\n| {reports} phantoms, seed {seed} | F1 of findings | sides right | held back |\n|---|---|---|---|")
    for name, made in rows.items():
        english = [made.get(digest_text(pair.spanish), pair.english) for pair in pairs]
        if name == "the Spanish itself":
            said = [extract_findings(pair.spanish, "es") for pair in pairs]
        else:
            said = [extract_findings(text, "en") for text in english]
        f1, sides = score_findings(pairs, said)
        held = sum(bool(audit_translation(pair.spanish, text)) for pair, text in zip(pairs, english, strict=True))
        share = "" if name == "the Spanish itself" else f"{100 * held / len(pairs):.0f}%"
        print(f"| {name} | {f1:.3f} | {100 * sides:.0f}% | {share} |")


def _note(made: dict[str, str], digest: str, translation: Translation) -> None:
    made[digest] = translation.english


def score_findings(pairs: Sequence[Pair], said: Sequence[Sequence[Finding]]) -> tuple[float, float]:
    """F1 of the present findings that phantoms can have, and how many of the told sides are right."""
    right = wrong = missed = sides = sides_right = 0
    for pair, findings in zip(pairs, said, strict=True):
        true = {finding.name for finding in pair.truth if finding.status != "absent"}
        told = {finding.name for finding in findings if finding.status != "absent"} & set(FINDINGS)
        right, wrong, missed = right + len(true & told), wrong + len(told - true), missed + len(true - told)
        for name in true & told:
            read = {finding.laterality for finding in findings if finding.name == name} - {None}
            real = {finding.laterality for finding in pair.truth if finding.name == name} - {None}
            if len(real) == 1 and read:
                sides, sides_right = sides + 1, sides_right + (read == real)
    return 2 * right / (2 * right + wrong + missed), sides_right / max(sides, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=900, help="of phantoms and faults; 1-9 were tuned on")
    parser.add_argument("--reports", type=int, default=200)
    parser.add_argument("--show", default="", help="phantoms: print what was missed and held wrongly")
    parser.add_argument(
        "--phantoms-only", action="store_true", help="leave the held-out pairs alone, as one does while tuning"
    )
    parser.add_argument("--apertium", action="store_true", help="measure Apertium's translations instead")
    options = parser.parse_args()
    if options.apertium:
        print_apertium(options.seed, options.reports)
        return
    print_audit(options.seed, options.reports, options.show, written=not options.phantoms_only)


if __name__ == "__main__":
    main()
