"""Attacks of many kinds (attacks/), one after the other, beside a client that must not notice them (bystander.py).

    siege.py [--memory 256m,64m,32m] [--seconds 8] [--list] [NAME...]

For each setting of `corelane.memory` and each attack a broker of its own, on two cores, is started on a copy of a data
directory with cold data, more than the memory. Where this process is root the broker is a user without privileges and
with 8 MiB of lockable memory. Printed are the peak of resident memory above the setting (64 MiB are allowed), and the
median, 99th percentile and worst of the bystander's latencies in milliseconds; `late` is how late the machine woke
the bystander itself. An attack fails if the memory does not hold, if the broker or the bystander's place in its group
is gone, if an answer is wrong, if the broker does not work afterwards or does not stop cleanly, or if a p99 is above
100 ms. The tests of test_siege.py are the same attacks, briefly, without the times.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from attacks import COLD, FROZEN, OPEN, TABLE, Target, noise  # noqa: E402
from bystander import KINDS, Bystander, partition_for  # noqa: E402
from confine import confined, some_user  # noqa: E402
from harness import Broker, raise_file_limit, temp_dir  # noqa: E402
from powercut import Machine  # noqa: E402
from raw import Closed, Connection  # noqa: E402
from test_process import Unread  # noqa: E402

MIB = 1 << 20
ABOVE = 64 * MIB
P99_MS = 100
LOCKABLE = 8 * MIB
COLD_PARTITIONS, COLD_BATCH = 48, 900_000
BYSTANDER, PARTITIONS = "bystander", 8
# How long the broker may take to work, and to stop, after an attack.
RECOVERY, STOP = 20, 20
SETTINGS = {
    "max.connections": 20_000, "max.connections.per.ip": 10_000, "group.initial.rebalance.delay.ms": 0,
    "log.cleaner.backoff.ms": 1000,
}


def size_of(setting):
    """Bytes of a setting such as 64m."""
    return int(setting[:-1]) << {"k": 10, "m": 20, "g": 30}[setting[-1]]


class Field:
    """A broker to attack, its data, and where the bystander's lie.

    `frozen`: the second of two log directories is on a disk that can be stopped.
    """

    def __init__(self, memory, frozen=False):
        self.memory, self.budget = memory, size_of(memory)
        self.directory = temp_dir()
        os.chmod(self.directory, 0o755)
        self.machine = Machine(self.directory) if frozen else None
        self.batches = max(1, -(-self.budget * 3 // 2 // COLD_PARTITIONS // COLD_BATCH))
        self.broker, self.frozen, self.quick, self.group = None, [], list(range(PARTITIONS)), "by"
        self.user = some_user()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.broker:
            self.broker.kill()
        if self.machine:
            self.machine.down()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, directory, attack=None):
        """Starts a broker on what is in `directory`."""
        settings = {**SETTINGS, "corelane.memory": self.memory, **(attack.settings if attack else {})}
        if self.machine:
            quick = os.path.join(directory, "data")
            settings["log.dirs"] = f"{quick},{os.path.join(self.machine.mount, 'slow')}"
        kind = Unread if attack and attack.unread else Broker
        self.broker = kind(directory=directory, start=False, **settings)
        limits = dict(attack.limits if attack else {})
        if self.user is not None:
            limits["MEMLOCK"] = LOCKABLE
            own(directory, self.user)
            if self.machine:
                own(self.machine.mount, self.user)
        confine = confined(directory, self.user, **limits)
        self.broker.confine = lambda: (urgent(), confine())
        self.broker.start()
        return self.broker

    def seed(self, directory, attack=None):
        """Starts a broker and gives it what the attacks and the bystander need."""
        broker = self.start(directory, attack)
        with Connection(broker.address) as c:
            c.create_topic(BYSTANDER, PARTITIONS)
            c.create_topic(OPEN, 48, retention_bytes=32 * MIB, segment_bytes=8 * MIB)
            c.call("FindCoordinator", 3, {"Key": "by"})
            if not self.machine:
                c.create_topic(COLD, COLD_PARTITIONS, segment_bytes=2 * MIB)
            else:
                c.create_topic(FROZEN, 16)
                self.look_for_quick(directory)
            filled = [(FROZEN, p, 6) for p in self.frozen] or [(COLD, p, self.batches) for p in range(COLD_PARTITIONS)]
            for topic, partition, count in filled:
                for _ in range(count):
                    c.send("Produce", 9, {"Acks": 1, "TimeoutMs": 30000, "TopicData": [
                        {"Name": topic, "PartitionData": [{"Index": partition, "Records": noise(COLD_BATCH)}]}]})
                for _ in range(count):
                    assert c.receive().Responses[0].PartitionResponses[0].ErrorCode == 0
        return broker

    def look_for_quick(self, directory):
        """Which partitions are on which disk, and a group whose coordinator is not on the slow one."""
        slow = os.listdir(os.path.join(self.machine.mount, "slow"))
        self.frozen = [p for p in range(16) if f"{FROZEN}-{p}" in slow]
        self.quick = [p for p in range(PARTITIONS) if f"{BYSTANDER}-{p}" not in slow]
        assert self.frozen and self.quick, slow
        names = (f"by-{n}" for n in range(1000))
        self.group = next(n for n in names if f"__consumer_offsets-{partition_for(n)}" not in slow)

    def freeze(self, still):
        if self.machine:
            os.kill(self.machine.disk.pid, signal.SIGSTOP if still else signal.SIGCONT)


def urgent():
    """Has this process go before others of this machine, where that is allowed: not they are measured."""
    with contextlib.suppress(OSError):
        os.nice(-10)


def own(directory, user):
    subprocess.run(["chown", "-R", f"{user}:{user}", directory], check=True)


class Row:
    """What an attack did."""

    def __init__(self, attack, memory):
        self.attack, self.memory = attack, memory
        self.above, self.seen, self.note, self.faults = 0, {}, "", []

    def fault(self, what):
        self.faults.append(what)

    def judge_times(self):
        for kind in KINDS:
            p99 = self.seen.get(kind, [0, 0])[1]
            if p99 > P99_MS:
                self.fault(f"{kind} p99 {p99:.0f} ms")

    def line(self):
        times = " ".join("{:>5.1f}/{:>6.1f}/{:>6.0f}".format(*self.seen[k][:3]) if k in self.seen else " " * 19 for k in KINDS)
        late = self.seen.get("late", [0, 0, 0])[1]
        verdict = "; ".join(self.faults) or "ok"
        return f"{self.memory:>5} {self.attack.name:<40} {self.above / MIB:>+7.1f} {times} {late:>6.1f}  {verdict}  ({self.note})"


HEADER = f"{'':>5} {'attack':<40} {'MiB':>7} " + " ".join(f"{k + ' p50/p99/max':>19}" for k in KINDS) + f" {'late':>6}"


def attackers(attack, target):
    """The attack in a process of its own: its process id, and what it says."""
    said, say = os.pipe()
    pid = os.fork()
    if pid:
        os.close(say)
        return pid, os.fdopen(said)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The broker and the bystander are who is measured.
    os.nice(10)
    with os.fdopen(say, "w") as out:
        try:
            print(attack.function(target) or "", file=out)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            traceback.print_exc()
            print(f"the attack itself failed: {type(error).__name__} {error}", file=out)
        except (OSError, Closed) as error:
            print(f"{type(error).__name__} {error}", file=out)
        out.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def besiege(field, attack, seconds, full):
    """One attack on the field's broker, beside a bystander; its row."""
    broker, row = field.broker, Row(attack, field.memory)
    # Where descriptors run out nobody new can connect; who is connected is served.
    kinds = [k for k in KINDS if k != "connect" or not attack.limits]
    bystander = Bystander(broker.address, BYSTANDER, field.quick, field.group, urgent, kinds)
    with open(f"/proc/{broker.process.pid}/clear_refs", "w") as refs:
        refs.write("5")
    field.freeze(attack.frozen)
    target = Target(broker.address, field.budget, seconds, full, (COLD_PARTITIONS, field.batches), field.frozen)
    pid, said = attackers(attack, target)
    try:
        time.sleep(seconds)
        # An attack may be in the middle of something.
        deadline = time.monotonic() + 1
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.01)
        row.note = said.read().strip()
    finally:
        said.close()
        seen = bystander.finish()
        field.freeze(False)
    if broker.process.poll() is not None:
        row.fault(f"the broker ended with {broker.process.returncode}: {broker.log_tail()}")
        return row
    row.above = broker.memory()[1] - field.budget
    if row.above > ABOVE:
        row.fault(f"{row.above // MIB} MiB above corelane.memory")
    if "the attack itself failed" in row.note:
        row.fault(row.note)
    if error := seen.pop("error"):
        row.fault(f"the bystander: {error}")
    row.seen = seen
    with contextlib.suppress(FileNotFoundError):
        row.faults += after(field)
    return row


