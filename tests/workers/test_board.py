"""The board: what one process marks another sees, also when the first is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hyperslab_workers.board import (
    FAILED,
    FINISHED,
    IDLE,
    RING,
    RUNNING,
    TORN,
    WRITING,
    Board,
    Mark,
)


@pytest.fixture
def board(tmp_path):
    return Board.create(str(tmp_path / "board"), rows=3, cells=2)


def test_a_new_board_is_idle(board):
    assert [row.mark() for row in board.rows] == [Mark()] * 3
    assert [(cell.turn, cell.called_off) for cell in board.cells] == [(0, False)] * 2


def test_the_life_of_a_task(board):
    row = board.rows[1]
    row.begin(7, 40)
    assert row.mark() == Mark(7, RUNNING, 40)
    row.at(40, 0)
    row.writing(40)
    assert row.mark() == Mark(7, WRITING, 40)
    row.at(41, 1)
    assert (row.mark(), row.done) == (Mark(7, RUNNING, 41), 1)
    row.finish(42, 2)
    assert (row.mark(), row.done) == (Mark(7, FINISHED, 42, frozenset({7})), 2)
    row.clear()
    assert row.mark() == Mark()


@pytest.mark.parametrize(("writing", "state"), [(False, FAILED), (True, TORN)])
def test_a_task_that_fails_tells_whether_it_was_just_writing(board, writing, state):
    row = board.rows[0]
    row.begin(3, 5)
    row.at(6, 1)
    if writing:
        row.writing(6)
    row.fail()
    assert row.mark() == Mark(3, state, 6)


def test_a_row_remembers_the_tasks_that_were_finished_last(board):
    row = board.rows[2]
    for ticket in range(1, 3 * RING):
        row.begin(ticket, 0)
        row.finish(1, 1)
    assert row.mark().finished == frozenset(range(2 * RING, 3 * RING))


def test_rows_and_cells_do_not_touch_each_other(board):
    for number, row in enumerate(board.rows):
        row.begin(number + 1, 10 * number)
        row.sign(100 + number)
    board.rows[1].clear()
    board.cells[1].call_off()
    board.cells[1].turn = 2**40
    assert [row.mark().region for row in board.rows] == [0, 0, 20]
    assert [row.pid for row in board.rows] == [100, 0, 102]
    assert (board.cells[0].turn, board.cells[0].called_off) == (0, False)
    assert (board.cells[1].turn, board.cells[1].called_off) == (2**40, True)
    board.cells[1].clear()
    assert (board.cells[1].turn, board.cells[1].called_off) == (0, False)


def test_regions_go_beyond_32_bits(board):
    board.rows[0].begin(2**40, 2**50)
    board.rows[0].writing(2**50 + 1)
    assert board.rows[0].mark() == Mark(2**40, WRITING, 2**50 + 1)


def test_a_mark_survives_the_death_of_who_made_it(board):
    program = """
import os, signal, sys
from hyperslab_workers.board import Board
row = Board(sys.argv[1]).rows[2]
row.sign(os.getpid())
row.begin(9, 5)
row.writing(6)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", program, board.path], timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert board.rows[2].mark() == Mark(9, WRITING, 6)
    assert board.rows[2].pid not in (0, os.getpid())
    assert board.rows[0].mark().state == IDLE
