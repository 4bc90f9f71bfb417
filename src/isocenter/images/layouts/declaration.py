"""`isocenter.json`: what a person says of a folder that does not say it itself; small, and optional.

```json
{"objects": "nucleus", "channels": ["red", "green", "blue"], "patient": "^(\\\\w+)_slice"}
```

It lies in the dataset's folder, or anywhere else and names the folder as `root`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator, model_validator

from isocenter.errors import BadDataset, BadPlan
from isocenter.images.layouts.draft import Draft, channels, label_files
from isocenter.images.layouts.labels import declared, painted
from isocenter.records import Case, Label, Record

FILE = "isocenter.json"


class Declaration(Record):
    """The keys of `isocenter.json`; what it says goes before what the layout says."""

    root: str | None = None
    """The dataset's folder, relative to this file, when the file lies elsewhere."""
    name: str | None = None
    task: str | None = None
    channels: tuple[str, ...] | None = None
    """Names of the input channels; in BIDS and case folders also which files they are."""
    labels: dict[str, int | list[int]] | None = None
    """Structures and their values, as in nnU-Net's dataset.json."""
    regions_class_order: tuple[int, ...] | None = None
    """For overlapping labels: the value to be saved for each."""
    ignore: int | None = None
    """The value of voxels that are not judged."""
    anatomy: dict[str, int | list[int]] | None = None
    """Regions of the body and their values in the label images of the anatomy."""
    objects: str | None = None
    """What the label files number, when they number single objects; any value above zero is one."""
    truth: str | None = None
    """In BIDS and case folders: which file holds the labels, as `label-lesion_mask`."""
    patient: str | None = None
    """A regular expression over the case id; its first group, or the whole match, is the patient."""

    @field_validator("patient")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        return pattern

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if self.objects is not None and self.labels is not None:
            raise ValueError("give either labels or objects")
        return self


def read(path: Path) -> Declaration:
    """The declaration at `path`, empty when there is none.

    Raises:
        BadDataset: It is unreadable, or a key is unknown or wrong.
    """
    if not path.exists():
        return Declaration()
    try:
        return Declaration.load(path)
    except BadPlan as error:
        raise BadDataset(error.what, where=path, cure=error.cure or "Correct the file.") from error


def applied(draft: Draft, said: Declaration) -> Draft:
    """The draft with what the declaration says put before what the layout says.

    Raises:
        BadDataset: The declared labels contradict themselves, or the pattern misses a case.
    """
    where = draft.root / FILE
    changes: dict[str, Any] = {}
    if said.name:
        changes["name"] = said.name
    if said.channels is not None:
        changes["channels"] = channels(list(said.channels), where)
    if said.objects is not None:
        changes |= {"labels": (Label(name=said.objects, values=(1,)),), "paint": (), "ignore": None}
        changes["objects"] = True
    if said.labels is not None and any(label_files(case) for case in draft.cases):  # values in label files
        labels, ignore = declared(said.labels, where)
        changes |= {"labels": labels, "ignore": ignore}
        changes["paint"] = painted(labels, said.regions_class_order, where)
    if said.ignore is not None:
        changes["ignore"] = said.ignore
    if said.anatomy is not None:
        changes["anatomy"] = declared(said.anatomy, where)[0]
    if said.patient is not None:
        changes["cases"] = tuple(_with_patient(case, said.patient, where) for case in draft.cases)
    return Draft(**{**vars(draft), **changes})


def _with_patient(case: Case, pattern: str, where: Path) -> Case:
    found = re.search(pattern, case.id)
    name = found and (found[1] if found.re.groups else found[0])
    if not name:
        raise BadDataset(
            f"'patient' finds nothing in the case id '{case.id}'.",
            where=where,
            cure="Change the expression so that it matches every case.",
        )
    return case.model_copy(update={"patient": name})
