"""kill -9 of the broker in the middle of rebalances, again and again: `crash_groups.py [ROUNDS]`.

Groups of all kinds read one topic all the time, across the crashes: librdkafka and kafka-python with the range assignor, librdkafka
cooperative and with the new protocol, and Kafka's Java consumer with both protocols (JAVA=0 leaves it out). Before every crash members
are killed and new ones join, so that it finds rebalances under way. After each restart what is committed must not lie behind a commit
that was acknowledged before; in the end every record that was acknowledged to the producer must have been read by every group.
"""

import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from confluent_kafka import Producer  # noqa: E402

from harness import Broker, raise_file_limit  # noqa: E402
from member import Java, Member  # noqa: E402
from raw import Closed, Connection  # noqa: E402

TOPIC, PARTITIONS = "groups", 4
WAIT_SECONDS = 120
SETTINGS = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 300}
# Members of the new protocol are told by the broker.
BROKER_SETTINGS = {
    "group_initial_rebalance_delay_ms": 100, "group_consumer_session_timeout_ms": 6000, "group_consumer_min_session_timeout_ms": 6000,
    "group_consumer_heartbeat_interval_ms": 300, "group_consumer_min_heartbeat_interval_ms": 300, "group_consumer_assignment_interval_ms": 0,
}


class Feed:
    """Numbers, produced all the time with acks=all; `acknowledged` holds those that are in the log."""

    def __init__(self, broker):
        self.broker, self.acknowledged, self.stopped, self.error = broker, [], False, None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        producer = Producer({
            "bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 600000,
            "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "log_level": 2,
        })

        def delivered(error, message):
            self.error = self.error or error
            self.acknowledged.append(int(message.value()))

        n = 0
        while not self.stopped:
            if len(producer) < 500:
                producer.produce(TOPIC, b"%d" % n, partition=n % PARTITIONS, on_delivery=delivered)
                n += 1
            producer.poll(0.003)
        if producer.flush(WAIT_SECONDS):
            self.error = self.error or "not all is delivered in the end"

    def stop(self):
        self.stopped = True
        self.thread.join(WAIT_SECONDS + 10)
        assert self.error is None, f"the producer: {self.error}"


class Group:
    """A group whose members come and go."""

    def __init__(self, broker, name, makers, dice):
        self.broker, self.name, self.makers, self.dice = broker, name, makers, dice
        self.members, self.gone = [make() for make in makers], []

    def all(self):
        return self.gone + self.members

    def shake(self):
        """A member dies or leaves, and another one comes."""
        at = self.dice.randrange(len(self.members))
        old = self.members[at]
        if self.dice.random() < 0.7:
            old.kill()
        else:
            old.process.terminate()
        self.gone.append(old)
        self.members[at] = self.makers[at]()

    def signal(self, number):
        for member in self.all():
            if member.process.poll() is None:
                member.process.send_signal(number)

    def acknowledged(self):
        """The highest commit of each partition that a member was told of."""
        highest = dict.fromkeys(range(PARTITIONS), -1)
        for member in self.all():
            for commit in list(member.commits):
                for partition, offset in commit.items():
                    highest[partition] = max(highest[partition], offset)
        return highest

    def read(self):
        return {int(value) for member in self.all() for _, _, value in list(member.reads)}

    def committed(self):
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                with Connection(self.broker.address) as c:
                    group = c.call("OffsetFetch", 8, {"Groups": [{"GroupId": self.name, "Topics": [{"Name": TOPIC, "PartitionIndexes": list(range(PARTITIONS))}], "MemberEpoch": -1}]}).Groups[0]
                    if group.ErrorCode == 0:
                        return {p.PartitionIndex: p.CommittedOffset for p in group.Topics[0].Partitions}
            except (OSError, Closed):
                pass
            time.sleep(0.05)
        raise AssertionError(f"{self.name}: its offsets cannot be had")

    def check_offsets(self, told):
        found = self.committed()
        for partition, offset in told.items():
            assert found[partition] >= offset, f"LOST: {self.name} partition {partition}: {offset} was acknowledged, {found[partition]} is committed"


