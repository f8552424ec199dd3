"""kill -9 under load, again and again: `crash.py [ROUNDS]`.

Four kinds of load run all the time, across the crashes:
  librdkafka's idempotent producers with acks=all, several batches in flight, retrying on their own;
  one more with large records, so that segments are begun, and deleted by retention, many times a second;
  an idempotent producer of ours, which repeats a batch it got no answer for;
  a plain producer with acks=1, whose acknowledged records must survive a killed process too.
In every second round the starts that follow are killed as well, at any moment up to the end of the recovery.
After each restart everything is compared with what was acknowledged: present, at the offset told, in order, once.
"""

import contextlib
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: E402

from harness import Broker, eventually, raise_file_limit  # noqa: E402
from raw import KAFKA, Closed, Connection, batch  # noqa: E402

PARTITIONS, PRODUCERS = 4, 2
WAIT_SECONDS = 90
FULL_CHECK_EVERY = 10
OVERRIDES = {"log.retention.check.interval.ms": 20}
SEGMENT, RETAINED = 1 << 20, 4 << 20
ROLLED = {"segment_bytes": SEGMENT, "retention_bytes": RETAINED, "file_delete_delay_ms": 50}


class Load:
    """One producer thread and what it was told: `acknowledged` holds (topic, partition, offset, value)."""

    def __init__(self, broker):
        self.broker, self.acknowledged, self.stopped, self.error = broker, [], False, None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.run()
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            self.error = error

    def acknowledge(self, partition, offset, value):
        self.acknowledged.append((self.topic, partition, offset, value))

    def stop(self):
        self.stopped = True
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive(), f"{self.topic}: what was sent is not acknowledged after {WAIT_SECONDS} s"
        self.check()

    def check(self):
        assert self.error is None, f"{self.topic}: {self.error}"


class Librdkafka(Load):
    """Record n goes to partition n % `partitions`."""

    partitions, most_in_flight = PARTITIONS, 2000

    def __init__(self, broker, topic):
        self.topic, self.paused = topic, False
        super().__init__(broker)

    def value(self, n):
        return b"%d" % n

    def run(self):
        producer = Producer({
            "bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 2, "message.timeout.ms": 600000,
            "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20, "log_level": 2,
        })

        def delivered(error, message):
            if error is not None:
                raise RuntimeError(f"not delivered: {error}")
            self.acknowledge(message.partition(), message.offset(), message.value())

        n = 0
        while not self.stopped:
            for _ in range(20):
                producer.produce(self.topic, self.value(n), partition=n % self.partitions, on_delivery=delivered)
                n += 1
            producer.poll(0.005)
            while (self.paused or len(producer) > self.most_in_flight) and not self.stopped:
                producer.poll(0.05)
                self.at_rest = self.paused and len(producer) == 0
        assert producer.flush(WAIT_SECONDS) == 0, "not all is delivered in the end"


