"""Judge one volume as a whole: what sets it aside, what a person should look at, how good it is.

In: a volume, or a glance at it that was taken while it was read; settings, and what its headers say of it. Out:
``Quality``: a fault or none, doubts, a score from 0 to 1, the figures behind them, and the volume itself, its scale
mended where that was provable. The anatomy is found once, on a grid of 5 mm; full resolution is looked at in bands and
in a few slices, so that all this costs a fraction of reading the volume.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from medfinder.curation.quality.continuity import JUMP, SLIGHT_JUMP, Continuity, measure_continuity
from medfinder.curation.quality.glance import Glance
from medfinder.curation.quality.grain import Grain, measure_grain
from medfinder.curation.quality.posture import MAX_END_SHARE, Posture, measure_posture
from medfinder.curation.quality.scale import Scale, check_scale, mend
from medfinder.curation.quality.voxels import Fault, find_missing_voxels, find_small_dimension
from medfinder.errors import ConfigError
from medfinder.records import Doubt, SeriesTags
from medfinder.volume import BodyRegion, Volume
from medfinder.volume.region import Anatomy, find_anatomy, region_of


@dataclass(frozen=True)
class QualitySettings:
    """What a volume must be, and when a person is asked.

    Attributes:
        max_missing_share: the paper's 30% of missing voxels.
        min_dimension: voxels on each axis before resampling; the paper's 96.
        min_dimension_synthetic: the same for phantoms, which are rendered small (ours).
        max_copied_share: of the slices, that repeat their neighbour or are blank; ours, a tenth of a chest can hide a
            lobe.
        max_slice_gap: distance of the slices as a multiple of SliceThickness; ours, since beyond it more is lost
            between slices than shown (it is so on purpose in high-resolution CT of old).
        lung_proportion: height of whole lungs over their width. Ours: 0.9 to 1.7 in the real CTs and phantoms at hand;
            twice the true spacing doubles it.
        lung_width_mm: of both lungs together; ours, from a child's to a barrel chest.
        review_below: score below which a person should look.
    """

    max_missing_share: float = 0.30
    min_dimension: int = 96
    min_dimension_synthetic: int = 32
    max_copied_share: float = 0.10
    max_slice_gap: float = 2.5
    lung_proportion: tuple[float, float] = (0.6, 2.0)
    lung_width_mm: tuple[float, float] = (120.0, 380.0)
    review_below: float = 0.5

    def __post_init__(self) -> None:
        for name in ("max_missing_share", "max_copied_share", "review_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}; expected 0 to 1")
        for name in ("min_dimension", "min_dimension_synthetic"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}; expected 0 or more")
        for name in ("lung_proportion", "lung_width_mm"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ConfigError(f"{name} {low:g}, {high:g}; expected two numbers above 0, the lower first")
        if not self.max_slice_gap > 1:
            raise ConfigError(f"max_slice_gap {self.max_slice_gap:g}; expected more than 1")


@dataclass(frozen=True)
class Quality:
    """What was found.

    Attributes:
        fault: (reason, detail) that sets the volume aside; None when it passes.
        doubts: for the review queue; those that hold keep the case out until a person has decided.
        score: 0 to 1, for ranking and review; not a probability.
        figures: what the judgement rests on, by name.
        region: which part of the body is in view.
        anatomy: body and lungs, for whoever needs them next; None when there is a fault.
        volume: as it came, or with its scale mended, which its notes then tell; None where it was never held whole.
    """

    fault: Fault
    doubts: tuple[Doubt, ...]
    score: float
    figures: dict[str, float]
    region: BodyRegion
    anatomy: Anatomy | None = None
    volume: Volume | None = None


_UNSEEN = BodyRegion("not chest", 0.0, 0.0, "not looked at: the volume was set aside before")


def assess(
    volume: Volume, settings: QualitySettings, *, is_synthetic: bool = False, tags: SeriesTags | None = None
) -> Quality:
    """Judge a volume that is held whole, its scale mended where that is provable.

    Args:
        is_synthetic: a phantom, which may be small.
        tags: what the headers say, where they are known.
    """
    glance, find = Glance.of(volume), partial(find_anatomy, volume)
    found = judge_glance(glance, find, settings, is_synthetic=is_synthetic, tags=tags)
    if isinstance(found, Quality):
        return replace(found, volume=volume)
    mended = mend(volume, found)
    quality = _judge_hu(Glance.of(mended), find_anatomy(mended), settings, tags, found.told)
    return replace(quality, volume=mended)


def judge_glance(
    glance: Glance,
    find: Callable[[], Anatomy],
    settings: QualitySettings,
    *,
    is_synthetic: bool = False,
    tags: SeriesTags | None = None,
) -> Quality | Scale:
    """Judge a volume by what was gathered while it was read.

    Args:
        find: gives the anatomy of the volume.

    Returns:
        What was found; or the scale, where the volume has to be mended before it can be judged.
    """
    missing, padding = glance.missing_share, glance.padding_share
    fault = find_small_dimension(
        glance.shape, limit=settings.min_dimension_synthetic if is_synthetic else settings.min_dimension
    )
    if fault is None and missing > padding:
        fault = find_missing_voxels(missing, limit=settings.max_missing_share)
    scale = Scale() if fault else check_scale(glance.sample, padding_share=padding)
    fault = fault or scale.fault or find_missing_voxels(missing, limit=settings.max_missing_share)
    if fault is not None:
        return Quality(fault, (), 0.0, _shares(glance), _UNSEEN)
    if scale.forgotten:
        return scale
    return _judge_hu(glance, find(), settings, tags, scale.told)


def _judge_hu(
    glance: Glance, anatomy: Anatomy, settings: QualitySettings, tags: SeriesTags | None, told: str
) -> Quality:
    """Judge a volume in HU, of whose scale a person should know what was told."""
    region = region_of(anatomy)
    posture = measure_posture(anatomy) if region.name == "chest" else None
    continuity, grain = measure_continuity(glance.blocks), measure_grain(glance.axial, anatomy)
    figures = _shares(glance) | _collect(glance, region, posture, continuity, grain)
    score = _score(figures)
    doubts = [Doubt("quality", "HU scale", told, holds=False)] if told else []
    doubts += _doubt_slices(glance, continuity, tags, settings)
    doubts += _doubt_anatomy(posture, region, settings) if posture else ()
    if score < settings.review_below:
        doubts.append(Doubt("quality", "low score", _explain(score, figures, settings), holds=False))
    return Quality(None, tuple(doubts), score, figures, region, anatomy)


def _shares(glance: Glance) -> dict[str, float]:
    return {"missing_share": glance.missing_share, "padding_share": glance.padding_share}


def _collect(
    glance: Glance, region: BodyRegion, posture: Posture | None, continuity: Continuity, grain: Grain
) -> dict[str, float]:
    figures = {
        "lung_ml": region.lung_ml,
        "body_ml": region.body_ml,
        "slice_mm": max(glance.spacing_mm),
        "jump": continuity.jump,
        "motion": continuity.motion,
        "copied_share": (continuity.copies + continuity.blank) / continuity.slices,
        "noise_hu": grain.noise_hu,
        "streak_hu": grain.streak_hu,
    }
    if posture is None:
        return figures
    found = {one.name: getattr(posture, one.name) for one in fields(posture)}
    figures |= {name: value for name, value in found.items() if isinstance(value, float)}
    for axis, extent in zip("xyz", posture.lung_mm, strict=True):
        figures[f"lung_{axis}_mm"] = extent
    figures["lung_cut_top"], figures["lung_cut_bottom"] = posture.lung_cut
    return figures


# --------------------------------------------------------------------------------------------------------- the score

_MARKS = {
    "missing_share": (0.22, 0.40, 0.4),
    "copied_share": (0.0, 0.10, 0.4),
    "slice_mm": (3.0, 10.0, 0.5),
    "noise_hu": (40.0, 200.0, 0.4),
    "streak_hu": (10.0, 60.0, 0.4),
    "motion": (0.80, 1.0, 0.4),
    "lung_cut_top": (0.15, 0.9, 0.6),
    "lung_cut_bottom": (0.15, 0.9, 0.6),
    "lung_side_cut": (0.0, 0.3, 0.4),
    "body_cut": (0.1, 0.6, 0.7),
}
"""For each figure: up to where it is good (1), from where it is bad, and what that is worth. Ours: the good ends lie
beyond what the whole, thin-sliced chests at hand have (the corners around a round field are 21% of a slice); the worth
says how much a reader would miss."""


def _score(figures: dict[str, float]) -> float:
    return float(np.prod([_mark(name, figures[name]) for name in _MARKS if name in figures]))


def _mark(name: str, value: float) -> float:
    good, bad, worth = _MARKS[name]
    return 1 - (1 - worth) * float(np.clip((value - good) / (bad - good), 0, 1))


def _explain(score: float, figures: dict[str, float], settings: QualitySettings) -> str:
    marks = {name: _mark(name, figures[name]) for name in _MARKS if name in figures}
    worst = [name for name in sorted(marks, key=marks.__getitem__) if marks[name] < 1][:3]
    told = ", ".join(f"{name} {figures[name]:.3g}" for name in worst)
    return f"score {score:.2f}, reviewed below {settings.review_below:g}; most of it lost by {told}"


# --------------------------------------------------------------------------------------------------------- the doubts


def _doubt_slices(
    glance: Glance, continuity: Continuity, tags: SeriesTags | None, settings: QualitySettings
) -> Iterator[Doubt]:
    lost = continuity.copies + continuity.blank
    if lost:
        told = (
            f"of {continuity.slices} slices {continuity.copies} repeat their neighbour and {continuity.blank} are blank"
        )
        yield Doubt("quality", "repeated slices", told, holds=lost > settings.max_copied_share * continuity.slices)
    if continuity.is_axial and continuity.jump >= SLIGHT_JUMP:
        told = (
            f"behind slice {continuity.jump_at + 1} of {continuity.slices} the body changes {continuity.jump:.1f} "
            f"times as much as beside it, expected less than {SLIGHT_JUMP:g}; slices are lost, or the patient moved"
        )
        yield Doubt("quality", "slices do not follow", told, holds=continuity.jump >= JUMP)
    thickness = tags.slice_thickness_mm if tags else None
    if thickness and max(glance.spacing_mm) > settings.max_slice_gap * thickness:
        told = (
            f"slices {thickness:g} mm thick lie {max(glance.spacing_mm):.3g} mm apart, expected at most "
            f"{settings.max_slice_gap:g} times their thickness"
        )
        yield Doubt("quality", "gaps between slices", told, holds=False)


MIN_JUDGED_ML = 400.0
"""Ours: with less lung in view (bases above an abdomen) there is no chest to judge the posture of."""

MIN_SPINE_BEHIND = -0.1
"""Ours: chests at hand have 0.3 to 0.64; flipped front to back, the same below zero."""

MAX_BULK_FLIPPED, MAX_RISE_FLIPPED = -0.2, 0.3
"""Ours: chests at hand have 0.39 to 0.91, and a slope of 0.1 to 2.6; the upper half of a chest can have little bulk
below, but rises inwards; where both ends of the lungs are in view, the bulk is enough."""

MAX_BODY_CUT, MAX_SIDE_CUT = 0.35, 0.02
"""Ours: of the field's edge, since arms and large patients touch it (0.25 in the whole chests at hand); and of the
lungs' sides, none of which do."""

