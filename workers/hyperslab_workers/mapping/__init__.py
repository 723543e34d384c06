"""Files as arrays: reads through the map, writes past it.

::

    transfer   view, gather and write_back: what others call
    pages      lets go of the memory that shows a file
    maps       the table of whole-file maps of this process
    padding    which elements stand beyond an array's edges; pure arithmetic
"""

from hyperslab_workers.mapping.maps import sparing, verify_still
from hyperslab_workers.mapping.pages import let_go
from hyperslab_workers.mapping.transfer import (
    advise_dontneed,
    flush,
    forget_all,
    gather,
    origin_of,
    release,
    require_writable,
    run_writer,
    verify,
    view,
    write_back,
)

__all__ = [
    "advise_dontneed",
    "flush",
    "forget_all",
    "gather",
    "let_go",
    "origin_of",
    "release",
    "require_writable",
    "run_writer",
    "sparing",
    "verify",
    "verify_still",
    "view",
    "write_back",
]
