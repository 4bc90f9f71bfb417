"""The command line: one clear paragraph for a fault, the exit status a program needs, help at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isocenter
from isocenter import cli
from isocenter.errors import (
    BadDataset,
    BadPlan,
    Interrupted,
    IsocenterError,
    IsocenterWarning,
    Unanswered,
    UnreadableFile,
)
from isocenter.pipeline import compare as compare_stage
from isocenter.pipeline import progress
from isocenter.records import Budget, CaseScore, Interval, Scores

Capture = pytest.CaptureFixture[str]

COMMANDS = (
    "demo",
    "methods",
    "check",
    "plan",
    "train",
    "predict",
    "generate",
    "evaluate",
    "compare",
    "report",
    "study",
    "cache",
)


def isocenter_command(*words: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isocenter", *words],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **surroundings},
        check=False,
    )


def test_help_names_every_command_in_the_order_of_the_work(capsys: Capture) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"│ {command} ") for command in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_to_programs(command: str, capsys: Capture) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--verbose" in text


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == isocenter.__version__


def test_without_a_command_help_is_shown(capsys: Capture) -> None:
    assert cli.main([]) == 0
    assert "Usage: isocenter COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], 'Did you mean "train"?'),
        (["train"], "DATA"),
        (["train", "data"], "--out"),
        (["train", "data", "--out", "x", "--buget", "1h"], "Did you mean --budget?"),
        (["train", "data", "--out", "x", "--folds", "first"], "names no folds"),
        (["train", "data", "--out", "x", "--folds", "-1"], "names no folds"),
        (["train", "data", "--out", "x", "--device", "tpu"], "Choose from"),
        (["train", "data", "--out", "x", "--set", "batch"], "does not set anything"),
        (["train", "data", "--out", "x", "--set", "=4"], "does not set anything"),
        (["predict", "run", "--out", "x"], "INPUT"),
        (["plan", "data", "--seed", "soon"], "--seed"),
        (["plan", "data", "--seed", "-1"], "--seed. Must be >= 0."),
        (["train", "data", "--out", "x", "--seed", "-1"], "--seed. Must be >= 0."),
        (["compare", "data", "--out", "x", "--methods", "a,b", "--seed", "-1"], "--seed. Must be >= 0."),
        (["study", "border_weight", "--out", "x", "--seed", "-1"], "--seed. Must be >= 0."),
        (["generate", "run", "--out", "x", "--seed", "-1"], "--seed. Must be >= 0."),
        (["check", "data", "--workers", "-1"], "--workers. Must be >= 0."),
        (["plan", "data", "--workers", "-1"], "--workers. Must be >= 0."),
        (["train", "data", "--out", "x", "--workers", "-1"], "--workers. Must be >= 0."),
        (["methods", "--task", "segmentatoin"], "Did you mean 'segmentation'?"),
        (["plan", "data", "--method", "segmentation/nnunett"], "there is no method 'segmentation/nnunett'"),
        (["plan", "data", "--method", "nnunet"], "there is no method 'nnunet'"),
    ],
)
def test_bad_usage_ends_with_one_clear_paragraph(words: list[str], said: str, capsys: Capture) -> None:
    assert cli.main(words) == 2
    streams = capsys.readouterr()
    assert said in streams.err
    assert streams.err.startswith("error: ")
    assert len(streams.err.splitlines()) == 1
    assert "Traceback" not in streams.err
    assert streams.out == ""


def test_an_absent_dataset_is_an_error_that_names_it(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["check", str(tmp_path / "nowhere")]) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


def a_dataset_of_boxes(root: Path, *, labels: bool = False) -> Path:
    from isocenter import images
    from isocenter.images.geometry import Geometry

    rng = np.random.default_rng(0)
    for name in "abcdef":
        for folder in ("images", *(("labels",) if labels else ())):
            plane = rng.integers(0, 200, (40, 40)) if folder == "images" else np.eye(40)
            (root / folder).mkdir(parents=True, exist_ok=True)
            images.write(
                plane.astype(np.uint8)[None], root / folder / f"{name}.png", Geometry.plain((40, 40))
            )
    rows = [f"{name},cell,3,4,{20 + place},22" for place, name in enumerate("abcdef")]
    (root / "boxes.csv").write_text(
        "\n".join(["case,label,x_min,y_min,x_max,y_max", *rows]), encoding="utf-8"
    )
    return root


def test_where_files_make_the_task_plain_no_command_needs_to_be_told(tmp_path: Path, capsys: Capture) -> None:
    data = a_dataset_of_boxes(tmp_path / "data")
    assert cli.main(["plan", str(data), "--json", "--budget", "1 epoch", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "detection"
    for truths in (data, data / "boxes.csv"):
        out = str(tmp_path / "out")
        assert cli.main(["evaluate", str(data / "boxes.csv"), str(truths), "--out", out, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["task"] == "detection"
    same = tmp_path / "other.csv"
    same.write_bytes((data / "boxes.csv").read_bytes())
    words = ["--methods", f"{data / 'boxes.csv'},{same}", "--out", str(tmp_path / "compared"), "--json"]
    assert cli.main(["compare", str(data), *words]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "detection"


@pytest.mark.parametrize(
    "words",
    [
        ["check", "DATA"],
        ["plan", "DATA"],
        ["train", "DATA", "--out", "OUT"],
        ["evaluate", "DATA/boxes.csv", "DATA", "--out", "OUT"],
        ["compare", "DATA", "--methods", "DATA/boxes.csv,DATA/labels", "--out", "OUT"],
        ["study", "sample_size", "DATA", "--out", "OUT"],
    ],
)
def test_where_files_speak_of_several_tasks_every_command_lists_them(
    words: list[str], tmp_path: Path, capsys: Capture
) -> None:
    data = a_dataset_of_boxes(tmp_path / "data", labels=True)
    out = tmp_path / "out"
    filled = [word.replace("DATA", str(data)).replace("OUT", str(out)) for word in words]
    assert cli.main(filled) == 2
    told = capsys.readouterr().err
    assert "detection (boxes.csv); segmentation (images/ beside labels/)" in told
    assert "Say --task detection or --task segmentation" in told
    assert not out.exists()


def test_methods_and_runs_say_what_is_asked(tmp_path: Path, capsys: Capture) -> None:
    data = str(a_dataset_of_boxes(tmp_path / "data", labels=True))
    run = str(tmp_path / "run")
    head = ["--budget", "1 epoch", "--device", "cpu"]
    assert cli.main(["plan", data, "--method", "detection/retinanet", "--out", run, *head]) == 0
    # The plan in --out is asked for: the run stops at --set, not at the data.
    assert cli.main(["train", data, "--out", run, "--set", "training.batch=7"]) == 2
    assert "training.batch is" in capsys.readouterr().err
    twice = "detection/retinanet,other=detection/retinanet,third=segmentation/unet"
    assert cli.main(["compare", data, "--methods", twice, "--out", str(tmp_path / "x")]) == 2
    assert "'segmentation/unet' answers 'segmentation'" in capsys.readouterr().err
    asked = compare_stage.asked(Path(data), ["detection/retinanet", run], None, 1)
    assert (asked.task, asked.layout) == ("detection", "tables")
    words = ["plan", data, "--method", "detection/retinanet", "--task", "segmentation"]
    assert cli.main(words) == 2
    assert "answers 'detection', but 'segmentation' is asked for" in capsys.readouterr().err
    assert cli.main(["check", data, "--task", "detecton"]) == 2
    assert "Did you mean 'detection'?" in capsys.readouterr().err


def test_a_budget_that_is_none_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "data.csv").write_text("image\n", encoding="utf-8")
    assert cli.main(["plan", str(tmp_path / "data.csv"), "--budget", "soon"]) == 2
    assert "not a budget" in capsys.readouterr().err


def test_the_catalogue_is_listed_for_people_and_for_programs(capsys: Capture) -> None:
    assert cli.main(["methods"]) == 0
    assert "segmentation/nnunet" in capsys.readouterr().out
    assert cli.main(["methods", "--task", "segmentation", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert {"title", "reference", "row", "summary"} <= set(cards["segmentation/nnunet"])
    assert all(key.startswith("segmentation/") for key in cards)


# ---------------------------------------------------------------------------------------------- handing over


Called = dict[str, Any]


def some_scores() -> Scores:
    case = CaseScore(case="a", patient="a", values={"left": {"dice": 0.9}}, failure="no answer")
    summary = {
        "left": {
            "dice": Interval(mean=0.9, low=0.85, high=0.94, n=40),
            "hd95": Interval(mean=None, low=None, high=None, n=0),
        }
    }
    return Scores(task="segmentation", cases=(case,), summary=summary)


def overheard(monkeypatch: pytest.MonkeyPatch, verb: str, answer: object) -> Called:
    """Stand in for a verb, and note with what it was called."""
    called: Called = {}

    def stand_in(*positional: object, **named: object) -> object:
        called.update(named, positional=positional)
        return answer

    monkeypatch.setattr(isocenter, verb, stand_in)
    return called


def test_train_hands_every_option_over(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    called = overheard(monkeypatch, "train", some_scores())
    words = (
        "train data --out run --method m.py --budget 2h --folds 1,0,1 --from model --freeze encoder --resume"
    )
    more = "--seed 7 --on ray --track tensorboard --set training.batch=4 --set geometry.spacing_mm=[1,1,1]"
    last = "--set training.optimiser=adamw --task segmentation --device cpu --workers 3"
    assert cli.main([*words.split(), *more.split(), *last.split()]) == 0
    assert called == {
        "positional": (Path("data"), Path("run")),
        "method": "m.py",
        "budget": "2h",
        "folds": (0, 1),
        "start": Path("model"),
        "freeze": "encoder",
        "resume": True,
        "seed": 7,
        "where": "ray",
        "track": "tensorboard",
        "overrides": {
            "training.batch": 4,
            "geometry.spacing_mm": [1, 1, 1],
            "training.optimiser": "adamw",
        },
        "task": "segmentation",
        "device": "cpu",
        "workers": 3,
    }
    assert "0.900" in capsys.readouterr().out


def test_what_the_user_leaves_open_stays_open(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    called = overheard(monkeypatch, "train", some_scores())
    assert cli.main(["train", "data", "--out", "run", "--folds", "all"]) == 0
    assert called["folds"] is None
    assert (called["method"], called["budget"], called["workers"]) == (None, None, None)
    assert called["seed"] is None
    assert (called["device"], called["where"], called["resume"]) == ("auto", "local", False)


def test_predict_takes_many_inputs_of_any_kind(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    called = overheard(monkeypatch, "predict", [Path("out/a.nii.gz")])
    words = [
        "predict",
        "run",
        "a b.nii.gz",
        "series::1.2.3",
        "ü",
        "--out",
        "out",
        "--no-mirror",
        "--uncertainty",
        "--maps",
    ]
    assert cli.main([*words, "--json"]) == 0
    assert called["positional"] == (Path("run"), ("a b.nii.gz", "series::1.2.3", "ü"), Path("out"))
    assert (called["mirror"], called["uncertainty"], called["probabilities"]) == (False, True, False)
    assert called["maps"] is True
    assert json.loads(capsys.readouterr().out) == {"answers": [str(Path("out/a.nii.gz"))]}


def test_scores_are_shown_with_their_intervals_and_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    overheard(monkeypatch, "evaluate", some_scores())
    assert cli.main(["evaluate", "answers", "truths", "--out", "scores"]) == 0
    text = capsys.readouterr().out
    assert "0.900 (0.850 to 0.940)" in text
    assert "undefined" in text
    assert "failed: a: no answer" in text
    assert "95 % intervals over patients." in text


def test_negative_intervals_can_be_read_and_none_is_claimed_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    below = Interval(mean=-28.3, low=-28.451, high=-28.099, n=2)
    alone = Interval(mean=-28.3, low=None, high=None, n=1)
    for found, said in ((below, "(-28.451 to -28.099)"), (alone, "of 1 patient, without intervals.")):
        rows = tuple(CaseScore(case=c, patient="p", values={}) for c in "ab")
        scores = Scores(task="segmentation", cases=rows, summary={"left": {"hu": found}})
        overheard(monkeypatch, "evaluate", scores)
        assert cli.main(["evaluate", "answers", "truths", "--out", "scores"]) == 0
        text = capsys.readouterr().out
        assert said in text
        assert ("95 %" in text) == (found is below)


def test_the_help_of_the_catalogue_says_that_its_option_filters(capsys: Capture) -> None:
    assert cli.main(["methods", "--help"]) == 0
    assert "only the methods that answer this task" in " ".join(capsys.readouterr().out.split())


def test_programs_get_the_scores_as_they_stand_on_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    overheard(monkeypatch, "evaluate", some_scores())
    assert cli.main(["evaluate", "answers", "truths", "--out", "scores", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["summary"]["left"]["dice"] == {"mean": 0.9, "low": 0.85, "high": 0.94, "n": 40}


def test_many_labels_are_listed_one_below_the_other(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    few = some_scores()
    many = few.changed(summary={f"organ {number}": few.summary["left"] for number in range(60)})
    overheard(monkeypatch, "evaluate", many)
    assert cli.main(["evaluate", "answers", "truths", "--out", "scores"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["organ", "59", "dice", "0.900", "(0.850", "to", "0.940)"] in rows


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", 4), ("0.5", 0.5), ("true", True), ("null", None), ("[1,2]", [1, 2]), ("adamw", "adamw"), ("", "")],
)
def test_a_setting_is_json_or_else_a_word(text: str, value: object) -> None:
    assert cli.read_overrides([f"a.b={text}"]) == {"a.b": value}
    assert cli.read_overrides(["a=b=c"]) == {"a": "b=c"}


# ------------------------------------------------------------------------------------------------- what ends


def broken(error: BaseException) -> Callable[..., object]:
    def stage(*_: object, **__: object) -> object:
        raise error

    return stage


def test_a_fault_is_one_paragraph_with_file_and_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fault = BadDataset("the image is cut short.", where="a.nii.gz", cure="Copy it again.")
    monkeypatch.setattr(isocenter, "report", broken(fault))
    assert cli.main(["report", "run"]) == 2
    assert capsys.readouterr().err == "error: a.nii.gz: the image is cut short. Copy it again.\n"


def test_a_program_gets_the_fault_in_parts(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(isocenter, "report", broken(BadPlan("no.", where="plan.json", cure="Yes.")))
    assert cli.main(["report", "run", "--json"]) == 2
    content = json.loads(capsys.readouterr().out)
    assert content == {"error": {"what": "no.", "where": "plan.json", "cure": "Yes."}}


def test_images_that_could_not_be_answered_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    faults = [UnreadableFile("it is cut short.", where=f"{name}.nii", cure="Copy it again.") for name in "ab"]
    fault = Unanswered(faults, [Path("out/c.nii.gz")], where="out")
    monkeypatch.setattr(isocenter, "predict", broken(fault))
    assert cli.main(["predict", "run", "in", "--out", "out"]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("error: out: 2 of 3 images could not be answered, all others were. Mend")
    assert rest == [f"  {name}.nii: it is cut short. Copy it again." for name in "ab"]
    assert cli.main(["predict", "run", "in", "--out", "out", "--json"]) == 2
    content = json.loads(capsys.readouterr().out)
    assert content["answers"] == [str(Path("out/c.nii.gz"))]
    assert [each["where"] for each in content["error"]["faults"]] == ["a.nii", "b.nii"]
    assert content["error"]["where"] == "out"


def test_the_traceback_is_there_on_request(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(isocenter, "report", broken(IsocenterError("no.")))
    assert cli.main(["report", "run", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_says_so_and_is_no_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(isocenter, "report", broken(ZeroDivisionError("division by zero")))
    assert cli.main(["report", "run"]) == 1
    text = capsys.readouterr().err
    assert "isocenter itself failed (ZeroDivisionError: division by zero)" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOENT, "No such file", "a.nii.gz"), "error: a.nii.gz: No such file."),
        (OSError("the network is down"), "error: the network is down."),
        (MemoryError(), "error: memory ran out. Use fewer --workers"),
    ],
)
def test_what_the_machine_refuses_is_no_defect(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(isocenter, "report", broken(error))
    assert cli.main(["report", "run"]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_an_interrupt_ends_with_130_and_a_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(isocenter, "report", broken(KeyboardInterrupt()))
    assert cli.main(["report", "run"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_training_that_was_asked_to_stop_ends_with_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fault = Interrupted("stopped at step 8; the state is saved.", where="run", cure="Go on with --resume.")
    monkeypatch.setattr(isocenter, "train", broken(fault))
    assert cli.main(["train", "data", "--out", "run"]) == 130
    assert "Go on with --resume." in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_control_c_ends_a_real_process_cleanly(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import sys, time, isocenter\n"
        "from isocenter.cli import main\n"
        "def report(run):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "isocenter.report = report\n"
        "sys.exit(main(['report', 'run']))\n",
        encoding="utf-8",
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "Interrupted.\n"


def test_our_warnings_are_one_line_each_and_others_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def report(_: Path) -> Path:
        warnings.warn("label 3 never occurs", IsocenterWarning, stacklevel=1)
        warnings.warn("something old", DeprecationWarning, stacklevel=1)
        return Path("run/report.html")

    monkeypatch.setattr(isocenter, "report", report)
    assert cli.main(["report", "run"]) == 0
    assert capsys.readouterr().err == "warning: label 3 never occurs\n"


def test_findings_of_check_decide_its_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from isocenter.pipeline import check
    from isocenter.records import Dataset, Finding

    empty = Dataset(name="d", root=".", layout="csv", task="segmentation", channels=(), cases=())
    grave = Finding(level="error", where="a.nii.gz", what="It is cut short.", cure="Copy it again.")
    monkeypatch.setattr(isocenter, "open", lambda data, task=None: empty)
    for findings, status in (([], 0), ([grave.changed(level="warning")], 0), ([grave], 2)):
        monkeypatch.setattr(check, "check", lambda *_, found=findings: found)
        assert cli.main(["check", "data", "--json"]) == status
        assert len(json.loads(capsys.readouterr().out)["findings"]) == len(findings)


def test_the_cache_says_where_it_lies_and_can_be_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path))
    (tmp_path / "prepared-1").mkdir()
    (tmp_path / "prepared-1" / "image.npy").write_bytes(b"x" * 2500)
    (tmp_path / "mine.txt").write_bytes(b"x" * 1500)
    (tmp_path / "prepared-2").write_bytes(b"a folder's name, but no folder" * 100)
    assert cli.main(["cache"]) == 0
    assert capsys.readouterr().out == f"7 kB in {tmp_path}\n"
    assert cli.main(["cache", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(tmp_path),
        "freed_bytes": 2500,
        "bytes": 4500,
    }
    assert not (tmp_path / "prepared-1").exists()
    assert cli.main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == (
        f"0 bytes freed in {tmp_path}; 4.5 kB remain: other files, or what could not be deleted\n"
    )


# ---------------------------------------------------------------------------------------------- surroundings


@pytest.mark.parametrize(
    "language",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_a_terminal_that_knows_only_ascii_is_served_too(language: Mapping[str, str]) -> None:
    for words in (["--help"], ["methods"], ["methods", "--json"]):
        done = isocenter_command(*words, **language)
        assert done.returncode == 0, done.stderr
    done = isocenter_command("check", "/größe", **language)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_command_and_the_module_are_the_same() -> None:
    done = isocenter_command("--version")
    assert (done.returncode, done.stdout.strip()) == (0, isocenter.__version__)


def test_progress_is_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.plain_lines():
        assert list(progress.track(["a", "b"], "Reading")) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Reading: 50 %, ")
    assert lines[-1].startswith("Reading: done in ")


def test_progress_is_silent_in_a_library_and_where_asked(capsys: Capture) -> None:
    progress.say("nobody asked")
    assert list(progress.track(iter("ab"), "Reading")) == ["a", "b"]
    with progress.plain_lines(), progress.silent(), progress.bar("Reading", 2) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


def test_work_that_is_broken_off_is_not_called_done(capsys: Capture) -> None:
    with pytest.raises(KeyError), progress.plain_lines(), progress.bar("Training", 10) as bar:
        bar.note("loss 0.3")
        raise KeyError
    assert "Training: stopped after " in capsys.readouterr().err


def test_bars_on_a_terminal_may_be_nested_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.bar("Folds", 2) as outer:
        for _ in progress.track([1, 2], "Steps"):
            progress.say("a line above the bars")
            outer.advance()
        outer.reach(2)
        outer.note("done")
    assert progress._display.bars is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7830, "2 h 10 min"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert progress.clock(seconds) == said


def test_a_reader_that_goes_away_is_no_defect(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "isocenter", "methods"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert "Traceback" not in said
    assert "error" not in said


def test_the_default_budget_is_a_budget() -> None:
    assert Budget.read(isocenter.DEFAULT_BUDGET).seconds == 3600
