import os
import sys

import numpy as np
from numba import njit, prange


@njit(parallel=True, error_model="numpy", cache="KEEP_COMPILED" in os.environ)
def mean(a):
    total = 0.0
    for i in prange(a.shape[0]):
        row = np.zeros(a.shape[2])
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                row[k] += a[i, j, k]
        total += row.sum()
    return total / a.size


print(mean(np.load(sys.argv[1], mmap_mode="r")))
