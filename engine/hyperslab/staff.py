"""Who runs the plans of one engine: its pools, each made when it is first needed."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

from hyperslab.errors import HyperslabError
from hyperslab.planning.plan import Plan
from hyperslab.pools import Pool, make_pool
from hyperslab.running.routing import PATIENCE, cost, is_short
from hyperslab.session import session_directory
from hyperslab.settings import Settings
from hyperslab_workers import forks

__all__ = ["Staff", "lock_roots"]

lock_roots: set[str | None] = set()
"""Where workers of pools that have been closed may have left locks."""


class Staff:
    """The pools of an engine. Any thread may call any method.

    Parameters
    ----------
    settings : Settings
        Of the engine.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = forks.lock()
        self._pid = os.getpid()
        self._left_to_threads = 0
        self._alone = False
        self._threads: Pool | None = None
        self.pool: Pool | None = None
        """The pool of the engine's executor, if it has been needed yet."""
        self.closed = False

    def workers(self) -> Pool:
        """The pool of the engine's executor.

        Raises
        ------
        HyperslabError
            The engine is closed, or is a copy of one whose executor is another process's.
        """
        with self._lock:
            self._check_usable()
            if self.pool is None:
                self.pool = make_pool(
                    self._settings.executor, self._settings.workers, self._session()
                )
                weakref.finalize(self, _close, self.pool, os.getpid())
            return self.pool

    def threads_for(self, plan: Plan) -> Pool | None:
        """Threads of this process, where a plan is short and there are no workers yet.

        Raises
        ------
        HyperslabError
            As for :meth:`workers`.
        """
        with self._lock:
            self._check_usable()
            has_workers = self.pool is not None and self.pool.started
            if self._settings.executor != "auto" or has_workers or not is_short(plan):
                return None
            self._left_to_threads += cost(plan)
            if self._left_to_threads > PATIENCE and not self._alone:
                self._start_for_later()
            session = self._session()
            if self._threads is None:
                from hyperslab.pools.threads import ThreadPool

                self._threads = ThreadPool(self._settings.workers, session)
                weakref.finalize(self, _close, self._threads, os.getpid())
            # Should somebody have removed the one of before.
            self._threads.directory = str(session)
            return self._threads

    def close(self) -> None:
        """End all pools; a copy of the engine in a forked child leaves them alone."""
        with self._lock:
            self.closed = True
            if self._pid != os.getpid():
                return
            pools = [pool for pool in (self._threads, self.pool) if pool is not None]
            self._threads = self.pool = None
        for pool in pools:
            _close(pool, os.getpid())

    def _start_for_later(self) -> None:
        """Start workers in the background; where there can be none, threads serve for good."""
        try:
            self.workers().start()
        except HyperslabError:
            self._alone = True
            pool, self.pool = self.pool, None
            if pool is not None:
                pool.close()

    def _session(self) -> Path:
        return session_directory(self._settings.scratch)

    def _check_usable(self) -> None:
        """Refuse a closed engine, and forget pools that have ended. Under the lock."""
        if self.closed:
            raise HyperslabError("this engine is closed: make a new hs.Engine")
        if self._pid != os.getpid():
            # A forked child has none of its parent's threads or workers.
            if not isinstance(self._settings.executor, str):
                raise HyperslabError(
                    f"this engine's executor is that of process {self._pid}, of which this is a"
                    " copy without its threads and workers: make an executor and an engine here"
                )
            self.pool, self._threads, self._pid = None, None, os.getpid()
        if self.pool is not None and self.pool.closed:
            # A child of multiprocessing ends its pools before it waits for its threads.
            self.pool = None


def _close(pool: Pool, pid: int, ending: Callable[[], bool] = sys.is_finalizing) -> None:
    # When Python takes modules down, their names are gone, and all pools have been closed before.
    if not ending() and os.getpid() == pid:
        pool.close()
        lock_roots.update(pool.lock_roots)
