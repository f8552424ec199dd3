"""The short forms of scripts/crash and scripts/crash-*, and of crash-groups without crashes."""

import crash
import crash_compact
import crash_groups
import crash_identity


def test_five_rounds():
    crash.run(5)


def test_five_rounds_while_compacting():
    crash_compact.run(5)


def test_five_rounds_beside_recreated_topics_and_moving_disks():
    crash_identity.run(5)


def test_three_rounds_of_rebalances():
    crash_groups.run(3, with_java=False)


def test_members_of_all_kinds_come_and_go():
    """Joins, leaves and kills under load, with Java's clients too: every record is read, no acknowledged commit is undone."""
    crash_groups.run(8, crash=False)
