"""From ``kernels.py:smooth`` to the function of that name. This executes the file.

A file is loaded as if it were a script run from its own folder: modules beside it can be
imported. Each file is loaded once, however many steps name it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hyperslab.compiler import Kernel
from hyperslab.jobs.words import near

__all__ = ["LoadProblem", "Loader"]


class LoadProblem(Exception):
    """Why a reference cannot be loaded. Caught by the checks, which know its line."""


class Loader:
    """Loads the functions that one document names.

    Parameters
    ----------
    folder : Path
        What relative file names start from.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, ModuleType | LoadProblem] = {}

    def kernel(self, reference: str) -> Kernel:
        """The kernel of that name.

        Raises
        ------
        LoadProblem
            It cannot be loaded, or is no kernel.
        """
        found = self._find(reference, "the kernels", lambda value: isinstance(value, Kernel))
        if isinstance(found, Kernel):
            return found
        kind = "a function" if callable(found) else f"of type {type(found).__name__}"
        raise LoadProblem(f"{reference} is {kind}, not a kernel: decorate it with @hs.kernel")

    def function(self, reference: str) -> Any:
        """The plain function of that name.

        Raises
        ------
        LoadProblem
            It cannot be loaded or called, or is a kernel.
        """
        found = self._find(reference, "the functions", callable)
        if callable(found) and not isinstance(found, Kernel):
            return found
        kind = "a kernel" if isinstance(found, Kernel) else f"of type {type(found).__name__}"
        raise LoadProblem(f"{reference} is {kind}; give a plain Python function")

    def _find(self, reference: str, what: str, fits: Any) -> Any:
        source, _, name = reference.rpartition(":")
        module = self._module(source)
        if not hasattr(module, name):
            known = [key for key, value in vars(module).items() if fits(value) and key[0] != "_"]
            raise LoadProblem(f"{source} has no {name!r}; {near(name, known, what + ' in it')}")
        return getattr(module, name)

    def _module(self, source: str) -> ModuleType:
        if source not in self._modules:
            try:
                self._modules[source] = self._load(source)
            except LoadProblem as problem:
                self._modules[source] = problem
        module = self._modules[source]
        if isinstance(module, LoadProblem):
            raise module
        return module

    def _load(self, source: str) -> ModuleType:
        if not source.endswith(".py") and os.sep not in source:
            with _importable(self._folder), _described(source):
                return importlib.import_module(source)
        path = os.path.realpath(self._folder / source)
        if not os.path.isfile(path):
            raise LoadProblem(f"the file {path!r} does not exist; check its name")
        # The name tells files of one name in different folders apart; one that is loaded
        # already would give way to it only by name, never by content.
        digest = hashlib.sha256(path.encode()).hexdigest()[:12]
        name = f"_hyperslab_job_{Path(path).stem}_{digest}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise LoadProblem(f"{path!r} is no Python file; its name should end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        with _importable(Path(path).parent), _described(source, path):
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Import from a folder first, as a script does from its own, and only for so long."""
    entry, before = str(folder), sys.dont_write_bytecode
    sys.path.insert(0, entry)
    # A plan changes nothing on disk: no __pycache__ beside the user's files either.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


@contextlib.contextmanager
def _described(source: str, path: str | None = None) -> Iterator[None]:
    """Turn what the user's code raises into a problem that names its line."""
    try:
        yield
    # SystemExit too: a script without a __main__ guard must not end this program silently.
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == source:
            raise LoadProblem(
                f"there is no module {source!r}; check its name, or name a file: {source}.py"
            ) from None
        where = ""
        if isinstance(error, SyntaxError):
            where = f" at {error.filename}:{error.lineno}"
        else:
            frames = traceback.extract_tb(error.__traceback__)
            own = [f for f in frames if path is None or os.path.realpath(f.filename) == path]
            if own:
                where = f" at {own[-1].filename}:{own[-1].lineno}"
        message = error.msg if isinstance(error, SyntaxError) else error
        raise LoadProblem(
            f"loading {source} raised {type(error).__name__}: {message}{where}"
        ) from error
