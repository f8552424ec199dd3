"""The process around the broker: few resources, refused system calls, and a standard error that nobody reads."""

import errno
import fcntl
import os
import re
import signal
import struct
import time

from confine import IO_URING_ENTER, IO_URING_REGISTER, IO_URING_SETUP, confined, some_user
from harness import KAFKA, STOP_SECONDS, Broker, eventually
from raw import Connection, batch, fetch_body

PIPE = 4096  # the smallest that the kernel makes


def starts_or_refuses(words, uid=None, **confinement):
    """Starts a confined broker, which must serve and stop cleanly, or end by itself with exit code 1 and one line that has `words`.

    True when it served.
    """
    with Broker(start=False) as broker:
        broker.confine = confined(broker.directory, uid, **confinement)
        broker.process = broker.spawn()
        eventually(lambda: broker.process.poll() is not None or broker.times_ready())
        with open(broker.log, errors="replace") as log:
            said = log.read()
        case = f"{confinement} uid {uid}: {broker.process.poll()}\n{said}"
        assert "panicked" not in said, case
        if broker.process.poll() is None:
            assert broker.terminate() == 0, case
            return True
        assert broker.process.returncode == 1, case
        lines = [line for line in said.splitlines() if " INFO " not in line]
        assert len(lines) == 1 and lines[0].startswith("corelane: "), case
        assert re.search(words, lines[0]), case
        return False


def users():
    """This user, and another one without privileges where that is possible."""
    other = some_user()
    if other is None:
        print("not root: nothing tested as another user")
    return [None] if other is None else [None, other]


def test_few_descriptors():
    """As few open files as one likes: the broker serves, or says that it needs more. It never hangs."""
    if KAFKA:
        return
    for uid in users():
        served = [starts_or_refuses("open files|Too many open files", uid, NOFILE=files) for files in range(5, 60, 2)]
        assert not served[0] and served[-1], served


def test_little_lockable_memory():
    if KAFKA:
        return
    for uid in users():
        sizes = [0, 64 << 10, 512 << 10, 1 << 20, 8 << 20]
        served = [starts_or_refuses("locked memory.*LimitMEMLOCK", uid, MEMLOCK=size) for size in sizes]
        assert not served[0] and served[-1], served


def test_few_threads():
    """A limit on the user's threads."""
    uid = some_user()
    if KAFKA or uid is None:
        return print("not root: nothing tested")
    # Flushes need threads of the kernel that count too: without one more they are cancelled.
    words = "thread|Operation canceled"
    served = [starts_or_refuses(words, uid, NPROC=threads) for threads in range(1, 16)]
    assert not served[0] and served[-1], served


def test_io_uring_refused():
    """Container runtimes refuse io_uring by seccomp, with either error. The line says what to allow."""
    if KAFKA:
        return
    for call in (IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER):
        for number in (errno.EPERM, errno.ENOSYS):
            words = "io_uring.*seccomp.*io_uring_setup, io_uring_enter and io_uring_register"
            assert not starts_or_refuses(words, refuse=[call], errno=number), (call, number)


class Unread(Broker):
    """A broker that writes its log into a small pipe, which is read only when asked for."""

    full = False

    def spawn(self):
        self.end, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE)
        if self.full:
            os.write(end, b"-" * (PIPE - 1) + b"\n")
        try:
            return super().spawn(output=end)
        finally:
            os.close(end)

    def __exit__(self, *error):
        super().__exit__(*error)
        os.close(self.end)

    def say_much(self, lines):
        """Has the broker log so many lines: a connection that comes and goes is one at the level of debug."""
        for _ in range(lines):
            Connection(self.address, timeout=20).close()
        # On each core one that is accepted, and looked at, after all of these.
        for _ in range(4):
            with Connection(self.address, timeout=20) as c:
                assert c.call("ApiVersions", 0).ErrorCode == 0

    def read(self):
        """All that is said from now to the end of the broker."""
        said = b""
        while part := os.read(self.end, 1 << 16):
            said += part
        return said.decode()


