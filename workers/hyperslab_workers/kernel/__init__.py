"""Compiled kernels: load machine code, check the arguments, call it. Nothing here compiles.

::

    loading    a file in the job's directory ─► LoadedKernel
    types      the machine types, and the check that guards every call
    native     called through ctypes; Numba is never imported
    linking    from an object file to code in memory; what it does not know is left to LLVM
    processor  what machine code depends on
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
