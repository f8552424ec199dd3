"""The short forms of scripts/crash, scripts/crash-compact and scripts/crash-groups."""

import crash
import crash_compact
import crash_groups


def test_five_rounds():
    crash.run(5)


def test_five_rounds_while_compacting():
    crash_compact.run(5)


def test_three_rounds_of_rebalances():
    crash_groups.run(3, with_java=False)
