"""Numba's pipeline with four changes where it turns typed code into LLVM's language.

1. *Equal lengths are told to LLVM.* Numba checks every index against the length of the array
   it indexes. LLVM removes the check where the loop already runs to that very length, but
   ``for i in range(a.shape[0]): out[i] = a[i]`` runs to the length of another array. Where the
   plan knows that both are one length (the caller checks it before every call), the second is
   replaced by the first, and the loop is as fast as without any check: measured in cache on
   float32, 1.5 to 1.7 times slower without this, 1.00 with it. Comparing the lengths in a
   wrapper that inlines the kernel was rejected: Numba has optimised a function, and
   vectorised its loops, before it can be inlined.
2. *Strides of one element are constants.* The rows of ``t[:, 10:20]`` are not neighbours, so
   Numba reads every stride from the array at run time, and to LLVM neighbouring elements may be
   any distance apart: it gathers them one by one. The caller checks which axis has a stride of
   one element, and the constant stands in for it. In cache on float32, sums over such a band
   took three times as long as over a contiguous array, and counting behind an ``if`` twenty
   times; now as long. Leaving it to LLVM, which may compile a loop twice and choose at run
   time, does not help: Numba steps in bytes, so the stride that LLVM bets on is one byte.
3. *An early clean-up without unrolling*: the last check of a loop falls only when the loop has
   been simplified once before. Unrolled loops would no longer be vectorised.
4. *Errors have a line.* Numba's own IndexError says "index is out of bounds" and nothing else.

This module imports Numba: it is imported only where something is compiled.
"""

from __future__ import annotations

import copy
import functools
import itertools
import secrets
from typing import Any, ClassVar

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import (
    bytecode,
    callconv,
    compiler,
    compiler_machinery,
    cpu,
    lowering,
    typed_passes,
    types,
    typing,
)
from numba.np import arrayobj

from hyperslab.compiler.signature import EqualShapes, UnitStrides
from hyperslab_workers import forks

__all__ = ["helper_pipeline", "pipeline"]


def _number_anew() -> None:
    """Number this process's symbols from a start of its own.

    They end in a counter that starts at 1 in every process, and goes on from its parent's in a
    forked one; two processes' kernels that meet in one worker would call each other's helpers.
    62 random bits keep them apart.
    """
    bytecode.FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))


_number_anew()
forks.in_child(_number_anew)


class _CallConv(callconv.CPUCallConv):  # type: ignore[misc]
    """Adds the line being lowered to exceptions that come without one."""

    def return_user_exc(
        self,
        builder: Any,
        exc: Any,
        exc_args: Any = None,
        loc: Any = None,
        func_name: Any = None,
    ) -> None:
        lower = self.context.lower
        if loc is None and lower is not None:
            loc, func_name = lower.loc, lower.func_ir.func_id.func_name
        super().return_user_exc(builder, exc, exc_args, loc, func_name)


class _ShapeMismatch:
    """Stands for Numba's error of a slice assignment between different shapes.

    Numba formats the two shapes with its own strings: 0.7 to 3 s of compiling, and a kernel
    that needs Numba at run time, for one sentence.
    """

    def get_call_type(self, _context: Any, arguments: Any, _keywords: Any) -> Any:
        return typing.signature(types.none, *arguments)


class _TypingContext:
    """A typing context that knows `_ShapeMismatch`; everything else is the original's."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def resolve_value_type(self, value: Any) -> Any:
        if value is arrayobj.raise_with_shape_context:
            return _ShapeMismatch()
        return self._original.resolve_value_type(value)


class _Context(cpu.CPUContext):  # type: ignore[misc]
    """The target context as one function's lowering sees it."""

    lower: Any = None

    @property
    def call_conv(self) -> Any:
        return _CallConv(self)

    def get_function(self, fn: Any, sig: Any, _firstcall: bool = True) -> Any:
        if not isinstance(fn, _ShapeMismatch):
            return super().get_function(fn, sig, _firstcall)

        def implementation(builder: Any, _args: Any) -> None:
            message = "cannot assign to a slice from an array of another shape"
            self.call_conv.return_user_exc(builder, ValueError, (message,))

        return implementation


class _Lower(lowering.Lower):  # type: ignore[misc]
    equal_shapes: ClassVar[EqualShapes] = ()
    unit_strides: ClassVar[UnitStrides] = ()
    context: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A copy of this function's own context takes our class: patching Numba's would change
        # what the rest of the process compiles.
        context: Any = copy.copy(self.context)
        context.__class__ = _Context
        context.lower = self
        context.typing_context = _TypingContext(context.typing_context)
        self.context = context

    def extract_function_arguments(self) -> Any:
        arguments = list(super().extract_function_arguments())
        shape, strides = 5, 6  # fields of Numba's array structure
        for (first, first_axis, first_delta), *rest in self.equal_shapes:
            length = self.builder.extract_value(arguments[first], [shape, first_axis])
            for position, axis, delta in rest:
                here = length
                if delta != first_delta:
                    offset = ir.Constant(length.type, delta - first_delta)
                    here = self.builder.add(length, offset, flags=["nsw"])
                arguments[position] = self.builder.insert_value(
                    arguments[position], here, [shape, axis]
                )
        for position, axis, size in self.unit_strides:
            stride = self.context.get_constant(types.intp, size)
            arguments[position] = self.builder.insert_value(
                arguments[position], stride, [strides, axis]
            )
        self.fnargs = tuple(arguments)
        return self.fnargs

    def lower(self) -> None:
        super().lower()
        codegen = self.library.codegen
        options = llvm.create_pipeline_tuning_options(speed_level=1)
        options.loop_unrolling = False
        options.loop_interleaving = False
        options.loop_vectorization = False
        options.slp_vectorization = False
        passes = llvm.create_pass_builder(codegen._tm, options)
        passes.getModulePassManager().run(self.library._final_module, passes)


@functools.lru_cache(maxsize=256)
def pipeline(equal_shapes: EqualShapes, unit_strides: UnitStrides) -> Any:
    """A Numba pipeline class that knows which lengths are equal and which strides constant."""
    known = {"equal_shapes": equal_shapes, "unit_strides": unit_strides}
    lower = type("_KernelLower", (_Lower,), known)

    @compiler_machinery.register_pass(mutates_CFG=True, analysis_only=False)
    class Lowering(typed_passes.BaseNativeLowering):  # type: ignore[misc]
        _name = "hyperslab_lowering"

        @property
        def lowering_class(self) -> Any:
            return lower

    class Pipeline(compiler.CompilerBase):  # type: ignore[misc]
        def define_pipelines(self) -> list[Any]:
            manager = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
            manager.passes = [
                (Lowering if entry is typed_passes.NativeLowering else entry, description)
                for entry, description in manager.passes
            ]
            manager._finalized = False
            manager.finalize()
            return [manager]

    return Pipeline


def helper_pipeline() -> Any:
    """The pipeline of jitted helpers: nothing is known of their arguments."""
    return pipeline((), ())
