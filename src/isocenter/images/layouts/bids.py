"""BIDS with derivatives: `sub-01/anat/sub-01_T1w.nii.gz`, labels below `derivatives/<pipeline>/sub-01/`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from isocenter.errors import BadDataset
from isocenter.images.formats.delimited import table
from isocenter.images.layouts import keyed, manifest
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft
from isocenter.images.layouts.listing import entries, folders, read_json, sources

_STILL = {"anat", "ct", "pet", "xray", "micr", "us", "mr"}
"""Data types that hold still images; the others hold series and signals."""

_NAME = re.compile(r"(?P<case>sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)_(?P<key>.+)", re.S)


def recognises(root: Path) -> bool:
    """Whether the folder has subjects and a derivatives folder, or says that it is BIDS."""
    names = folders(root)
    subjects = any(name.startswith("sub-") for name in names)
    return subjects and ("derivatives" in names or (root / "dataset_description.json").is_file())


def read(root: Path, said: Declaration) -> Draft:
    """The still images of each subject and session, with the labels of its derivatives.

    `participants.tsv` gives `site`, `scanner` or `group` and `split`; a `dseg.tsv` beside the derivatives
    names label values. Patients are subjects, so that sessions stay together.

    Raises:
        BadDataset: No labels are found, or several files could be the labels.
    """
    raw = _files(root, _subjects(root), _STILL)
    pipelines = (
        [f"derivatives/{name}" for name in folders(root / "derivatives").values()] if _derived(root) else []
    )
    derived: dict[str, dict[str, str]] = {}
    for place in ["derivatives", *pipelines] if pipelines else []:
        for case_id, found in _files(root, _subjects(root, place), None).items():
            truths = {key: file for key, file in found.items() if keyed.TRUTHS.search(key)}
            derived.setdefault(case_id, {}).update(truths)
    people = _participants(root)
    subjects = {}
    for case_id, found in raw.items():
        patient = case_id.split("_")[0]
        group, split = people.get(patient, (None, None))
        subjects[case_id] = keyed.Subject(found, derived.get(case_id, {}), patient, group, split)
    about = (
        read_json(root / "dataset_description.json") if (root / "dataset_description.json").is_file() else {}
    )
    draft = keyed.draft(root, "bids", subjects, said)
    return replace(
        draft,
        name=str(about.get("Name") or root.name),
        reference=str(about.get("Reference") or about.get("HowToAcknowledge") or ""),
        licence=str(about.get("Licence") or about.get("License") or ""),
        hints={**draft.hints, **_names(root, pipelines)},
    )


def _derived(root: Path) -> bool:
    return (root / "derivatives").is_dir()


def _subjects(root: Path, place: str = ".") -> list[str]:
    return [f"{place}/{name}" for name in folders(root / place).values() if name.startswith("sub-")]


def _files(root: Path, subjects: list[str], kinds: set[str] | None) -> dict[str, dict[str, str]]:
    """Each case's images by key, one folder of a data type after the other."""
    found: dict[str, dict[str, str]] = {}
    for folder in (place for subject in subjects for place in _places(root, subject, kinds)):
        for name, file in sources(root, folder, series=False).items():
            if matched := _NAME.fullmatch(name):
                found.setdefault(matched["case"], {})[matched["key"]] = file
    return found


def _places(root: Path, subject: str, kinds: set[str] | None) -> Iterator[str]:
    """The folders of a subject and its sessions that may hold images: those of the data types, or any."""
    below = folders(root / subject).values()
    sessions = [f"{subject}/{name}" for name in below if name.startswith("ses-")]
    for place in [subject, *sessions]:
        if kinds is None:
            yield place
        for name in folders(root / place).values():
            if name.lower() in (kinds or _STILL):
                yield f"{place}/{name}"


def _participants(root: Path) -> dict[str, tuple[str | None, str | None]]:
    """Group and split of each participant."""
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    header, rows = table(path)
    if "participant_id" not in header:
        raise BadDataset("there is no column 'participant_id'.", where=path, cure="BIDS requires it; add it.")
    group, split = manifest.column(header, manifest.GROUP), manifest.column(header, manifest.SPLIT)
    return {
        row["participant_id"]: (manifest.said_of(row, group), manifest.said_of(row, split)) for row in rows
    }


def _names(root: Path, pipelines: list[str]) -> dict[str, str]:
    """Names of label values from the first `dseg.tsv` of the derivatives."""
    for place in pipelines:
        for entry in entries(root / place):
            if entry.name.endswith("dseg.tsv"):
                header, rows = table(Path(entry.path))
                if {"index", "name"} <= set(header):
                    return {row["index"]: row["name"] for row in rows}
    return {}
