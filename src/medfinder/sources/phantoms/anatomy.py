"""The healthy chest of a phantom patient, painted, with the landmarks that findings need.

In: a study plan and a canvas. Out: the canvas with body, lungs, heart, vessels, airways, skeleton and upper abdomen,
and where each of them lies. Findings that change an organ's size or place (cardiomegaly, aneurysm, scoliosis ...) are
built in here, since everything else is drawn around them.

Millimetres, RAS+: x to the patient's right, y to the front, z to the head; the carina is near z = 30. Proportions are
ours, fitted by eye to the real chest CTs that ship with the project.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medfinder.records import Finding
from medfinder.sources.phantoms.canvas import AIR_HU, Array, Box, Canvas, Point, f32, ramp
from medfinder.sources.phantoms.plan import StudyPlan

SIGN: Mapping[str, float] = {"right": 1.0, "left": -1.0}

_HEART_GROWTH = {"mild": 1.16, "moderate": 1.3, "severe": 1.45}
_SPINE_BEND_MM = {"mild": 14.0, "moderate": 26.0, "severe": 40.0}
_COLLAPSE = {"mild": 0.72, "moderate": 0.55, "severe": 0.38}

# Streams of the patient's seed.
_BODY, _VESSELS = 7, 11


class Anatomy:
    """A painted chest and its landmarks.

    Attributes:
        scale: of the organs.
        lungs: coverage of each lung, by side; ``both_lungs`` is their sum.
        lung_centre, lung_radii: of the ellipse that a lung fills at mid-height.
        dome: height of each side of the diaphragm, without its vault.
        heart_centre, heart_radii: of the heart's ellipsoid.
        aorta_radius: of the ascending and the descending aorta.
        levels: height of each vertebra.
        blood_hu: of the vessels, by contrast phase.
    """

    def __init__(self, study: StudyPlan, canvas: Canvas) -> None:
        self.study, self.canvas = study, canvas
        self.patient = study.patient
        self.scale = study.patient.scale
        self._rng = np.random.default_rng([study.patient.seed, _BODY])
        self.blood_hu = 150 + 120 * self._rng.random() if study.contrast else 45.0
        inner = self._paint_body()
        self._paint_breasts()
        self._paint_table()
        self._place_heart()
        self._paint_lungs()
        self._paint_abdomen(inner)
        self._paint_fat(inner)
        self._paint_heart()
        self._paint_vessels()
        self._paint_airways()
        self._paint_lung_vessels()
        self._paint_spine()
        self._paint_ribs()
        self._paint_shoulders()
        self._paint_thyroid()

    # ---- what the study has ------------------------------------------------------------------------------------------

    def finding(self, name: str) -> Finding | None:
        """Give the study's finding of this name, or None."""
        return next((finding for finding in self.study.findings if finding.name == name), None)

    def ball(
        self, centre: Sequence[float], radii: float | Sequence[float], hu: float, within: Array | None = None
    ) -> tuple[Box, Array]:
        """Paint an ellipsoid, only where ``within`` allows, and return what it covers."""
        box, cover = self.canvas.ellipsoid(centre, (radii,) * 3 if isinstance(radii, int | float) else radii)
        if within is not None:
            cover = cover * within[box]
        self.canvas.paint(box, cover, hu)
        return box, cover

    def tube(
        self, start: Point, end: Point, radius: float, hu: float, within: Array | None = None
    ) -> tuple[Box, Array]:
        """Paint a tube, only where ``within`` allows, and return what it covers."""
        box, cover = self.canvas.tube(start, end, radius)
        if within is not None:
            cover = cover * within[box]
        self.canvas.paint(box, cover, hu)
        return box, cover

    def scaled(self, x: float, y: float, z: float) -> Point:
        """Scale a place of the standard chest to this patient."""
        return (x * self.scale, y * self.scale, z * self.scale)

    # ---- trunk -------------------------------------------------------------------------------------------------------

    def _paint_body(self) -> Array:
        """Paint skin, fat and muscle; return what lies inside the fat."""
        c, s, patient = self.canvas, f32(self.scale), self.patient
        width, depth = f32(patient.half_width_mm), f32(patient.half_depth_mm)
        neck = ramp((c.z - f32(115) * s) / f32(70)) * f32(0.35)
        x, y = c.x / (width * (1 - neck)), c.y / (depth * (1 - neck * f32(0.7)))
        radius = np.sqrt(x * x + y * y)
        body = c.soften((radius - 1) * depth)
        inner = c.soften((radius - (1 - f32(patient.fat_mm) / depth)) * depth)
        c.hu += body * f32(-95 - AIR_HU)
        c.hu += inner * f32(50 + 95)
        return inner

    def _paint_breasts(self) -> None:
        radius = 28 + 20 * self._rng.random()
        if self.patient.sex != "F":
            return
        mastectomy = self.finding("mastectomy")
        for side in SIGN:
            if mastectomy is None or mastectomy.laterality != side:
                centre = self.breast(side)
                self.ball(centre, (radius * 1.2, radius, radius * 1.15), -80)
                self.ball(centre, (radius * 0.7, radius * 0.6, radius * 0.7), 15)

    def breast(self, side: str) -> Point:
        """Tell where a breast is, or was."""
        return (SIGN[side] * 78 * self.scale, self.patient.half_depth_mm - 2, -15 * self.scale)

    def _paint_table(self) -> None:
        c, y = self.canvas, -self.patient.half_depth_mm - 14
        box = c.box((0, y, 0), (160, 6, 1e4))
        c.paint(box, c.soften(np.abs(c.y[:, box[1]] - f32(y)) - f32(6)) * np.ones_like(c.hu[box]), -250)

    # ---- lungs -------------------------------------------------------------------------------------------------------

    def _place_heart(self) -> None:
        s = self.scale
        self.dome = {"right": -95 * s + 16 * self._rng.random() - 8, "left": -105 * s + 16 * self._rng.random() - 8}
        cardiomegaly = self.finding("cardiomegaly")
        growth = _HEART_GROWTH[str(cardiomegaly.grade)] if cardiomegaly else 1.0
        self.heart_size = (0.92 + 0.13 * self._rng.random()) * growth
        h = self.heart_size
        self.heart_centre: Point = (-18 * s - (h - 1) * 22, 18 * s, -52 * s)
        self.heart_radii: Point = (52 * s * h, 44 * s * h, 46 * s * h)
        self.lung_radii = (64 * s, min(86 * s, self.patient.half_depth_mm - 22))
        self.lung_centre = {side: (sign * 71 * s, -4.0) for side, sign in SIGN.items()}

    def _paint_lungs(self) -> None:
        c, s = self.canvas, f32(self.scale)
        offsets = (
            (axis - f32(middle)) / f32(radius)
            for axis, middle, radius in zip((c.x, c.y, c.z), self.heart_centre, self.heart_radii, strict=True)
        )
        x, y, z = (offset * offset for offset in offsets)
        to_heart = (1 - np.sqrt(x + y + z)) * f32(self.heart_radii[1])
        self.lungs: dict[str, Array] = {}
        for side, sign in SIGN.items():
            wall = -self.wall_depth(side)
            distance = np.maximum(wall, f32(22) * s - f32(sign) * c.x)
            self.lungs[side] = c.soften(np.maximum(np.maximum(distance, self._diaphragm(side) - c.z), to_heart))
        self.both_lungs = self.lungs["right"] + self.lungs["left"]
        # What lies below holds more blood: denser towards the back. Ours, about 45 HU from front to back.
        front_hu = f32(-835 + 40 * self._rng.random())
        density = front_hu - f32(45) * ramp(f32(0.5) + c.y / f32(2 * self.lung_radii[1]))
        c.hu += self.both_lungs * (density - c.hu)

    def _diaphragm(self, side: str) -> Array:
        """Height of the diaphragm over (x, y): vaulted, and lower at the back."""
        c, (cx, cy), (a, b) = self.canvas, self.lung_centre[side], self.lung_radii
        x, y, y_vault = (c.x - f32(cx)) / f32(a), (c.y - f32(cy)) / f32(b), (c.y - f32(cy + 10)) / f32(b)
        height: Array = f32(self.dome[side]) + f32(34) * ramp(1 - x * x - y_vault * y_vault) - f32(30) * ramp(-y)
        return height

    def wall_depth(self, side: str) -> Array:
        """Depth below the chest wall and the apex in mm, at every voxel; negative outside."""
        c, s, (cx, cy), (a, b) = self.canvas, f32(self.scale), self.lung_centre[side], self.lung_radii
        rise = ramp((c.z - f32(10) * s) / (f32(118) * s))
        rise = rise * rise
        x = (c.x - f32(cx)) / (f32(a) * (1 - f32(0.55) * rise))
        y = (c.y - f32(cy)) / (f32(b) * (1 - f32(0.5) * rise))
        depth: Array = np.minimum((1 - np.sqrt(x * x + y * y)) * f32(a), f32(128) * s - c.z)
        return depth

    def depth(self, side: str, x: float, y: float, z: float) -> float:
        """Depth below the surface of a lung in mm at one place; negative outside."""
        s, (cx, cy), (a, b) = self.scale, self.lung_centre[side], self.lung_radii
        rise = min(1.0, max(0.0, (z - 10 * s) / (118 * s)))
        u, v = (x - cx) / (a * (1 - 0.55 * rise * rise)), (y - cy) / (b * (1 - 0.5 * rise * rise))
        wall = (1 - float(np.sqrt(u * u + v * v))) * a
        p, q, q_vault = (x - cx) / a, (y - cy) / b, (y - cy - 10) / b
        floor = self.dome[side] + 34 * max(0.0, 1 - p * p - q_vault * q_vault) - 30 * min(1.0, max(0.0, -q))
        offsets = [(w - m) / r for w, m, r in zip((x, y, z), self.heart_centre, self.heart_radii, strict=True)]
        heart = (float(np.sqrt(sum(o * o for o in offsets))) - 1) * self.heart_radii[1]
        return min(wall, 128 * s - z, SIGN[side] * x - 26 * s, z - floor, heart)

    # The oblique fissure falls from T4 at the back to the diaphragm at the front; the horizontal one lies at z = 0.

    def lobe_at(self, side: str, y: float, z: float) -> str:
        """Name the lobe of one place."""
        s = self.scale
        if z < 60 * s - (y + 80 * s) * 1.14:
            return "lower lobe"
        if z < (0 if side == "right" else -8) * s:
            return "middle lobe" if side == "right" else "lingula"
        return "upper lobe"

    def lobe(self, side: str, location: str | None) -> Array:
        """Coverage of one lobe, or of the whole lung where the location names none."""
        c, s = self.canvas, f32(self.scale)
        lower = c.soften(c.z - (f32(60) * s - (c.y + f32(80) * s) * f32(1.14)))
        below_minor = c.soften(c.z - f32(0 if side == "right" else -8) * s)
        weights = {
            "lower lobe": lower,
            "middle lobe": (1 - lower) * below_minor,
            "lingula": (1 - lower) * below_minor,
            "upper lobe": (1 - lower) * (1 - below_minor),
        }
        return self.lungs[side] * weights[location] if location in weights else self.lungs[side]

    def spot(self, side: str, location: str | None, margin_mm: float, rng: np.random.Generator) -> Point:
        """Draw a place in a lobe (or lung) at least ``margin_mm`` deep, or the deepest of those drawn.

        Drawn in millimetres, never in voxels: all volumes of a study show a finding at the same place.
        """
        (cx, cy), (a, b), s = self.lung_centre[side], self.lung_radii, self.scale
        named = location in ("upper lobe", "middle lobe", "lingula", "lower lobe")
        best, deepest = (cx, cy, 0.0), -1e9
        for _ in range(200):
            x, y, z = cx + (2 * rng.random() - 1) * a, cy + (2 * rng.random() - 1) * b, (-125 + 250 * rng.random()) * s
            if named and self.lobe_at(side, y, z) != location:
                continue
            depth = self.depth(side, x, y, z)
            if depth > deepest:
                best, deepest = (x, y, z), depth
            if depth > margin_mm:
                break
        return best

    # ---- below and between the lungs ---------------------------------------------------------------------------------

    def _paint_abdomen(self, inner: Array) -> None:
        c, s, b = self.canvas, f32(self.scale), self.lung_radii[1]
        outside = 1 - self.both_lungs
        x, y = (c.x - f32(55) * s) / (f32(95) * s), (c.y - f32(2)) / f32(b + 8)
        liver = ramp((f32(self.dome["right"] + 34) - c.z) / c.voxel) * c.soften((np.sqrt(x * x + y * y) - 1) * f32(b))
        c.paint(c.whole, liver * inner * outside, 105 if self.study.contrast else 60)
        s_, low = self.scale, self.dome["left"]
        self.ball(
            (-88 * s_, -38 * s_, low - 22), (30 * s_, 36 * s_, 34 * s_), 115 if self.study.contrast else 50, outside
        )
        self.ball((-52 * s_, 28 * s_, low - 14), (30 * s_, 26 * s_, 18 * s_), -850, outside)

    def _paint_fat(self, inner: Array) -> None:
        s, side = self.scale, self.patient.half_width_mm - 30
        where = inner * (1 - self.both_lungs)
        self.ball((0, 6 * s, 52 * s), (30 * s, 38 * s, 60 * s), -92, where)
        for sign in SIGN.values():
            self.ball((sign * side, 4 * s, 86 * s), (20, 24 * s, 34 * s), -92, where)
        self.ball(self.heart_centre, [radius + 4 for radius in self.heart_radii], -92, where)

    def _paint_heart(self) -> None:
        s, h = self.scale, self.heart_size
        self.ball(self.heart_centre, self.heart_radii, 110 if self.study.contrast else 42)
        x, y, z = self.heart_centre
        for dx, dy, dz, size in ((14, -2, 0, 0.5), (-14, 6, -6, 0.55), (2, -22, 8, 0.45)):
            chamber = (x + dx * s * h, y + dy * s * h, z + dz * s * h)
            self.ball(chamber, [radius * size for radius in self.heart_radii], self.blood_hu)

    def _paint_vessels(self) -> None:
        s, at = self.scale, self.scaled
        self.aorta_radius = {"ascending aorta": 16 * s, "descending aorta": 12.5 * s}
        aneurysm = self.finding("aortic aneurysm")
        if aneurysm is not None and aneurysm.size_mm is not None:
            self.aorta_radius[str(aneurysm.location)] = aneurysm.size_mm / 2
        self.aorta = {
            "ascending aorta": (at(8, 22, -20), at(10, 16, 48)),
            "descending aorta": (at(-16, -34, 52), at(-12, -42, -150)),
        }
        for part, (start, end) in self.aorta.items():
            self.tube(start, end, self.aorta_radius[part], self.blood_hu)
        self.tube(at(10, 14, 48), at(-16, -30, 54), 13 * s, self.blood_hu)
        enlarged = self.finding("pulmonary artery enlargement")
        self.trunk_radius = enlarged.size_mm / 2 if enlarged is not None and enlarged.size_mm else 12.5
        self.trunk = (at(-16, 28, 0), at(-8, 0, 24))
        self.tube(*self.trunk, self.trunk_radius, self.blood_hu)
        self.tube(at(-8, 0, 22), at(48, -10, 14), self.trunk_radius * 0.62, self.blood_hu)
        self.tube(at(-12, 0, 24), at(-52, -14, 18), self.trunk_radius * 0.62, self.blood_hu)
        self.tube(at(28, 12, 20), at(28, 8, 110), 9 * s, self.blood_hu)

    def _paint_airways(self) -> None:
        at = self.scaled
        self.tube(at(2, -8, 30), at(2, -2, 150), 8.5, AIR_HU)
        self.tube(at(2, -8, 32), at(40, -16, 6), 6.5, AIR_HU)
        self.tube(at(2, -8, 32), at(-42, -16, 4), 6, AIR_HU)

    def _paint_lung_vessels(self) -> None:
        rng, s = np.random.default_rng([self.patient.seed, _VESSELS]), self.scale
        for side, sign in SIGN.items():
            hilum = self.scaled(sign * 44, -10, 10)
            for _ in range(16):
                tip = (
                    hilum[0] + sign * (15 + 70 * rng.random()) * s,
                    (-70 + 130 * rng.random()) * s,
                    (-95 + 205 * rng.random()) * s,
                )
                bend = [(a + b) / 2 + 14 * (rng.random() - 0.5) for a, b in zip(hilum, tip, strict=True)]
                middle = (bend[0], bend[1], bend[2])
                self.tube(hilum, middle, 3.2, 30, self.lungs[side])
                self.tube(middle, tip, 1.9, 0, self.lungs[side])

    # ---- skeleton and neck -------------------------------------------------------------------------------------------

    def spine(self, z: float) -> Point:
        """Give the middle of the vertebral column at a height, bent sideways by scoliosis."""
        scoliosis = self.finding("scoliosis")
        x = 0.0
        if scoliosis is not None:
            bend = SIGN[str(scoliosis.laterality)] * _SPINE_BEND_MM[str(scoliosis.grade)]
            far = z / (130 * self.scale)
            x = bend * max(0.0, 1 - far * far) - 0.35 * bend
        return (x, -(self.patient.half_depth_mm - self.patient.fat_mm - 34), z)

    def _paint_spine(self) -> None:
        c, pitch = self.canvas, 22 * self.scale
        collapse = self.finding("vertebral collapse")
        self.levels: dict[str, float] = {}
        for step in range(-9, 9):
            level, z = f"T{6 - step}", step * pitch
            self.levels[level] = z
            height = _COLLAPSE[str(collapse.grade)] if collapse is not None and collapse.location == level else 1.0
            x, y, _ = self.spine(z)
            body = c.block((x, y, z - (1 - height) * pitch / 5), (17, 14, (pitch / 2 - 2.5) * height))
            c.paint(*body, 190 if height == 1 else 420)
            c.paint(*c.block((x, y, z + pitch / 2), (15, 12, 2.5)), 70)
            c.paint(*c.block((x, y - 20, z), (26, 5, 5)), 260)

    def _paint_ribs(self) -> None:
        c, s, (a, b) = self.canvas, f32(self.scale), self.lung_radii
        pitch = f32(22) * s
        for side, sign in SIGN.items():
            cy = f32(self.lung_centre[side][1])
            x, y = c.x / (f32(a) + f32(72) * s), (c.y - cy) / f32(b + 9)
            shell = c.soften(np.abs(np.sqrt(x * x + y * y) - 1) * f32(b) - f32(4.5)) * (f32(sign) * c.x > 14)
            turn = (c.z + (c.y - cy) * f32(0.55)) / pitch
            rib = c.soften(np.abs(turn - np.floor(turn) - f32(0.5)) * pitch - f32(5))
            cage = ramp((f32(110) * s - c.z) / c.voxel) * ramp((c.z + f32(150) * s) / c.voxel)
            c.paint(c.whole, shell * rib * cage * (1 - self.both_lungs), 420)

    def rib_place(self, side: str, y: float, z: float) -> Point:
        """Give the place on the rib cage's side at (y, z)."""
        (a, b), cy = self.lung_radii, self.lung_centre[side][1]
        v = (y - cy) / (b + 9)
        return (SIGN[side] * ((a + 72 * self.scale) * float(np.sqrt(max(0.05, 1 - v * v))) - 3), y, z)

    def _paint_shoulders(self) -> None:
        c, s, depth = self.canvas, self.scale, self.patient.half_depth_mm
        c.paint(*c.block((0, depth - self.patient.fat_mm - 10, 15 * s), (14, 6, 80 * s)), 220)
        for sign in SIGN.values():
            self.tube((sign * 18, depth * 0.55, 118 * s), (sign * 110, depth * 0.1, 132 * s), 6, 420)
            self.tube((sign * 100 * s, -depth * 0.72, 30 * s), (sign * 125 * s, -depth * 0.5, 120 * s), 6, 350)

    def _paint_thyroid(self) -> None:
        for side in SIGN:
            centre, radii = self.thyroid(side)
            self.ball(centre, radii, 110)

    def thyroid(self, side: str) -> tuple[Point, Point]:
        """Give centre and radii of a thyroid lobe, grown by goitre."""
        goitre = self.finding("goitre")
        is_large = goitre is not None and goitre.laterality in (side, "bilateral")
        centre = (SIGN[side] * (22 if is_large else 15), 8 * self.scale, 132 * self.scale)
        return centre, ((19, 17, 30) if is_large else (8, 8, 16))
