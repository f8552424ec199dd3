"""Consumer groups: how long a rebalance takes, commits per second, what heartbeats cost. The members speak the protocol themselves.

Corelane answers commits when they are flushed. Kafka does from the page cache, so it is measured a second time with a flush for each.
"""

import os
import selectors
import socket
import struct
import sys
import time

import brokers
from runs import median, ratio, show, table

sys.path.insert(0, os.path.join(brokers.ROOT, "tests", "interop"))

from raw import Connection  # noqa: E402

# Name, broker, further settings.
SIDES = [("corelane", "corelane", []), ("kafka", "kafka", []), ("kafka-flushed", "kafka", ["log.flush.interval.messages=1"])]
# Long enough for three members to find each other in the first generation.
SETTINGS = ["group.initial.rebalance.delay.ms=500"]
TOPIC, PARTITIONS = "groups", 100
SMALL_TOPIC, SMALL_PARTITIONS = "small", 4
REBALANCES = 100
COMMIT_CONNECTIONS = (1, 16)
COMMIT_PARTITIONS = 10
GROUPS, MEMBERS, HEARTBEAT_CONNECTIONS, HEARTBEAT_ROUNDS = 10_000, 5_000, 50, 4
# COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, UNKNOWN_TOPIC_OR_PARTITION: it has only just begun.
NOT_YET = (14, 15, 16, 3)


def run(session):
    seconds = float(session.options.duration.removesuffix("s"))
    for number in range(1, session.options.rounds + 1):
        for name, side, settings in SIDES:
            with session.start(side, settings=SETTINGS + settings) as broker:
                prepare(broker)
                commits(broker, 16, 6 if side == "kafka" else 1)
                rebalances(broker)
                entry = {"round": number, "side": name, "rebalance_ms": rebalances(broker)}
                entry |= {f"commits_{count}": commits(broker, count, seconds) for count in COMMIT_CONNECTIONS}
                if name != "kafka-flushed":
                    entry["one_member_groups"] = heartbeats(broker, SMALL_TOPIC, [f"one-{n}" for n in range(GROUPS)])
                    entry["one_large_group"] = heartbeats(broker, TOPIC, ["large"] * MEMBERS)
            session.note(entry)
            print(entry, flush=True)
    session.write(markdown([e for e in session.entries if "side" in e]))


def connect(broker):
    return Connection(("127.0.0.1", broker.port), timeout=120)


def until_there(ask):
    """Repeats a question while the broker has only just begun; `ask` returns the answer and its error code."""
    for _ in range(600):
        answer, code = ask()
        if code not in NOT_YET:
            assert code == 0, answer
            return answer
        time.sleep(0.05)
    raise SystemExit(f"scripts/versus: not there: {answer}")


