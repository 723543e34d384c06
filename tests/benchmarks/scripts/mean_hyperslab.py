import sys

import numpy as np

import hyperslab as hs


@hs.kernel
def add_rows(a, total):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total += a[i, j]


a = hs.open(sys.argv[1])
total = hs.from_array(np.zeros(a.shape[2]))
hs.run(add_rows, a, hs.accumulate(total), progress=False)
print(np.asarray(total).sum() / a.size)
