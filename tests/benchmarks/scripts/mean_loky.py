import os
import sys

import numpy as np
from loky import ProcessPoolExecutor
from numba import njit


@njit(error_model="numpy")
def add(a):
    row = np.zeros(a.shape[2])
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                row[k] += a[i, j, k]
    return row.sum()


def part(path, first, last):
    return add(np.load(path, mmap_mode="r")[first:last])


if __name__ == "__main__":
    path = sys.argv[1]
    shape = np.load(path, mmap_mode="r").shape
    firsts = range(0, shape[0], 64)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [pool.submit(part, path, first, min(first + 64, shape[0])) for first in firsts]
        print(sum(job.result() for job in jobs) / np.prod(shape))
