"""A CSV manifest: one row per case, with columns that name its files, patient, group and split.

| column | meaning |
|---|---|
| `image`, or `image_<channel>` for each channel | paths, relative or absolute; or names in `images/` |
| `label` (also `mask`, `seg`, `segmentation`, `truth`) | the label file |
| `label`, `class`, `diagnosis`, `findings` | words, joined by `\\|` where a case has several: its classes |
| a column for each class | 1, 0, or nothing where it is not known |
| `target` | the image that is wanted, where the truth is another image |
| `fixed`, `moving` | in place of `image`: the two images of a pair, to be registered |
| `fixed_label`, `moving_label`, `landmarks` | optional, beside these: label files, a table of landmarks |
| `anatomy` | optional: a label image of the regions of the body, beside what is to be found |
| `id` (also `case`) | optional; otherwise the image's name |
| `patient` (also `subject`, `patient_id`) | optional; otherwise every case is a patient of its own |
| `group` (else `site`, `scanner`, `centre`) | optional, for scores by group |
| `split` | optional: train, validation or test |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from isocenter.errors import BadDataset, suggestion
from isocenter.images.formats.delimited import decoded, table
from isocenter.images.layouts import classes
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import (
    ANATOMY,
    FIXED,
    MOVING,
    TRUTH,
    Draft,
    case,
    channels,
    refuse_ambiguous,
)
from isocenter.images.layouts.listing import confined, entries, folders, names_of, some, sources
from isocenter.images.layouts.plain import ASKED_TARGETS, SAY_TASK, TARGET
from isocenter.images.sources import stem, suffix
from isocenter.records import Case, Label

SUFFIXES = (".csv", ".tsv")

LABEL = ("label", "labels", "mask", "seg", "segmentation", "truth")
IDENTITY = ("id", "case", "case_id")
PATIENT = ("patient", "patient_id", "subject", "subject_id", "participant_id")
GROUP = ("group", "site", "scanner", "centre", "center", "institution_id")
SPLIT = ("split", "fold_split", "partition")
FILES = ("image", "file", "filename", "file_name", "image_file", "image_path", "image_id")
"""What the column with the image may be called."""
ABOUT = (*IDENTITY, *PATIENT, *GROUP, *SPLIT, *FILES, "view", "age", "sex", "fold")
"""Columns that say something about a case, but not what is asked."""

LANDMARKS = "landmarks"
PAIR_TRUTHS = (f"{FIXED}_{TRUTH}", f"{MOVING}_{TRUTH}", LANDMARKS)
"""What may be known of a pair of images."""

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


def without_images(root: Path) -> str | None:
    """The name of a table in the folder that tells of cases, and lacks the column of their images."""
    for entry in entries(root):
        if entry.name.lower().endswith(SUFFIXES):
            names = _header(Path(entry.path))
            if column(names, (*LABEL, "patient")) is not None and not _image_columns(names):
                return entry.name
    return None


def _header(path: Path) -> list[str]:
    """The columns by the first line alone: other tables of the folder need not be well-formed."""
    header = re.split(r"[,;\t|]", decoded(path, quiet=True).split("\n", 1)[0].lower())
    return [name.strip().strip('"') for name in header]


def _lists_images(path: Path, labels: bool) -> bool:
    names = _header(path)
    if {FIXED, MOVING} <= set(names):
        return True
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
    if _lists_pairs(header, columns, said.task):
        return _pairs(root, header, rows, path)
    if not columns:
        raise _missing("image", header, path)
    truth = _truth(root, header, rows, path, said.task)
    if truth is None and said.task in (None, "segmentation"):
        raise _without_truth(header, path, said.task)
    names = list(columns.values())
    return Draft(
        name=_title(root, path),
        root=root,
        layout="manifest",
        channels=None if names == ["image"] else channels(names, path),
        labels=None if truth is None else truth.labels,
        cases=tuple(_cases(root, header, rows, list(columns), path, truth)),
        task=None if truth is None else truth.task,
    )


def pairs(place: Path) -> tuple[Case, ...] | None:
    """The pairs of a manifest, or of the one in a folder; None where there is none that lists pairs.

    Raises:
        BadDataset: A column is missing, a row is incomplete, or a path leaves the folder.
    """
    listed = place.is_file() and place.suffix.lower() in SUFFIXES
    path = place if listed else _table(place, labels=True) if place.is_dir() else None
    if path is None:
        return None
    header, rows = table(path)
    root = path.parent.resolve()
    return _pairs(root, header, rows, path).cases if {FIXED, MOVING} <= set(header) else None


def _owners(names: Sequence[str], files: Sequence[tuple[str | None, ...]]) -> list[str]:
    """For each pair the name of the first that it shares an image with, or with others that do.

    What all have as their fixed image, or all as their moving one, is a template, and nobody's.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    sides = [set(side) for side in zip(*files, strict=True)]
    templates = {image for side in sides if len(side) == 1 < len(files) for image in side}
    images = {image: place for place, image in enumerate(set().union(*sides), start=len(names))}
    shown = [(place, images[image]) for place, pair in enumerate(files) for image in {*pair} - templates]
    rows, columns = np.array(shown, dtype=int).reshape(-1, 2).T
    links = coo_array((np.ones(len(shown)), (rows, columns)), shape=(len(names) + len(images),) * 2)
    groups = connected_components(links, directed=False)[1][: len(names)].tolist()
    return [names[groups.index(group)] for group in groups]