def after(field):
    """What does not work after an attack."""
    began = time.monotonic()
    try:
        with Connection(field.broker.address, timeout=RECOVERY) as c:
            assert c.call("ApiVersions", 0).ErrorCode == 0
            topic, partition = (BYSTANDER, field.quick[0]) if field.machine else (OPEN, 0)
            offset = c.produce_ok(topic, partition, noise(COLD_BATCH))
            part = c.fetch(topic, {partition: offset}, max_bytes=4 * MIB, partition_max=2 * MIB)[partition]
            assert len(part.Records) > COLD_BATCH, f"fetch of {len(part.Records)} bytes"
            cold = {p: 0 for p in field.frozen[:4]} or {p: 0 for p in range(4)}
            parts = c.fetch(FROZEN if field.frozen else COLD, cold, max_wait=1000)
            assert all(p.ErrorCode == 0 for p in parts.values()) and any(p.Records for p in parts.values()), "cold data"
    except (OSError, Closed, AssertionError) as error:
        return [f"afterwards, {time.monotonic() - began:.1f} s: {type(error).__name__} {error}"]
    return []


def stop(field, row):
    """Stops the broker."""
    if field.broker.process.poll() is not None:
        return
    began = time.monotonic()
    field.broker.process.send_signal(signal.SIGTERM)
    try:
        code = field.broker.process.wait(STOP)
        if code != 0:
            row.fault(f"stop: exit code {code}: {field.broker.log_tail()}")
    except subprocess.TimeoutExpired:
        row.fault(f"no stop within {time.monotonic() - began:.0f} s: {field.broker.log_tail()}")
        field.broker.kill()


