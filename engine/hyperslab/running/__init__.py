"""From a plan to a report: who runs the tasks, and what happens when one of them dies.

::

    coordinator    sends tasks, takes outcomes, recovers
    pool           the seam: loky workers, this process, or an executor of the user's
    merging        private accumulations, in task order
    failures       what came back from a worker, as an error for people
    interruption   Ctrl-C
    progress       a bar, lines, or silence
    report         what was done, in numbers
"""