def _title(root: Path, path: Path) -> str:
    return path.stem if path.stem.lower() not in ("manifest", "dataset", "labels") else root.name


def _lists_pairs(header: list[str], columns: Mapping[str, str], asked: str | None) -> bool:
    """Whether rows are pairs: they name a fixed and a moving image, and that is asked or all they name."""
    if asked == "registration":
        return bool({FIXED, MOVING} & set(header))
    return asked is None and not columns and {FIXED, MOVING} <= set(header)


def _pairs(root: Path, header: list[str], rows: list[Mapping[str, str]], path: Path) -> Draft:
    """Rows that name a fixed and a moving image each; a pair without an id is called `moving__to__fixed`.

    Where no patients are named, pairs that share an image are one patient's: who is in one part of a fold is
    then in no other.
    """
    absent = [role for role in (FIXED, MOVING) if role not in header]
    if absent:
        raise _missing(absent[0], header, path)
    identity, (patient, group, split) = (
        column(header, IDENTITY),
        (column(header, names) for names in (PATIENT, GROUP, SPLIT)),
    )
    _refuse_empty(rows, [name for name in (identity, patient, FIXED, MOVING) if name], path)
    files = _placed(root, [tuple(_file(root, row[role], path) for role in (FIXED, MOVING)) for row in rows])
    fixed, moving = (_named([(pair[at],) for pair in files], path) for at in (0, 1))
    names = (
        [row[identity] for row in rows]
        if identity
        else [f"{one}__to__{other}" for one, other in zip(moving, fixed, strict=True)]
    )
    owners = None if patient else _owners(names, files)
    cases = []
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        truth = {key: _file(root, row[key], path) for key in PAIR_TRUTHS if key in header}
        pair = case(
            name,
            (),
            None,
            where=path,
            patient=owners[place] if owners else said_of(row, patient),
            group=said_of(row, group),
            split=said_of(row, split),
        )
        cases.append(
            pair.changed(
                inputs={role: (file,) for role, file in zip((FIXED, MOVING), files[place], strict=True)},
                truth={key: file for key, file in truth.items() if file is not None},
            )
        )
    return Draft(
        name=_title(root, path), root=root, layout="manifest", cases=tuple(cases), task="registration"
    )


@dataclass(frozen=True)
class _Truth:
    """What a manifest says is to be found: the column that may not be empty, and each row's truth."""

    rows: Sequence[Mapping[str, JsonValue]]
    column: str | None = None
    labels: tuple[Label, ...] | None = None
    task: str | None = None


def _truth(
    root: Path, header: list[str], rows: list[Mapping[str, str]], path: Path, asked: str | None
) -> _Truth | None:
    """The truths of a manifest's cases: label files, other images, or classes; None where it tells none.

    Raises:
        BadDataset: Nobody says what is asked, and its columns tell of several.
    """
    if asked is None:
        refuse_ambiguous(path, _candidates(root, header, rows))
    label = column(header, LABEL)
    targeted = asked in ASKED_TARGETS or (asked is None and label is None)
    if targeted and TARGET in header and _name_files(root, rows, TARGET):
        return _Truth(_named_by(root, rows, TARGET, path, TARGET), TARGET, (), "restoration")
    masks = label is not None and (asked == "segmentation" or _name_files(root, rows, label))
    if label is not None and masks and asked != "classification":
        return _Truth(_named_by(root, rows, label, path, TRUTH), label)
    words = next((name for name in (*classes.ONE, *classes.ANY) if name in header), None)
    if words is not None and asked != "segmentation" and not _name_files(root, rows, words):
        said = classes.of_words([row[words] for row in rows], words)
        needed = words if classes.CLASS in said.truths[0] else None
        return _Truth(said.truths, needed, said.labels, "classification")
    yes = [n for n in _others(header) if classes.answers_yes_or_no(row[n] for row in rows)]
    if yes and asked != "segmentation":
        said = classes.of_columns(yes, rows, path)
        return _Truth(said.truths, None, said.labels, "classification")
    return None


