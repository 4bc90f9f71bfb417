"""What counts as an image, how it is called, and where images lie below a folder. Loads no heavy library."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile

# Longest first, so that `.nii.gz` is taken before `.gz` could be.
FORMATS = {
    ".ome.tiff": "tiff",
    ".ome.tif": "tiff",
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".hdr": "nifti",
    ".img": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".dcm": "dicom",
    ".ima": "dicom",
    ".png": "raster",
    ".jpeg": "raster",
    ".jpg": "raster",
    ".tiff": "tiff",
    ".tif": "tiff",
}
SUFFIXES: tuple[str, ...] = tuple(FORMATS)
SIGNALS = (".csv", ".tsv", ".txt")
"""What signals over time may be called; so are many other tables, so that only their content tells."""
ARCHIVE = ".npz"
"""Holds many images; each is named as `x.npz::train/12`."""


def suffix(source: str | Path) -> str:
    """The image suffix of a name in lower case, `.nii.gz` whole; empty where there is none."""
    name = _file(source).name.lower()
    return next((known for known in SUFFIXES if name.endswith(known) and name != known), "")


def stem(source: str | Path) -> str:
    """The name without folder and the suffix of images or signals; a DICOM series `folder::UID` is called
    `folder_UID`, an image of an archive `x.npz::train/12` is `train_12`."""
    path, uid = split_series(source)
    name = path.name or path.resolve().name
    if uid is not None and is_member(path, uid):
        return uid.replace("/", "_")
    if uid is not None:
        return f"{name}_{uid}"
    known = suffix(path) or next((own for own in SIGNALS if name.lower().endswith(own) and name != own), "")
    return name[: len(name) - len(known)]


def split_series(source: str | Path) -> tuple[Path, str | None]:
    """The path and, for `folder::SeriesUID`, the series; for `x.npz::train/12`, the image inside."""
    text = str(source)
    folder, mark, uid = text.rpartition("::")
    named = re.fullmatch(r"[0-9.]{1,64}", uid) or is_member(Path(folder), uid)
    if mark and named and not os.path.lexists(text):
        return Path(folder), uid
    return Path(text), None


def is_member(path: Path, name: str) -> bool:
    """Whether this names one image inside an archive: `train/12` of a `.npz`."""
    return path.suffix.lower() == ARCHIVE and re.fullmatch(r"(train|val|test)/[0-9]+", name) is not None


def holds_several(source: str | Path) -> bool:
    """Whether this is an archive of images, `x.npz`, or one part of it, `x.npz::test`."""
    return _archived(source) is not None


def _archived(source: str | Path) -> tuple[Path, str | None] | None:
    """An archive and the part that is meant; None for anything else."""
    found = re.fullmatch(r"(.+\.npz)(?:::(train|val|test))?", str(source), re.IGNORECASE | re.DOTALL)
    return None if found is None or not Path(found[1]).is_file() else (Path(found[1]), found[2])


def identify(source: str | Path) -> str:
    """The module of `formats` that reads this source: by its suffix, else by its first bytes.

    Raises:
        UnreadableFile: The source is absent, closed to us, or of no known kind.
    """
    path, uid = split_series(source)
    if uid is not None and is_member(path, uid):
        return "archive"
    if uid is not None or path.is_dir():
        return "dicom"
    known = suffix(path)
    if known:
        return FORMATS[known]
    if _signals_inside(path):
        return "signals"
    if _dicom_inside(path):
        return "dicom"
    raise UnreadableFile(
        "this kind of file is not known." if path.exists() else "there is no such file or folder.",
        where=source,
        cure=f"Readable are {', '.join(sorted(SUFFIXES))} and folders of DICOM." if path.exists() else "",
    )


def is_source(path: str | Path) -> bool:
    """Whether this looks like something that `read` takes: a named file, a DICOM file or folder, a series."""
    place, uid = split_series(path)
    if uid is not None:
        return place.is_file() if is_member(place, uid) else place.is_dir()
    if place.is_dir():
        return any(_is_dicom(file) for file in _listing(place) if file.is_file())
    return place.is_file() and not place.name.startswith(".") and (bool(suffix(place)) or _is_dicom(place))


def find(folder: str | Path) -> list[str]:
    """All readable sources below a folder, sorted; a DICOM series is one source, and so is every image of an
    archive that is named itself.

    A folder that holds one series gives its own path, one that holds several gives `folder::UID` for each,
    or the file where a series has one file only. A DICOM Segmentation is a source by itself, unless it lies
    among the images of a series.
    Links to folders are followed once; hidden files are left out. A folder is a folder whatever it is called;
    one that is called like an image and holds none is warned of.

    Raises:
        UnreadableFile: The folder is absent, a folder below it is closed to us, or a link leads nowhere.
    """
    archived = _archived(folder)
    if archived is not None:
        from isocenter.images.formats import archive

        return [f"{archived[0]}::{member}" for member in archive.members(*archived)]
    root = Path(folder)
    if not root.is_dir():
        raise UnreadableFile("there is no such folder.", where=folder)
    found: list[str] = []
    doubtful: list[Path] = []
    for place in _folders(root):
        files = _files(place, SUFFIXES)
        dicom = [file for file in files if _is_dicom(file)]
        found += [str(file) for file in _single_files(files)]
        found += _series(place, dicom)
        doubtful += [place] if suffix(place) and place != root else []
    _tell_empty(doubtful, found)
    return sorted(found, key=_natural)


def find_signals(folder: str | Path) -> list[str]:
    """All tables of signals below a folder, sorted; hidden files are left out.

    Raises:
        UnreadableFile: The folder is absent, a folder below it is closed to us, or a link leads nowhere.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UnreadableFile("there is no such folder.", where=folder)
    files = [file for place in _folders(root) for file in _files(place, SIGNALS)]
    return sorted((str(file) for file in files if _signals_inside(file)), key=_natural)