def prepare(broker):
    with connect(broker) as c:
        topics = [{"Name": name, "NumPartitions": count, "ReplicationFactor": 1} for name, count in ((TOPIC, PARTITIONS), (SMALL_TOPIC, SMALL_PARTITIONS))]
        for _ in range(100):
            if all(t.ErrorCode in (0, 36) for t in c.call("CreateTopics", 7, {"Topics": topics, "timeoutMs": 30000}).Topics):
                break
            time.sleep(0.1)
        until_there(lambda: (lambda a: (a, a.Coordinators[0].ErrorCode))(c.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": ["g"]})))


def percentiles(values):
    values = sorted(values)
    return {f"p{p}": values[min(len(values) - 1, len(values) * p // 100)] for p in (50, 99)}


def subscription(number):
    """To one topic, with user data that tells it from others: a member that comes with another one begins a rebalance."""
    return struct.pack(">hih", 0, 1, len(TOPIC)) + TOPIC.encode() + struct.pack(">ii", 4, number)


def rebalances(broker):
    """Three members join again, again and again: milliseconds from the first JoinGroup until the last has what it is given."""
    group, protocol = "rebalance", [{"Name": "range", "Metadata": subscription(0)}]
    join = {"GroupId": group, "SessionTimeoutMs": 30000, "RebalanceTimeoutMs": 30000, "ProtocolType": "consumer", "Protocols": protocol}
    members = [connect(broker) for _ in range(3)]
    ids = [until_there(lambda c=c: (lambda a: (a, 0 if a.ErrorCode == 79 else a.ErrorCode))(c.call("JoinGroup", 9, {**join, "MemberId": ""}))).MemberId for c in members]
    took = []
    for number in range(REBALANCES):
        begun = time.perf_counter()
        for c, member in zip(members, ids):
            c.send("JoinGroup", 9, {**join, "MemberId": member, "Protocols": [{"Name": "range", "Metadata": subscription(number)}]})
        joined = [c.receive() for c in members]
        assert all(j.ErrorCode == 0 and j.GenerationId == joined[0].GenerationId for j in joined), joined
        for c, j in zip(members, joined):
            sync = {"GroupId": group, "GenerationId": j.GenerationId, "MemberId": j.MemberId, "ProtocolType": "consumer", "ProtocolName": "range"}
            c.send("SyncGroup", 5, {**sync, "Assignments": [{"MemberId": m.MemberId, "Assignment": b"a" * 60} for m in j.Members]})
        synced = [c.receive() for c in members]
        assert all(s.ErrorCode == 0 and s.Assignment for s in synced), synced
        took.append((time.perf_counter() - begun) * 1000)
    del took[0]  # the first one's delay
    for c, member in zip(members, ids):
        c.call("LeaveGroup", 5, {"GroupId": group, "Members": [{"MemberId": member}]})
        c.close()
    return percentiles(took)


def commits(broker, count, seconds):
    """Each connection commits the offsets of a group of its own, one request after the other."""
    parts = [{"PartitionIndex": n, "CommittedOffset": 1, "CommittedLeaderEpoch": -1, "CommittedMetadata": ""} for n in range(COMMIT_PARTITIONS)]
    selector, frames = selectors.DefaultSelector(), []
    for number in range(count):
        body = {"GroupId": f"commits-{number}", "GenerationIdOrMemberEpoch": -1, "MemberId": "", "Topics": [{"Name": TOPIC, "Partitions": parts}]}
        c = connect(broker)
        until_there(lambda: (lambda a: (a, max(p.ErrorCode for p in a.Topics[0].Partitions)))(c.call("OffsetCommit", 8, body)))
        frame, _ = c.frame("OffsetCommit", 8, body)
        frames.append((c, frame))
        c.socket.setblocking(False)
    cpu, begun = broker.cpu_seconds(), time.perf_counter()
    for c, frame in frames:
        state = [c.socket, frame, time.perf_counter()]
        selector.register(c.socket, selectors.EVENT_READ, state)
        c.socket.sendall(frame)
    took, end = [], begun + seconds
    while True:
        now = time.perf_counter()
        if now >= end:
            break
        for key, _ in selector.select(1):
            state = key.data
            # One request at a time, and its small answer comes in one piece.
            if not state[0].recv(65536):
                raise SystemExit("scripts/versus: the broker closed a connection")
            now = time.perf_counter()
            took.append((now - state[2]) * 1e6)
            state[2] = now
            state[0].sendall(state[1])
    cpu, seconds = broker.cpu_seconds() - cpu, time.perf_counter() - begun
    for c, _ in frames:
        c.close()
    return {"per_s": len(took) / seconds, "cpu_us": cpu / len(took) * 1e6, "us": percentiles(took)}


class Member:
    """A member of the new protocol, which has what it is given."""

    def __init__(self, connection, number, topic, group):
        self.connection, self.topic, self.group, self.id, self.epoch, self.owned = connection, topic, group, f"member-{number:015}", 0, []

    def body(self):
        topics = [self.topic] if self.epoch == 0 else None
        return {"GroupId": self.group, "MemberId": self.id, "MemberEpoch": self.epoch, "RebalanceTimeoutMs": 300000 if topics else -1, "SubscribedTopicNames": topics, "TopicPartitions": self.owned}

    def hear(self, answer):
        """Whether anything is new."""
        assert answer.ErrorCode == 0, answer
        before = self.epoch, self.owned
        self.epoch = answer.MemberEpoch
        if answer.Assignment:
            self.owned = [{"TopicId": t.TopicId, "Partitions": t.Partitions} for t in answer.Assignment.TopicPartitions]
        return (self.epoch, self.owned) != before


def heartbeats(broker, topic, groups):
    """A member in each of the groups named; what a heartbeat costs when nothing changes any more."""
    connections = [connect(broker) for _ in range(HEARTBEAT_CONNECTIONS)]
    members = [Member(connections[n % len(connections)], n, topic, group) for n, group in enumerate(groups)]
    memory, begun = broker.resident_mib(), time.perf_counter()
    waves = [members[at : at + 500] for at in range(0, len(members), 500)]
    until_there(lambda: (lambda a: (a, a.ErrorCode))(connections[0].call("ConsumerGroupHeartbeat", 1, members[0].body())))

    def all_report():
        news = False
        for wave in waves:
            for member in wave:
                member.connection.send("ConsumerGroupHeartbeat", 1, member.body())
            news |= any([member.hear(member.connection.receive()) for member in wave])
        return news

    while all_report():
        # Kafka assigns once a second at most.
        time.sleep(0.2)
    settled = time.perf_counter() - begun
    for member in members:
        member.owned = None
    frames = [b"".join(m.connection.frame("ConsumerGroupHeartbeat", 1, m.body())[0] for m in members[n :: len(connections)]) for n in range(len(connections))]
    cpu, begun = broker.cpu_seconds(), time.perf_counter()
    for _ in range(HEARTBEAT_ROUNDS):
        for c, frame in zip(connections, frames):
            c.socket.sendall(frame)
        for n, c in enumerate(connections):
            for _ in members[n :: len(connections)]:
                c.receive_frame()
    count = HEARTBEAT_ROUNDS * len(members)
    result = {"cpu_us": (broker.cpu_seconds() - cpu) / count * 1e6, "per_s": count / (time.perf_counter() - begun), "settled_s": settled, "mib": broker.resident_mib() - memory}
    for c in connections:
        c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        c.close()
    return result


def markdown(entries):
    of = {name: [e for e in entries if e["side"] == name] for name, *_ in SIDES}
    rows = []

    def row(text, path, form, unit, better="low"):
        found = [median(of[name], path) for name, *_ in SIDES]
        mine, theirs = found[:2]
        quotient = ratio(mine, theirs) if better == "high" else ratio(theirs, mine)
        rows.append([text, *(f"{show(f, form)} {unit}" if f is not None else "" for f in found), quotient])

    row("rebalance of 3 members, median", "rebalance_ms/p50", ".2f", "ms")
    row("rebalance of 3 members, p99", "rebalance_ms/p99", ".2f", "ms")
    for count in COMMIT_CONNECTIONS:
        text = f"commits of {COMMIT_PARTITIONS} partitions, {count} connection{'s' if count > 1 else ''}"
        row(text, f"commits_{count}/per_s", ",.0f", "/s", "high")
        row(f"{text}: broker CPU each", f"commits_{count}/cpu_us", ".0f", "us")
        row(f"{text}: p99", f"commits_{count}/us/p99", ",.0f", "us")
    for path, text in (("one_member_groups", f"{GROUPS:,} groups of one member"), ("one_large_group", f"one group of {MEMBERS:,} members")):
        row(f"{text} (new protocol): broker CPU of a heartbeat", f"{path}/cpu_us", ".1f", "us")
        row(f"{text}: until all have joined and settled", f"{path}/settled_s", ".1f", "s")
        row(f"{text}: memory", f"{path}/mib", ".1f", "MiB")
    return table(["", "corelane", "Kafka", "Kafka, flushed", "better than Kafka by"], rows)
