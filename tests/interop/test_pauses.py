"""The broker's process is stopped (SIGSTOP) for longer than sessions last, and goes on: no member of a group is evicted for it.

Kafka 4.3 keeps the members whose heartbeats lie in its sockets, and evicts those whose heartbeats come an interval later.
"""

import contextlib
import signal
import time

from harness import KAFKA, Broker, eventually
from raw import Connection

SESSION, PAUSE, INTERVAL = 6, 10, 1
OVERRIDES = {
    "group.initial.rebalance.delay.ms": 0, "group.consumer.session.timeout.ms": SESSION * 1000, "group.consumer.min.session.timeout.ms": SESSION * 1000,
    "group.consumer.heartbeat.interval.ms": 1000, "group.consumer.min.heartbeat.interval.ms": 1000, "offsets.topic.num.partitions": 4,
}
OK, UNKNOWN_MEMBER = 0, 25


class Classic:
    def __init__(self, address, group):
        self.c, self.group = Connection(address), group
        join = {"GroupId": group, "SessionTimeoutMs": SESSION * 1000, "RebalanceTimeoutMs": 6000, "MemberId": "", "ProtocolType": "consumer",
                "Protocols": [{"Name": "range", "Metadata": bytes(6)}]}
        joined = eventually(lambda: self.accepted("JoinGroup", 3, join))
        self.member = {"GroupId": group, "GenerationId": joined.GenerationId, "MemberId": joined.MemberId}
        sync = {**self.member, "Assignments": [{"MemberId": joined.MemberId, "Assignment": b""}]}
        assert self.c.call("SyncGroup", 2, sync).ErrorCode == OK

    def accepted(self, *request):
        answer = self.c.call(*request)
        return answer if answer.ErrorCode == OK else None

    def send(self):
        self.c.send("Heartbeat", 2, self.member)


class Modern(Classic):
    def __init__(self, address, group):
        self.c, self.group = Connection(address), group
        join = {"GroupId": group, "MemberId": "member", "MemberEpoch": 0, "RebalanceTimeoutMs": 60000, "SubscribedTopicNames": ["t"], "TopicPartitions": []}
        self.epoch = eventually(lambda: self.accepted("ConsumerGroupHeartbeat", 1, join)).MemberEpoch

    def send(self):
        self.c.send("ConsumerGroupHeartbeat", 1, {"GroupId": self.group, "MemberId": "member", "MemberEpoch": self.epoch, "RebalanceTimeoutMs": -1,
                                                  "SubscribedTopicNames": None, "TopicPartitions": None})


def coordinators(broker):
    with Connection(broker.address) as c:
        eventually(lambda: c.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": ["g"]}).Coordinators[0].ErrorCode == OK)


def test_members_stay_while_the_process_is_stopped():
    with Broker(**OVERRIDES) as broker:
        coordinators(broker)
        in_time = [Classic(broker.address, "classic-1"), Modern(broker.address, "modern-1")]
        later = [Classic(broker.address, "classic-2"), Modern(broker.address, "modern-2")]
        time.sleep(1)
        broker.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(PAUSE / 2)
            for member in in_time:
                member.send()
            time.sleep(PAUSE / 2)
        finally:
            broker.process.send_signal(signal.SIGCONT)
        time.sleep(INTERVAL)
        for member in later:
            member.send()
        codes = [member.c.receive().ErrorCode for member in in_time + later]
        print("codes after the pause, heartbeat in the socket and one interval later:", codes)
        assert KAFKA or codes == [OK] * 4, codes
        # Members that are silent for longer than that still go.
        time.sleep(SESSION + 1)
        for member in in_time + later:
            member.send()
        codes = [member.c.receive().ErrorCode for member in in_time + later]
        assert codes == [UNKNOWN_MEMBER] * 4, codes
        with contextlib.suppress(OSError):
            [member.c.close() for member in in_time + later]
