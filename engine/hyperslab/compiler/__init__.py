"""Kernels: from a Python function to machine code in a file.

::

    kernel()          a plain function, checked and wrapped; Numba is not imported   decorator.py
       |
    compile_kernel()  one signature at a time, cached on the Kernel                  build.py
       |-- check      can a kernel take these dtypes?                                signature.py
       |-- snapshot   a private copy of the function and of its jitted helpers       snapshot.py
       |-- lowering   Numba's own pipeline, with line numbers for index errors       lowering.py
       |              and the plan's equal lengths told to LLVM
       |-- machine    one entry point, nothing else visible; what it still needs     machine.py
       |-- messages   Numba's errors in a scientist's words                          messages.py
       |
    publish()         a content-addressed file in the job's directory

This package is the only place of the engine that imports Numba, and only when something is
compiled: ``import hyperslab`` does not.
"""

from hyperslab.compiler.build import CompiledKernel, compile_kernel, publish
from hyperslab.compiler.decorator import kernel
from hyperslab.compiler.kernel import Kernel
from hyperslab.compiler.signature import check_dtype, describe

__all__ = [
    "CompiledKernel",
    "Kernel",
    "check_dtype",
    "compile_kernel",
    "describe",
    "kernel",
    "publish",
]
