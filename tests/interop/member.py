"""One member of a group in a process of its own, so that it can be killed: `member.py CLIENT BOOTSTRAP GROUP TOPIC [KEY=VALUE...]`.

CLIENT is `librdkafka` or `kafka-python`; the settings are that client's. Prints one JSON object a line: {"assigned": [partitions]} or
{"revoked": ...} as it happens, {"read": [partition, offset, value]} for a record, {"committed": {partition: offset}} when a commit
of what was read is answered. SIGTERM leaves the group properly. `Member` runs such a process and collects what it says.
"""

import json
import os
import signal
import subprocess
import sys
import threading

stopping = False


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def librdkafka(bootstrap, group, topic, settings):
    from confluent_kafka import Consumer, KafkaException

    config = {
        "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 2,
        "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, **settings,
    }
    consumer = Consumer(config)
    consumer.subscribe(
        [topic],
        on_assign=lambda _, parts: say(assigned=[p.partition for p in parts]),
        on_revoke=lambda _, parts: say(revoked=[p.partition for p in parts]),
        on_lost=lambda _, parts: say(revoked=[p.partition for p in parts]),
    )
    while not stopping:
        messages = consumer.consume(100, 0.1)
        read = [m for m in messages if m.error() is None]
        for message in read:
            say(read=[message.partition(), message.offset(), message.value().decode()])
        if read:
            try:
                done = consumer.commit(asynchronous=False)
                say(committed={p.partition: p.offset for p in done if p.error is None})
            except KafkaException as error:
                say(refused=str(error))
    consumer.close()


def kafka_python(bootstrap, group, topic, settings):
    from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
    from kafka.errors import KafkaError

    class Listener(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            say(assigned=[p.partition for p in assigned])

        def on_partitions_revoked(self, revoked):
            say(revoked=[p.partition for p in revoked])

    number = {k.replace(".", "_"): int(v) if v.isdigit() else v for k, v in settings.items()}
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False, reconnect_backoff_ms=20, reconnect_backoff_max_ms=200, **number
    )
    consumer.subscribe([topic], listener=Listener())
    while not stopping:
        try:
            polled = consumer.poll(timeout_ms=100, max_records=100)
            for part, records in polled.items():
                for record in records:
                    say(read=[part.partition, record.offset, record.value.decode()])
            if polled:
                offsets = {part: OffsetAndMetadata(records[-1].offset + 1, "", -1) for part, records in polled.items()}
                consumer.commit(offsets)
                say(committed={TopicPartition(*part).partition: at.offset for part, at in offsets.items()})
        except KafkaError as error:
            say(refused=repr(error))
    consumer.close()


class Member:
    """A member's process and what it has said."""

    def __init__(self, client, broker, group, topic, **settings):
        self.assigned, self.reads, self.commits, self.rebalances, self.name = set(), [], [], 0, client
        pairs = [f"{k.replace('_', '.')}={v}" for k, v in settings.items()]
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), client, broker.bootstrap, group, topic, *pairs], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        eager = "cooperative" not in " ".join(self.process.args)
        for line in self.process.stdout:
            what = json.loads(line)
            if "assigned" in what:
                self.assigned = set(what["assigned"]) if eager else self.assigned | set(what["assigned"])
                self.rebalances += 1
            elif "revoked" in what:
                self.assigned = self.assigned - set(what["revoked"])
            elif "read" in what:
                self.reads.append(tuple(what["read"]))
            elif "committed" in what:
                self.commits.append({int(p): o for p, o in what["committed"].items()})
        self.assigned = set()

    def leave(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Java(Member):
    """Kafka's own VerifiableConsumer as a member."""

    def __init__(self, broker, group, topic, *args):
        self.assigned, self.reads, self.commits, self.rebalances, self.name = set(), [], [], 0, "java"
        libs = os.environ["KAFKA_LIBS"]
        command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp", f"{libs}/*", "org.apache.kafka.tools.VerifiableConsumer"]
        command += ["--bootstrap-server", broker.bootstrap, "--group-id", group, "--topic", topic, "--verbose", "--reset-policy", "earliest", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            try:
                what = json.loads(line)
            except ValueError:
                continue
            parts = {p["partition"] for p in what.get("partitions", []) if isinstance(p, dict)}
            if what["name"] == "partitions_assigned":
                self.assigned |= parts
                self.rebalances += 1
            elif what["name"] == "partitions_revoked":
                self.assigned -= parts
            elif what["name"] == "record_data":
                self.reads.append((what["partition"], what["offset"], what["value"]))
            elif what["name"] == "offsets_committed" and what["success"]:
                self.commits.append({p["partition"]: p["offset"] for p in what["offsets"]})
        self.assigned = set()

    def leave(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def main():
    def stop(*_):
        global stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    client, bootstrap, group, topic, *settings = sys.argv[1:]
    run = {"librdkafka": librdkafka, "kafka-python": kafka_python}[client]
    run(bootstrap, group, topic, dict(s.split("=", 1) for s in settings))


if __name__ == "__main__":
    main()
