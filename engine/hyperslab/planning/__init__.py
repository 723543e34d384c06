"""From what a user declared to a verified plan: arithmetic on shapes, no data is read.

::

    declare        read, write, update, accumulate: the user's words
    planner        holds them against each other and makes the plan
    ├─ partition      alignment, shape of regions, regions in a task
    ├─ interference   whether tasks get in each other's way
    ├─ layout         what the arguments look like to the compiler
    ├─ projection     how much private memory it takes
    │  └─ memory         how much there is
    plan           the result: a value that can be inspected, explained and run
    explain        the plan in words
"""
