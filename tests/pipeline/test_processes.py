"""Several processes under torchrun: one run, written by the first, as one process would have made it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isocenter.records import Scores

PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

#: `isocenter`, which also keeps the weights that each process has after its last step.
TELLING = """
import sys
from safetensors.torch import save_file
from isocenter.cli import main
from isocenter.pipeline.learn import Learning

finish = Learning._finish

def telling(self, pace):
    save_file(self.compute.weights(self.method), "FOLDER/rank_" + str(self.compute.rank) + ".safetensors")
    return finish(self, pace)

Learning._finish = telling
sys.exit(main())
"""


def _train(script: Path, launch: list[str], blobs: Path, run: Path) -> str:
    words = ["train", str(blobs), "--out", str(run), "--device", "cpu", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="gloo through torchrun needs a POSIX system")
def test_two_processes_learn_what_one_does_and_the_first_one_writes(
    blobs: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    script = tmp_path / "telling.py"
    script.write_text(TELLING.replace("FOLDER", tmp_path.as_posix()), encoding="utf-8")
    changes = {"budget": "1 epochs", "batch": 3, "precision": "float32", "optimiser": "sgd", "momentum": 0.9}
    runs = [make_run(**changes, learning_rate=1e-2) for _ in range(2)]
    _train(script, [], blobs, runs[0])
    said = _train(script, PROCESSES, blobs, runs[1])
    assert said.count("The run:") == 1
    one, two = (load_file(run / "fold_0" / "weights.safetensors") for run in runs)
    ranks = [load_file(tmp_path / f"rank_{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    scores = [Scores.load(run / "scores.json") for run in runs]
    assert [row.case for row in scores[0].cases] == [row.case for row in scores[1].cases]
    assert not (runs[1] / ".lock").exists()
