"""Bags and slides: a manifest that names them, a table of instances, or a data set of the MIL toolbox.

| file | what it says |
|---|---|
| `.csv` with a column `bag` or `slide` of files | one case a row, as other manifests: `id`, `label`, `patient`, `group`, `split`; `regions` may name GeoJSON that shows where the class is |
| `.csv` with a column `bag` of names | one instance a row, see `images/formats/bags.py` |
| `.mat` | many bags with their classes |
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isocenter.errors import BadDataset, IsocenterError
from isocenter.images.formats import bags
from isocenter.images.formats.delimited import table
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import FEATURES, Draft, case
from isocenter.images.layouts.listing import confined, entries
from isocenter.images.layouts.manifest import GROUP, IDENTITY, PATIENT, SPLIT, column, said_of
from isocenter.records import Case, Channel, Label

BAG, SLIDE, REGIONS = "bag", "slide", "regions"
CLASS = "class"
"""The key of a case's truth that holds its class."""

TOOLBOX = ".mat"
_TABLES = (".csv", ".tsv")
_COLOURS = tuple(Channel(name=name, modality="colour") for name in ("red", "green", "blue"))
_NUMBERS: tuple[Channel, ...] = (Channel(name=FEATURES, modality=FEATURES),)


def recognises(root: Path) -> bool:
    """Whether the folder holds one file that tells of bags or slides."""
    return _file(root) is not None


def tells(path: Path) -> bool:
    """Whether a file tells of bags or slides."""
    if path.suffix.lower() == TOOLBOX:
        return True
    if path.suffix.lower() not in _TABLES:
        return False
    try:
        header, _ = table(path)
    except IsocenterError:
        return False
    return BAG in header or SLIDE in header


def _file(root: Path) -> Path | None:
    found = [Path(entry.path) for entry in entries(root)]
    told = [path for path in found if path.is_file() and tells(path)]
    named = [path for path in told if path.stem.lower() == "manifest"]
    fitting = named or told
    return fitting[0] if len(fitting) == 1 else None


def read(root: Path, said: Declaration, path: Path | None = None) -> Draft:
    """The dataset of bags or slides that a file tells of.

    Raises:
        BadDataset: A class, a column or a file is missing.
        UnreadableFile: The file is damaged.
    """
    path = path or _file(root)
    if path is None:
        raise BadDataset("there is no table of bags or slides.", where=root, cure="Name the file itself.")
    if path.suffix.lower() == TOOLBOX or not _names_files(root, path):
        cases, channels = _of_instances(root, path), _NUMBERS
    else:
        cases, channels = _of_manifest(root, path)
    words = [str(one.truth[CLASS][0]) for one in cases if CLASS in one.truth]  # type: ignore[index]  # a list
    return Draft(
        name=path.stem if path.stem.lower() != "manifest" else root.name,
        root=root,
        layout="bags",
        cases=tuple(cases),
        channels=channels,
        labels=tuple(Label(name=word, values=(at,)) for at, word in enumerate(sorted(set(words)), start=1)),
        task="mil",
    )


def _names_files(root: Path, path: Path) -> bool:
    """Whether a table's column names files, rather than the bags of its own rows."""
    header, rows = table(path)
    return SLIDE in header or (root / rows[0][BAG].partition("::")[0]).is_file()


def _of_instances(root: Path, path: Path) -> list[Case]:
    file = path.relative_to(root).as_posix()
    return [
        case(name, (f"{file}::{name}",), None, where=path).changed(
            truth={} if one.label is None else {CLASS: [one.label]}
        )
        for name, one in bags.several(path).items()
    ]


def _of_manifest(root: Path, path: Path) -> tuple[list[Case], tuple[Channel, ...]]:
    header, rows = table(path)
    kind = SLIDE if SLIDE in header else BAG
    label = column(header, bags.CLASSES)
    if label is None:
        raise BadDataset("there is no column 'label'.", where=path, cure="Name each case's class there.")
    identity = column(header, IDENTITY)
    cases = []
    for row in rows:
        source = row[kind]
        file, mark, member = source.partition("::")
        source = confined(root, file, path, absolute=True) + mark + member
        name = row[identity] if identity else bags.called(source)
        cases.append(_case(name, source, row, header, label, root, path))
    return cases, _COLOURS if kind == SLIDE else _NUMBERS


def _case(
    name: str, source: str, row: Mapping[str, str], header: list[str], label: str, root: Path, path: Path
) -> Case:
    patient, group, split = (said_of(row, column(header, names)) for names in (PATIENT, GROUP, SPLIT))
    one = case(name, (source,), None, where=path, patient=patient, group=group, split=split)
    truth: dict[str, object] = {}
    if said_of(row, label) is not None:
        truth[CLASS] = [row[label]]
    if REGIONS in header and said_of(row, REGIONS) is not None:
        truth[REGIONS] = confined(root, row[REGIONS], path, absolute=True)
    return one.changed(truth=truth)