def _candidates(root: Path, header: list[str], rows: list[Mapping[str, str]]) -> dict[str, str]:
    """What may be asked of a manifest's cases, with the column that speaks for it."""
    named = [name for name in (*LABEL, TARGET) if name in header and _name_files(root, rows, name)]
    words = [name for name in (*classes.ONE, *classes.ANY) if name in header and name not in named]
    found = {"restoration" if name == TARGET else "segmentation": f"column '{name}'" for name in named}
    return {**found, **({"classification": f"column '{words[0]}'"} if words else {})}


def _named_by(
    root: Path, rows: list[Mapping[str, str]], name: str, path: Path, key: str
) -> list[dict[str, JsonValue]]:
    """Truths that name the files of a column."""
    return [{} if (file := _file(root, row[name], path)) is None else {key: file} for row in rows]


def _name_files(root: Path, rows: list[Mapping[str, str]], name: str) -> bool:
    """Whether a column holds the names of files, judged by what it holds most."""
    said = [row[name] for row in rows if row[name].lower() not in _EMPTY]
    return bool(said) and 2 * sum(_is_file(root, text) for text in said) > len(said)


def _is_file(root: Path, text: str) -> bool:
    return bool(suffix(text)) or "::" in text or ("/" in text and (root / text).exists())


def _others(header: list[str]) -> list[str]:
    taken = {*ABOUT, *_image_columns(header)}
    return [name for name in header if name not in taken]


def _cases(
    root: Path,
    header: list[str],
    rows: list[Mapping[str, str]],
    columns: list[str],
    path: Path,
    truth: _Truth | None,
) -> list[Case]:
    identity, (patient, group, split) = (
        column(header, IDENTITY),
        (column(header, names) for names in (PATIENT, GROUP, SPLIT)),
    )
    files = _placed(root, [tuple(_file(root, row[name], path) for name in columns) for row in rows])
    names = [row[identity] for row in rows] if identity else _named(files, path)
    only = columns[0] if len(columns) == 1 else None
    asked = truth.column if truth else None
    _refuse_empty(rows, [name for name in (identity, asked, patient, only) if name], path)
    shown = _named_by(root, rows, ANATOMY, path, ANATOMY) if ANATOMY in header else [{} for _ in rows]
    return [
        case(
            name,
            inputs,
            None,
            where=path,
            patient=said_of(row, patient),
            group=said_of(row, group),
            split=said_of(row, split),
        ).changed(truth={**(truth.rows[place] if truth else {}), **shown[place]})
        for place, (name, inputs, row) in enumerate(zip(names, files, rows, strict=True))
    ]


def _placed(root: Path, files: list[tuple[str | None, ...]]) -> list[tuple[str | None, ...]]:
    """Files as they lie: where none is where the manifest says, those of `images/` of these names."""
    named = [file for inputs in files for file in inputs if file]
    inner = folders(root).get("images")
    if inner is None or any((root / file.partition("::")[0]).exists() for file in named[:3]):
        return files
    shown = sources(root, inner, series=False)
    return [tuple(file and shown.get(stem(file), file) for file in inputs) for inputs in files]


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
    several = [name for name in header if re.fullmatch(r"image_\w+", name) and name not in FILES]
    if several:
        return {name: name.removeprefix("image_") for name in several}
    only = column(header, FILES)
    return {} if only is None else {only: "image"}


def _missing(name: str, header: list[str], path: Path) -> BadDataset:
    return BadDataset(
        f"there is no column '{name}'.", where=path, cure=f"Rename or add it. {suggestion(name, header)}"
    )


def _without_truth(header: list[str], path: Path, asked: str | None) -> BadDataset:
    """What is missing of a manifest that names images alone; some tasks are asked about such."""
    fault = _missing("label", header, path)
    return fault if asked else BadDataset(fault.what, where=path, cure=f"{fault.cure} {SAY_TASK}")