MAX_SIDES_FLIPPED = -0.2
"""Ours: the sum of what heart, aorta and liver say is 0.1 to 1.3 in the real chests at hand, one with a shrunken lung
included, and -0.14 in one of 92 phantoms."""


def _doubt_anatomy(posture: Posture, region: BodyRegion, settings: QualitySettings) -> Iterator[Doubt]:
    if region.lung_ml < MIN_JUDGED_ML:
        return
    yield from _doubt_orientation(posture)
    yield from _doubt_proportions(posture, settings)
    for place, share in zip(("top", "bottom"), posture.lung_cut, strict=True):
        if share > MAX_END_SHARE:
            told = (
                f"the {place} slice holds {share:.0%} of the largest area of lung, at most {MAX_END_SHARE:.0%} is usual"
            )
            yield Doubt("quality", f"lungs cut at the {place}", told, holds=False)
    if posture.body_cut > MAX_BODY_CUT:
        told = f"body reaches the edge of the field of view along {100 * posture.body_cut:.0f}% of it, beside the lungs"
        yield Doubt("quality", "body cut at the side", told, holds=False)
    if posture.lung_side_cut > MAX_SIDE_CUT:
        told = f"{100 * posture.lung_side_cut:.0f}% of the lungs' sides lie on the edge of the field of view"
        yield Doubt("quality", "lungs cut at the side", told, holds=False)


