"""nnU-Net's fingerprint, plan and preprocessing: `nnunet_prepare.py NUMBER PROCESSES fork|spawn`.

The folders are named by the environment. nnU-Net starts its workers anew (`spawn`) for each of its pools, and
each worker imports everything again; with `fork` the same functions run without that start-up.
"""

from __future__ import annotations

import json
import multiprocessing
import sys

from measured import Clock

CONFIGURATIONS = ("2d", "3d_fullres")


def main(number: int, processes: int, start: str) -> None:
    if start == "fork":
        contexts = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: contexts("fork")  # type: ignore[assignment]
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    clock = Clock()
    extract_fingerprints([number], num_processes=processes, verbose=False, show_progress_bar=False)
    clock.mark("fingerprint")
    plan_experiments([number])
    clock.mark("plan")
    each = (processes,) * len(CONFIGURATIONS)
    preprocess([number], configurations=CONFIGURATIONS, num_processes=each, show_progress_bar=False)
    clock.mark("prepare")
    print(json.dumps(clock.figures()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
