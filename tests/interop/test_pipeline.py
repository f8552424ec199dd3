"""Many requests in flight on one connection: answered strictly in the order asked."""

import random

from harness import in_threads
from raw import Connection, batch, fetch_body, parse_batches, produce_body, values

OVERRIDES = {"auto.create.topics.enable": "false"}


def test_slow_and_fast_interleaved(broker):
    """Waiting fetches between requests that are done at once. `receive` checks the correlation ids and every answer's form."""
    with Connection(broker.address) as c:
        c.create_topic("busy", 12)
        c.create_topic("quiet", 12)
        dice, produced, asked = random.Random(7), [0] * 12, []
        for n in range(600):
            kind = "wait" if n % 40 == 3 else dice.choice(("produce", "fetch", "metadata", "versions", "offsets", "none"))
            partition = dice.randrange(12)
            if kind == "wait":
                c.send("Fetch", 11, fetch_body("quiet", {p: 0 for p in range(12)}, max_wait=200))
            elif kind == "produce":
                c.send("Produce", 9, produce_body("busy", {partition: batch([b"%d" % n])}, acks=dice.choice((1, -1))))
            elif kind == "none":
                c.send("Produce", 9, produce_body("busy", {partition: batch([b"%d" % n])}, acks=0), answered=False)
                produced[partition] += 1
                continue
            elif kind == "fetch":
                c.send("Fetch", 11, fetch_body("busy", {partition: 0}))
            elif kind == "metadata":
                c.send("Metadata", 9, {"Topics": [{"Name": "busy"}]})
            elif kind == "versions":
                c.send("ApiVersions", 2)
            else:
                c.send("ListOffsets", 5, {"Topics": [{"Name": "busy", "Partitions": [{"PartitionIndex": partition, "Timestamp": -1}]}]})
            asked.append((kind, partition, produced[partition]))
            if kind == "produce":
                produced[partition] += 1
        for kind, partition, before in asked:
            answer = c.receive()
            if kind == "produce":
                got = answer.Responses[0].PartitionResponses[0]
                assert (got.Index, got.ErrorCode, got.BaseOffset) == (partition, 0, before), (got, before)
            elif kind == "wait":
                assert len(answer.Responses[0].Partitions) == 12 and not any(p.Records for p in answer.Responses[0].Partitions)
            elif kind == "metadata":
                assert len(answer.Topics[0].Partitions) == 12


def test_produces_stay_in_order(broker):
    """A thousand unbatched produces in flight to one partition are stored in the order sent."""
    with Connection(broker.address) as c:
        c.create_topic("order", 2)
        bodies = [produce_body("order", {n % 2: batch([b"%d" % n])}, acks=(-1, 1)[n // 2 % 2]) for n in range(1000)]
        reader = lambda: [c.receive() for _ in bodies]  # noqa: E731
        in_threads([lambda: [c.send("Produce", 9, b) for b in bodies], lambda: wait_then(c, reader)])
        for partition in range(2):
            assert values(c.fetch_all("order", partition)) == [b"%d" % n for n in range(partition, 1000, 2)]


def wait_then(c, reader):
    while not c.sent:
        pass
    reader()


def test_large_and_small_answers(broker):
    """Answers of a megabyte between small ones, to a reader that starts late."""
    with Connection(broker.address) as c:
        c.create_topic("large", 4)
        for partition in range(4):
            c.produce_ok("large", partition, batch([b"x" * 900000]))
        for n in range(40):
            c.send("Fetch", 11, fetch_body("large", {n % 4: 0}))
            c.send("ApiVersions", 2)
        for n in range(40):
            part = c.receive().Responses[0].Partitions[0]
            assert part.PartitionIndex == n % 4 and len(part.Records) > 900000
            assert c.receive().ErrorCode == 0


def test_pieces(broker):
    """Requests that arrive byte by byte, and several in one segment."""
    with Connection(broker.address) as c:
        c.create_topic("pieces")
        frame, expected = c.frame("Produce", 9, produce_body("pieces", {0: batch([b"slowly"])}))
        c.sent.append(expected)
        for n in range(len(frame)):
            c.socket.sendall(frame[n : n + 1])
        assert c.receive().Responses[0].PartitionResponses[0].BaseOffset == 0
        frames = b""
        for n in range(200):
            frame, expected = c.frame("Produce", 9, produce_body("pieces", {0: batch([b"%d" % n])}))
            frames += frame
            c.sent.append(expected)
        for at in range(0, len(frames), 997):
            c.socket.sendall(frames[at : at + 997])
        assert [c.receive().Responses[0].PartitionResponses[0].BaseOffset for _ in range(200)] == list(range(1, 201))
        assert parse_batches(c.fetch("pieces", {0: 0})[0].Records)


def test_empty_fetch_of_nothing(broker):
    """A fetch that names no partition waits out its time and is answered, and does not hold up others' connections."""
    with Connection(broker.address) as c, Connection(broker.address) as other:
        c.send("Fetch", 11, fetch_body("none", {}, max_wait=500))
        assert other.call("ApiVersions", 0).ErrorCode == 0
        assert c.receive().Responses == []
