"""What a raw BIMCV tree of phantoms will hold: every session, series, report row and fault, before a voxel is drawn.

In: phantom studies, a seed and ``TreeSettings`` (how many series, how often each fault). Out: ``SessionPlan`` records
from which the files, the tables and the truth are written; nothing about the tree is decided anywhere else, so that
the truth needs no look at the files. Refused: rates outside 0 to 1, a mean number of series that cannot be reached.
"""

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import numpy as np

from medfinder.errors import ConfigError
from medfinder.records import Finding
from medfinder.sources.phantoms.plan import StudyPlan, VolumePlan, draw_studies
from medfinder.sources.phantoms.report import Report, write_report

T = TypeVar("T")

# Stream of a study's seed from which its report is written; the phantoms folder uses it too: same study, same words.
_REPORT = 6

AXIAL = ("axial-thin", "axial-thick")
KINDS = (*AXIAL, "mpr-coronal", "mpr-sagittal", "mip", "localizer", "dose-report")
"""What a series may be. Reformats and projections are derived at the scanner's desk, the rest are reconstructed."""

ONE_VOXEL_FAULT = (
    "empty",
    "rgb",
    "few-slices",
    "z-spacing-is-field-of-view",
    "abdomen",
    "z-gaps",
    "upside-down",
)
"""At most one of these befalls a series: each alone makes it unfit, two would hide each other."""


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How often each fault occurs, 0 to 1: per series down to ``upside_down``, per session from ``mispaired`` on.

    Attributes:
        raw_values: the file holds stored values and only the side file says how to get HU; else both say it.
        padding: stored value -2000 outside the scanner's circle; axial series only.
        feet_first: the stack runs downwards and the side file says FFS; the header is right.
        missing_side_file: no ``.json``.
        empty: no bytes, a header without voxels, or nothing but zeros.
        rgb: colours instead of stored values.
        few_slices: 3 to 9 slices; axial only, as the next four.
        z_spacing_is_field_of_view: the header's z spacing is the width or the whole height of the stack.
        abdomen: what lies below the diaphragm, tagged chest.
        z_gaps: slices lost in the middle; the header goes on as if they were there.
        upside_down: voxels reversed along z under a header that says otherwise.
        mispaired: the session's row holds another patient's report, with or without that patient's id.
        short_report: fewer than five words.
        missing_report: no row, or a row without text.
        duplicate_rows: the row twice, word for word or with another text.
        xray_report: the report of a radiograph where that of the CT should be.

    Source: the faults are those that users of BIMCV COVID-19+ and BIMCV-R describe; the rates are ours: 15% of
    the axial series are unfit by voxels or geometry (of 317 BIMCV-R volumes checked by others 61 were, 19%).
    """

    raw_values: float = 0.5
    padding: float = 0.2
    feet_first: float = 0.08
    missing_side_file: float = 0.06
    empty: float = 0.015
    rgb: float = 0.015
    few_slices: float = 0.03
    z_spacing_is_field_of_view: float = 0.03
    abdomen: float = 0.025
    z_gaps: float = 0.02
    upside_down: float = 0.015
    mispaired: float = 0.06
    short_report: float = 0.04
    missing_report: float = 0.05
    duplicate_rows: float = 0.05
    xray_report: float = 0.03

    def __post_init__(self) -> None:
        for rate in fields(self):
            value = getattr(self, rate.name)
            if not 0 <= value <= 1:
                raise ConfigError(f"fault rate {rate.name} = {value}, expected 0 to 1")
        if (total := sum(getattr(self, name.replace("-", "_")) for name in ONE_VOXEL_FAULT)) > 1:
            raise ConfigError(f"the rates of {', '.join(ONE_VOXEL_FAULT)} add up to {total:g}, expected at most 1")

    @classmethod
    def none(cls) -> "FaultRates":
        """Make the rates of a tree without any fault."""
        return cls(**{rate.name: 0.0 for rate in fields(cls)})


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """How rich and how faulty a raw tree is.

    Attributes:
        mean_series: CT series a session, 1 to 12; BIMCV has 14 on average. Ours is small so that trees stay small.
        max_series: at most so many.
        xray_rate: share of CT sessions that hold a radiograph too.
        xray_session_rate: for each study, the chance of one more session that holds radiographs only.
        plain_tags_rate: share of derived series whose ImageType does not tell what they are.
    """

    mean_series: float = 3.0
    max_series: int = 12
    xray_rate: float = 0.3
    xray_session_rate: float = 0.15
    plain_tags_rate: float = 0.15
    faults: FaultRates = field(default_factory=FaultRates)

    def __post_init__(self) -> None:
        if not 1 <= self.mean_series <= self.max_series:
            raise ConfigError(f"{self.mean_series:g} series a session, expected 1 to max_series = {self.max_series}")


@dataclass(frozen=True, slots=True)
class Scanner:
    """A maker's words for the same things, as its DICOM headers have them."""

    manufacturer: str
    model: str
    soft_kernel: str
    lung_kernel: str
    intercept: int
    mpr_words: tuple[str, ...]
    mip_words: tuple[str, ...]


