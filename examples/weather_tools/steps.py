"""The steps of the analysis and its constants, the same for all ways of doing it."""

from __future__ import annotations

import numpy as np

MOMENTS = "mean, standard deviation"
ANOMALY = "anomalies to a new file"
SMOOTH = "3 × 3 mean to a new file"
HOT_HOURS = "hours above 30 °C"
HISTOGRAM = "histogram of all values"

PASSES = {MOMENTS: 1, ANOMALY: 2, SMOOTH: 2, HOT_HOURS: 1, HISTOGRAM: 1}
"""How many times the size of the record each step reads and writes at the least: the record
once, and a new field where there is one. Throughput is counted with it, for every way."""

HOT = np.float32(273.15 + 30)
"""30 °C in K."""

COLDEST, WARMEST, BINS = 180.0, 340.0, 320
"""Histogram: from, to, and number of bins, each half a kelvin wide."""
