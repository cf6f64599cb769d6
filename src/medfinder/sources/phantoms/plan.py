"""Draw phantom patients and studies: who they are, what they have, how they are scanned.

In: a seed, a number of studies, a matrix size. Out: ``StudyPlan`` records, each drawn from streams of its own, so that
study i is the same however many are drawn, by whatever number of workers. Nothing is painted or written here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medfinder.records import Finding, Laterality, Sex
from medfinder.sources.phantoms.vocabulary import FINDINGS, LOBES

# Ours: seven patients have ten studies. Of each ten studies three are later ones, here with the study before them:
# one patient comes twice, one three times.
_BLOCK = 10
_EARLIER = {7: 5, 8: 6, 9: 8}

# Streams of one seed, so that drawing more of one thing never moves another.
_PATIENT, _STUDY = 1, 2

_NORMAL_SHARE = 0.06
_TWO_VOLUMES_SHARE = 0.1
_CONTRAST_SHARE = 0.4
_SOFT_SHARE = 0.65
_MAX_SLICES = 280
_ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI")
_INTERCEPTS = (0, -1024, -8192)
_GROWS_WITH_AGE = ("aortic calcification", "coronary calcification", "emphysema", "vertebral collapse")
# What goes together in life: a finding, what it follows, and by how much that raises its chance.
_FOLLOWS = {
    "coronary calcification": ("aortic calcification", 0.3),
    "adenopathy": ("mass", 0.3),
    "pleural effusion": ("cardiomegaly", 0.25),
    "atelectasis": ("pleural effusion", 0.41),
}
_PASSIVE_SHARE = 0.8  # of the atelectases beside an effusion

# What a patient still has at the next study, as it was and where it was.
LASTING = frozenset(
    {
        "calcified granuloma",
        "emphysema",
        "bronchiectasis",
        "pulmonary fibrosis",
        "cardiomegaly",
        "aortic aneurysm",
        "aortic calcification",
        "coronary calcification",
        "pulmonary artery enlargement",
        "hiatal hernia",
        "rib fracture",
        "vertebral collapse",
        "goitre",
        "mastectomy",
        "pacemaker",
        "pleural thickening",
        "hepatic cyst",
        "scoliosis",
    }
)
_NEW_AT_FOLLOW_UP = 0.2  # of its chance, for what lasts and was not there before

# What hides smaller things in its lobe, and is therefore placed before them.
_FILLING = ("mass", "consolidation", "atelectasis")


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """One phantom patient.

    Attributes:
        seed: of the anatomy.
        half_width_mm: from the midline to the skin at the side; half_depth_mm: ... to the skin of the front.
        fat_mm: thickness of the fat under the skin.
        scale: of the organs, about 1.
    """

    patient_id: str
    seed: int
    sex: Sex
    age_years: int
    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    scale: float


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """How one volume of a study is scanned and stored.

    Attributes:
        kernel: ``"soft"`` or ``"lung"`` (sharp and noisy).
        spacing_mm, shape: along x, y, z of the RAS+ frame.
        orientation: axis codes that the file is stored in.
        intercept: HU of stored value 0.
        noise_hu: standard deviation of the scanner's noise, about.
    """

    series_id: str
    kernel: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    orientation: str
    intercept: int
    noise_hu: float
    seed: int


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """One phantom study: what a report would say and how it was scanned."""

    study_id: str
    patient: PatientPlan
    date_offset_days: int
    findings: tuple[Finding, ...]
    contrast: bool
    seed: int
    volumes: tuple[VolumePlan, ...]


def draw_studies(*, studies: int, seed: int, size: int = 64) -> Iterator[StudyPlan]:
    """Yield the first ``studies`` plans of a seed.

    Args:
        size: voxels along each axis.
    """
    for number in range(studies):
        yield draw_study(number, seed=seed, size=size)


def draw_study(number: int, *, seed: int, size: int = 64) -> StudyPlan:
    """Draw study ``number`` of a seed, whatever was drawn before."""
    before = _earlier(number, seed, size)
    patient = before.patient if before else _draw_patient(number, seed)
    rng = np.random.default_rng([seed, _STUDY, number])
    findings = draw_findings(patient, rng, before=before.findings if before else None)
    contrast = bool(rng.random() < _CONTRAST_SHARE)
    count = 2 if rng.random() < _TWO_VOLUMES_SHARE else 1
    days = before.date_offset_days + int(rng.integers(20, 900)) if before else 0
    volumes = [_draw_volume(patient, place, size, rng) for place in range(count)]
    if count == 2:
        # A second volume is the same chest with the other kernel.
        volumes[1] = replace(volumes[1], kernel="lung" if volumes[0].kernel == "soft" else "soft")
    return StudyPlan(
        study_id=f"phantom-{seed}-s{number:05d}",
        patient=patient,
        date_offset_days=days,
        findings=findings,
        contrast=contrast,
        volumes=tuple(volumes),
        seed=int(rng.integers(2**31)),
    )


def _earlier(number: int, seed: int, size: int) -> StudyPlan | None:
    block, place = divmod(number, _BLOCK)
    if place not in _EARLIER:
        return None
    return draw_study(block * _BLOCK + _EARLIER[place], seed=seed, size=size)


def _draw_patient(number: int, seed: int) -> PatientPlan:
    rng = np.random.default_rng([seed, _PATIENT, number])
    sex: Sex = "F" if rng.random() < 0.45 else "M"
    scale = (0.95 if sex == "F" else 1.03) + 0.05 * (rng.random() - 0.5)
    fat = 8 + 28 * rng.random() * rng.random()
    return PatientPlan(
        patient_id=f"phantom-{seed}-p{number:05d}",
        seed=int(rng.integers(2**31)),
        sex=sex,
        age_years=int(25 + 65 * max(rng.random(), rng.random())),
        half_width_mm=round(138 * scale + fat, 3),
        half_depth_mm=round(95 * scale + 0.8 * fat, 3),
        fat_mm=round(fat, 3),
        scale=round(scale, 4),
    )


def _draw_volume(patient: PatientPlan, place: int, size: int, rng: np.random.Generator) -> VolumePlan:
    field_of_view = 2 * max(patient.half_width_mm, patient.half_depth_mm) + 10 + 40 * rng.random()
    height = 310 * patient.scale + 40 * rng.random()
    slices = min(size, _MAX_SLICES)
    kernel = "soft" if rng.random() < _SOFT_SHARE else "lung"
    return VolumePlan(
        series_id=f"v{place + 1}",
        kernel=kernel,
        spacing_mm=(round(field_of_view / size, 4), round(field_of_view / size, 4), round(height / slices, 4)),
        shape=(size, size, slices),
        orientation=_pick(_ORIENTATIONS, rng),
        intercept=_INTERCEPTS[int(rng.integers(len(_INTERCEPTS)))],
        noise_hu=round(8 + 14 * rng.random(), 3),
        seed=int(rng.integers(2**31)),
    )


def draw_findings(
    patient: PatientPlan, rng: np.random.Generator, *, before: Sequence[Finding] | None = None
) -> tuple[Finding, ...]:
    """Draw what a patient has: base rates, moved by age, sex and by what goes together in life.

    Args:
        before: findings of the study before this one, of which the lasting ones stay; None at the first study.
    """
    have = {finding.name: finding for finding in before or () if finding.name in LASTING}
    if rng.random() < _NORMAL_SHARE and not have:
        return ()
    # What makes other things likelier is drawn before them.
    for name in dict.fromkeys(["cardiomegaly", "mass", "aortic calcification", "pleural effusion", *FINDINGS]):
        rarer = _NEW_AT_FOLLOW_UP if before is not None and name in LASTING else 1.0
        if name not in have and rng.random() < rarer * _chance(name, patient, have):
            have[name] = _draw_finding(name, rng)
    _settle_pleura(have, rng)
    _keep_visible(have, frozenset(finding.name for finding in before or ()), rng)
    return tuple(have.values())


def _chance(name: str, patient: PatientPlan, have: dict[str, Finding]) -> float:
    """Give a chance whose mean over all patients is the base rate of the vocabulary."""
    kind = FINDINGS[name]
    if kind.sex and kind.sex != patient.sex:
        return 0.0
    chance = kind.base_rate
    if name in _GROWS_WITH_AGE:
        # 0.3 at the age of 25, 1 on average: the mean age is two thirds of the way to 90.
        chance *= 0.3 + 1.05 * (patient.age_years - 25) / 65
    if name in _FOLLOWS:
        leader, more = _FOLLOWS[name]
        chance += more * ((leader in have) - FINDINGS[leader].base_rate)
    return chance / (1 - _NORMAL_SHARE)


def _settle_pleura(have: dict[str, Finding], rng: np.random.Generator) -> None:
    """Let effusions press the lower lobe, and nothing else; keep air and fluid of one side apart."""
    effusion, atelectasis = have.get("pleural effusion"), have.get("atelectasis")
    if atelectasis is not None:
        side, is_passive = atelectasis.laterality, atelectasis.grade == "passive"
        if effusion is not None and rng.random() < _PASSIVE_SHARE:
            side = effusion.laterality if effusion.laterality != "bilateral" else _side(("left", "right"), rng)
            have["atelectasis"] = Finding("atelectasis", laterality=side, location="lower lobe", grade="passive")
        elif is_passive:
            have["atelectasis"] = replace(atelectasis, grade="laminar")
    pneumothorax, thickening = have.get("pneumothorax"), have.get("pleural thickening")
    wet = () if effusion is None else _both(effusion.laterality)
    if pneumothorax is not None and pneumothorax.laterality in wet:
        del have["pneumothorax"]
    if thickening is not None and thickening.laterality in wet:
        # Fluid would hide it at the base. Where it lasts from an earlier study it stays, and is not seen this time.
        have["pleural thickening"] = replace(thickening, location="apical")


def _both(side: Laterality | None) -> tuple[str, ...]:
    return ("left", "right") if side == "bilateral" else (str(side),)


def _keep_visible(have: dict[str, Finding], old: frozenset[str], rng: np.random.Generator) -> None:
    """Move what lies in a lobe that something else fills to a lobe where it can be seen; drop it if there is none.

    What was there before is not moved: new things make way for it, and where fluid or air hides it, it is not told.
    """
    effusion, pneumothorax = have.get("pleural effusion"), have.get("pneumothorax")
    filled: set[tuple[str, str]] = set()
    if effusion is not None and effusion.grade != "small":
        filled |= {(side, "lower lobe") for side in _both(effusion.laterality)}
    if pneumothorax is not None and pneumothorax.grade != "small":
        side = str(pneumothorax.laterality)
        filled |= {(side, lobe) for lobe in LOBES[side] if lobe != "lower lobe"}
    places = {name: (str(finding.laterality), str(finding.location)) for name, finding in have.items()}
    in_lobes = [name for name, place in places.items() if place in _EVERY_LOBE]
    for name in sorted(in_lobes, key=lambda name: (not _lasts(name, old), name not in _FILLING)):
        place, is_pressed = places[name], have[name].grade == "passive"
        if place in filled and not is_pressed:
            free = [other for other in _EVERY_LOBE if other not in filled]
            near = [other for other in free if other[0] == place[0]] or free
            if _lasts(name, old) or not near:
                del have[name]
                continue
            place = near[int(rng.integers(len(near)))]
            have[name] = replace(have[name], laterality=_side(place[:1], rng), location=place[1])
        if _lasts(name, old) or (name in _FILLING and have[name].grade != "laminar"):
            filled.add(place)


def _lasts(name: str, old: frozenset[str]) -> bool:
    return name in LASTING and name in old


_EVERY_LOBE = tuple((side, lobe) for side, lobes in LOBES.items() for lobe in lobes)


def _draw_finding(name: str, rng: np.random.Generator) -> Finding:
    kind = FINDINGS[name]
    side = _side(kind.sides, rng) if kind.sides else None
    location: str | None = None
    if kind.in_lobes and side == "bilateral":
        location = _pick(("peripheral", "diffuse"), rng) if name == "ground-glass opacity" else "lower lobes"
    elif kind.in_lobes:
        location = _pick(LOBES[str(side)], rng)
    elif kind.locations:
        location = _pick(kind.locations, rng)
    if name == "adenopathy" and location != "mediastinal":
        side = _side(("left", "right"), rng)
    return Finding(
        name,
        laterality=side,
        location=location,
        size_mm=_draw_size(kind.size_mm, rng) if kind.size_mm else None,
        count=1 + int(kind.max_count * rng.random() * rng.random()) if kind.max_count > 1 else None,
        grade=_pick(kind.grades, rng) if kind.grades else None,
    )


def _draw_size(size_mm: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw whole millimetres, small ones more often."""
    low, high = size_mm
    return float(int(low + (high - low) * max(rng.random() * rng.random(), 0.6 * rng.random())))


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _side(options: Sequence[str], rng: np.random.Generator) -> Laterality:
    sides: dict[str, Laterality] = {"left": "left", "right": "right", "bilateral": "bilateral"}
    return sides[_pick(options, rng)]