# More than the pipe and the queue in front of it hold.
MANY = 20_000
DEBUG = {"corelane.log.level": "debug"}


def test_a_log_that_nobody_reads():
    """The pipe behind standard error is full for good: the broker serves, and SIGTERM stops it cleanly."""
    if KAFKA:
        return
    with Unread(**DEBUG) as broker:
        broker.say_much(200)
        with Connection(broker.address, timeout=20) as c:
            c.create_topic("t")
            for n in range(100):
                assert c.produce_ok("t", 0, batch([b"x"])) == n
        assert broker.terminate() == 0
        assert ".kafka_cleanshutdown" in os.listdir(broker.data)


def test_dropped_log_lines_are_counted():
    """Lines that do not fit into the queue are counted at their place; the last ones come."""
    if KAFKA:
        return
    with Unread(**DEBUG) as broker:
        broker.say_much(MANY)
        broker.process.send_signal(signal.SIGTERM)
        said = broker.read()
        assert broker.process.wait(STOP_SECONDS) == 0
        dropped = [int(n) for n in re.findall(r"^corelane: (\d+) log lines were dropped", said, re.M)]
        assert dropped, said[-2000:]
        assert said.count("closed by the client") + sum(dropped) >= MANY, (dropped, said.count("\n"))
        assert re.search(r"INFO corelane::\S+ stopped$", said, re.M), said[-2000:]


def test_a_second_signal_with_an_unread_log():
    """A fatal exit does not wait for a reader either."""
    if KAFKA:
        return
    with Unread(**DEBUG) as broker:
        broker.say_much(200)
        broker.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        broker.process.send_signal(signal.SIGTERM)
        assert broker.process.wait(STOP_SECONDS) in (0, 2), broker.process.returncode


def test_a_refused_start_with_an_unread_log():
    """The reason of a refused start reaches a reader, and does not wait for one for good."""
    if KAFKA:
        return
    with Broker() as other:
        for read in (False, True):
            with Unread(start=False, **{"log.dirs": other.data}) as broker:
                broker.full = True
                broker.process = broker.spawn()
                if read:
                    assert broker.read().splitlines()[1].startswith("corelane: "), "the reason"
                assert broker.process.wait(STOP_SECONDS) == 1


def test_a_client_that_does_not_read_and_the_end():
    """The kernel keeps what is sent without a copy for as long as such a client lives; the process does not wait for that."""
    if KAFKA:
        return
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
            for _ in range(12):
                c.produce_ok("t", 0, batch([os.urandom(900000)]))
        with Connection(broker.address) as deaf:
            for n in range(8):
                deaf.send("Fetch", 11, fetch_body("t", {0: n}, max_wait=0, max_bytes=900000, partition_max=4 << 20))
            time.sleep(1)
            assert broker.terminate() == 0


def test_long_requests_behind_one_that_waits():
    """Requests that become much when they are decoded are decoded one at a time, within the memory."""
    if KAFKA:
        return
    names = 1_990_000
    with Broker(cores=1, corelane_memory="64m") as broker, Connection(broker.address) as c:
        c.create_topic("t")
        c.produce_ok("t", 0, batch([b"x"]))
        frame, _ = c.frame("DeleteTopics", 5, {"TopicNames": ["a"], "TimeoutMs": 30000})
        # An array of empty names in the place of one name.
        at = frame.rindex(b"\x02\x02a")
        count, left = b"", names + 1
        while left >= 128:
            count, left = count + bytes([left & 127 | 128]), left >> 7
        body = frame[4:at] + count + bytes([left]) + b"\x01" * names + frame[at + 3 :]
        c.send("Fetch", 11, fetch_body("t", {0: 1}, max_wait=5000, min_bytes=1))
        c.socket.settimeout(2)
        try:
            for _ in range(20):
                c.socket.sendall(struct.pack(">i", len(body)) + body)
        except TimeoutError:
            pass  # no more is read
        with open(f"/proc/{broker.process.pid}/status") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1])
        assert peak < 200 << 10, f"{peak} KiB"
