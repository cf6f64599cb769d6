"""Do images and report belong together: identity first, then what the report says of itself, then whose else it is.

In: a study with its claims (what images and report each say of patient, session, date, ...) and its text. Out: a
``PairingVerdict``: a fault where patient or session differ, which sets the study aside as mispaired, and doubts that a
person must settle. Over many studies or table rows, a ``PairingAudit``: counts, shares by part, and a summary that
cannot be overlooked. Nothing is refused: a claim that only one side makes proves nothing and is passed over.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from medfinder.curation.contradictions import MAX_YEARS_APART, find_contradictions, find_parts, fold
from medfinder.curation.quality import Fault
from medfinder.curation.shared_texts import SharedText, Told, find_shared_texts
from medfinder.errors import ConfigError
from medfinder.records import Claim, Doubt, Dropped, Sex, Study, plural
from medfinder.sources.bimcv_tables import parse_day

MISPAIRED = "mispaired"
Progress = Callable[[int, int], None]
_NAMES_SHOWN = 5
# What says whose images and whose report they are; a difference is no matter of opinion.
_IDENTITY = ("patient", "session")


@dataclass(frozen=True)
class PairingSettings:
    """What images and report may differ by.

    Attributes:
        max_days_apart: ours; reports are dated when they are signed, within the week, and a second CT in it is rare.
        max_years_apart: ours; tables and tags round ages differently.
        shared_similarity: share of three-word runs that two texts have in common to count as one; ours: two reports of
            one template differ by more than a tenth as soon as each tells a finding.
        shared_min_words: a shared text holds a case only from this length on; ours: shorter ones are normal templates.
        block_rows: as many mispaired rows in a row are told as a block; ours.
    """

    max_days_apart: int = 7
    max_years_apart: int = MAX_YEARS_APART
    shared_similarity: float = 0.9
    shared_min_words: int = 30
    block_rows: int = 10

    def __post_init__(self) -> None:
        for name in ("max_days_apart", "max_years_apart", "shared_min_words", "block_rows"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}; expected 0 or more")
        if not 0.5 <= self.shared_similarity <= 1:
            raise ConfigError(f"shared_similarity {self.shared_similarity}; expected 0.5 to 1")


@dataclass(frozen=True, slots=True)
class PairingVerdict:
    """What the audit found about one study or one table row.

    Attributes:
        fault: reason and detail where it is mispaired.
        doubts: what a person should look at.
        is_comparable: images and report both say whose they are.
    """

    fault: Fault = None
    doubts: tuple[Doubt, ...] = ()
    is_comparable: bool = False


# -------------------------------------------------------------------------------------------------------- one study


def audit_study(study: Study, text: str, settings: PairingSettings | None = None) -> PairingVerdict:
    """Audit one study: what its images and its report claim, and what the report tells of itself.

    Args:
        text: the report, in Spanish or English; empty when there is none.
    """
    verdict = audit_claims(study.claims, settings)
    told = find_contradictions(text, sex=study.sex, age_years=study.age_years) if text else ()
    known = {doubt.reason for doubt in verdict.doubts}
    return replace(verdict, doubts=(*verdict.doubts, *(doubt for doubt in told if doubt.reason not in known)))


def audit_claims(claims: Sequence[Claim], settings: PairingSettings | None = None) -> PairingVerdict:
    """Compare what images and report say of the same things.

    Example:
        >>> audit_claims([Claim("session", "7c1f", "93ab")]).fault
        ('mispaired', 'the report belongs to another session than the images')
        >>> [doubt.detail for doubt in audit_claims([Claim("date", "2020-03-01", "20200402")]).doubts]
        ['images and report are 32 days apart, expected at most 7']
    """
    settings = settings or PairingSettings()
    stated = [claim for claim in claims if claim.image.strip() and claim.report.strip()]
    identity = [claim for claim in stated if claim.what in _IDENTITY]
    wrong = [claim.what for claim in identity if fold(claim.image.strip()) != fold(claim.report.strip())]
    wrong = [what for what in _IDENTITY if what in wrong]
    fault = (MISPAIRED, f"the report belongs to another {' and '.join(wrong)} than the images") if wrong else None
    doubts = (_COMPARE[claim.what](claim, settings) for claim in stated if claim.what in _COMPARE)
    return PairingVerdict(fault, tuple(doubt for doubt in doubts if doubt is not None), bool(identity))


def _compare_accession(claim: Claim, _: PairingSettings) -> Doubt | None:
    if fold(claim.image.strip()) == fold(claim.report.strip()):
        return None
    return _doubt("accession number differs", "images and report have different accession numbers")


def _compare_dates(claim: Claim, settings: PairingSettings) -> Doubt | None:
    image, report = _read_day(claim.image), _read_day(claim.report)
    if image is None or report is None:
        return None
    apart = abs(report - image)
    if apart <= settings.max_days_apart:
        return None
    detail = f"images and report are {apart} days apart, expected at most {settings.max_days_apart}"
    return _doubt("date differs", detail)


def _read_day(text: str) -> int | None:
    """Read a date, or days counted from one that both sides share, as a number of days."""
    if re.fullmatch(r"-?\d{1,5}", text.strip()):
        return int(text)
    day = parse_day(text)
    return day.toordinal() if day else None


def _compare_parts(claim: Claim, _: PairingSettings) -> Doubt | None:
    image, report = find_parts(claim.image), find_parts(claim.report)
    if not image or not report or image & report:
        return None
    detail = f"images of {' and '.join(sorted(image))}, a report of {' and '.join(sorted(report))}"
    return _doubt("body part differs", detail)


def _compare_modalities(claim: Claim, _: PairingSettings) -> Doubt | None:
    image, report = (set(re.findall(r"[a-z]+", fold(side))) for side in (claim.image, claim.report))
    if not image or not report or image & report:
        return None
    return _doubt("modality differs", "images and report name different modalities")


def _compare_sexes(claim: Claim, _: PairingSettings) -> Doubt | None:
    image, report = read_sex(claim.image), read_sex(claim.report)
    if image is None or report is None or image == report:
        return None
    return _doubt("sex differs", f"images say {image}, the report's row says {report}")


def _compare_ages(claim: Claim, settings: PairingSettings) -> Doubt | None:
    """Compare the closest of the ages on both sides: a table of patients lists one for each visit."""
    image, report = ([int(word) for word in re.findall(r"\d{1,3}", side)] for side in (claim.image, claim.report))
    apart = min((abs(one - other) for one in image for other in report), default=0)
    if apart <= settings.max_years_apart:
        return None
    return _doubt(
        "age differs", f"images and report are {apart} years apart, expected at most {settings.max_years_apart}"
    )


_COMPARE: Mapping[str, Callable[[Claim, PairingSettings], Doubt | None]] = {
    "accession number": _compare_accession,
    "date": _compare_dates,
    "body part": _compare_parts,
    "modality": _compare_modalities,
    "sex": _compare_sexes,
    "age": _compare_ages,
}


def read_sex(text: str) -> Sex | None:
    """Read a sex as tags and tables spell it.

    Example:
        >>> [read_sex(text) for text in ("F", "male", "Mujer", "varon", "O", "None")]
        ['F', 'M', 'F', 'M', None, None]
    """
    word = fold(text.strip())
    if word in ("f", "female", "mujer", "femenino", "woman"):
        return "F"
    return "M" if word in ("m", "male", "varon", "hombre", "masculino", "man") else None


def _doubt(reason: str, detail: str, *, holds: bool = True) -> Doubt:
    return Doubt("pairing", reason, detail, holds=holds)


# ---------------------------------------------------------------------------------------------------- shared texts


def doubt_shared_texts(reports: Iterable[Told], settings: PairingSettings | None = None) -> dict[str, Doubt]:
    """Doubt every study whose report is, word for word or nearly, that of another study.

    Args:
        reports: one a study; studies of one patient may share a text without being held.

    Returns:
        Doubts by the study's name. Texts of different patients hold, unless they are short.
    """
    settings = settings or PairingSettings()
    doubts = {}
    for shared in find_shared_texts(reports, similarity=settings.shared_similarity):
        holds = shared.patients > 1 and shared.words >= settings.shared_min_words
        doubts.update(dict.fromkeys(shared.names, _doubt("same text", describe_shared_text(shared), holds=holds)))
    return doubts


def describe_shared_text(shared: SharedText) -> str:
    """Say how many share a text, and how alike they are."""
    alike = "the same" if shared.similarity == 1 else f"nearly the same ({100 * shared.similarity:.0f}%)"
    patients = "one patient" if shared.patients == 1 else f"{shared.patients} patients"
    return f"{len(shared.names)} reports of {patients} have {alike} text of {plural(shared.words, 'word')}"


def audit_studies(
    entries: Iterable[Study | Dropped],
    settings: PairingSettings | None = None,
    *,
    with_texts: bool = True,
    progress: Progress | None = None,
) -> "PairingAudit":
    """Audit every study of a source, its voxels unread.

    Args:
        with_texts: read the reports, too.
        progress: told (studies audited, studies found so far).
    """
    settings = settings or PairingSettings()
    verdicts: dict[str, tuple[str, PairingVerdict]] = {}
    told = []
    for study in entries:
        if isinstance(study, Dropped):
            continue
        text = (study.report or study.report_en or "") if with_texts else ""
        verdicts[study.study_id] = (study.source, audit_study(study, text, settings))
        told.append(Told(study.study_id, study.patient_id, text))
        if progress is not None:
            progress(len(verdicts), len(verdicts))
    shared = doubt_shared_texts(told, settings)
    audited = (Audited(name, part, add_doubt(one, shared.get(name))) for name, (part, one) in verdicts.items())
    return sum_up(audited, unit="studies", settings=settings)


def add_doubt(verdict: PairingVerdict, doubt: Doubt | None) -> PairingVerdict:
    """Add a doubt, where there is one."""
    return replace(verdict, doubts=(*verdict.doubts, doubt)) if doubt else verdict


# ------------------------------------------------------------------------------------------------------ the summary


@dataclass(frozen=True, slots=True)
class Audited:
    """One study or table row with its verdict.

    Attributes:
        name: safe to print: a hashed study id, or ``row 17``.
        part: what it is counted under, e.g. its file or half.
    """

    name: str
    part: str
    verdict: PairingVerdict


@dataclass(frozen=True, slots=True)
class PartCount:
    """How many of one part are mispaired."""

    part: str
    audited: int
    comparable: int
    mispaired: int

    @property
    def share(self) -> str:
        """Say which share of the comparable ones is mispaired."""
        return _percent(self.mispaired, self.comparable)


@dataclass(frozen=True, slots=True)
class PairingAudit:
    """What the audit of many studies or rows came to.

    Attributes:
        unit: ``"studies"`` or ``"rows"``.
        comparable: images and report both say whose they are; only these can be found mispaired.
        mispaired: names, in the order of the source.
        blocks: (first, last, how many) where mispaired ones follow each other without a break.
        doubts: names by reason.
        remarks: sentences that a reader of the summary must see.
        held: how many are kept out for a doubt, and are not mispaired.
        parts: counts by part, in the order of the source.
    """

    unit: str
    audited: int
    comparable: int
    mispaired: tuple[str, ...]
    blocks: tuple[tuple[str, str, int], ...]
    doubts: Mapping[str, tuple[str, ...]]
    held: int
    parts: tuple[PartCount, ...]
    remarks: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Say whether nothing was found mispaired."""
        return not self.mispaired


