"""Searches that share an allowance."""

from __future__ import annotations

import time

import pytest

from torch_autokernel.core import deadline


def test_searches_in_one_purse_share_an_allowance() -> None:
    with deadline.one_purse():
        with deadline.from_purse(1.0) as first:
            time.sleep(0.05)
        with deadline.one_purse(), deadline.from_purse(1.0) as second:
            time.sleep(0.05)
        with deadline.from_purse(1.0) as third:
            pass
        with deadline.from_purse(0.01) as none:
            pass
    assert first == 1.0 and 0.5 < second < 0.96 and third < second - 0.04 and none == 0.0


def test_without_a_purse_each_has_its_own() -> None:
    for _ in range(2):
        with deadline.from_purse(1.0) as seconds:
            time.sleep(0.02)
        assert seconds == 1.0


def test_a_search_that_fails_is_paid_for() -> None:
    with deadline.one_purse():
        with pytest.raises(OSError), deadline.from_purse(1.0):
            time.sleep(0.05)
            raise OSError
        with deadline.from_purse(1.0) as seconds:
            pass
    assert seconds < 0.96
