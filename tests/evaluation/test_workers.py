"""Threads of our own, and what others have meanwhile."""

import threading

import torch

from qexplore.evaluation.workers import Workers


def num_threads_of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join(20)
    return found[0]


def test_threads_that_begin_while_workers_work_have_all_of_torchs_threads(two_threads):
    workers = Workers(2)
    try:
        own = workers.map(lambda *_: (torch.get_num_threads(), num_threads_of_a_new_thread()), range(4))
        assert own == [(1, 2)] * 4
        assert torch.get_num_threads() == num_threads_of_a_new_thread() == 2
    finally:
        workers.close()