# Invented combinations of real words: kernels and image types as the makers' conformance statements spell them.
SCANNERS = (
    Scanner("SIEMENS", "Sensation 16", "B31f", "B70f", -1024, ("MPR", "CSA MPR"), ("MIP", "CSA MIP")),
    Scanner("SIEMENS", "SOMATOM Definition", "I31f", "I70f", -8192, ("MPR", "CSA MPR"), ("MIP", "CSA MIP")),
    Scanner("GE MEDICAL SYSTEMS", "LightSpeed VCT", "STANDARD", "LUNG", -1024, ("REFORMATTED", "AVERAGE"), ("MIP",)),
    Scanner("Philips", "Brilliance 64", "B", "L", -1024, ("MPR",), ("MIP",)),
    Scanner("TOSHIBA", "Aquilion", "FC08", "FC52", 0, ("MPR",), ("MAXIMUM",)),
)


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """One CT series of the tree.

    Attributes:
        stem: file name without ending.
        kind: one of ``KINDS``.
        kernel: ``"soft"`` or ``"lung"``; empty where none applies.
        axes: where the stored axes point, e.g. ``"LAS"``.
        faults: codes, sorted.
        details: (fault, variant) where a fault has variants.
        rank: 1 for what should be read first; None for what should not be chosen at all.
    """

    stem: str
    kind: str
    kernel: str
    scanner: Scanner
    number: int
    uid: str
    seed: int
    axes: str
    has_plain_tags: bool
    faults: tuple[str, ...]
    details: tuple[tuple[str, str], ...]
    rank: int | None = None

    @property
    def is_feet_first(self) -> bool:
        """Say whether the patient lay with the feet towards the gantry."""
        return "feet-first" in self.faults

    @property
    def is_colour(self) -> bool:
        """Say whether the file holds colours and no stored values."""
        return self.kind == "dose-report" or "rgb" in self.faults

    @property
    def is_usable(self) -> bool:
        """Say whether HU and geometry can be had from what the tree holds, and show a chest."""
        lost_rescale = {"raw-values", "missing-side-file"} <= set(self.faults) and self.scanner.intercept != 0
        return not lost_rescale and not set(self.faults) & set(ONE_VOXEL_FAULT)


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row of the label table: whose report it claims to be, and what it says."""

    patient: str
    report_id: str
    text: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """One session of the tree: a CT examination, or radiographs only.

    Attributes:
        study: the phantom that is drawn.
        subject: ``sub-S#####``.
        session: ``ses-E#####``.
        report: what a reader of these images wrote.
        rows: what the label table says about this session; none, one or two.
        report_of: the session whose report stands in the table; empty when none does.
        xrays: file names without ending.
    """

    study: StudyPlan
    subject: str
    session: str
    date: datetime.date
    modality: str
    report: Report
    series: tuple[SeriesPlan, ...]
    xrays: tuple[str, ...]
    seed: int
    rows: tuple[LabelRow, ...] = ()
    report_of: str = ""
    faults: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings that the images show."""
        return self.study.findings

    @property
    def has_abdomen(self) -> bool:
        """Say whether one of the series shows the abdomen."""
        return any("abdomen" in series.faults for series in self.series)

    @property
    def stem(self) -> str:
        """What every file name of the session begins with."""
        return f"{self.subject}_{self.session}"


