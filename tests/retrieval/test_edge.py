"""How the engine lays cases out in its files, which decides how many cores search them."""

from pathlib import Path

import numpy as np

from medfinder.retrieval.edge import EdgeEngine
from medfinder.retrieval.engine import IndexSettings, Point

WIDTH = 16


def _add(engine: EdgeEngine, first: int, vectors: np.ndarray) -> None:
    for start in range(0, len(vectors), 50):
        rows = range(start, min(start + 50, len(vectors)))
        engine.upsert([Point(first + row, {"image": vectors[row], "report": vectors[row]}, {}, {}) for row in rows])


def _parts(shard: Path) -> list[int]:
    """Count the image vectors in each part, by the sizes of their files: four bytes a number, and a few in front."""
    files = shard.glob("segments/*/vector_storage-image/matrix.dat")
    return sorted(file.stat().st_size // (4 * WIDTH) for file in files)


def test_cases_are_laid_out_in_two_halves_and_later_ones_beside_them(tmp_path: Path) -> None:
    vectors = np.random.default_rng(3).standard_normal((660, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    EdgeEngine.create(tmp_path / "shard", WIDTH)
    engine = EdgeEngine(tmp_path / "shard", WIDTH)
    _add(engine, 0, vectors[:600])
    engine.optimise("compressed", IndexSettings(), None)
    halves = _parts(tmp_path / "shard")
    assert len(halves) == 2
    assert sum(halves) == 600
    assert halves[0] >= 250
    _add(engine, 600, vectors[600:])
    engine.optimise("compressed", IndexSettings(), None)
    assert _parts(tmp_path / "shard") == sorted([60, *halves])
    for query in (0, 299, 599, 659):
        found = engine.nearest("image", vectors[query], limit=10, where=None, among=None)
        assert found.points.tolist() == np.argsort(-(vectors @ vectors[query]))[:10].tolist()
    engine.close()


def test_an_empty_index_takes_hardly_any_room_on_disk(tmp_path: Path) -> None:
    EdgeEngine.create(tmp_path / "shard", 8)
    taken = sum(file.stat().st_blocks * 512 for file in tmp_path.rglob("*") if file.is_file())
    assert taken < 8 * 2**20
