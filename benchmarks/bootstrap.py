"""Bootstrap of many measures over many patients, beside SciPy's.

python benchmarks/bootstrap.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from scipy import stats

from isocenter.parts.metrics.statistics import mean_intervals
from record import record

PATIENTS, MEASURES, RESAMPLES = 500, 10, 10_000


def main() -> None:
    table = np.random.default_rng(0).beta(8, 2, size=(PATIENTS, MEASURES))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        found = mean_intervals(table, range(PATIENTS), resamples=RESAMPLES)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    peer = stats.bootstrap((table,), np.mean, axis=0, n_resamples=RESAMPLES, method="BCa", rng=0, batch=500)
    peer_seconds = time.perf_counter() - start
    lows = np.array([interval.low for interval in found])
    widths = peer.confidence_interval.high - peer.confidence_interval.low
    apart = np.abs(lows - peer.confidence_interval.low) / widths
    seconds = sorted(times)[2]
    figures = {
        "patients": PATIENTS,
        "measures": MEASURES,
        "resamples": RESAMPLES,
        "isocenter_s": round(seconds, 3),
        "scipy_s": round(peer_seconds, 3),
        "times_faster": round(peer_seconds / seconds, 1),
        "largest_difference_in_widths": round(float(apart.max()), 3),
    }
    record("bootstrap", figures, "python benchmarks/" + Path(sys.argv[0]).name)


if __name__ == "__main__":
    main()