def plan_sessions(*, studies: int, seed: int, size: int, settings: TreeSettings) -> list[SessionPlan]:
    """Plan every session of a tree, in the order of the studies."""
    subjects: dict[str, str] = {}
    sessions: list[SessionPlan] = []
    for study in draw_studies(studies=studies, seed=seed, size=size):
        patient = study.patient.patient_id
        subject = subjects.setdefault(patient, f"sub-S{3001 + len(subjects):05d}")
        first_day = datetime.date(2020, 2, 20) + datetime.timedelta(days=hash_number(patient) % 400)
        date = first_day + datetime.timedelta(days=study.date_offset_days)
        rng = np.random.default_rng([seed, hash_number("bimcv"), len(sessions)])
        sessions.append(_plan_ct(study, subject, f"ses-E{10001 + len(sessions):05d}", date, rng, settings))
        if rng.random() < settings.xray_session_rate:
            sessions.append(_plan_xray(study, subject, f"ses-E{10001 + len(sessions):05d}", date, rng))
    rng = np.random.default_rng([seed, hash_number("bimcv reports")])
    return [_give_report(place, sessions, rng, settings.faults) for place in range(len(sessions))]


def volume_to_render(study: StudyPlan) -> VolumePlan:
    """Choose the volume from which every series of a session is made: the study's first, with a soft kernel."""
    return replace(study.volumes[0], kernel="soft")


def abdomen_to_render(study: StudyPlan) -> VolumePlan:
    """Choose a volume twice as tall, of whose lower part an abdomen is cut."""
    plan = volume_to_render(study)
    x, y, z = plan.shape
    return replace(plan, shape=(x, y, 2 * z))


def write_study_report(study: StudyPlan) -> Report:
    """Write the report of a phantom study; the same study has the same words in every layout."""
    patient = study.patient
    return write_report(
        findings=study.findings,
        sex=patient.sex,
        age_years=patient.age_years,
        contrast=study.contrast,
        rng=np.random.default_rng([study.seed, _REPORT]),
    )


