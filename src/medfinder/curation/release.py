"""A dataset made ready to be handed on, as the Hugging Face hub wants it: Parquet by split, volumes, card, checksums.

In: a dataset folder. Out: a folder that ``datasets``, pandas and polars load without our code, and that
``medfinder.sources.release`` reads back. Refused: a dataset in which pairing or de-identification did not run, a case
about which a person has yet to decide, personal data that the audit finds, a volume that is gone or damaged, an output
folder that holds something else. Killed at any moment and run again, it goes on where it was and ends in the same
bytes.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip

import medfinder
from medfinder.curation import dataset as folder
from medfinder.curation.card import AUDITS, has_run
from medfinder.curation.dataset import Dataset
from medfinder.curation.release_card import OLDEST, write_release_card
from medfinder.curation.split import SPLITS
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Split, plural
from medfinder.sources.files import write_whole

KIND = "medfinder release"
FORMAT = 1
CHECKSUMS = "SHA256SUMS"
_RECIPE = ".release.json"

Progress = Callable[[int, int], None]
Audit = Callable[[Dataset], Sequence[str]]
"""Looks for personal data in what a dataset would hand on and says where it is; nothing when it is clean."""

# Files of a dataset that stay at home: what waits for a reader, and who decided what.
_WITHHELD = ("held.parquet", "series.parquet", "decisions.jsonl", "diagnoses.parquet", "diagnoses.jsonl")

# The hub asks for fewer than 10,000 files in a folder: huggingface.co/docs/hub/repositories-recommendations.
_MOST_FILES = 10_000

# What may not be handed on, whatever the card says.
_NOT_OURS = ("bimcv", "bimcv_r")
_NOT_OURS_REMARK = (
    "BIMCV's images and reports are for research use only and may not be redistributed: keep this folder private"
)


# What a card of the hub may name. Source: the hub's documentation, Repositories > Licenses; those made for the weights
# of one model are left out, since a dataset has none.
_LICENSE_NAMES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0
cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0
h-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0
openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSE_NAMES.split())


@dataclass(frozen=True)
class ReleaseSettings:
    """How a dataset is handed on.

    Attributes:
        name: title of the card.
        license: as the hub names it, e.g. ``"cc-by-4.0"``; ``"other"`` where the source's own terms hold.
        compress: volumes as ``.nii.gz``, about half the size; else ``.nii``, which can be mapped from disk.
        shard_cases: cases in one Parquet file. Ours: 5,000 reports with their figures stay below 20 MB, which the
            hub's viewer shows without a pause.
    """

    name: str = "CT dataset"
    license: str = "other"
    compress: bool = True
    shard_cases: int = 5000

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise ConfigError(f"name {self.name!r}; expected one line of words")
        if self.license not in LICENSES:
            near = get_close_matches(self.license.strip().lower().replace(" ", "-"), LICENSES, n=3)
            raise ConfigError(
                f"license {self.license!r}; expected a name as the hub writes it, e.g. "
                f"{', '.join(near or ('cc-by-4.0', 'cc-by-nc-sa-4.0', 'cc0-1.0'))}, or other for terms of your own"
            )
        if self.shard_cases < 1:
            raise ConfigError(f"shard_cases {self.shard_cases}; expected 1 or more")


@dataclass(frozen=True)
class ReleaseSummary:
    """What a release came to; plain values, ready for JSON.

    Attributes:
        state: ``"written"``, ``"complete"`` when it was there already, ``"dry run"``.
        splits: cases by split.
        volume_bytes: of the volumes as they lie in the dataset.
        remarks: sentences the user must see.
    """

    state: Literal["written", "complete", "dry run"]
    cases: int
    studies: int
    patients: int
    splits: Mapping[str, int]
    files: tuple[str, ...]
    volume_bytes: int
    remarks: tuple[str, ...]


def release(
    dataset: Dataset,
    out: Path,
    settings: ReleaseSettings | None = None,
    *,
    audit: Audit | None = None,
    pictures: Mapping[str, str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ReleaseSummary:
    """Write a dataset as a release.

    Args:
        out: absent, empty, or begun by the same call.
        audit: looks for personal data, ``find_personal_data`` by default; synthetic data need none.
        pictures: SVG by file name, shown in the card; they must hold nothing that the audit has not seen.
        dry_run: do all but write.

    Raises:
        DatasetError: the dataset may not be handed on, or is damaged, or the disk refuses.
        ConfigError: the output folder cannot be used.
    """
    settings = settings or ReleaseSettings()
    check_releasable(dataset, audit or find_personal_data)
    if not dataset.cases:
        raise DatasetError(f"{dataset.path} has no cases; there is nothing to release")
    plan = _Plan(dataset, out, settings, dict(sorted((pictures or {}).items())))
    _refuse_overlap(dataset.path, out)
    if dry_run:
        return plan.summarise("dry run")
    recipe = plan.recipe()
    if _is_complete(out, recipe):
        if progress is not None:
            progress(len(dataset.cases), len(dataset.cases))
        return plan.summarise("complete")
    with folder.disk_errors_told(out):
        _begin(out, recipe)
        digests = dict(_copy_volumes(plan, progress))
        _write_tables(plan, digests)
        _write_texts(plan)
        _write_checksums(out, plan.files(), digests)
        (out / _RECIPE).unlink()
    return plan.summarise("written")


# ---- may it be handed on ---------------------------------------------------------------------------------------------


def check_releasable(dataset: Dataset, audit: Audit) -> None:
    """Refuse a dataset that may not be handed on.

    Raises:
        DatasetError: an audit did not run or was not clean; the message says which and how to go on.
    """
    needed = ["pairing"] if dataset.is_synthetic else list(AUDITS)
    missing = [name for name in needed if not has_run(dataset.provenance, name)]
    if missing:
        raise DatasetError(
            f"{dataset.path} may not be released: {' and '.join(missing)} not audited (provenance.json, key audits); "
            "curate it again with this version"
        )
    undecided = _undecided(dataset)
    if undecided:
        raise DatasetError(
            f"{dataset.path} may not be released: {len(undecided)} of its cases wait for a reader's decision "
            f"(first: {undecided[0]}); decide: medfinder review {dataset.path}, then curate again"
        )
    if dataset.is_synthetic:
        return
    found = audit(dataset)
    if found:
        raise DatasetError(
            f"{dataset.path} may not be released: the audit found personal data in {plural(len(found), 'place')}; "
            f"see: medfinder audit-phi {dataset.path}"
        )


def find_personal_data(dataset: Dataset) -> list[str]:
    """Audit a dataset as ``medfinder audit-phi`` does, leaving out the files that are not handed on.

    Raises:
        MissingExtraError: the recognisers are not installed.
    """
    from medfinder.curation.deidentify.audit import audit_phi

    found = audit_phi(dataset.path)
    places = [*(leak.where for leak in found.leaks), *found.unread]
    return [place for place in places if place.split(":")[0] not in _WITHHELD]


def _undecided(dataset: Dataset) -> list[str]:
    """Find kept cases with a doubt that holds and on which nobody has decided."""
    table = _read_cases(dataset)
    if "doubts" not in table.column_names:
        return []
    decided = _decided(dataset.path)
    rows = table.select(["case_id", "study_id", "doubts"]).to_pylist()
    return [
        row["case_id"]
        for row in rows
        for doubt in row["doubts"] or ()
        # An item of the review queue is named after its stage and the case or study that it concerns.
        if doubt["holds"] and not {f"{doubt['stage']}/{row[key]}" for key in ("case_id", "study_id")} & decided
    ]


def _decided(path: Path) -> set[str]:
    """Name the items of the review queue that a reader let pass, by the last word on each."""
    try:
        lines = (path / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    last: dict[str, str] = {}
    for line in lines:
        try:
            decision = json.loads(line)
            last[decision["item"]] = decision["verdict"]
        except (ValueError, KeyError, TypeError):
            # A line that was torn when the power went decides nothing.
            continue
    return {item for item, verdict in last.items() if verdict in ("accept", "correct")}


def _read_cases(dataset: Dataset) -> pa.Table:
    try:
        return pq.read_table(dataset.path / folder.CASES)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{dataset.path / folder.CASES} is damaged; curate again into a new folder") from error


# ---- what it will hold -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Which file holds what."""

    dataset: Dataset
    out: Path
    settings: ReleaseSettings
    pictures: Mapping[str, str]

    def volume(self, case_id: str) -> str:
        """Name a case's volume in the release."""
        ending = "nii.gz" if self.settings.compress else "nii"
        shelf = f"{case_id[:2]}/" if len(self.dataset.cases) >= _MOST_FILES else ""
        return f"volumes/{shelf}{case_id}.{ending}"

    def tables(self) -> dict[str, tuple[Split, int]]:
        """Name the Parquet files: of which split, and from which of its cases on."""
        named = {}
        for split in SPLITS:
            count = sum(case.split == split for case in self.dataset.cases)
            shards = math.ceil(count / self.settings.shard_cases)
            for shard in range(shards):
                named[f"data/{split}-{shard:05d}-of-{shards:05d}.parquet"] = (split, shard * self.settings.shard_cases)
        return named

    def files(self) -> tuple[str, ...]:
        """Name every file but the checksums."""
        pictures = (f"figures/{name}" for name in self.pictures)
        volumes = (self.volume(case.case_id) for case in self.dataset.cases)
        return tuple(sorted([folder.CARD, folder.PROVENANCE, folder.DROPPED, *self.tables(), *pictures, *volumes]))

    def recipe(self) -> dict[str, Any]:
        """Put together all that decides about the bytes of the release."""
        pictures = hashlib.sha256(json.dumps(self.pictures).encode()).hexdigest()
        return {
            "kind": KIND,
            "format": FORMAT,
            "medfinder": medfinder.__version__,
            "dataset_digest": self.dataset.digest,
            "pictures_digest": pictures,
            "settings": asdict(self.settings),
        }

    def summarise(self, state: Literal["written", "complete", "dry run"]) -> ReleaseSummary:
        """Tell what the release holds."""
        cases, path = self.dataset.cases, self.dataset.path
        return ReleaseSummary(
            state=state,
            cases=len(cases),
            studies=len({case.study_id for case in cases}),
            patients=len({case.patient_id for case in cases}),
            splits={split: sum(case.split == split for case in cases) for split in SPLITS},
            files=(*self.files(), CHECKSUMS),
            volume_bytes=sum((path / case.volume).stat().st_size for case in cases if (path / case.volume).is_file()),
            remarks=tuple(self._remarks()),
        )

    @property
    def is_restricted(self) -> bool:
        """Whether a case comes from a source that may not be redistributed."""
        return any(case.source in _NOT_OURS for case in self.dataset.cases)

    def _remarks(self) -> Iterator[str]:
        if self.is_restricted:
            yield _NOT_OURS_REMARK
        if self.settings.license == "other":
            yield "the card says license: other; name one with --license where the data may be handed on"
        if any(case.age_years is not None and case.age_years > OLDEST for case in self.dataset.cases):
            yield f"ages above {OLDEST} are written as {OLDEST}"


