"""The findings of a phantom: each is a painter that changes the healthy chest and tells which voxels show it.

In: a painted ``Anatomy``, one finding of its plan, a generator of its own. Out: changed voxels and the finding's mask.
``PAINTERS`` maps every name of the vocabulary to its painter, in the order in which they are laid over each other: haze
first, then solid tissue, fluid, metal last. Sizes that a report does not tell (a "small" effusion) are ours.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medfinder.records import Finding
from medfinder.sources.phantoms.anatomy import SIGN, Anatomy
from medfinder.sources.phantoms.canvas import AIR_HU, Array, Box, Point, f32, ramp
from medfinder.sources.phantoms.plan import LASTING

# A voxel shows a finding from this coverage on.
_SHOWN = 0.25

# Stream of the seed of the study, or of the patient; the finding's place among the painters is added.
_FINDING = 5

_DEGREE = {"mild": 0, "moderate": 1, "severe": 2, "small": 0, "large": 2}


class Scene:
    """A chest on which one finding is being painted.

    Attributes:
        mask: the voxels that show it.
    """

    def __init__(self, chest: Anatomy, mask: npt.NDArray[np.bool_]) -> None:
        self.chest, self.canvas, self.mask = chest, chest.canvas, mask

    def show(self, box: Box, cover: Array) -> None:
        """Add what is covered to the mask: at least the best-covered voxel, however faint."""
        if cover.size == 0:
            return
        shown = cover > f32(_SHOWN)
        if not shown.any() and cover.max() > 0:
            shown = cover == cover.max()
        self.mask[box] |= shown

    def ball(self, centre: Point, radii: float | Point, hu: float, within: Array | None = None) -> None:
        """Paint an ellipsoid and show it."""
        self.show(*self.chest.ball(centre, radii, hu, within))

    def tube(self, start: Point, end: Point, radius: float, hu: float, within: Array | None = None) -> None:
        """Paint a tube and show it."""
        self.show(*self.chest.tube(start, end, radius, hu, within))

    def fill(self, cover: Array, hu: float) -> None:
        """Paint by a coverage of the whole canvas and show it."""
        self.canvas.paint(self.canvas.whole, cover, hu)
        self.show(self.canvas.whole, cover)


Painter = Callable[[Scene, Finding, np.random.Generator], None]


def paint_findings(chest: Anatomy) -> npt.NDArray[np.uint32]:
    """Paint every finding of the chest's plan and return the masks: bit i stands for finding i."""
    findings = chest.study.findings
    masks = np.zeros(chest.canvas.shape, np.uint32)
    order = list(PAINTERS)
    for place in sorted(range(len(findings)), key=lambda place: order.index(findings[place].name)):
        scene, name = Scene(chest, np.zeros(chest.canvas.shape, np.bool_)), findings[place].name
        # What lasts is found where it was at the patient's earlier study.
        seed = chest.patient.seed if name in LASTING else chest.study.seed
        PAINTERS[name](scene, findings[place], np.random.default_rng([seed, _FINDING, order.index(name)]))
        masks |= scene.mask.astype(np.uint32) << np.uint32(place)
    return masks


def _sides(finding: Finding) -> tuple[str, ...]:
    return ("left", "right") if finding.laterality == "bilateral" else (str(finding.laterality),)


def _near(place: Point, reach: float, rng: np.random.Generator) -> Point:
    x, y, z = (middle + (2 * rng.random() - 1) * reach for middle in place)
    return (x, y, z)


def _millimetres(finding: Finding) -> float:
    return float(finding.size_mm or 0)


# ---- lungs -----------------------------------------------------------------------------------------------------------