def hash_number(text: str) -> int:
    """Make a number of a name, for seeds that no other name shares."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


# ---------------------------------------------------------------------------------------------------------- the images


def _plan_ct(
    study: StudyPlan,
    subject: str,
    session: str,
    date: datetime.date,
    rng: np.random.Generator,
    settings: TreeSettings,
) -> SessionPlan:
    scanner = _pick(rng, SCANNERS)
    kinds = _draw_kinds(rng, settings)
    stems = _name_series(f"{subject}_{session}", len(kinds), rng)
    series = [_plan_series(stems[n], kind, scanner, n, rng, settings) for n, kind in enumerate(kinds)]
    has_xray = rng.random() < settings.xray_rate
    return SessionPlan(
        study=study,
        subject=subject,
        session=session,
        date=date,
        modality="CT",
        report=write_study_report(study),
        series=_rank(series),
        xrays=(f"{subject}_{session}_run-1_bp-chest_vp-pa_{_pick(rng, ('cr', 'dx'))}",) if has_xray else (),
        seed=_draw_seed(rng),
    )


def _draw_kinds(rng: np.random.Generator, settings: TreeSettings) -> list[str]:
    """Draw what series a session has: one axial at least, in an order that tells nothing."""
    mean = settings.mean_series
    count = 1
    while count < settings.max_series and rng.random() < (mean - 1) / mean:
        count += 1
    # Shares of all series as in BIMCV: localizers 15%, MPR 30%; MIP and dose reports ours. The first is always axial,
    # so that the others must hold more of them, as far as they can.
    shares = {"localizer": 0.15, "mpr": 0.30, "mip": 0.07, "dose-report": 0.03}
    more = min(mean / (mean - 1), 1 / sum(shares.values())) if mean > 1 else 0.0
    kinds = [_draw_axial(rng)]
    for _ in range(count - 1):
        at = rng.random()
        kind = ""
        for name, share in shares.items():
            if not kind and at < share * more:
                kind = name
            at -= share * more
        kind = kind or _draw_axial(rng)
        kinds.append(_pick(rng, ("mpr-coronal", "mpr-sagittal")) if kind == "mpr" else kind)
    order = sorted(range(count), key=[rng.random() for _ in kinds].__getitem__)
    return [kinds[place] for place in order]


def _draw_axial(rng: np.random.Generator) -> str:
    return AXIAL[0] if rng.random() < 0.6 else AXIAL[1]


def _name_series(stem: str, count: int, rng: np.random.Generator) -> list[str]:
    """Name the series: runs only, or acquisitions of one or two runs each."""
    if rng.random() < 0.4:
        return [f"{stem}_run-{run}_bp-chest_ct" for run in range(1, count + 1)]
    names: list[str] = []
    acquisition = 1
    while len(names) < count:
        for run in range(1, 2 + int(rng.random() < 0.2)):
            names.append(f"{stem}_acq-{acquisition}_run-{run}_bp-chest_ct")
        acquisition += 1
    return names[:count]


_AXES = {
    "mpr-coronal": ("LSA", "LSP"),
    "mpr-sagittal": ("ASL", "PSR"),
    "localizer": ("LSA", "ASL"),
    "dose-report": ("LAS",),
}
# Converters write LAS; the rest occur.
_AXIAL_AXES = ("LAS", "LAS", "LAS", "LPS", "RAS", "LAI")


def _plan_series(
    stem: str, kind: str, scanner: Scanner, place: int, rng: np.random.Generator, settings: TreeSettings
) -> SeriesPlan:
    faults, details = _draw_series_faults(kind, rng, settings.faults)
    is_axial = kind in (*AXIAL, "mip")
    axes = "LPI" if "feet-first" in faults else _pick(rng, _AXIAL_AXES if is_axial else _AXES[kind])
    kernel = "lung" if rng.random() < 0.45 else "soft"
    return SeriesPlan(
        stem=stem,
        kind=kind,
        kernel="" if kind in ("localizer", "dose-report") else kernel,
        scanner=scanner,
        number=1 + place,
        uid=_make_uid(stem),
        seed=_draw_seed(rng),
        axes=axes,
        has_plain_tags=kind not in (*AXIAL, "localizer") and rng.random() < settings.plain_tags_rate,
        faults=tuple(sorted(faults)),
        details=tuple(details.items()),
    )


def _draw_series_faults(kind: str, rng: np.random.Generator, rates: FaultRates) -> tuple[set[str], dict[str, str]]:
    at, chosen = rng.random(), ""
    for name in ONE_VOXEL_FAULT:
        rate = getattr(rates, name.replace("-", "_"))
        if not chosen and 0 <= at < rate:
            chosen = name
        at -= rate
    chances = [rng.random() for _ in range(4)]
    is_axial = kind in AXIAL
    wanted = {
        chosen: bool(chosen) and kind != "dose-report" and (is_axial or chosen in ("empty", "rgb")),
        "raw-values": kind != "dose-report" and chances[0] < rates.raw_values,
        "padding": is_axial and chances[1] < rates.padding,
        "feet-first": is_axial and chances[2] < rates.feet_first,
        "missing-side-file": chances[3] < rates.missing_side_file,
    }
    faults = {name for name, is_wanted in wanted.items() if is_wanted}
    if faults & {"empty", "rgb"}:
        # No stored values are left that a rescale or padding could concern.
        faults -= {"raw-values", "padding"}
    variants = {
        "empty": ("no bytes", "no voxels", "all zero"),
        "z-spacing-is-field-of-view": ("width of the slice", "height of the stack"),
    }
    return faults, {name: _pick(rng, words) for name, words in variants.items() if name in faults}


def _make_uid(name: str) -> str:
    """Make a UID of the UUID-derived root 2.25 (DICOM PS3.5, B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], 'big')}"


def make_study_uid(plan: SessionPlan) -> str:
    """Make the StudyInstanceUID of a session."""
    return _make_uid(plan.stem)


def _rank(series: Iterable[SeriesPlan]) -> tuple[SeriesPlan, ...]:
    """Rank what may be chosen: axial, thin before thick, soft-tissue before lung kernel; equals share a rank."""
    series = tuple(series)

    def worth(one: SeriesPlan) -> tuple[bool, bool]:
        return one.kind != "axial-thin", one.kernel != "soft"

    order = sorted({worth(one) for one in series if one.kind in AXIAL and one.is_usable})
    return tuple(
        replace(one, rank=1 + order.index(worth(one))) if one.kind in AXIAL and one.is_usable else one for one in series
    )