def groups_of_all_kinds(broker, dice, with_java):
    def member(client, group, **settings):
        return lambda: Member(client, broker, group, TOPIC, **settings)

    def java(group, *args):
        return lambda: Java(broker, group, TOPIC, *args)

    eager = member("librdkafka", "eager", **SETTINGS, partition_assignment_strategy="range")
    python = member("kafka-python", "eager", **SETTINGS)
    cooperative = member("librdkafka", "cooperative", **SETTINGS, partition_assignment_strategy="cooperative-sticky")
    modern = member("librdkafka", "modern", group_protocol="consumer")
    kinds = {"eager": [eager, eager, python], "cooperative": [cooperative] * 3, "modern": [modern] * 3}
    if with_java:
        kinds["java"] = [java("java", "--session-timeout", "6000")] * 2
        kinds["java-modern"] = [java("java-modern", "--group-protocol", "consumer")] * 3
    return [Group(broker, name, makers, dice) for name, makers in kinds.items()]


def run(rounds, seed=None, with_java=True, crash=True):
    """Returns a summary; raises when a commit or a record is lost. Without `crash` only members come and go."""
    dice = random.Random(seed)
    with Broker(**BROKER_SETTINGS) as broker:
        with Connection(broker.address) as c:
            c.create_topic(TOPIC, PARTITIONS)
        feed = Feed(broker)
        groups = groups_of_all_kinds(broker, dice, with_java)
        by_java = [g for g in groups if g.name.startswith("java")]
        quick = [g for g in groups if g not in by_java]
        try:
            for number in range(rounds):
                before = [len(g.read()) for g in groups]
                progress(lambda: all(len(g.read()) >= n + 20 for g, n in zip(groups, before)), feed, groups)
                # A JVM takes a second of a core to start.
                shaken = [dice.choice(quick if dice.random() < 0.8 else groups)] if crash else [dice.choice(quick), dice.choice(by_java or quick)]
                for group in shaken:
                    group.shake()
                time.sleep(dice.uniform(0, 1.2))
                broker.check_alive()
                if crash:
                    broker.kill()
                    # Else their next commits would hide what is lost.
                    for group in groups:
                        group.signal(signal.SIGSTOP)
                told = [g.acknowledged() for g in groups]
                if crash:
                    broker.start()
                for group, offsets in zip(groups, told):
                    group.check_offsets(offsets)
                    group.signal(signal.SIGCONT)
                print(f"round {number + 1} of {rounds}: {len(feed.acknowledged)} records, {sum(sum(max(o, 0) for o in t.values()) for t in told)} committed", file=sys.stderr, flush=True)
            feed.stop()
            wanted = set(feed.acknowledged)
            progress(lambda: all(g.read() >= wanted for g in groups), feed, groups, lambda g: sorted(wanted - g.read())[:5])
            for group in groups:
                group.check_offsets(group.acknowledged())
        finally:
            for group in groups:
                for member in group.all():
                    member.kill()
        what = "kill -9" if crash else "members coming and going"
        return f"{rounds} rounds of {what}: {len(wanted)} records, each read by {len(groups)} groups at least once; no acknowledged commit lost"


def progress(done, feed, groups, missing=lambda _: ""):
    deadline = time.monotonic() + WAIT_SECONDS
    while not done():
        assert feed.error is None, f"the producer: {feed.error}"
        if time.monotonic() > deadline:
            how = [(g.name, len(g.read()), [(m.name, sorted(m.assigned), m.process.poll()) for m in g.members], missing(g)) for g in groups]
            raise AssertionError(f"a group does not get on, {len(feed.acknowledged)} records are there: {how}")
        time.sleep(0.05)


def main():
    raise_file_limit()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(os.environ.get("SEED", time.time_ns() % 10**6))
    try:
        print(f"crash-groups: {run(rounds, seed, os.environ.get('JAVA') != '0')} (SEED={seed})", flush=True)
    except AssertionError as error:
        print(f"crash-groups: FAILED: {error} (SEED={seed})", flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