def _doubt_orientation(posture: Posture) -> Iterator[Doubt]:
    if posture.spine_behind < MIN_SPINE_BEHIND:
        told = f"the spine lies {-posture.spine_behind:.2f} of the way from the middle to the front; expected behind it"
        yield Doubt("quality", "front and back swapped", told, holds=True)
    if posture.bulk_below < MAX_BULK_FLIPPED and (posture.is_whole or posture.rise_inwards < MAX_RISE_FLIPPED):
        told = (
            f"heart and liver's dome are looked for below, but soft tissue between the lungs lies above "
            f"({posture.bulk_below:+.2f}; the lungs' ends rise inwards by {posture.rise_inwards:+.2f})"
        )
        yield Doubt("quality", "upside down", told, holds=True)
    sides = posture.sides
    if sum(sides) < MAX_SIDES_FLIPPED and sum(one < 0 for one in sides) >= 2:
        told = f"heart, aorta and liver lie on the other side ({sum(sides):+.2f}); swapped, or situs inversus"
        yield Doubt("quality", "left and right swapped", told, holds=True)


def _doubt_proportions(posture: Posture, settings: QualitySettings) -> Iterator[Doubt]:
    wide, _, high = posture.lung_mm
    low, most = settings.lung_proportion
    is_cut = posture.lung_side_cut > MAX_SIDE_CUT
    if not is_cut and (high > most * wide or (posture.is_whole and high < low * wide)):
        told = (
            f"lungs {high:.0f} mm high and {wide:.0f} mm wide, expected {low:g} to {most:g} times as high as wide; "
            "check the spacing"
        )
        yield Doubt("quality", "proportions", told, holds=True)
    narrowest, widest = settings.lung_width_mm
    if wide > widest or (not is_cut and wide < narrowest):
        told = f"lungs {wide:.0f} mm wide, expected {narrowest:g} to {widest:g} mm; check the pixel spacing"
        yield Doubt("quality", "lung width", told, holds=True)
