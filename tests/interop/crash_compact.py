"""kill -9 while logs are compacted under load, again and again: `crash_compact.py [ROUNDS]`.

Idempotent producers (librdkafka, acks=all, retrying on their own) write ever higher numbers under a few keys, so that nearly everything is
soon superseded; the cleaner looks for work all the time. After each restart what was on its way is let come through, then everything is read from
the beginning: what is there is what was sent, in order, and the newest of each key is there.
"""

import os
import random
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from confluent_kafka import Producer  # noqa: E402

from crash import WAIT_SECONDS, Load, wait  # noqa: E402
from harness import Broker, eventually, raise_file_limit  # noqa: E402
from raw import KAFKA, Connection  # noqa: E402

KEYS, CODECS = 40, ("none", "lz4", "zstd")
OVERRIDES = {"log.cleaner.backoff.ms": 20, "log.cleaner.dedupe.buffer.size": 4 << 20, "log.cleaner.threads": 1}
TOPIC = {"cleanup_policy": "compact", "segment_bytes": 1 << 20, "min_cleanable_dirty_ratio": 0.0, "delete_retention_ms": 100, "file_delete_delay_ms": 100}


class Keyed(Load):
    """Record n goes under key n % KEYS; every seventh one of the first half of the keys is a tombstone."""

    def __init__(self, broker, codec):
        self.topic, self.codec = f"compacted-{codec}", codec
        self.sent, self.paused = [], False
        super().__init__(broker)

    def run(self):
        producer = Producer({
            "bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 2, "message.timeout.ms": 600000,
            "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20, "log_level": 2, "compression.type": self.codec,
        })

        def delivered(error, message):
            if error is not None:
                raise RuntimeError(f"not delivered: {error}")
            self.acknowledge(message.partition(), message.offset(), message.value())

        while not self.stopped:
            for _ in range(20):
                n = len(self.sent)
                self.sent.append(None if n % 7 == 3 and n % KEYS < KEYS // 2 else b"%d " % n + random.randbytes(1500))
                producer.produce(self.topic, self.sent[n], key=b"%d" % (n % KEYS), partition=0, on_delivery=delivered)
            producer.poll(0.005)
            while (self.paused or len(producer) > 400) and not self.stopped:
                producer.poll(0.02)
        assert producer.flush(WAIT_SECONDS) == 0, "not all is delivered in the end"


def read(broker, topic):
    """Offset, key and value of every record, and the end of the log."""
    from confluent_kafka import Consumer, TopicPartition

    with Connection(broker.address) as c:
        end = eventually(lambda: (lambda a: a.Offset + 1 if a.ErrorCode == 0 else None)(c.list_offset(topic, 0, -1)), WAIT_SECONDS) - 1
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "enable.auto.commit": False, "auto.offset.reset": "error", "check.crcs": True, "enable.partition.eof": True, "log_level": 2})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found, deadline = [], time.monotonic() + WAIT_SECONDS
        while True:
            assert time.monotonic() < deadline, f"{topic}: the end {end} is not reached"
            for message in consumer.consume(10000, 1.0):
                if message.error():
                    return found, end
                assert not found or message.offset() > found[-1][0], f"{topic}: offset {message.offset()} came after {found[-1][0]}"
                found.append((message.offset(), message.key(), message.value()))
                if message.offset() >= end - 1:
                    return found, end
    finally:
        consumer.close()


def check(load, found, end):
    """Every record was acknowledged, and record n of an idempotent producer has offset n."""
    newest = {}
    assert end == len(load.sent), f"LOST: {load.topic} ends at {end}, {len(load.sent)} records were acknowledged"
    for offset, key, value in found:
        assert offset < len(load.sent) and load.sent[offset] == value and key == b"%d" % (offset % KEYS), f"{load.topic}: offset {offset} is not what was sent"
        newest[key] = offset
    for key in range(min(KEYS, end)):
        last = (end - 1 - key) // KEYS * KEYS + key
        there = newest.get(b"%d" % key)
        assert there == last or there is None and load.sent[last] is None, f"LOST: {load.topic}: the newest of key {key} is {there}, that of offset {last} was written"


def run(rounds, seed=None):
    """Returns a summary; raises at the first value that is lost, or came back."""
    dice = random.Random(seed)
    with Broker(**OVERRIDES) as broker:
        with Connection(broker.address) as c:
            for codec in CODECS:
                c.create_topic(f"compacted-{codec}", **TOPIC)
        loads = [Keyed(broker, codec) for codec in CODECS]
        for number in range(rounds):
            goal = [len(load.acknowledged) + 100 for load in loads]
            wait(lambda g=goal: all(len(load.acknowledged) >= n for load, n in zip(loads, g)), loads)
            time.sleep(dice.uniform(0, 0.9))
            broker.check_alive()
            broker.kill()
            for load in loads:
                load.paused = True
            broker.start()
            wait(lambda: all(len(load.acknowledged) == len(load.sent) for load in loads), loads)
            for load in loads:
                check(load, *read(broker, load.topic))
                load.paused = False
            print(f"round {number + 1} of {rounds}: {sum(len(load.sent) for load in loads)} records acknowledged", file=sys.stderr, flush=True)
        for load in loads:
            load.stop()
        left = 0
        for load in loads:
            found, end = read(broker, load.topic)
            check(load, found, end)
            left += len(found)
        total = sum(len(load.acknowledged) for load in loads)
        cleanings, swaps = said(broker)
        assert KAFKA or cleanings > rounds / 2, f"only {cleanings} cleanings in {rounds} rounds"
        return f"{rounds} rounds of kill -9: {total} records acknowledged, {left} are left after {cleanings} cleanings, {swaps} finished by a start; no latest value lost"


def said(broker):
    """Cleanings that ended, and segments that a start has put in place."""
    with open(broker.log, errors="replace") as log:
        text = log.read()
    return len(re.findall(r"compacted offsets", text)), len(re.findall(r"takes the place of", text))


def main():
    raise_file_limit()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(os.environ.get("SEED", time.time_ns() % 10**6))
    try:
        print(f"crash_compact: {run(rounds, seed)} (SEED={seed})", flush=True)
    except AssertionError as error:
        print(f"crash_compact: FAILED: {error} (SEED={seed})", flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
