"""What is imported when, and what no file of the project may contain."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "isocenter"
HEAVY = ("torch", "scipy", "skimage", "sklearn", "nibabel", "pydicom", "matplotlib", "pandas")


def imported(statements: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after the statements."""
    script = f"import sys\n{statements}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "statements",
    [
        "import isocenter",
        "import isocenter.images",
        "import isocenter.tasks",
        "import isocenter.pipeline",
        "import isocenter.records",
        "from isocenter.cli import main; main(['--help'])",
        "from isocenter.cli import main; main(['train', '--help'])",
        "from isocenter.cli import main; main(['methods'])",
        "from isocenter.cli import main; main(['methods', '--json'])",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statements: str) -> None:
    assert imported(statements).isdisjoint(HEAVY)


@pytest.mark.parametrize("words", ["[]", "['--help']", "['train', '--help']", "['trian']"])
def test_help_does_not_even_load_the_records(words: str) -> None:
    assert imported(f"from isocenter.cli import main; main({words})").isdisjoint({"pydantic", "numpy"})


def test_the_measures_and_the_images_work_without_torch() -> None:
    rooms = [
        path for room in ("images", "parts/metrics", "phantoms") for path in (SOURCE / room).rglob("*.py")
    ]
    names = [
        "isocenter." + ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in rooms
    ]
    assert names
    assert "torch" not in imported("import " + ", ".join(names))


# -------------------------------------------------------------------------------------- what no file may say


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Every call and import of the source, with its place."""
    kinds = (ast.Call, ast.Import, ast.ImportFrom)
    return [
        (f"{path.relative_to(SOURCE).as_posix()}:{node.lineno}", node)
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
    ]


def calls() -> Iterator[tuple[str, ast.Call]]:
    return ((place, node) for place, node in nodes() if isinstance(node, ast.Call))


def imports() -> Iterator[tuple[str, str]]:
    for place, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from ((place, name) for name in names)


def test_nothing_is_ever_unpickled() -> None:
    forbidden = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    assert [place for place, name in imports() if name.partition(".")[0] in forbidden] == []
    unsafe = {
        "torch.load",
        "pickle.load",
        "pickle.loads",
        "joblib.load",
        "torch.jit.load",
        "pandas.read_pickle",
    }
    assert [place for place, call in calls() if ast.unparse(call.func) in unsafe] == []


def test_arrays_are_loaded_without_pickles() -> None:
    for place, call in calls():
        if ast.unparse(call.func) in {"np.load", "numpy.load"}:
            allowed = {word.arg: word.value for word in call.keywords}.get("allow_pickle")
            assert isinstance(allowed, ast.Constant), place
            assert allowed.value is False, place


def test_nothing_is_evaluated_or_handed_to_a_shell() -> None:
    unsafe = {"eval", "exec", "os.system", "os.popen", "yaml.load"}
    assert [place for place, call in calls() if ast.unparse(call.func) in unsafe] == []
    for place, call in calls():
        assert not any(word.arg == "shell" for word in call.keywords), place


def test_text_is_read_and_written_as_utf_8() -> None:
    """Fault 53: the language of the surroundings must not decide how files are spelt."""
    for place, call in calls():
        if isinstance(call.func, ast.Attribute) and call.func.attr in {"read_text", "write_text"}:
            spelt = any(word.arg == "encoding" for word in call.keywords)
            assert spelt or ast.unparse(call.func) == "files.write_text", place


def test_only_the_pipeline_may_use_the_machine() -> None:
    """`compute` alone knows devices; nothing below it asks for one."""
    rooms = ("images", "parts", "tasks", "phantoms", "records.py", "files.py", "errors.py")
    assert [
        place for place, name in imports() if name == "isocenter.compute" and place.startswith(rooms)
    ] == []
    asking = {"torch.cuda.is_available", "torch.backends.mps.is_available", "torch.accelerator.is_available"}
    below = [place for place, call in calls() if ast.unparse(call.func) in asking and place.startswith(rooms)]
    assert below == []
