"""A CSV manifest: one row per case, with columns that name its files, patient, group and split.

| column | meaning |
|---|---|
| `image`, or `image_<channel>` for each channel | paths, relative to the manifest or absolute |
| `label` (also `mask`, `seg`, `segmentation`, `truth`) | the label file |
| `id` (also `case`) | optional; otherwise the image's name |
| `patient` (also `subject`, `patient_id`) | optional; otherwise every case is a patient of its own |
| `group` (else `site`, `scanner`, `centre`) | optional, for scores by group |
| `split` | optional: train, validation or test |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from isocenter.errors import BadDataset, suggestion
from isocenter.images.formats.delimited import decoded, table
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case, channels
from isocenter.images.layouts.listing import confined, entries, names_of, some
from isocenter.records import Case

SUFFIXES = (".csv", ".tsv")

LABEL = ("label", "labels", "mask", "seg", "segmentation", "truth")
IDENTITY = ("id", "case", "case_id")
PATIENT = ("patient", "patient_id", "subject", "subject_id", "participant_id")
GROUP = ("group", "site", "scanner", "centre", "center", "institution_id")
SPLIT = ("split", "fold_split", "partition")

_EMPTY = {"", "nan", "na", "n/a", "none", "null", "unknown", "-"}


def recognises(root: Path) -> bool:
    """Whether the folder holds `manifest.csv`, or one other table that names images and labels."""
    return _table(root, labels=True) is not None


def recognises_images(root: Path) -> bool:
    """Whether the folder holds a table that names images, though no labels."""
    return _table(root, labels=False) is not None


def _table(root: Path, *, labels: bool) -> Path | None:
    found = [Path(entry.path) for entry in entries(root) if entry.name.lower().endswith(SUFFIXES)]
    named = [path for path in found if path.stem.lower() == "manifest"]
    fitting = named or [path for path in found if _lists_images(path, labels)]
    return fitting[0] if len(fitting) == 1 else None


def _lists_images(path: Path, labels: bool) -> bool:
    """Judged by the first line alone: other tables of the folder need not be well-formed."""
    header = re.split(r"[,;\t|]", decoded(path, quiet=True).split("\n", 1)[0].lower())
    names = [name.strip().strip('"') for name in header]
    return bool(_image_columns(names)) and not (labels and column(names, LABEL) is None)


def read(root: Path, said: Declaration, path: Path | None = None) -> Draft:
    """The dataset that a manifest lists.

    Raises:
        BadDataset: A column is missing, a row is incomplete, or a path leaves the folder.
    """
    path = path or _table(root, labels=True) or _table(root, labels=False)
    if path is None:
        raise BadDataset("there is no manifest.", where=root, cure="Name the CSV file itself.")
    header, rows = table(path)
    columns = _image_columns(header)
    if not columns:
        raise _missing("image", header, path)
    if said.task in (None, "segmentation") and column(header, LABEL) is None:
        raise _missing("label", header, path)
    names = list(columns.values())
    return Draft(
        name=path.stem if path.stem.lower() not in ("manifest", "dataset", "labels") else root.name,
        root=root,
        layout="manifest",
        channels=None if names == ["image"] else channels(names, path),
        cases=tuple(_cases(root, header, rows, list(columns), path)),
    )


def _cases(
    root: Path, header: list[str], rows: list[Mapping[str, str]], columns: list[str], path: Path
) -> list[Case]:
    identity, label = column(header, IDENTITY), column(header, LABEL)
    patient, group, split = (column(header, names) for names in (PATIENT, GROUP, SPLIT))
    files = [tuple(_file(root, row[name], path) for name in columns) for row in rows]
    names = [row[identity] for row in rows] if identity else _named(files, path)
    only = columns[0] if len(columns) == 1 else None
    _refuse_empty(rows, [name for name in (identity, label, patient, only) if name], path)
    return [
        case(
            name,
            inputs,
            _file(root, row[label], path) if label else None,
            where=path,
            patient=said_of(row, patient),
            group=said_of(row, group),
            split=said_of(row, split),
        )
        for name, inputs, row in zip(names, files, rows, strict=True)
    ]


def said_of(row: Mapping[str, str], name: str | None) -> str | None:
    """What a row says in a column; None where there is no such column or it is left empty."""
    return None if name is None or row[name].lower() in _EMPTY else row[name]


def _file(root: Path, text: str, path: Path) -> str | None:
    if text.lower() in _EMPTY:
        return None
    folder, mark, series = text.partition("::")
    return confined(root, folder, path, absolute=True) + mark + series


def _named(files: list[tuple[str | None, ...]], path: Path) -> list[str]:
    """Cases named after their first image; with its folders where names alone would meet."""
    first = [next((file for file in inputs if file), None) for inputs in files]
    if None in first:
        raise BadDataset(
            f"row {first.index(None) + 2} names no image.", where=path, cure="Fill or remove it."
        )
    return [
        re.sub(r"_0000$", "", name) for name in names_of([str(file).partition("::")[0] for file in first])
    ]


def _refuse_empty(rows: list[Mapping[str, str]], needed: list[str], path: Path) -> None:
    for name in needed:
        empty = [str(place) for place, row in enumerate(rows, start=2) if row[name].lower() in _EMPTY]
        if empty:
            raise BadDataset(
                f"column '{name}' is empty in row {some(empty)}.",
                where=path,
                cure="Fill these in, or remove the rows.",
            )


def column(header: list[str], names: tuple[str, ...]) -> str | None:
    """The first of the names that the header holds."""
    return next((name for name in names if name in header), None)


def _image_columns(header: list[str]) -> dict[str, str]:
    """Columns that hold images, with the channel each is."""
    if "image" in header:
        return {"image": "image"}
    return {name: name.removeprefix("image_") for name in header if re.fullmatch(r"image_\w+", name)}


def _missing(name: str, header: list[str], path: Path) -> BadDataset:
    return BadDataset(
        f"there is no column '{name}'.", where=path, cure=f"Rename or add it. {suggestion(name, header)}"
    )
