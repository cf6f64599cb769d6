"""The rows of the paper's tables, and how each is made at a size.

In: nothing, or a TOML file of recipes. Out: ``ROWS`` and ``TABLES``, which are the same for every size, and for a size
a ``Recipe`` for each row: preset and settings laid upon it. Refused: a file with unknown rows or keys, a row without a
recipe. A further row is one line in ``ROWS``, one name in its table, one entry in the sizes' TOML files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from medfinder.config import build_settings, merge, read_toml
from medfinder.errors import ConfigError
from medfinder.evaluation.answers import Name

SIZES = ("synthetic", "paper")


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        title: as the table names it.
        kind: ``"model"``, ``"oracle"`` or ``"chance"``.
        paper: the paper's row that stands beside it; empty when it has none.
        trained_as: row whose checkpoint it scores in another way; empty for its own.
        scoring: how slices vote, or ``"regions"`` for late interaction besides; empty where the cosine of whole volumes
            decides.
    """

    title: str
    kind: str = "model"
    paper: str = ""
    trained_as: str = ""
    scoring: str = ""


@dataclass(frozen=True)
class TablePlan:
    """A table of the paper.

    Attributes:
        rows: names in ``ROWS``, in their order.
        reference: row that the others are compared with.
        tested: numbers that are compared; Holm's correction is over these and all rows of the table.
    """

    title: str
    rows: tuple[str, ...]
    reference: str
    tested: tuple[Name, ...]


@dataclass(frozen=True)
class Recipe:
    """How a row's model is trained at a size.

    Attributes:
        preset: named settings of ``medfinder train``.
        settings: laid upon the preset.
        masks: it also learns where findings lie, if masks are given.
        same_as: row that is the same model at this size, so that it is trained once.
    """

    preset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    masks: bool = False
    same_as: str = ""


@dataclass(frozen=True)
class Size:
    """The recipes of a size, and the data that it is meant for.

    Attributes:
        common: settings laid upon every preset, below a recipe's own.
        data: settings of curation for ``medfinder benchmark data``.
        rows: a recipe for each row that is a model.
    """

    rows: Mapping[str, Recipe]
    common: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


def read_size(name: str) -> Size:
    """Read the recipes of a size.

    Args:
        name: one of ``SIZES``, or the path of a TOML file.

    Raises:
        ConfigError: there is no such size or file, or it has unknown rows or keys.
    """
    if name in SIZES:
        with resources.as_file(resources.files("medfinder.evaluation") / f"size_{name}.toml") as path:
            values = read_toml(path)
    elif name.endswith(".toml"):
        values = read_toml(Path(name))
    else:
        raise ConfigError(f"unknown size {name!r}; known: {', '.join(SIZES)}, or the path of a TOML file")
    for row, recipe in values.get("rows", {}).items():
        build_settings(Recipe, recipe, where=f"size {name}, row {row}")
    size = build_settings(Size, values, where=f"size {name}")
    models = [row for row, plan in ROWS.items() if plan.kind == "model" and not plan.trained_as]
    unknown, lacking = sorted(set(size.rows) - set(models)), [row for row in models if row not in size.rows]
    if unknown or lacking:
        raise ConfigError(f"size {name}: rows {unknown} are unknown, {lacking} lack; known: {', '.join(models)}")
    loose = [row for row, recipe in size.rows.items() if not recipe.preset and recipe.same_as not in size.rows]
    if loose:
        raise ConfigError(f"size {name}: rows {loose} have neither a preset nor a row that they are the same as")
    return size


def recipe_of(size: Size, row: str, *, epochs: int | None = None) -> tuple[str, Recipe]:
    """Find the row that a row's model is trained as, and its whole recipe.

    Args:
        epochs: overrules the recipe's.
    """
    trained = ROWS[row].trained_as or row
    trained = size.rows[trained].same_as or trained
    recipe = size.rows[trained]
    settings = merge(size.common, recipe.settings)
    return trained, Recipe(recipe.preset, settings if epochs is None else {**settings, "epochs": epochs}, recipe.masks)


def choose_rows(table: str, wanted: str | None) -> list[str]:
    """Choose the rows of a table.

    Args:
        wanted: names parted by commas; None for all.

    Raises:
        ConfigError: the table has no such row.
    """
    plan = TABLES[table]
    if wanted is None:
        return list(plan.rows)
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        raise ConfigError(f"unknown rows {', '.join(unknown) or 'none'}; known: {', '.join(ROWS)}")
    return [name for name in plan.rows if name in names]