def reachable(path: Path, fault: type[IsocenterError] = UnreadableFile) -> None:
    """Refuse a file or folder that cannot be reached, in the words of `fault`: a link that leads nowhere or
    in a circle, one behind a closed folder."""
    try:
        path.stat()
    except OSError as error:
        what, cure = cause_of(error, path)
        raise fault(what, where=path, cure=cure) from error


def cause_of(error: OSError, path: Path) -> tuple[str, str]:
    """What an operating-system error about a file or folder amounts to, and the cure."""
    if error.errno == errno.ENOENT and path.is_symlink():
        return "a symbolic link that leads nowhere.", "Remove or mend the link."
    causes = {
        errno.EACCES: ("no permission to read it.", "Change its permissions, or run as its owner."),
        errno.EPERM: ("no permission to read it.", "Change its permissions, or run as its owner."),
        errno.ELOOP: ("a symbolic link that leads in a circle.", "Remove or mend the link."),
        errno.ENOENT: ("does not exist.", "Check the path."),
        errno.ENOTDIR: ("is not a folder.", "Check the path."),
        errno.ENAMETOOLONG: ("the path is too long.", "Shorten it."),
    }
    return causes.get(error.errno or 0, (str(error.strerror or error), "Check the disk and the path."))


def _signals_inside(file: Path) -> bool:
    if file.suffix.lower() not in SIGNALS or not file.is_file():
        return False
    from isocenter.images.formats import signals

    return signals.is_signals(file)


def _series(folder: Path, files: list[Path]) -> list[str]:
    if not files:
        return []
    from isocenter.images.formats import dicom

    found, segmentations = dicom.series(files)
    if segmentations:
        return [str(file) for file in segmentations]
    if len(found) == 1:
        return [str(folder)]
    # A picture that is a series by itself, as X-rays are, is called by its file.
    return [str(own[0]) if len(own) == 1 else f"{folder}::{uid}" for uid, own in found.items()]


def _single_files(files: Iterable[Path]) -> list[Path]:
    """Files that are images by themselves: of a pair `.hdr` and `.img` only the header."""
    names = {file.name.lower() for file in files}
    kept = []
    for file in files:
        known = suffix(file)
        partner = {".img": ".hdr", ".hdr": ".img"}.get(known)
        paired = partner is not None and stem(file).lower() + partner in names
        if known and FORMATS[known] != "dicom" and not (known == ".img" and paired):
            if known == ".hdr" and not paired:
                continue
            kept.append(file)
    return kept


def _folders(root: Path) -> Iterable[Path]:
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        true_path = os.path.realpath(place)
        if true_path in seen:
            continue
        seen.add(true_path)
        yield place
        waiting += [below for below in _listing(place) if below.is_dir() and not below.name.startswith(".")]


def _files(folder: Path, wanted: Sequence[str]) -> list[Path]:
    """The visible files of a folder itself.

    Raises:
        UnreadableFile: A link that may be an image, or bears one of the wanted suffixes, leads nowhere.
    """
    files = []
    for entry in _listing(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            files.append(entry)
        elif _bare(entry) or entry.name.lower().endswith(tuple(wanted)):
            reachable(entry)
    return files


def _tell_empty(folders: Iterable[Path], found: Iterable[str]) -> None:
    """Warn of folders that are called like images, and hold none."""
    for folder in folders:
        if not any(_file(source).is_relative_to(folder) for source in found):
            warnings.warn(
                f"{folder}: is a folder, though it is called like an image, and holds none.",
                IsocenterWarning,
                stacklevel=3,
            )


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UnreadableFile(
            f"the folder cannot be listed ({error.strerror}).", where=folder, cure="Check its permissions."
        ) from error


def _is_dicom(path: Path) -> bool:
    known = suffix(path)
    if known:
        return FORMATS[known] == "dicom"
    return _bare(path) and not path.name.startswith(".") and _dicom_inside(path)


def _bare(path: Path) -> bool:
    """Whether the name has no suffix: DICOM files are often called by a UID or a number."""
    return path.suffix == "" or path.suffix[1:].isdigit()


def _dicom_inside(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _file(source: str | Path) -> Path:
    return split_series(source)[0]


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts `case_2` before `case_10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text)]
