"""A job whose working directory fills with files that are named as modules.

python planted.py [HELPERS]     HELPERS: the directory holds helpers.py, whose exception is raised
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import hyperslab as hs

OTHERS = ["loky", "psutil", "cloudpickle", "yaml", "fasteners", "numpy", "llvmlite", "numba"]
OURS = ["hyperslab", "hyperslab_workers"]


@hs.kernel
def native(a, out):
    for i in range(a.shape[0]):
        out[i] = 2 * a[i]


@hs.kernel
def rebuilt(a, out):
    middle = np.median(a)
    for i in range(a.shape[0]):
        if a[i] > 500:
            raise Hot("too hot")
        out[i] = middle


if sys.argv[1:]:
    sys.path.insert(0, "")
    from helpers import Hot
else:
    Hot = ValueError


def jobs() -> None:
    with hs.Engine(workers=2, progress=False) as engine:
        engine.run(native, a, hs.write(out), region=100)
        try:
            engine.run(rebuilt, a, hs.write(out), region=100)
        except hs.KernelError as error:
            assert f"raised {Hot.__name__} in region" in str(error), error


if __name__ == "__main__":
    a, out = hs.from_array(np.arange(1000.0)), hs.from_array(np.zeros(1000))
    # What this process has to import comes from where it should.
    jobs()
    for name in {*sys.stdlib_module_names, *OTHERS, *OURS} - set(sys.builtin_module_names):
        text = f"open({name + '.proof'!r}, 'w'); raise SystemExit('{name} is imported from here')"
        Path(f"{name}.py").write_text(text)
    jobs()
    print("right", *sorted(Path().glob("*.proof")))