def in_full(memory, attacks, seconds, show):
    """Each attack on a broker of its own; the rows."""
    rows = []
    for frozen in (False, True):
        some = [a for a in attacks if a.frozen == frozen]
        if not some:
            continue
        with Field(memory, frozen) as field:
            seeded = os.path.join(field.directory, "seeded")
            os.mkdir(seeded)
            assert field.seed(seeded).terminate() == 0
            for attack in some:
                # What is on the second disk stays as it was left.
                copy = seeded if frozen else os.path.join(field.directory, attack.name)
                if not frozen:
                    subprocess.run(["cp", "-a", "--reflink=auto", seeded, copy], check=True)
                field.start(copy, attack)
                row = besiege(field, attack, seconds, True)
                stop(field, row)
                row.judge_times()
                show(row)
                rows.append(row)
                if not frozen and not row.faults:
                    shutil.rmtree(copy)
    return rows


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--memory", default="256m,64m,32m")
    options.add_argument("--seconds", type=float, default=8)
    options.add_argument("--list", action="store_true")
    options.add_argument("names", nargs="*", help="parts of the names of the attacks")
    told = options.parse_args()
    wanted = [a for a in TABLE if not told.names or any(n in a.name or n == a.group for n in told.names)]
    if told.list:
        for attack in wanted:
            print(f"{attack.group:<12} {attack.name:<40} {attack.what}")
        return 0
    raise_file_limit()
    print(HEADER, flush=True)
    rows = []
    for memory in told.memory.split(","):
        rows += in_full(memory, wanted, told.seconds, lambda row: print(row.line(), flush=True))
    failed = [row for row in rows if row.faults]
    print(f"{len(rows) - len(failed)} withstood, {len(failed)} not")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
