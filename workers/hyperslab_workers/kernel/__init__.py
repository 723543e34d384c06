"""Compiled kernels: load machine code, check the arguments, call it. Nothing here compiles.

::

    loading    a file in the job's directory ─► LoadedKernel
    types      the machine types, and the check that guards every call
    native     linked by LLVM, called through ctypes; Numba is never imported
    rebuilt    for kernels that need Numba's runtime
"""

from hyperslab_workers.kernel.loading import (
    FORMAT,
    ArgumentType,
    ArrayType,
    Frame,
    KernelRaised,
    KernelRef,
    LoadedKernel,
    Route,
    ScalarType,
    TupleType,
    compilations,
    fingerprint,
    load,
    rebuild,
    type_of,
)

__all__ = [
    "FORMAT",
    "ArgumentType",
    "ArrayType",
    "Frame",
    "KernelRaised",
    "KernelRef",
    "LoadedKernel",
    "Route",
    "ScalarType",
    "TupleType",
    "compilations",
    "fingerprint",
    "load",
    "rebuild",
    "type_of",
]