def _plan_xray(
    study: StudyPlan, subject: str, session: str, date: datetime.date, rng: np.random.Generator
) -> SessionPlan:
    stem = f"{subject}_{session}"
    return SessionPlan(
        study=study,
        subject=subject,
        session=session,
        date=date + datetime.timedelta(days=1 + int(rng.integers(3))),
        modality="DX",
        report=_pick(rng, XRAY_REPORTS),
        series=(),
        xrays=tuple(f"{stem}_run-{run}_bp-chest_vp-pa_dx" for run in range(1, 2 + int(rng.integers(2)))),
        seed=_draw_seed(rng),
    )


# ---------------------------------------------------------------------------------------------------------- the reports

XRAY_REPORTS = (
    Report(
        "rx torax pa y lateral . indice cardiotoracico dentro de la normalidad . sin otros hallazgos valorables .",
        "PA and lateral chest X-ray. Cardiothoracic index within normal limits. No other assessable findings.",
    ),
    Report(
        "radiografia de torax portatil . estudio en decubito de calidad limitada . control evolutivo .",
        "Portable chest radiograph. Supine study of limited quality. Follow-up.",
    ),
    Report(
        "rx de torax . se compara con radiografia previa sin cambios valorables . name num fecha loc hc nhc .",
        "Chest X-ray. Compared with the previous radiograph without assessable changes. Name number date place record.",
    ),
)
_SHORT_TEXTS = ("tc torax .", "ver informe previo .", "sin cambios .", "estudio no informado", "informe en curso .")
_OTHER_TEXT = "addendum . se revisa el estudio a peticion del clinico sin cambios respecto al informe previo ."


def _give_report(
    place: int, sessions: Sequence[SessionPlan], rng: np.random.Generator, rates: FaultRates
) -> SessionPlan:
    """Write a session's rows of the label table, with at most one fault."""
    plan = sessions[place]
    own = LabelRow(plan.subject, plan.session, plan.report.spanish, plan.findings if plan.modality == "CT" else ())
    # As many numbers are drawn for every session, so that a fault more or less does not move the others.
    at, variant, other = rng.random(), int(rng.integers(2)), _pick(rng, _SHORT_TEXTS)
    xray = _pick(rng, XRAY_REPORTS)
    fault = _choose_session_fault(plan, at, rates)
    honest = replace(plan, rows=(own,), report_of=plan.session)
    if fault == "mispaired":
        stranger = _find_stranger(place, sessions)
        if stranger is None:
            return honest
        findings = stranger.findings if stranger.modality == "CT" else ()
        patient = (stranger.subject, plan.subject)[variant]
        row = LabelRow(patient, plan.session, stranger.report.spanish, findings)
        told = ("id and text of another patient", "text of another patient")[variant]
        return replace(plan, rows=(row,), report_of=stranger.session, faults=(fault,), details=((fault, told),))
    if fault == "short-report":
        return replace(honest, rows=(replace(own, text=other, findings=()),), faults=(fault,))
    if fault == "missing-report":
        rows = ((), (replace(own, text="", findings=()),))[variant]
        told = ("no row", "empty cell")[variant]
        return replace(plan, rows=rows, faults=(fault,), details=((fault, told),))
    if fault == "duplicate-rows":
        second = (own, replace(own, text=_OTHER_TEXT, findings=()))[variant]
        told = ("same row twice", "two texts")[variant]
        return replace(honest, rows=(own, second), faults=(fault,), details=((fault, told),))
    if fault == "xray-report":
        return replace(plan, rows=(replace(own, text=xray.spanish, findings=()),), faults=(fault,))
    return honest


def _choose_session_fault(plan: SessionPlan, at: float, rates: FaultRates) -> str:
    for name in ("mispaired", "short-report", "missing-report", "duplicate-rows", "xray-report"):
        rate = getattr(rates, name.replace("-", "_"))
        if at < rate:
            return name if plan.modality == "CT" else ""
        at -= rate
    return ""


def _find_stranger(place: int, sessions: Sequence[SessionPlan]) -> SessionPlan | None:
    """Find the next session of another patient, round the end of the list."""
    around = [*sessions[place + 1 :], *sessions[:place]]
    return next((plan for plan in around if plan.subject != sessions[place].subject), None)