class Rolled(Librdkafka):
    """Record n has offset n and 20 KiB: about 50 are a segment, of which a few are kept. Only offsets are noted."""

    partitions, most_in_flight, start = 1, 100, 0

    def value(self, n):
        return b"%d " % n * (20480 // len(b"%d " % n))

    def acknowledge(self, partition, offset, value):
        assert offset == len(self.acknowledged) and value == self.value(offset), f"{self.topic}: {value[:20]} was acknowledged at {offset}, {len(self.acknowledged)} was to come"
        self.acknowledged.append(offset)

    def compare(self):
        """With the load at rest: all that retention leaves is there, from a start that never goes back."""
        self.at_rest, self.paused = False, True
        wait(lambda: self.at_rest, [self])
        start, found = eventually(self.read)
        end, size = start + len(found), sum(map(len, found))
        assert end == len(self.acknowledged), f"LOST: {self.topic} ends at {end}, {len(self.acknowledged)} records were acknowledged"
        assert start >= self.start, f"{self.topic} starts at {start}, it did at {self.start} before"
        assert start == 0 or size > RETAINED - SEGMENT, f"LOST: {self.topic} from {start} to {end} is only {size} bytes, {RETAINED} were to stay"
        for offset, value in enumerate(found, start):
            assert value == self.value(offset), f"LOST: {self.topic} offset {offset} is {value[:20]}"
        self.start, self.paused = start, False

    def read(self):
        """The log's start, and all values from there to the end. Nothing if retention moves the start meanwhile."""
        start, end = end_of(self.broker, self.topic, 0, -2), end_of(self.broker, self.topic, 0)
        try:
            return start, read_values(self.broker, self.topic, 0, start, end)
        except AssertionError:
            if end_of(self.broker, self.topic, 0, -2) == start:
                raise
            return None


class Raw(Load):
    """Batches of three records, one at a time, each repeated until it is answered."""

    def __init__(self, broker, topic, acks, idempotent):
        self.topic, self.acks, self.idempotent = topic, acks, idempotent
        super().__init__(broker)

    def run(self):
        connection, pid, n = None, None, 0
        while not self.stopped:
            try:
                connection = connection or Connection(self.broker.address, timeout=30)
                if self.idempotent and pid is None:
                    answer = connection.call("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000})
                    if answer.ErrorCode:
                        continue
                    pid = answer.ProducerId
                sent = [b"%d" % (n * 3 + i) for i in range(3)]
                answer = connection.produce(self.topic, 0, batch(sent, producer=(pid, 0, n * 3) if self.idempotent else (-1, -1, -1)), acks=self.acks)
            except (OSError, Closed):
                if connection:
                    connection.close()
                connection = None
                time.sleep(0.01)
                continue
            if KAFKA and answer.ErrorCode in (3, 6):  # it accepts connections before it has loaded its partitions
                continue
            assert answer.ErrorCode == 0, f"{self.topic}: {answer}"
            for i, value in enumerate(sent):
                self.acknowledge(0, answer.BaseOffset + i, value)
            n += 1


def read_values(broker, topic, partition, start, end):
    """The values from offset `start` to `end`, none of which may be missing."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "enable.auto.commit": False, "auto.offset.reset": "error", "check.crcs": True, "log_level": 2})
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        deadline, got = time.monotonic() + WAIT_SECONDS, []
        while start + len(got) < end:
            assert time.monotonic() < deadline, f"{topic}-{partition}: {start + len(got)} read, the end is {end}"
            for message in consumer.consume(min(10000, end - start - len(got)), 1.0):
                assert message.error() is None, message.error()
                assert message.offset() == start + len(got), f"{topic}-{partition}: offset {message.offset()} came for {start + len(got)}"
                got.append(message.value())
        return got
    finally:
        consumer.close()


def end_of(broker, topic, partition, timestamp=-1):
    """The offset of the latest record and one, or, with -2, of the earliest."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, Closed), Connection(broker.address) as c:
            answer = c.list_offset(topic, partition, timestamp)
            if answer.ErrorCode == 0:
                return answer.Offset
        time.sleep(0.05)
    raise AssertionError(f"{topic}-{partition} is not there after the restart")


class Store:
    """What the broker was seen to hold, by topic and partition: values in the order of their offsets."""

    def __init__(self, broker, topics):
        self.broker = broker
        self.seen = {part: [] for part in topics}

    def read(self, whole):
        """Reads what is new and the last records known, or everything; what was once seen must not change."""
        for (topic, partition), seen in self.seen.items():
            start = 0 if whole else max(0, len(seen) - 500)
            got = read_values(self.broker, topic, partition, start, end_of(self.broker, topic, partition))
            known = seen[start:]
            assert got[: len(known)] == known, f"{topic}-{partition}: what was read from {start} before has changed or is gone"
            del seen[start:]
            seen.extend(got)

    def check(self, acknowledged):
        """Every acknowledged record is where it was said to be."""
        for topic, partition, offset, value in acknowledged:
            seen = self.seen[topic, partition]
            assert offset < len(seen), f"LOST: {topic}-{partition} ends at {len(seen)}, {value} was acknowledged at {offset}"
            assert seen[offset] == value, f"LOST: {topic}-{partition} offset {offset} is {seen[offset]}, acknowledged was {value}"

    def check_order(self, topic, partition, step):
        """An idempotent producer's records are there in order, once, without a gap."""
        seen = self.seen[topic, partition]
        for offset, value in enumerate(seen):
            wanted = b"%d" % (offset * step + partition)
            assert value == wanted, f"{topic}-{partition}: offset {offset} is {value}, {wanted} was to come (around: {seen[max(0, offset - 3):offset + 3]})"


def run(rounds, seed=None):
    """Returns a summary; raises at the first record that is lost, doubled or out of order."""
    dice = random.Random(seed)
    with Broker(**OVERRIDES) as broker:
        idempotent = [f"librdkafka-{n}" for n in range(PRODUCERS)]
        with Connection(broker.address) as c:
            for topic in idempotent:
                c.create_topic(topic, PARTITIONS)
            c.create_topic("raw-idempotent")
            c.create_topic("raw-written")
            c.create_topic("rolled", **ROLLED)
        kept = [Librdkafka(broker, topic) for topic in idempotent]
        kept += [Raw(broker, "raw-idempotent", -1, True), Raw(broker, "raw-written", 1, False)]
        rolled = Rolled(broker, "rolled")
        loads = [*kept, rolled]
        store = Store(broker, [(t, p) for t in idempotent for p in range(PARTITIONS)] + [("raw-idempotent", 0), ("raw-written", 0)])
        checked, killed_starts, start_seconds = [0] * len(kept), 0, 0.1
        for number in range(rounds):
            goal = [len(load.acknowledged) + 30 for load in loads]
            wait(lambda g=goal: all(len(load.acknowledged) >= n for load, n in zip(loads, g)), loads)
            time.sleep(dice.uniform(0, 0.7))
            broker.check_alive()
            broker.kill()
            told = [len(load.acknowledged) for load in kept]
            for _ in range(dice.choice((0, 0, 1, 2))):
                killed_starts += broker.kill_start(dice.uniform(0, start_seconds))
            begun = time.monotonic()
            broker.start()
            start_seconds = time.monotonic() - begun
            store.read(whole=number % FULL_CHECK_EVERY == FULL_CHECK_EVERY - 1)
            for n, load in enumerate(kept):
                store.check(load.acknowledged[checked[n] : told[n]])
                checked[n] = told[n]
            rolled.compare()
            print(f"round {number + 1} of {rounds}: {sum(told) + len(rolled.acknowledged)} records acknowledged", file=sys.stderr, flush=True)
        rolled.compare()
        for load in loads:
            load.stop()
        store.read(whole=True)
        for load in kept:
            store.check(load.acknowledged)
        for topic in idempotent:
            for partition in range(PARTITIONS):
                store.check_order(topic, partition, PARTITIONS)
        store.check_order("raw-idempotent", 0, 1)
        sure = sum(len(load.acknowledged) for load in loads if load.topic != "raw-written")
        segments = rolled.start * len(rolled.value(0)) // SEGMENT
        return (f"{rounds} rounds of kill -9 and {killed_starts} in starts: {sure} records acknowledged with acks=all, {len(kept[-1].acknowledged)} with acks=1; "
                f"none lost, doubled or out of order; about {segments} segments begun and deleted")


def wait(done, loads):
    deadline = time.monotonic() + WAIT_SECONDS
    while not done():
        for load in loads:
            load.check()
        progress = {load.topic: len(load.acknowledged) for load in loads}
        assert time.monotonic() < deadline, f"a producer does not get on: {progress}; {loads[0].broker.log_tail()}"
        time.sleep(0.02)


def main():
    raise_file_limit()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(os.environ.get("SEED", time.time_ns() % 10**6))
    try:
        print(f"crash: {run(rounds, seed)} (SEED={seed})", flush=True)
    except AssertionError as error:
        print(f"crash: FAILED: {error} (SEED={seed})", flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
