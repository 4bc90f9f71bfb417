"""nnU-Net's answers to some cases, as it plans itself: `nnunet_predict.py NUMBER OUT CASE...`.

The weights are random: they do not change the time. Its mode without worker processes is taken, so that the
start of workers is not counted; the network, which takes nearly all of the time, uses all cores either way.
A first case is answered before the clock starts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
from measured import Clock
from nnunet_layout import FOLDERS, NAME

contexts = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: contexts("fork")  # type: ignore[assignment]

CONFIGURATION, TRAINER = "3d_fullres", "nnUNetTrainer"


def main(number: int, out: Path, cases: list[str]) -> None:
    raw, preprocessed, _ = (Path(os.environ[name]) / NAME for name in FOLDERS)
    plans = planned(number, preprocessed)
    predictor = initialised(plans, json.loads((raw / "dataset.json").read_text()))
    files = [[str(raw / "imagesTr" / f"{case}_0000.nii.gz")] for case in cases]
    figures = {}
    for name, mirror in (("without_mirroring", False), ("with_mirroring", True)):
        folder = out / name
        folder.mkdir(parents=True)
        answers = [str(folder / case) for case in cases]
        predictor.use_mirroring = mirror
        predictor.predict_from_files_sequential(files[:1], answers[:1])
        clock = Clock()
        predictor.predict_from_files_sequential(files, answers)
        clock.mark("prediction")
        figures[name] = clock.per(len(cases))
    plan = plans["configurations"][CONFIGURATION]
    print(json.dumps({**figures, "patch": plan["patch_size"]}))


def planned(number: int, preprocessed: Path) -> dict[str, Any]:
    """The plan that nnU-Net makes for the dataset."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    extract_fingerprints([number], num_processes=2, verbose=False, show_progress_bar=False)
    plan_experiments([number])
    plans: dict[str, Any] = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    return plans


def initialised(plans: dict[str, Any], dataset: dict[str, Any]) -> Any:
    """A predictor with an untrained network of the planned shape."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    outputs = manager.get_label_manager(dataset).num_segmentation_heads
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(
        manager, configuration, len(dataset["channel_names"]), outputs, enable_deep_supervision=False
    )
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    weights = [network.state_dict()]
    predictor.manual_initialization(network, manager, configuration, weights, dataset, TRAINER, (0, 1, 2))
    return predictor


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
