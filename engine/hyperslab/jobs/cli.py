"""The command ``hyperslab``: ``run``, ``plan``, ``info`` and ``cache``.

Exit codes: 0 fine; 1 the job failed; 2 a mistake in the spec or in the command; 130 the job
was interrupted (Ctrl-C, or SIGTERM as batch systems send it).

Everything that takes time to import is imported in the command that needs it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from hyperslab.jobs.runner import Job, StepReport

__all__ = ["app", "main"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_WIDE = 1000
"""Columns of what is no terminal."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    # What is left to raise here is a fault of ours: its plain traceback is what a report needs.
    pretty_exceptions_enable=False,
    help="Compute on arrays in files, on every core: batch jobs and a look at files.",
)

_SpecFile = Annotated[
    Path, typer.Argument(metavar="JOB", help="The job spec: .yaml, .toml or .json.")
]
_Workers = Annotated[int | None, typer.Option(help="Worker processes.", min=1)]
_Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="Memory budget, such as 8GB.")]
_Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]


def _version(wanted: bool) -> None:
    if wanted:
        from hyperslab import __version__

        typer.echo(f"hyperslab {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    job: _SpecFile,
    workers: _Workers = None,
    memory: _Memory = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the figures to a JSON file.")
    ] = None,
    traceback: _Traceback = False,
) -> None:
    """Run a job: verify all of it, make its outputs, run its steps."""
    with _errors_in_words(traceback), _terminated_as_interrupted():
        from hyperslab.jobs.runner import prepare

        if report is not None and not os.path.isdir(report.absolute().parent):
            raise typer.BadParameter(
                f"the folder of {str(report)!r} does not exist", param_hint="--report"
            )
        with prepare(
            job, workers=workers, memory=memory, progress=False if no_progress else None
        ) as ready:
            _run(ready, report)


@app.command()
def plan(
    job: _SpecFile,
    workers: _Workers = None,
    memory: _Memory = None,
    traceback: _Traceback = False,
) -> None:
    """Verify a job and say what each step would do. Changes nothing."""
    with _errors_in_words(traceback):
        from hyperslab.jobs.runner import prepare
        from hyperslab.units import human_bytes

        with prepare(job, workers=workers, memory=memory) as ready:
            console = _console()
            for step in ready.steps:
                title = f"step {step.number} of {len(ready.steps)}: {step.spec.kernel}"
                console.print(f"{title} ({step.where})", style="bold")
                console.print(step.plan.explain() + "\n")
            for name, output in ready.outputs.items():
                size = human_bytes(output.file_size)
                does = "replaces" if os.path.lexists(output.path) else "makes"
                console.print(f"{name}: {does} {output.path}, {size}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .npy or raw file.")],
    traceback: _Traceback = False,
) -> None:
    """Show a file's header, size and blocks on disk. Reads no data."""
    with _errors_in_words(traceback):
        from hyperslab.errors import ArrayFileError
        from hyperslab.jobs.info import describe, inspect_file

        try:
            found = inspect_file(file)
        except ArrayFileError as error:
            # No such file: a mistake in the command, not in a job.
            raise _Usage(str(error)) from error
        console = _console()
        for name, words in describe(found):
            console.print(f"{name:<12} {words}")
        if found.problem:
            console.print(f"\n{found.problem}")
            if found.version is not None:
                raise typer.Exit(FAILED)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it.")] = False,
) -> None:
    """Show where compiled kernels are kept, how many and how large; or remove them."""
    from hyperslab.compiler import cache as kept
    from hyperslab.units import human_bytes

    console, place = _console(), kept.directory()
    if place is None:
        console.print("no kernels are kept: HYPERSLAB_CACHE_DIR is 0, or there is no home")
        return
    if clear:
        try:
            console.print(f"removed {kept.clear():,} kernels from {place}")
        except FileNotFoundError:
            console.print(f"there is nothing in {place}")
        except OSError as error:
            _complain(f"{place} cannot be cleared ({error.strerror}); remove it by hand")
            raise typer.Exit(FAILED) from None
        return
    number, size = kept.usage()
    most = human_bytes(kept.LARGEST)
    console.print(f"{number:,} kernels, {human_bytes(size)} of at most {most}, in {place}")


