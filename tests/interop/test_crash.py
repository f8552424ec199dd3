"""The short form of scripts/crash."""

import crash


def test_five_rounds():
    crash.run(5)
