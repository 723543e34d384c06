"""What runs inside a worker process of hyperslab.

This package never imports ``hyperslab``: a worker loads only what it needs to map a file,
load machine code and run it. The values defined here (boxes, references, accesses, tasks)
are what crosses between the coordinator and its workers.
"""
