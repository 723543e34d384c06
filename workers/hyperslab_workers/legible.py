"""Text that the program's output can show, whatever its encoding."""

from __future__ import annotations

import sys

__all__ = ["legible"]


def legible(text: str) -> str:
    r"""Text in which what the standard output cannot show is escaped.

    What tells a person something must not end in a ``UnicodeEncodeError``: a job of hours would
    fail in the ``print`` of its report, because the terminal is set to Latin-1 or a file's name
    comes from a system that was.

    Parameters
    ----------
    text : str
        Any text; names of files may hold lone surrogates, which no encoding has.

    Returns
    -------
    str
        The same text wherever that is possible.

    Examples
    --------
    >>> print(legible("a.npy → b.npy"), legible("\udcfc.npy"))
    a.npy → b.npy \udcfc.npy
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return ascii(text)[1:-1]
    return text
