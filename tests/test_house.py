"""The layout itself: who may import whom, how fast the package loads, what must be documented."""

import ast
import subprocess
import sys
from pathlib import Path

import medfinder

SOURCE = Path(medfinder.__file__).parent
ROOMS = [
    "errors",
    "records",
    "config",
    "client",
    "workers",
    "volume",
    "sources",
    "curation",
    "models",
    "retrieval",
    "evaluation",
    "app",
    "cli",
]


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "medfinder" and len(parts) > 1 else None


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "medfinder"}
    return found


def test_a_room_imports_only_from_rooms_above_it() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in ROOMS, f"{path} stands in no room"
        for module in imports_of(path):
            other = room_of(module)
            if other in ROOMS and ROOMS.index(other) > ROOMS.index(own):
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong


def test_only_the_models_room_knows_torch() -> None:
    knowing = {
        path.relative_to(SOURCE).parts[0]
        for path in SOURCE.rglob("*.py")
        if any(module.split(".")[0] == "torch" for module in imports_of(path))
    }
    assert knowing == {"models"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydicom", "transformers", "qdrant_edge", "pyarrow")
    script = f"import sys, medfinder; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_retrieval_loads_without_torch() -> None:
    script = "import sys, medfinder.retrieval.search, medfinder.retrieval.build; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_every_public_name_can_be_looked_up() -> None:
    for name in medfinder.__all__:
        assert getattr(medfinder, name) is not None