# ---- the output folder -----------------------------------------------------------------------------------------------


def _refuse_overlap(source: Path, out: Path) -> None:
    inside, outside = out.resolve(), source.resolve()
    if inside == outside or inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise ConfigError(f"{out} and {source} lie within each other; give an output folder beside the dataset")


def _is_complete(out: Path, recipe: Mapping[str, Any]) -> bool:
    """Tell whether the very same release stands there already and none of its files has gone."""
    if not (out / CHECKSUMS).is_file() or (out / _RECIPE).exists():
        return False
    try:
        known = json.loads((out / folder.PROVENANCE).read_text(encoding="utf-8"))
        listed = (out / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False
    same = isinstance(known, dict) and all(known.get(key) == value for key, value in recipe.items())
    return same and all((out / line.split("  ", 1)[-1]).is_file() for line in listed)


def _begin(out: Path, recipe: Mapping[str, Any]) -> None:
    """Note in an empty folder what it is going to be, or find that it was begun as the same.

    Raises:
        ConfigError: the folder holds something else.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a folder")
    begun = out / _RECIPE
    if begun.is_file():
        try:
            same = json.loads(begun.read_text(encoding="utf-8")) == recipe
        except ValueError:
            same = False
        if not same:
            raise ConfigError(f"{out} is an unfinished release of another dataset or settings; delete it first")
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; give a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    folder.write_text(begun, json.dumps(recipe))


# ---- volumes, tables, card, checksums --------------------------------------------------------------------------------


def _copy_volumes(plan: _Plan, progress: Progress | None) -> Iterator[tuple[str, str]]:
    """Write each volume that is not there yet, one in memory at a time; yield its name and digest."""
    table = _read_cases(plan.dataset)
    known = dict(zip(table["case_id"].to_pylist(), table["volume_sha256"].to_pylist(), strict=True))
    for number, case in enumerate(plan.dataset.cases, start=1):
        name = plan.volume(case.case_id)
        target = plan.out / name
        if not target.is_file():
            content = _read_volume(plan.dataset.path / case.volume, case.case_id, known[case.case_id])
            target.parent.mkdir(parents=True, exist_ok=True)
            # mtime 0: the time of packing is no part of the volume.
            write_whole(target, igzip.compress(content, 3, mtime=0) if plan.settings.compress else content)
        yield name, _sha256(target)
        if progress is not None:
            progress(number, len(plan.dataset.cases))


def _read_volume(path: Path, case_id: str, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"the volume of case {case_id} is gone; curate again") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DatasetError(f"the volume of case {case_id} is not the one that was curated; curate again")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tables(plan: _Plan, digests: Mapping[str, str]) -> None:
    """Write the cases of each split, in the order of the dataset, and what was set aside."""
    (plan.out / "data").mkdir(exist_ok=True)
    cases = _as_released(plan, digests)
    by_split: dict[Split, pa.Table] = {split: cases.filter(pc.equal(cases["split"], split)) for split in SPLITS}
    for name, (split, start) in plan.tables().items():
        _write_table(plan.out / name, by_split[split].slice(start, plan.settings.shard_cases))
    _write_table(plan.out / folder.DROPPED, pq.read_table(plan.dataset.path / folder.DROPPED))


def _as_released(plan: _Plan, digests: Mapping[str, str]) -> pa.Table:
    """Point the case table to the release's volumes, and tell the oldest as one group."""
    table = _read_cases(plan.dataset)
    volumes = [plan.volume(case_id) for case_id in table["case_id"].to_pylist()]
    columns = {
        "volume": volumes,
        "volume_sha256": [digests[name] for name in volumes],
        "age_years": [None if age is None else min(age, OLDEST) for age in table["age_years"].to_pylist()],
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(values, table.schema.field(name).type))
    return table


def _write_table(path: Path, table: pa.Table) -> None:
    unfinished = path.with_name(f".writing-{path.name}")
    pq.write_table(table, unfinished, compression="zstd")
    unfinished.replace(path)


def _write_texts(plan: _Plan) -> None:
    """Write card, pictures and provenance; the dataset's own provenance stands within that of the release."""
    if plan.pictures:
        (plan.out / "figures").mkdir(exist_ok=True)
    for name, picture in plan.pictures.items():
        folder.write_text(plan.out / "figures" / name, picture)
    folder.write_text(plan.out / folder.CARD, _card(plan))
    provenance = {**plan.recipe(), "dataset": plan.dataset.provenance}
    folder.write_text(plan.out / folder.PROVENANCE, json.dumps(provenance, indent=2) + "\n")


def _card(plan: _Plan) -> str:
    tables = {name: split for name, (split, _) in plan.tables().items()}
    return write_release_card(
        plan.dataset,
        name=plan.settings.name,
        license_=plan.settings.license,
        terms=_NOT_OURS_REMARK if plan.is_restricted else "",
        pictures=tuple(plan.pictures),
        tables={name: (split, pq.ParquetFile(plan.out / name).metadata) for name, split in tables.items()},
    )


def _write_checksums(out: Path, names: Sequence[str], digests: Mapping[str, str]) -> None:
    """Write the digests as ``sha256sum --check`` reads them; last of all, for they make the folder a release."""
    lines = [f"{digests.get(name) or _sha256(out / name)}  {name}\n" for name in names]
    folder.write_text(out / CHECKSUMS, "".join(lines))
