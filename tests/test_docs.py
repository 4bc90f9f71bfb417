"""What the pages say is so: their examples run, their commands parse, their links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import isocenter
from isocenter import cli
from isocenter.images.layouts.declaration import Declaration

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
QUICK = {"15m": "1 epochs"}


def blocks(kind: str, *, marked: bool) -> Iterator[tuple[str, str]]:
    """Each fenced block of a kind with its place; with `marked` only those that follow `<!-- run -->`."""
    fence = re.compile(r"(<!-- run -->\n)?```" + kind + r"\n(.*?)```", re.S)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in fence.finditer(text):
            if found[1] or not marked:
                line = text[: found.start()].count("\n") + 1
                yield f"{page.relative_to(ROOT).as_posix()}:{line}", found[2]


def commands(block: str) -> Iterator[list[str]]:
    """The words after `isocenter` of each line, comments left out."""
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["isocenter"]:
            yield words[1:]


def marked(kind: str) -> list[object]:
    return [pytest.param(block, id=place) for place, block in blocks(kind, marked=True)]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small dataset `hippocampus` and an image `scan.nii.gz`, as on the pages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    write_dataset(tmp_path / "hippocampus")
    scan = tmp_path / "hippocampus" / "imagesTr" / "case_0.nii.gz"
    (tmp_path / "scan.nii.gz").write_bytes(scan.read_bytes())
    return tmp_path


def write_dataset(folder: Path, cases: int = 6) -> None:
    """Two balls, one brighter than the other, in the layout of the Medical Segmentation Decathlon."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (20, 22, 18)], indexing="ij"))
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(cases):
        label = np.zeros((20, 22, 18), np.uint8)
        for value, centre in ((1, (7, 11, 9)), (2, (13, 11, 9))):
            moved = np.array(centre) + rng.normal(0, 0.7, 3)
            distance = np.sqrt(((grid - moved[:, None, None, None]) ** 2).sum(0))
            label[distance < 3.5] = value
        image = (100 * label + rng.normal(0, 15, label.shape) + 50).astype(np.float32)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / part / f"case_{number}.nii.gz")
    pairs = [
        {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
        for number in range(cases)
    ]
    content = {
        "name": "Hippocampus",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": cases,
        "training": pairs,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("block", marked("console"))
def test_the_commands_of_the_pages_work(
    block: str, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(block):
        assert cli.main([QUICK.get(word, word) for word in words]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", marked("python"))
def test_the_python_of_the_pages_works(block: str, at_home: Path) -> None:
    for slow, quick in QUICK.items():
        block = block.replace(f'"{slow}"', f'"{quick}"')
    exec(compile(block, "page", "exec"), {})  # the project's own pages


def test_the_declaration_on_the_page_of_segmentation_is_followed(at_home: Path) -> None:
    ((_, block),) = [each for each in blocks("json", marked=False) if "regions_class_order" in each[1]]
    (at_home / "hippocampus" / "isocenter.json").write_text(block, encoding="utf-8")
    dataset = isocenter.open(at_home / "hippocampus")
    assert [channel.name for channel in dataset.channels] == ["T1"]
    assert {label.name: label.values for label in dataset.labels} == {"whole": (1, 2), "posterior": (2,)}
    assert (dataset.regions, dataset.paint, dataset.ignore) == (True, (1, 2), 3)
    assert {case.patient for case in dataset.cases} == {f"case_{number}" for number in range(6)}


def test_every_key_of_the_declaration_is_on_the_page() -> None:
    text = (ROOT / "docs" / "segmentation.md").read_text(encoding="utf-8")
    assert [key for key in Declaration.model_fields if f"`{key}`" not in text] == []


@pytest.mark.parametrize(("place", "block"), list(blocks("console", marked=False)))
def test_every_command_on_a_page_exists_with_its_options(place: str, block: str) -> None:
    for words in commands(block):
        cli.app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(("place", "block"), list(blocks("python", marked=False)))
def test_every_piece_of_python_on_a_page_can_be_parsed(place: str, block: str) -> None:
    compile(block, place, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text):
        there = page if not target else page.parent / target
        assert there.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for group in (
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ):
        wanted += group
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for requirement in wanted:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", text), name


def test_what_is_imported_is_required_and_the_reverse() -> None:
    """Every third-party module of the source is a core dependency or an extra, and none is idle."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    modules = {
        "pillow": "PIL",
        "scikit-image": "skimage",
        "connected-components-3d": "cc3d",
    }
    names = [re.split(r"[<>=\[]", requirement)[0] for requirement in project["dependencies"]]
    required = {modules.get(name, name) for name in names}
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"isocenter"}
    assert required <= third_party
    assert third_party - required <= {"ray", "highdicom"}  # of the extras `cluster` and `dicom`


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {line.split("==")[0].lower() for line in pins.splitlines() if "==" in line}
    assert {re.split(r"[<>=\[]", requirement)[0].lower().replace("_", "-") for requirement in wanted} <= {
        name.replace("_", "-") for name in pinned
    }


def test_the_page_of_systems_is_what_its_command_writes() -> None:
    path = ROOT / "benchmarks" / "systems.py"
    spec = importlib.util.spec_from_file_location("systems", path)
    assert spec is not None
    assert spec.loader is not None
    systems = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(systems)
    stored = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    assert stored == systems.page(), "run: python benchmarks/systems.py"


def rooms_of(folder: Path) -> set[str]:
    """Its modules and packages."""
    there = {
        path.name for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    return there - {"__init__.py"}


def test_the_house_stands_as_it_is_drawn() -> None:
    """The picture shows every room, every stage of the pipeline, every room of the parts, nothing else."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text[text.index("src/isocenter/\n") : text.index("## Imports")]
    source = ROOT / "src" / "isocenter"
    rooms = set(re.findall(r"^├── (\w+(?:\.py|/))|^└── (\w+(?:\.py|/))", picture, re.M))
    named = {"".join(pair).rstrip("/") for pair in rooms}
    assert named - {"__init__.py"} == rooms_of(source) - {"__main__.py"}
    stages = re.findall(r"^│   [├└]── (\w+(?:\.py|/)) ", picture[: picture.index("compute.py")], re.M)
    assert {stage.rstrip("/") for stage in stages} == rooms_of(source / "pipeline")
    parts = picture[picture.index("├── parts/") : picture.index("├── images/")]
    folders = {name for name in rooms_of(source / "parts") if not name.endswith(".py")}
    assert set(re.findall(r" (\w+)/", parts)) - {"parts"} == folders


def test_the_eight_files_of_the_walk_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walk = re.findall(r"^\d\. `(.*?)`", text, re.M)
    assert len(walk) == 8
    for file in walk:
        assert (ROOT / "src" / "isocenter" / file).is_file(), file
