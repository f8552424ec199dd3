"""Attacks of attacks/ once, briefly, at `corelane.memory=64m`: what siege.py does at length, without its times.

One test for each attack. Those that share a broker are always tested, all others too with SIEGE=all.
"""

import os

from attacks import TABLE
from attacks.groups import GROUPS
from attacks.metadata import METADATA
from bystander import SESSION_MS
from harness import KAFKA
from siege import Field, Row, besiege, stop

MEMORY, SECONDS = "64m", 0.5
# Above MEMORY, for a broker that has been through forty attacks: the allocator's heap has holes then.
ABOVE = 112 << 20
fields = {}


def needs_its_own(attack):
    """What groups and topics were made to take they keep: each attack on them begins anew."""
    return bool(attack.settings or attack.unread or attack.limits or attack.group in (GROUPS, METADATA))


def field_for(attack):
    """A field with a running broker that is right for the attack."""
    own = attack.name if needs_its_own(attack) else ""
    key = (attack.frozen, own)
    field = fields.get(key)
    if field and field.broker.process.poll() is not None:
        fields.pop(key).__exit__()
        field = None
    if field is None:
        # One at a time: the disks and the processors are those of others too.
        leave_all()
        field = fields[key] = Field(MEMORY, attack.frozen)
        field.seed(field.directory, attack)
    return field


def leave_all():
    """Stops the brokers, which has to be clean."""
    faults = []
    for key, field in list(fields.items()):
        del fields[key]
        row = Row(None, MEMORY)
        stop(field, row)
        faults += row.faults
        field.__exit__()
    assert not faults, "; ".join(faults)


def withstand(attack):
    """A test."""

    def test():
        if KAFKA:
            return
        if attack.frozen and not may_mount():
            return print("not allowed to make a file system: nothing tested")
        field = field_for(attack)
        row = besiege(field, attack, SECONDS, False, ABOVE)
        if needs_its_own(attack):
            stop(field, row)
        assert not row.faults, "; ".join(row.faults)

    return test


def may_mount():
    return os.geteuid() == 0 and os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control")


def tests():
    """The attacks as tests, those that share a broker after one another."""
    everything = os.environ.get("SIEGE") == "all"
    for attack in sorted(TABLE, key=lambda a: (a.frozen, needs_its_own(a))):
        if not everything and (attack.frozen or needs_its_own(attack)):
            continue
        test = withstand(attack)
        test.__module__ = __name__
        yield "test_" + attack.name.replace("-", "_"), test


globals().update(tests())


def test_a_member_outlives_two_hundred_stalled_requests():
    """Longer than a session: what waits for memory has no receive buffer that the member's heartbeats need."""
    if KAFKA:
        return
    leave_all()
    attack = next(a for a in TABLE if a.name == "announced-and-stalled")
    with Field(MEMORY) as field:
        field.seed(field.directory, attack)
        row = besiege(field, attack, SESSION_MS / 1000 + 1, True, ABOVE)
        stop(field, row)
        assert not row.faults, "; ".join(row.faults)


def test_zz_stops_in_good_order():
    leave_all()
