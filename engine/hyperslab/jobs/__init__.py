"""Batch jobs: steps over arrays in files, described in a document and run by one command.

::

    job.yaml ──► document ──► spec ──► checking ──► runner ──► hs.Engine.run, step by step
                 text to       models   files and     creates
                 values and    of what  kernels,      outputs
                 lines         is said  a plan each

Up to ``spec`` nothing but the document itself is read and no code is executed. ``checking``
opens files and imports kernels, and changes nothing. What can go wrong in either is
collected and raised once, each problem with its line.

This package's modules are imported one by one: ``hyperslab info`` should wait for none of
what ``hyperslab run`` needs.
"""
