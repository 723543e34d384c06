"""The board: what one process marks another sees, also when the first is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hyperslab_workers.board import FINISHED, IDLE, RUNNING, WRITING, Board


@pytest.fixture
def board(tmp_path):
    return Board.create(str(tmp_path / "board"), 3)


def test_a_new_board_is_idle(board):
    assert [board.state(slot) for slot in range(3)] == [(IDLE, 0, 0)] * 3
    assert (board.turn, board.aborted, board.regions_done()) == (0, False, 0)


def test_the_life_of_a_task(board):
    board.begin(1, 40, os.getpid())
    assert board.state(1) == (RUNNING, 40, 0)
    board.region(1, 40, 0)
    board.writing(1)
    assert board.state(1) == (WRITING, 40, 0)
    board.region(1, 41, 1)
    assert board.state(1) == (RUNNING, 41, 1)
    board.finish(1, 2)
    assert board.state(1) == (FINISHED, 41, 2)
    board.clear(1)
    assert board.state(1) == (IDLE, 0, 0)


def test_slots_do_not_touch_each_other(board):
    for slot in range(3):
        board.begin(slot, 10 * slot, 7)
        board.region(slot, 10 * slot + 1, slot)
    board.clear(1)
    assert board.state(0) == (RUNNING, 1, 0)
    assert board.state(1) == (IDLE, 0, 0)
    assert board.state(2) == (RUNNING, 21, 2)
    assert (board.turn, board.aborted) == (0, False)


def test_finished_regions_of_all_slots_are_added_up(board):
    board.region(0, 5, 5)
    board.finish(2, 4)
    assert board.regions_done() == 9


def test_the_turn_goes_beyond_32_bits(board):
    board.turn = 2**40
    assert board.turn == 2**40


def test_both_sides_see_one_board(board):
    other = Board(board.path)
    other.begin(2, 9, 1)
    board.abort()
    assert board.state(2) == (RUNNING, 9, 0)
    assert other.aborted


def test_marks_survive_the_process_that_made_them(board):
    program = (
        "import os, signal, sys\n"
        "from hyperslab_workers.board import Board\n"
        "board = Board(sys.argv[1])\n"
        "board.begin(0, 17, os.getpid())\n"
        "board.region(0, 18, 1)\n"
        "board.writing(0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, board.path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert board.state(0) == (WRITING, 18, 1)


def test_a_board_is_not_made_over_another(board):
    with pytest.raises(FileExistsError):
        Board.create(board.path, 1)


def test_a_board_without_slots_has_nothing_to_add_up(tmp_path):
    assert Board.create(str(tmp_path / "empty"), 0).regions_done() == 0
