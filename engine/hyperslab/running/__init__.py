"""Running plans: what may be sent next, what became of it, and what is told of it.

::

    prepare     what depends on the plan alone, once
    run         the loop: send, receive, commit, call off
    window      which task goes next
    merging     the tree by which contributions are merged, and the total at the end
    recovery    what to do about a lost task: pure
    standing    how far the run has come, region by region
    failures    errors in words
    residence   through the map or past it
    progress    what is shown meanwhile
    report      what was done
"""