class _Usage(Exception):
    """A mistake in the command, found after its options were parsed."""


def _run(job: Job, report_path: Path | None) -> None:
    began = time.monotonic()
    done: list[StepReport] = []
    status, failure = "finished", None
    try:
        for step in job.run():
            done.append(step)  # noqa: PERF402 - those before an error are needed, too
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        failure = error
        raise
    finally:
        seconds = time.monotonic() - began
        if done:
            _print_table(done, len(job.steps))
        if report_path is not None:
            _write_report(report_path, job, status, seconds, done, failure)


def _print_table(done: list[StepReport], steps: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from hyperslab.units import human_bytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("step", "kernel", "time", "compiling", "regions", "read", "written", "rate"):
        table.add_column(title, justify="left" if title == "kernel" else "right", no_wrap=True)

    for step in done:
        figures = step.report
        cells = (
            f"{step.number}/{steps}",
            step.kernel,
            f"{figures.seconds:.2f} s",
            f"{figures.compile_seconds:.2f} s",
            f"{figures.regions:,}",
            human_bytes(figures.bytes_read),
            human_bytes(figures.bytes_written),
            f"{human_bytes(figures.throughput)}/s",
        )
        table.add_row(*(Text(cell) for cell in cells))
    _console().print(table)


def _write_report(
    path: Path,
    job: Job,
    status: str,
    seconds: float,
    done: list[StepReport],
    failure: BaseException | None,
) -> None:
    from hyperslab import __version__

    content: dict[str, Any] = {
        "hyperslab": __version__,
        "job": str(Path(job.name).absolute()),
        "status": status,
        "seconds": seconds,
        "steps": [step.to_dict() for step in done],
        "error": None,
    }
    if failure is not None:
        notes = getattr(failure, "__notes__", [])
        content["error"] = {
            "type": type(failure).__name__,
            "message": "\n".join([str(failure), *notes]),
        }
    try:
        _write_text(os.path.realpath(path), json.dumps(content, indent=2) + "\n")
    except OSError as error:
        _complain(f"the report could not be written to {str(path)!r} ({error.strerror})")


def _write_text(target: str, text: str) -> None:
    from hyperslab.whole_file import write_whole

    def fill(fd: int) -> None:
        with open(fd, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)

    if os.path.exists(target) and not os.path.isfile(target):
        # /dev/stdout, or a pipe to whoever waits: nothing that can be replaced.
        with open(target, "w", encoding="utf-8") as stream:
            stream.write(text)
        return
    # Complete or not there: whoever waits for the report never reads half of it.
    write_whole(target, fill, replace=True)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    # In a file or a pipe there is no width, and rich's default of 80 would cut the table.
    # A daemon may have none: what is said then is said to nobody.
    stream = (sys.stderr if stderr else sys.stdout) or io.StringIO()
    width = None if stream.isatty() else _WIDE
    return Console(
        file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True
    )


def _complain(text: str) -> None:
    _console(stderr=True).print(f"error: {text}", style="red")


@contextlib.contextmanager
def _errors_in_words(traceback: bool) -> Iterator[None]:
    """Turn errors into their messages and the exit code that goes with them."""
    from hyperslab.errors import HyperslabError, JobInterrupted, SpecError

    try:
        yield
    except (HyperslabError, KeyboardInterrupt, _Usage) as error:
        if traceback:
            import traceback as tracebacks

            tracebacks.print_exception(error)
        else:
            text = str(error) or "interrupted"
            _complain("\n".join([text, *getattr(error, "__notes__", [])]))
        if isinstance(error, KeyboardInterrupt | JobInterrupted):
            code = INTERRUPTED
        else:
            code = USAGE if isinstance(error, SpecError | _Usage) else FAILED
        raise typer.Exit(code) from None


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM stop the job as Ctrl-C does: workers ended, the report written.

    Batch systems send it some seconds before they kill.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    from hyperslab.interruption import interrupts_kept, taken_for_default

    taken_for_default(_interrupt)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with interrupts_kept():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is escaped, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="hyperslab")
    except KeyboardInterrupt:
        # While something is being imported, before any command could catch it.
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
