import sys

import dask.array as da
import numpy as np


class Lazy:
    """Keeps from_array from copying the whole file: it copies what has a `copy` method."""

    def __init__(self, path):
        self._values = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.ndim = self._values.shape, self._values.dtype, 3

    def __getitem__(self, key):
        return np.asarray(self._values[key])


a = da.from_array(Lazy(sys.argv[1]), chunks=(32, -1, -1), name=False, asarray=False)
print(a.mean(dtype="f8").compute())