def _emphysema(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    chest, c = scene.chest, scene.canvas
    lobe = "upper lobe" if finding.location == "upper lobes" else None
    for side in SIGN:
        where = chest.lungs[side]
        if lobe:
            where = where * ramp((c.z + f32(5 * chest.scale)) / f32(25))
        if finding.grade == "centrilobular":
            c.paint(c.whole, where * f32(0.5) * (c.hu < -600), -960)
            for _ in range(26):
                scene.ball(chest.spot(side, lobe, 6, rng), 4 + 4 * rng.random(), -990, where)
        else:
            for _ in range(17):
                bulla = _pushed_to_wall(chest, side, chest.spot(side, lobe, 6, rng))
                scene.ball(bulla, 7 + 4 * rng.random(), -995, where)


def _pushed_to_wall(chest: Anatomy, side: str, place: Point) -> Point:
    """Move a place outwards until it lies just below the pleura."""
    cx, _ = chest.lung_centre[side]
    x, y, z = place
    stretch = 1.0
    while chest.depth(side, cx + (x - cx) * stretch, y * stretch, z) > 7 and stretch < 3:
        stretch *= 1.06
    return (cx + (x - cx) * stretch, y * stretch, z)


def _fibrosis(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    chest, c, degree = scene.chest, scene.canvas, _DEGREE[str(finding.grade)]
    for side in SIGN:
        if finding.location == "bases":
            height = ramp((f32(chest.dome[side] + 70 + 18 * degree) - c.z) / f32(20))
        else:
            height = ramp((c.z - f32((35 - 12 * degree) * chest.scale)) / f32(20))
        rim = chest.lungs[side] * height * ramp((f32(14 + 6 * degree) - chest.wall_depth(side)) / c.voxel)
        mesh = f32(0.3) + f32(0.7) * (rng.random(c.shape, dtype=np.float32) > f32(0.45))
        c.paint(c.whole, rim * mesh, -330 + 60 * degree)
        scene.show(c.whole, rim)


def _ground_glass(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    chest, c, degree = scene.chest, scene.canvas, _DEGREE[str(finding.grade)]
    hu = -560 + 40 * degree
    for side in _sides(finding):
        if finding.location == "peripheral":
            below = ramp((f32(70 * chest.scale) - c.z) / f32(30))
            rim = ramp((f32(16 + 7 * degree) - chest.wall_depth(side)) / c.voxel)
            cover = chest.lungs[side] * rim * below
            c.paint(c.whole, cover * f32(0.8), hu)
            scene.show(c.whole, cover)
        elif finding.location == "diffuse":
            for _ in range(5 + 4 * degree):
                scene.ball(chest.spot(side, None, 8, rng), 13 + 5 * degree + 8 * rng.random(), hu, chest.lungs[side])
        else:
            where, radius = chest.lobe(side, finding.location), (16, 24, 36)[degree]
            place = chest.spot(side, finding.location, 10, rng)
            scene.ball(place, (radius, radius * 0.9, radius), hu, where)
            scene.ball(_near(place, radius, rng), radius * 0.7, hu, where)


def _bronchiectasis(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    chest = scene.chest
    lobe = "lower lobe" if finding.location == "lower lobes" else finding.location
    for side in _sides(finding):
        for _ in range(5):
            start = chest.spot(side, lobe, 12, rng)
            end = _near(start, 16, rng)
            scene.tube(start, end, 7.5, -250, chest.lungs[side])
            chest.tube(start, end, 4.5, AIR_HU, chest.lungs[side])


def _tree_in_bud(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    side = str(finding.laterality)
    place, where = scene.chest.spot(side, finding.location, 15, rng), scene.chest.lobe(side, finding.location)
    for _ in range(34):
        x, y, z = (middle + (rng.random() + rng.random() - 1) * 34 for middle in place)
        scene.ball((x, y, z), 2.8, 20, where)


def _consolidation(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    side, radius = str(finding.laterality), (15, 24, 38)[_DEGREE[str(finding.grade)]]
    place, where = scene.chest.spot(side, finding.location, 8, rng), scene.chest.lobe(side, finding.location)
    scene.ball(place, (radius, radius * 0.85, radius * 1.1), 35, where)
    for _ in range(2):
        scene.ball(_near(place, radius * 0.8, rng), radius * 0.55, 25, where)
    # The air bronchogram.
    scene.chest.tube(place, _near(place, radius * 0.7, rng), 2, -700)


def _nodule(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    radius = _millimetres(finding) / 2
    for _ in range(finding.count or 1):
        scene.ball(scene.chest.spot(str(finding.laterality), finding.location, radius + 3, rng), radius, 45)


def _granuloma(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    place = scene.chest.spot(str(finding.laterality), finding.location, 5, rng)
    scene.ball(place, max(_millimetres(finding) / 2, 2.5), 1100)


def _mass(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    radius = _millimetres(finding) / 2
    place = scene.chest.spot(str(finding.laterality), finding.location, radius * 0.8, rng)
    scene.ball(place, (radius, radius * 0.85, radius * 0.8), 42)
    for _ in range(3):
        scene.ball(_near(place, radius * 0.5, rng), radius * 0.6, 45)


def _cavity(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    radius = _millimetres(finding) / 2
    place = scene.chest.spot(str(finding.laterality), finding.location, radius * 0.8, rng)
    scene.ball(place, radius, 40)
    scene.chest.ball(place, radius - max(4, radius * 0.28), -960)


# ---- pleura ----------------------------------------------------------------------------------------------------------


def _pneumothorax(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    chest, c, side = scene.chest, scene.canvas, str(finding.laterality)
    (_, cy), (_, b), degree = chest.lung_centre[side], chest.lung_radii, _DEGREE[str(finding.grade)]
    cover = chest.lungs[side] * c.soften(f32(cy + b * (0.62, 0.38, 0.0)[degree]) - c.y)
    # What is left of the lung holds less air.
    c.hu += (chest.lungs[side] - cover) * f32((30, 90, 230)[degree]) * (c.hu < -500)
    scene.fill(cover, AIR_HU)


def _pleural_thickening(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    chest, c, side = scene.chest, scene.canvas, str(finding.laterality)
    if finding.location == "apical":
        cover = chest.lungs[side] * ramp((c.z - f32(104 * chest.scale)) / c.voxel)
    else:
        low = ramp((f32(chest.dome[side] + 75) - c.z) / c.voxel) * ramp((f32(50) - c.y) / c.voxel)
        cover = chest.lungs[side] * ramp((f32(9) - chest.wall_depth(side)) / c.voxel) * low
    scene.fill(cover, 45)


def _effusion(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    chest, c, degree = scene.chest, scene.canvas, _DEGREE[str(finding.grade)]
    for side in _sides(finding):
        (_, cy), (_, b) = chest.lung_centre[side], chest.lung_radii
        climb = ramp((c.z - f32(chest.dome[side] + 30)) / f32(130)) * f32(b * (0.6, 0.55, 0.45)[degree])
        level = f32(cy - b * (0.70, 0.38, -0.05)[degree]) - climb
        scene.fill(chest.lungs[side] * c.soften(c.y - level), 12)


def _atelectasis(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    chest, c, side, s = scene.chest, scene.canvas, str(finding.laterality), scene.chest.scale
    where, hu = chest.lobe(side, finding.location), 85 if chest.study.contrast else 45
    if finding.grade == "laminar":
        place = chest.spot(side, finding.location, 12, rng)
        scene.ball(place, (32, 26, 3.2), 10, where)
        scene.ball((place[0], place[1], place[2] + 9), (18, 18, 2.4), 0, where)
    elif finding.grade == "passive":
        (_, cy), (_, b) = chest.lung_centre[side], chest.lung_radii
        low = ramp((f32(chest.dome[side] + 62) - c.z) / c.voxel)
        scene.fill(where * c.soften(c.y - f32(cy - b * 0.42)) * low, hu)
    else:
        y, z = {"upper lobe": (25, 55), "lower lobe": (-45, -55)}.get(str(finding.location), (25, -25))
        scene.ball((SIGN[side] * 42 * s, y * s, z * s), (34 * s, 30 * s, 42 * s), hu, where)


# ---- heart, vessels, mediastinum -------------------------------------------------------------------------------------


def _pericardial_effusion(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    chest, c = scene.chest, scene.canvas
    width = (7, 13, 21)[_DEGREE[str(finding.grade)]]
    cover = np.zeros(c.shape, np.float32)
    box, sac = c.ellipsoid(chest.heart_centre, [radius + width for radius in chest.heart_radii])
    cover[box] = sac
    box, heart = c.ellipsoid(chest.heart_centre, chest.heart_radii)
    cover[box] -= np.minimum(heart, cover[box])
    above_liver = 1 - c.soften(c.z - f32(chest.dome["right"] + 14))
    scene.fill(cover * above_liver * ramp((c.y + f32(28 * chest.scale)) / c.voxel), 8)


def _cardiomegaly(scene: Scene, _finding: Finding, _rng: np.random.Generator) -> None:
    scene.show(*scene.canvas.ellipsoid(scene.chest.heart_centre, scene.chest.heart_radii))


def _aneurysm(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    part = str(finding.location)
    scene.show(*scene.canvas.tube(*scene.chest.aorta[part], scene.chest.aorta_radius[part]))


def _wide_trunk(scene: Scene, _finding: Finding, _rng: np.random.Generator) -> None:
    scene.show(*scene.canvas.tube(*scene.chest.trunk, scene.chest.trunk_radius))


def _hiatal_hernia(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    radius = (13, 21, 33)[_DEGREE[str(finding.grade)]]
    x, y, z = scene.chest.scaled(-6, -26, -72)
    scene.ball((x, y, z), (radius, radius * 0.8, radius), 35)
    scene.chest.ball((x, y + radius * 0.3, z + radius * 0.2), (radius * 0.5, radius * 0.35, radius * 0.5), -850)


def _adenopathy(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    chest, s = scene.chest, scene.chest.scale
    sign, wall = SIGN.get(str(finding.laterality), 1.0), chest.patient.half_width_mm / chest.scale
    stations = {
        "mediastinal": ((24, 2, 62), (-2, -4, 8), (-24, 6, 62), (4, 30, 72)),
        "hilar": ((sign * 50, -12, 4), (sign * 56, -6, 22), (sign * 44, -22, -10), (sign * 58, -18, 8)),
        "axillary": tuple(
            (sign * (wall - inwards / s), y, z)
            for inwards, y, z in ((26, 4, 88), (30, 14, 70), (24, -8, 104), (34, 22, 92))
        ),
    }[str(finding.location)]
    for number, (x, y, z) in enumerate(stations[: finding.count or 1]):
        radius = _millimetres(finding) / 2 * (1 if number == 0 else 0.8)
        scene.ball((x * s, y * s, z * s), (radius, radius * 0.85, radius * 1.1), 55)


# Directions around the descending aorta, twelve of them, as (x, y) of unit length.
_AROUND = tuple(
    (x, y)
    for x, y in (
        (1.0, 0.0), (0.866, 0.5), (0.5, 0.866), (0.0, 1.0), (-0.5, 0.866), (-0.866, 0.5),
        (-1.0, 0.0), (-0.866, -0.5), (-0.5, -0.866), (0.0, -1.0), (0.5, -0.866), (0.866, -0.5),
    )
)  # fmt: skip


def _aortic_calcification(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    chest, radius = scene.chest, scene.chest.aorta_radius["descending aorta"]
    for number in range((4, 9, 17)[_DEGREE[str(finding.grade)]]):
        along, (dx, dy) = rng.random(), _AROUND[int(rng.integers(len(_AROUND)))]
        if number % 3 == 0:
            x, y, z = chest.scaled(10 - 26 * along, 14 - 44 * along, 54)
            place = (x, y, z + 12)
        else:
            x, y, z = chest.scaled(-16 + 4 * along, -34 - 8 * along, 52 - 190 * along)
            place = (x + radius * dx, y + radius * dy, z)
        scene.ball(place, (3.2, 3.2, 4), 1000)


def _coronary_calcification(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    (x, y, z), (_, deep, high) = scene.chest.heart_centre, scene.chest.heart_radii
    for _ in range((3, 6, 11)[_DEGREE[str(finding.grade)]]):
        along = rng.random()
        front = deep * (0.75 - 0.3 * abs(along - 0.5))
        scene.ball((x + 0.8 * (24 - 60 * along), y + front, z + high * (0.62 - 0.55 * along)), (3, 3, 3.5), 1000)


# ---- skeleton, wall, neck, abdomen -----------------------------------------------------------------------------------


def _rib_fracture(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    for number in range(finding.count or 1):
        y, z = -30 + 50 * rng.random(), (-70 + 40 * number + 15 * rng.random()) * scene.chest.scale
        scene.ball(scene.chest.rib_place(str(finding.laterality), y, z), (8, 9, 8), 950)


def _vertebral_collapse(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    x, y, z = scene.chest.spine(scene.chest.levels[str(finding.location)])
    scene.show(*scene.canvas.ellipsoid((x, y, z), (17, 14, 10)))
    # The crushed bone is denser.
    scene.chest.ball((x, y + 3, z - 3), (15, 11, 3.5), 650)


def _scoliosis(scene: Scene, _finding: Finding, _rng: np.random.Generator) -> None:
    for z in scene.chest.levels.values():
        scene.show(*scene.canvas.ellipsoid(scene.chest.spine(z), (17, 14, 10)))


def _goitre(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    for side in _sides(finding):
        scene.show(*scene.canvas.ellipsoid(*scene.chest.thyroid(side)))


def _mastectomy(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    scene.show(*scene.canvas.ellipsoid(scene.chest.breast(str(finding.laterality)), (40, 30, 38)))


def _hepatic_cyst(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    chest = scene.chest
    x, y = 60 * chest.scale + 20 * (rng.random() - 0.5), 5 + 30 * (rng.random() - 0.5)
    place = (x, y, chest.dome["right"] - 8 - 10 * rng.random())
    scene.ball(place, _millimetres(finding) / 2, 5, 1 - chest.both_lungs)


def _catheter(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    at, sign = scene.chest.scaled, SIGN[str(finding.laterality)]
    scene.tube(at(sign * 60, 40, 118), at(28, 10, 95), 1.8, 1900)
    scene.tube(at(28, 10, 95), at(27, 12, 15), 1.8, 1900)


def _pacemaker(scene: Scene, finding: Finding, _rng: np.random.Generator) -> None:
    at, sign, depth = scene.chest.scaled, SIGN[str(finding.laterality)], scene.chest.patient.half_depth_mm
    x, _, z = at(sign * 82, 0, 88)
    box, generator = scene.canvas.block((x, depth * 0.78, z), (20, 5, 18))
    scene.canvas.paint(box, generator, 2800)
    scene.show(box, generator)
    x, _, z = at(sign * 70, 0, 100)
    scene.tube((x, depth * 0.6, z), at(28, 10, 80), 1.6, 2600)
    scene.tube(at(28, 10, 80), at(5, 15, -70), 1.6, 2600)


PAINTERS: dict[str, Painter] = {
    "emphysema": _emphysema,
    "pulmonary fibrosis": _fibrosis,
    "ground-glass opacity": _ground_glass,
    "bronchiectasis": _bronchiectasis,
    "tree-in-bud": _tree_in_bud,
    "consolidation": _consolidation,
    "nodule": _nodule,
    "calcified granuloma": _granuloma,
    "mass": _mass,
    "cavity": _cavity,
    "pneumothorax": _pneumothorax,
    "pleural thickening": _pleural_thickening,
    "pleural effusion": _effusion,
    "atelectasis": _atelectasis,
    "pericardial effusion": _pericardial_effusion,
    "cardiomegaly": _cardiomegaly,
    "aortic aneurysm": _aneurysm,
    "pulmonary artery enlargement": _wide_trunk,
    "hiatal hernia": _hiatal_hernia,
    "adenopathy": _adenopathy,
    "aortic calcification": _aortic_calcification,
    "coronary calcification": _coronary_calcification,
    "rib fracture": _rib_fracture,
    "vertebral collapse": _vertebral_collapse,
    "scoliosis": _scoliosis,
    "goitre": _goitre,
    "mastectomy": _mastectomy,
    "hepatic cyst": _hepatic_cyst,
    "central venous catheter": _catheter,
    "pacemaker": _pacemaker,
}
