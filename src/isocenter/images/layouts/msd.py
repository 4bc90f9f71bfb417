"""Medical Segmentation Decathlon (and MONAI's datalists): `dataset.json` lists each image with its label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case, channels
from isocenter.images.layouts.labels import declared
from isocenter.images.layouts.listing import confined, names_of, read_json
from isocenter.records import Case

FILE = "dataset.json"

_SPLITS = ("training", "validation", "test")


def recognises(root: Path) -> bool:
    """Whether the folder holds a `dataset.json` with a list of training images."""
    return (root / FILE).is_file() and isinstance(read_json(root / FILE).get("training"), list)


def read(root: Path, said: Declaration) -> Draft:
    """The dataset that `dataset.json` lists. Entries without a label are left out.

    The order of a file's channels is that of `modality`. Where an image is not there under its own name but
    as `name_0000` ... (nnU-Net v1's renaming), those files are its channels.

    Raises:
        BadDataset: The file contradicts itself or names files outside the folder.
    """
    path = root / FILE
    content = read_json(path)
    names = _names(content.get("modality", content.get("channel_names")), path)
    labels, ignore = declared(_object(content, "labels", path), path) if "labels" in content else (None, None)
    return Draft(
        name=str(content.get("name") or root.name),
        root=root,
        layout="msd",
        channels=channels(names, path) if names else None,
        labels=labels,
        ignore=ignore,
        cases=tuple(_cases(root, content, len(names), path)),
        reference=str(content.get("reference") or ""),
        licence=str(content.get("licence") or content.get("license") or ""),
    )


def _cases(root: Path, content: Mapping[str, Any], count: int, path: Path) -> list[Case]:
    official = bool(content.get("validation")) or any(
        _has_label(entry) for entry in content.get("test") or []
    )
    listed = [
        (split if official else None, entry) for split in _SPLITS for entry in _entries(content, split, path)
    ]
    truths = [confined(root, entry["label"], path) for _, entry in listed]
    return [
        _case(root, name, entry, truth, split=split, count=count, path=path)
        for name, truth, (split, entry) in zip(names_of(truths), truths, listed, strict=True)
    ]


def _entries(content: Mapping[str, Any], split: str, path: Path) -> list[Mapping[str, Any]]:
    """The entries of one split that have a label, as those for training must."""
    listed = content.get(split) or []
    if not isinstance(listed, list):
        raise BadDataset(f"'{split}' is not a list.", where=path, cure="Mend or rewrite the file.")
    bare = [entry for entry in listed if not _has_label(entry)]
    if bare and split == "training":
        raise BadDataset(
            f"'training' holds {bare[0]!r}.", where=path, cure='Write {"image": "...", "label": "..."}.'
        )
    return [entry for entry in listed if _has_label(entry)]


def _has_label(entry: object) -> bool:
    return isinstance(entry, Mapping) and "image" in entry and "label" in entry


def _case(
    root: Path, name: str, entry: Mapping[str, Any], truth: str, *, split: str | None, count: int, path: Path
) -> Case:
    written = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    files = tuple(confined(root, file, path) for file in written)
    patient, group = entry.get("patient"), entry.get("group", entry.get("site"))
    return case(
        name,
        _renamed(root, files, count),
        truth,
        where=path,
        patient=None if patient is None else str(patient),
        group=None if group is None else str(group),
        split=split,
    )


def _renamed(root: Path, files: tuple[str, ...], count: int) -> tuple[str, ...]:
    """nnU-Net v1's `name_0000` files in place of a listed file that is not there."""
    if len(files) != 1 or (root / files[0]).exists():
        return files
    stem = images.stem(Path(files[0]))
    suffix = Path(files[0]).name[len(stem) :]
    numbered = tuple(
        Path(files[0]).with_name(f"{stem}_{place:04d}{suffix}").as_posix() for place in range(max(1, count))
    )
    return numbered if (root / numbered[0]).exists() else files


def _names(listed: object, path: Path) -> list[str]:
    """Channel names, from `{"0": "MRI"}` or a list; none when they are not given."""
    if listed is None:
        return []
    if isinstance(listed, Mapping):
        if not all(str(key).isdigit() for key in listed):
            raise BadDataset(
                f"channels are numbered, not {list(listed)}.", where=path, cure='Write {"0": "CT"}.'
            )
        return [str(listed[key]) for key in sorted(listed, key=int)]
    return [str(name) for name in listed] if isinstance(listed, list) else [str(listed)]


def _object(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = content[key]
    if not isinstance(value, Mapping):
        raise BadDataset(
            f"'{key}' is not an object.", where=path, cure='Write {"0": "background", "1": "name"}.'
        )
    return value