def sum_up(audited: Iterable[Audited], *, unit: str, settings: PairingSettings | None = None) -> PairingAudit:
    """Count the verdicts of many studies or rows."""
    settings = settings or PairingSettings()
    every = list(audited)
    doubts: dict[str, list[str]] = {}
    for one in every:
        for doubt in one.verdict.doubts:
            doubts.setdefault(doubt.reason, []).append(one.name)
    return PairingAudit(
        unit=unit,
        audited=len(every),
        comparable=sum(one.verdict.is_comparable for one in every),
        mispaired=tuple(one.name for one in every if one.verdict.fault),
        blocks=tuple(_find_blocks(every, settings.block_rows)),
        doubts={reason: tuple(names) for reason, names in sorted(doubts.items())},
        held=sum(not one.verdict.fault and any(doubt.holds for doubt in one.verdict.doubts) for one in every),
        parts=tuple(_count_parts(every)),
    )


def _find_blocks(every: Sequence[Audited], shortest: int) -> Iterable[tuple[str, str, int]]:
    for is_mispaired, run in groupby(every, key=lambda one: one.verdict.fault is not None):
        members = list(run)
        if is_mispaired and len(members) >= max(2, shortest):
            yield members[0].name, members[-1].name, len(members)


def _count_parts(every: Sequence[Audited]) -> Iterable[PartCount]:
    parts: dict[str, list[PairingVerdict]] = {}
    for one in every:
        parts.setdefault(one.part, []).append(one.verdict)
    for part, verdicts in parts.items():
        comparable = sum(verdict.is_comparable for verdict in verdicts)
        yield PartCount(part, len(verdicts), comparable, sum(verdict.fault is not None for verdict in verdicts))


