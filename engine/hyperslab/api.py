"""The public calls: ``run``, ``plan`` and ``Engine``."""

from __future__ import annotations

import atexit
import gc
import os
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hyperslab import settings as configuration
from hyperslab.compiler import Kernel
from hyperslab.errors import HyperslabError, PlanError
from hyperslab.planning import planner
from hyperslab.planning.memory import budget
from hyperslab.planning.plan import Plan, set_runner
from hyperslab.planning.recall import Recall
from hyperslab.running.prepare import Prepared, prepare
from hyperslab.running.progress import make_progress
from hyperslab.running.report import Report
from hyperslab.running.run import drive, interrupted
from hyperslab.session import scratch_root, session_directory
from hyperslab.settings import Progress, Release, Settings
from hyperslab.staff import Staff, lock_roots
from hyperslab.underway import under_way
from hyperslab_workers import forks
from hyperslab_workers.host import REFUSALS, refused
from hyperslab_workers.mapping import sparing

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Engine", "default_engine", "plan", "run"]


class Engine:
    """Workers, kept warm from job to job.

    Parameters
    ----------
    workers : int, optional
        Worker processes; default ``HYPERSLAB_WORKERS``, else the processors this process may
        use (affinity and control groups respected).
    memory : int or str, optional
        Budget for the private memory of all workers together, as ``"16GB"``; default
        ``HYPERSLAB_MEMORY``, else what the system and the control group have free.
    executor : {"auto", "loky", "serial"} or concurrent.futures.Executor, optional
        Who runs the tasks: processes of the engine's own ("loky"), this process (for debugging),
        or an executor of yours, which stays yours to close. "auto" is "loky", except that short
        jobs run in threads of this process for as long as no worker has been started: see
        ``report.route``. Default ``HYPERSLAB_EXECUTOR``, else "loky" where `workers` is given,
        else "auto".
    scratch : path, optional
        Directory for scratch files; default ``HYPERSLAB_SCRATCH``, else the system's
        temporary directory.
    lock_dir : path, optional
        Directory for reader-writer locks; default ``HYPERSLAB_LOCK_DIR``, else a per-user
        runtime directory on local disk.
    lock_timeout : float, optional
        Seconds a task waits for a lock before the job fails with ``LockTimeout``; default: for
        ever.
    progress : bool or "auto", optional
        Whether jobs show their progress; default ``HYPERSLAB_PROGRESS``, else "auto": jobs of
        more than half a second do.
    release : bool or "auto", optional
        Whether workers let go of a region's file pages when they are done with it, so that a job
        gets along with little page cache; default ``HYPERSLAB_RELEASE``, else "auto": where the
        control group's memory (cgroup v1 or v2) is smaller than the files of the job. It changes
        no bit of a result.

    Raises
    ------
    PlanError
        A setting that makes no sense.

    Examples
    --------
    >>> import numpy as np, hyperslab as hs
    >>> @hs.kernel
    ... def double(a, out):
    ...     for i in range(a.shape[0]):
    ...         out[i] = 2 * a[i]
    >>> a, out = hs.from_array(np.arange(5.0)), hs.from_array(np.zeros(5))
    >>> with hs.Engine(executor="serial") as engine:
    ...     report = engine.run(double, a, hs.write(out))
    >>> np.asarray(out).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        memory: int | float | str | None = None,
        executor: str | Executor | None = None,
        scratch: str | os.PathLike[str] | None = None,
        lock_dir: str | os.PathLike[str] | None = None,
        lock_timeout: float | None = None,
        progress: Progress | None = None,
        release: Release | None = None,
    ) -> None:
        self._settings = configuration.resolve(
            workers=workers,
            memory=memory,
            executor=executor,
            scratch=scratch,
            lock_dir=lock_dir,
            lock_timeout=lock_timeout,
            progress=progress,
            release=release,
        )
        self._staff = Staff(self._settings)
        self._prepared: weakref.WeakKeyDictionary[Plan, Prepared] = weakref.WeakKeyDictionary()
        self._recall = Recall()
        self._lock = forks.lock()
        self._name = os.urandom(8).hex()
        _engines[self._name] = self

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    def start(self) -> None:
        """Start the workers now, so that the first job does not wait for them.

        From here on short jobs run in them as well.
        """
        self._staff.workers().start()

    def run(
        self,
        kernel: Kernel,
        *arguments: Any,
        over: Any = None,
        region: int | Sequence[int | None] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Run a kernel on every region of a domain. See :func:`hyperslab.run`."""
        started = time.monotonic()
        key = self._recall.key(kernel, arguments, over, region)
        plan = self._recall.find(key, self._memory_limit)
        if plan is None:
            made = self.plan(kernel, *arguments, over=over, region=region)
            plan = self._recall.keep(key, made, arguments)
        else:
            kernel.warn_of_changes()
        return self._run(plan, progress=progress, started=started)

    def _memory_limit(self) -> int:
        try:
            return sparing(lambda: budget(self._settings.memory, self._settings.at_once)).limit
        except REFUSALS as error:
            raise refused("what memory is free cannot be asked", error) from error

    def plan(
        self,
        kernel: Kernel,
        *arguments: Any,
        over: Any = None,
        region: int | Sequence[int | None] | None = None,
    ) -> Plan:
        """Verify a job without running it. See :func:`hyperslab.plan`."""
        try:
            return sparing(
                lambda: planner.build(
                    kernel,
                    arguments,
                    settings=self._settings,
                    engine=self._name,
                    over=over,
                    region=region,
                )
            )
        except HyperslabError:
            raise
        except REFUSALS as error:
            raise refused(f"kernel {kernel.name} cannot be planned", error) from error

    def _run(
        self, plan: Plan, *, progress: Progress | None = None, started: float | None = None
    ) -> Report:
        started = time.monotonic() if started is None else started
        if progress is not None:
            progress = configuration.checked_progress(progress)
        with under_way():
            try:
                return self._drive(plan, progress, started)
            finally:
                if _over:  # Nobody will come to close what an exit handler's job has started.
                    self.close()

    def _drive(self, plan: Plan, progress: Progress | None, started: float) -> Report:
        display = make_progress(
            self._settings.progress if progress is None else progress,
            plan.kernel.name,
            plan.regions,
            plan.bytes_read + plan.bytes_written,
        )
        try:
            prepared = self._take_prepared(plan)
            report = drive(plan, prepared, display, started)
        except HyperslabError:  # A LockTimeout is an OSError, too.
            raise
        except REFUSALS as error:
            scratch = str(scratch_root(self._settings.scratch))
            what = f"kernel {plan.kernel.name} cannot be run with scratch in {scratch!r}"
            raise refused(what, error) from error
        finally:
            display.close()
        with self._lock:
            if not self._staff.closed and not prepared.pool.closed:
                self._prepared[plan] = prepared
        return report

    def _take_prepared(self, plan: Plan) -> Prepared:
        """What the plan has been prepared to, for this run alone.

        Another thread that runs the same plan at the same time prepares it anew: two runs would
        leave their contributions in one place. So does the run after one that failed.
        """
        here = self._staff.threads_for(plan)
        if here is None:
            self._staff.workers()
        with self._lock:
            prepared = self._prepared.pop(plan, None)
        if prepared is not None and prepared.pool in (here, self._staff.pool):
            return prepared
        session = session_directory(self._settings.scratch)
        try:
            return prepare(plan, session, self._staff.workers, here)
        except KeyboardInterrupt:
            raise interrupted(plan, "before its first region; no file was changed") from None

    def close(self) -> None:
        """Stop the workers. The engine cannot be used afterwards; closing twice is fine."""
        self._staff.close()
        self._prepared.clear()
        self._recall.clear()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        executor = self._settings.executor
        state = "closed" if self._staff.closed else "open"
        return f"<hyperslab.Engine: {self._settings.workers} workers, {executor!r}, {state}>"