ROWS: dict[str, Row] = {
    "clip4clip_meanp": Row("CLIP4Clip, meanP", paper="CLIP4Clip"),
    "clip4clip_seq": Row("CLIP4Clip, seqTransf"),
    "mir3d": Row("3D-MIR, average", paper="3D-MIR"),
    "mir3d_frequency": Row("3D-MIR, slices vote: frequency", trained_as="mir3d", scoring="frequency"),
    "mir3d_max": Row("3D-MIR, slices vote: max", trained_as="mir3d", scoring="max"),
    "mir3d_sum": Row("3D-MIR, slices vote: sum", trained_as="mir3d", scoring="sum"),
    "paper_resnet": Row("MedFinder as in the paper, ResNet", paper="MedFinder, ResNet-50"),
    "paper_vit": Row("MedFinder as in the paper, ViT", paper="MedFinder, ViT-base"),
    "paper_sharp": Row("the same, ResNet, cosines over 0.07"),
    "released": Row("as the released script"),
    "medfinder": Row("medfinder (ours)"),
    "medfinder_regions": Row("medfinder (ours), regions too", trained_as="medfinder", scoring="regions"),
    "no_sampler_clip": Row("no sampler, L_mse, CLIP", paper="no sampler, L_mse, CLIP"),
    "no_mse_clip": Row("sampler, no L_mse, CLIP", paper="sampler, no L_mse, CLIP"),
    "full_clip": Row("sampler, L_mse, CLIP", paper="sampler, L_mse, CLIP"),
    "full_biomedclip": Row("sampler, L_mse, BiomedCLIP", paper="sampler, L_mse, BiomedCLIP"),
    "neither_minilm": Row("no sampler, no L_mse, MiniLM"),
    "no_sampler_minilm": Row("no sampler, L_mse, MiniLM"),
    "no_mse_minilm": Row("sampler, no L_mse, MiniLM"),
    "full_minilm": Row("sampler, L_mse, MiniLM"),
    "no_masks": Row("ours, masks not told"),
    "no_maps": Row("ours without finding maps"),
    "no_beliefs": Row("ours without beliefs in the vectors"),
    "no_local": Row("ours without sentence to region"),
    "no_queries": Row("ours without short queries"),
    "oracle": Row("oracle (true findings)", kind="oracle"),
    "chance": Row("chance", kind="chance"),
}

_RETRIEVAL = (
    *("clip4clip_meanp", "clip4clip_seq", "mir3d", "mir3d_frequency", "mir3d_max", "mir3d_sum"),
    *("paper_resnet", "paper_vit", "paper_sharp", "released", "medfinder", "medfinder_regions", "oracle", "chance"),
)
_ABLATION = (
    *("no_sampler_clip", "no_mse_clip", "full_clip", "full_biomedclip"),
    *("neither_minilm", "no_sampler_minilm", "no_mse_minilm", "full_minilm", "oracle", "chance"),
)
_OURS = ("medfinder", "no_masks", "no_maps", "no_beliefs", "no_local", "no_queries", "oracle", "chance")

TABLES: dict[str, TablePlan] = {
    "table2": TablePlan(
        "Table 2: retrieval by whole reports and by whole volumes",
        _RETRIEVAL,
        "medfinder",
        (("text_to_image", "R@10"), ("text_to_image", "MdR"), ("image_to_text", "R@10"), ("image_to_text", "MdR")),
    ),
    "table3": TablePlan(
        "Table 3: retrieval by keyword, by image alone", _RETRIEVAL, "medfinder", (("keyword", "mean", "P@20"),)
    ),
    "table4": TablePlan(
        "Table 4: text sampler, consistency loss L_mse, text encoder; text to image",
        _ABLATION,
        "full_minilm",
        (("text_to_image", "R@10"), ("text_to_image", "MdR")),
    ),
    "ours": TablePlan(
        "Ours, one part left out at a time",
        _OURS,
        "medfinder",
        (("text_to_image", "R@10"), ("text_to_image", "MdR"), ("image_to_text", "R@10"), ("keyword", "mean", "P@20")),
    ),
}
