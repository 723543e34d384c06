"""A short soak; ``python tests/programs/soak.py --kills 1000`` is the long one."""

from __future__ import annotations

import soak


def test_workers_killed_at_random_instants_change_no_bit(tmp_path, capsys):
    failed = soak.main(["--kills", "40", "--seconds", "15"], tmp_path)
    assert not failed, capsys.readouterr().out
