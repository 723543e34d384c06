"""Arrays in files: opening, creating, views, reading and writing.

::

    opening      open, create, from_array: what users call
    handle       Array, the handle they return
    indexing     a key ─► a view, by NumPy's rules; pure arithmetic
    assignment   a[key] = values, in chunks
    file         what a file holds: .npy or raw, checked against its size
    creation     a new file: reserved, complete before its name appears
    npy          the header of a .npy file
"""

from hyperslab.arrays.handle import Array
from hyperslab.arrays.opening import create, from_array, open

__all__ = ["Array", "create", "from_array", "open"]