_engines: weakref.WeakValueDictionary[str, Engine] = weakref.WeakValueDictionary()
"""The engines of this process, by the name that their plans carry."""

_over = False
"""Whether the exit handler below has been run."""

_default: Engine | None = None
_default_lock = forks.lock()


def default_engine() -> Engine:
    """The engine behind ``hs.run``: made at first use, kept warm, closed at exit."""
    global _default
    with _default_lock:
        if _default is None or _default._staff.closed:
            _default = Engine()
        return _default


def _run_plan(plan: Plan, *, progress: Progress | None = None) -> Report:
    engine = _engines.get(plan.engine)
    if engine is None:
        # It was made in another process, or its engine is gone.
        engine = default_engine()
    return engine._run(plan, progress=progress)


set_runner(_run_plan)


def _chosen(engine: Engine | None) -> Engine:
    if engine is None:
        return default_engine()
    if not isinstance(engine, Engine):
        raise PlanError(f"engine={engine!r} is no engine; make one with hs.Engine(...)")
    return engine


def run(
    kernel: Kernel,
    *arguments: Any,
    over: Any = None,
    region: int | Sequence[int | None] | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Report:
    """Run a kernel on every region of a domain, on all workers.

    Parameters
    ----------
    kernel : Kernel
        A function decorated with ``@hs.kernel``.
    *arguments
        What it is called with: ``hs.read``, ``hs.write``, ``hs.update`` or ``hs.accumulate`` of
        an array, an array by itself (it is read), a number, a NumPy array of up to 1 MB, or
        ``hs.ORIGIN``.
    over : tuple of int, or Array, optional
        The domain that is split; default: the shape of the first argument that is written or
        updated, else of the first that is read.
    region : int or tuple of int, optional
        Shape of one region, None in it for a whole axis; default: from the arrays' geometry.
    progress : bool or "auto", optional
        Whether to show progress; default: the engine's setting.
    engine : Engine, optional
        Default: one that is started at first use and kept warm.

    Returns
    -------
    Report
        What was done, in numbers.

    Raises
    ------
    PlanError
        The job cannot be run as described; nothing was touched.
    KernelError
        The kernel does not compile, or raised in a region.
    ArrayFileError, LockTimeout, WorkerLost, JobInterrupted
        What went wrong on the way.

    Examples
    --------
    >>> import numpy as np, hyperslab as hs
    >>> @hs.kernel
    ... def total(values, out):
    ...     for i in range(values.shape[0]):
    ...         out[0] += values[i]
    >>> values, out = hs.from_array(np.arange(10)), hs.from_array(np.zeros(1, int))
    >>> report = hs.run(total, values, hs.accumulate(out))
    >>> int(out[0])
    45
    """
    chosen = _chosen(engine)
    return chosen.run(kernel, *arguments, over=over, region=region, progress=progress)


def plan(
    kernel: Kernel,
    *arguments: Any,
    over: Any = None,
    region: int | Sequence[int | None] | None = None,
    engine: Engine | None = None,
) -> Plan:
    """Verify a job and say what it will do, without running it or touching any data.

    Takes what :func:`run` takes. ``print(plan.explain())`` tells a person, ``plan.run()`` runs
    it.
    """
    chosen = _chosen(engine)
    return chosen.plan(kernel, *arguments, over=over, region=region)


@atexit.register
def _close_all() -> None:
    global _over
    _over = True
    for engine in list(_engines.values()):
        engine.close()
    # Processes of a foreign executor have ended by now, most kinds without any farewell.
    if lock_roots:
        from hyperslab_workers.locks import sweep

        for root in list(lock_roots):
            sweep(root)
    # What is alive now stays so until the process ends; collecting what Numba leaves behind
    # costs up to 0.3 s and frees nothing that the system would not free faster.
    gc.freeze()
