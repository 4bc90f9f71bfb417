"""nnU-Net's evaluation of a folder: `nnunet_evaluate.py TRUTHS ANSWERS LABEL...`."""

from __future__ import annotations

import json
import multiprocessing
import sys

from measured import Clock

contexts = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: contexts("fork")  # type: ignore[assignment]


def main(truths: str, answers: str, labels: list[int]) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    clock = Clock()
    found = compute_metrics_on_folder(
        truths, answers, None, SimpleITKIO(), ".nii.gz", labels, num_processes=2
    )
    clock.mark("evaluation")
    dice = {str(label): float(found["mean"][label]["Dice"]) for label in labels}
    print(json.dumps({**clock.figures(), "dice": dice}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(label) for label in sys.argv[3:]])
