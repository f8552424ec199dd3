"""A client of librdkafka: produces or consumes a number of records as fast as it can, and prints its rate as JSON.

rdkafka.py produce|consume ADDRESS TOPIC RECORDS SIZE PARTITIONS
"""

import json
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

BATCHING = {"batch.size": 65536, "linger.ms": 5, "acks": "all", "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 1 << 20}


def produce(address, topic, records, size, partitions):
    failed = []
    producer = Producer({"bootstrap.servers": address, **BATCHING, "on_delivery": lambda error, _: error and failed.append(error)})
    payload = b"x" * size
    start = time.monotonic()
    for number in range(records):
        while True:
            try:
                producer.produce(topic, payload, partition=number % partitions)
                break
            except BufferError:
                producer.poll(0.01)
        if number % 1000 == 0:
            producer.poll(0)
    left = producer.flush(60)
    if failed or left:
        sys.exit(f"{len(failed)} records refused ({failed[:1]}), {left} unanswered")
    return time.monotonic() - start


def consume(address, topic, records, _size, partitions):
    # By default it pauses for a second whenever its queue is full, which a quick broker meets more often.
    pause = {"fetch.queue.backoff.ms": 5}
    consumer = Consumer({"bootstrap.servers": address, "group.id": "versus", "enable.auto.commit": False, "check.crcs": True, **pause})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    got, start, deadline = 0, None, time.monotonic() + 60
    while got < records and time.monotonic() < deadline:
        messages = consumer.consume(10_000, 0.5)
        # Connecting is not consuming.
        start = start or (time.monotonic() if messages else None)
        for message in messages:
            if message.error():
                sys.exit(str(message.error()))
        got += len(messages)
    if got < records:
        sys.exit(f"{got} of {records} records came")
    return time.monotonic() - start


def main():
    mode, address, topic = sys.argv[1:4]
    records, size, partitions = map(int, sys.argv[4:])
    seconds = {"produce": produce, "consume": consume}[mode](address, topic, records, size, partitions)
    print(json.dumps({"records": records, "bytes": records * size, "records_per_s": records / seconds}))


if __name__ == "__main__":
    main()
