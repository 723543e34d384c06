"""Jobs of every kind, again and again, while workers are killed: ``soak.py --kills 1000``.

Real processes, killed at random instants in every way a worker can go. Every answer is compared
with the undisturbed one to the bit, every ``WorkerLost`` is held against what is in the files, and
nobody may wait for ever or leave anything behind. The jobs run in a program of their own, so that
what it leaves can be looked for when it has ended.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from chaos import Program, boards
from killer import KINDS, Killer, children
from soak_jobs import COLUMNS, ROWS, Job, Regions, make_jobs

import hyperslab as hs

WORKERS = 3
HANG = 60.0


class Soak:
    """What the threads that run jobs have in common."""

    def __init__(self, engine: hs.Engine, killer: Killer) -> None:
        self.engine = engine
        self.killer = killer
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.beats: dict[int, tuple[float, str]] = {}
        self.over = threading.Event()

    def work(self, number: int, jobs: list[Job], seed: int) -> None:
        """Run jobs until it is over; the last round is undisturbed."""
        rng = random.Random(seed)
        try:
            while not self.over.is_set():
                self.once(number, rng.choice(jobs), rng)
                if number and rng.random() < 0.2:
                    time.sleep(rng.uniform(0.0, 1.0))  # The other one is alone for a while.
            for job in jobs:
                self.once(number, job, rng)
        except BaseException as error:
            self.wrong.append(f"{self.beats[number][1]}: {error!r}")
            raise
        finally:
            self.beats.pop(number, None)

    def once(self, number: int, job: Job, rng: random.Random) -> None:
        """Run a job and look at what it has done."""
        job.restore()
        self.beats[number] = (time.monotonic(), job.name)
        before = self.killer.total
        try:
            if rng.random() < 0.6:
                report = job.plan.run()
            else:
                report = self.engine.run(*job.call, region=(1, None))
        except hs.WorkerLost as error:
            self.counts["lost"] += 1
            # A death is noticed later than it was ordered, but not much.
            deaths = self.killer.total - before + WORKERS
            if problem := self.look(job, error, deaths):
                self.wrong.append(f"{job.name}: {problem}: {error}")
        else:
            self.counts["retries"] += report.retries
            if not job.right():
                self.wrong.append(f"{job.name}: bits differ, {report.retries} retries")
        self.counts["jobs"] += 1
        self.killer.patience = 0

    def look(self, job: Job, error: hs.WorkerLost, deaths: int) -> str | None:
        """What is wrong with a ``WorkerLost``."""
        regions: Regions = {"done": [], "untouched": [], "in doubt": []}
        for span in error.regions:
            regions[span.state] += range(span.start, span.stop)
        given_up = "2 times at this region" in str(error)
        self.counts["given up"] += given_up
        if not job.sees and not given_up:
            return "it can be repeated"
        if sorted(itertools.chain(*regions.values())) != list(range(job.plan.regions)):
            return f"regions are told wrongly: {regions}"
        if len(regions["in doubt"]) > min(deaths, WORKERS):
            return f"{deaths} deaths left {regions['in doubt']} in doubt"
        if not job.left(job, regions):
            return f"the files are not as it says: {regions}"
        return None

    def hung(self) -> str | None:
        """Whether a thread waits for ever."""
        now = time.monotonic()
        late = [name for began, name in list(self.beats.values()) if now - began > HANG]
        return ", ".join(late) or None


def inside(arguments: argparse.Namespace) -> None:
    """The program that runs the jobs."""
    import faulthandler
    import resource

    # A worker's dying words would only fill the log.
    os.environ.pop("PYTHONFAULTHANDLER", None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    scratch = tempfile.gettempdir()
    numbers = np.random.default_rng(arguments.seed).normal(size=(ROWS, COLUMNS))
    values = hs.from_array(numbers, scratch=scratch)
    large = hs.from_array(np.resize(numbers, (48, 2**16)), scratch=scratch)
    with hs.Engine(workers=WORKERS, memory="20 MB", scratch=scratch, progress=False) as engine:
        sets = [make_jobs(scratch, values, large, arguments.seed + n) for n in range(2)]
        for jobs in sets:
            for job in jobs:
                job.learn(engine)
        killer = Killer(engine, arguments.kills, arguments.seed)
        soak = Soak(engine, killer)
        threads = [
            threading.Thread(target=soak.work, args=(n, jobs, arguments.seed + n), daemon=True)
            for n, jobs in enumerate(sets)
        ]
        for thread in [*threads, killer]:
            thread.start()
        until, hung = time.monotonic() + arguments.seconds, None
        while any(thread.is_alive() for thread in threads) and not (hung := soak.hung()):
            if soak.wrong or not killer.is_alive() or time.monotonic() > until:
                killer.over.set()
                killer.join()
                soak.over.set()
            time.sleep(0.05)
        told = {
            "kills": killer.kills,
            "jobs": soak.counts["jobs"],
            "retries": soak.counts["retries"],
            "lost": soak.counts["lost"],
            "given up": soak.counts["given up"],
            "wrong": soak.wrong,
            "hung": hung,
        }
        print(json.dumps(told), flush=True)
        if hung:
            faulthandler.dump_traceback(all_threads=True)
            for row in (row for board in boards(Path(scratch)) for row in board.rows):
                print(row.pid, row.mark(), file=sys.stderr)
            for pid in children():
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                print(pid, state, Path(f"/proc/{pid}/wchan").read_text(), file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)


def soak(arguments: argparse.Namespace, directory: Path) -> int:
    """Run the program, look at what it leaves, and print a table."""
    program = Program(directory, "soak.py", "--inside", *_words(arguments))
    said: list[str] = []
    errors: list[str] = []
    pipes = [(program.process.stdout, said), (program.process.stderr, errors)]
    # Both are read all along: a worker that prints into a full pipe would stand still.
    readers = [
        threading.Thread(target=lambda pipe, to: to.extend(pipe), args=pipe, daemon=True)
        for pipe in pipes
    ]
    for reader in readers:
        reader.start()
    try:
        status = program.process.wait()
        left: list[str] = program.leftovers()
        until = time.monotonic() + 3.0
        while left and time.monotonic() < until:
            time.sleep(0.05)
            left = program.leftovers()
    finally:
        program.kill()
    told = json.loads(said[-1]) if said else {"kills": {}, "wrong": [], "hung": None}
    wrong, hung = told["wrong"], told["hung"]
    for kind in KINDS:
        print(f"{kind:20}{told['kills'].get(kind, 0):>8}")
    deaths = sum(n for kind, n in told["kills"].items() if kind != "stopped for a while")
    print(f"{'deaths':20}{deaths:>8}")
    for name in ("jobs", "retries", "lost", "given up"):
        print(f"{name:20}{told.get(name, 0):>8}")
    print(f"{'wrong':20}{len(wrong):>8}")
    print(f"{'hangs':20}{int(bool(hung)):>8}")
    print(f"{'leftovers':20}{len(left):>8}")
    for line in [*wrong, *([f"{hung} hangs"] if hung else []), *left]:
        print(line)
    failed = bool(wrong or hung or left or status)
    if failed:
        print(f"exit status {status}")
        print("".join(errors)[-20000:])
    return int(failed)


def _words(arguments: argparse.Namespace) -> list[object]:
    return [
        word for key in ("kills", "seed", "seconds") for word in (f"--{key}", vars(arguments)[key])
    ]


def main(words: list[str] | None = None, directory: Path | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="deaths after which it ends")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which it ends")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.inside:
        inside(arguments)
        return 0
    print(f"seed {arguments.seed}")
    if directory is not None:
        return soak(arguments, directory)
    with tempfile.TemporaryDirectory(prefix="hss-") as made:
        return soak(arguments, Path(made))


if __name__ == "__main__":
    sys.exit(main())