def write_summary(audit: PairingAudit) -> str:
    """Write the audit as Markdown, the verdict first."""
    lines = [f"**{tell_verdict(audit)}**", ""]
    lines += [f"| part | {audit.unit} | comparable | mispaired | share |", "|---|---:|---:|---:|---:|"]
    for part in audit.parts:
        lines.append(f"| {part.part} | {part.audited:,} | {part.comparable:,} | {part.mispaired:,} | {part.share} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in tell_details(audit))]).rstrip() + "\n"


def tell_details(audit: PairingAudit) -> Iterator[str]:
    """Tell sentence by sentence where the mispaired ones stand, and what is in doubt."""
    for first, last, count in audit.blocks:
        yield f"{count:,} mispaired {audit.unit} without a break: {first} to {last}"
    yield from audit.remarks
    for reason, names in audit.doubts.items():
        shown = f"{', '.join(names[:_NAMES_SHOWN])}{', ...' if len(names) > _NAMES_SHOWN else ''}"
        yield f"doubt: {reason}: {len(names):,} {audit.unit} ({shown})"
    if audit.comparable < audit.audited:
        told = f"{audit.audited - audit.comparable:,} of {audit.audited:,} {audit.unit}"
        yield f"{told} do not say on both sides whose they are: nothing can be told of their pairing by name"


def tell_verdict(audit: PairingAudit) -> str:
    """Say in one line what the audit came to.

    Example:
        >>> tell_verdict(PairingAudit("rows", 3, 0, (), (), {}, 0, ()))
        'UNKNOWN: none of 3 rows says on both sides whose it is'
    """
    doubted = f"; {audit.held:,} more in doubt" if audit.held else ""
    if audit.mispaired:
        share = _percent(len(audit.mispaired), audit.comparable)
        told = f"{len(audit.mispaired):,} of {audit.comparable:,} {audit.unit} ({share})"
        return f"MISPAIRED: {told} hold the report of another patient or session{doubted}"
    if not audit.comparable:
        return f"UNKNOWN: none of {audit.audited:,} {audit.unit} says on both sides whose it is{doubted}"
    return f"CLEAN: none of {audit.comparable:,} comparable {audit.unit} is mispaired{doubted}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"
