"""Memory for a kernel's own temporary arrays, without Numba's runtime.

``np.zeros`` inside a kernel, or ``a * 2 + b`` on whole arrays, needs memory that Numba's
runtime, a C extension of the Numba package, hands out and counts references of. A worker would
import Numba for that alone: a third of a second and 60 MB each. What plain arrays need of it is
four functions over malloc and free, linked into the kernel here; their structure is Numba's
``MemInfo`` (numba/core/runtime/nrt.cpp). Lists, sets, strings and whatever has a destructor of
its own still go to Numba.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.binding as llvm

__all__ = ["link_allocator"]

# MemInfo: reference count, destructor, its argument, data, size, external allocator.
_SOURCE: Final = """
target triple = "{triple}"
target datalayout = "{layout}"

%MemInfo = type {{ i64, ptr, ptr, ptr, i64, ptr }}

declare noalias ptr @malloc(i64)
declare void @free(ptr)

define ptr @NRT_Allocate(i64 %size) {{
  %memory = call ptr @malloc(i64 %size)
  ret ptr %memory
}}

define void @NRT_Free(ptr %memory) {{
  call void @free(ptr %memory)
  ret void
}}

define ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 %align32) {{
  %align = zext i32 %align32 to i64
  %with_header = add i64 %size, 48
  %slack = shl i64 %align, 1
  %total = add i64 %with_header, %slack
  %info = call ptr @malloc(i64 %total)
  %failed = icmp eq ptr %info, null
  br i1 %failed, label %done, label %fill

fill:
  %base = getelementptr i8, ptr %info, i64 48
  %address = ptrtoint ptr %base to i64
  %past = urem i64 %address, %align
  %short = sub i64 %align, %past
  %offset = urem i64 %short, %align
  %data = getelementptr i8, ptr %base, i64 %offset
  store %MemInfo {{ i64 1, ptr null, ptr null, ptr null, i64 0, ptr null }}, ptr %info
  %data_field = getelementptr %MemInfo, ptr %info, i32 0, i32 3
  store ptr %data, ptr %data_field
  %size_field = getelementptr %MemInfo, ptr %info, i32 0, i32 4
  store i64 %size, ptr %size_field
  br label %done

done:
  ret ptr %info
}}

define void @NRT_MemInfo_call_dtor(ptr %info) {{
  call void @free(ptr %info)
  ret void
}}
"""


def link_allocator(module: Any) -> None:
    """Give a module the allocator it declares, if it declares no more than this one has."""
    runtime = {
        function.name
        for function in module.functions
        if function.is_declaration and function.name.startswith("NRT_")
    }
    provided = {"NRT_Allocate", "NRT_Free", "NRT_MemInfo_alloc_aligned", "NRT_MemInfo_call_dtor"}
    # All or nothing: memory from one allocator must not be freed by the other.
    if runtime and runtime <= provided:
        source = _SOURCE.format(triple=module.triple, layout=module.data_layout)
        module.link_in(llvm.parse_assembly(source))
