"""Attacks by connections, and on the process around the broker."""

import contextlib
import socket
import time

from . import COLD, attack, fetch, flood, hold, metadata_of_all, request

CONNECTIONS, PROCESS = "connections", "process"
ASK = {"ClientSoftwareName": "x", "ClientSoftwareVersion": "1"}


@attack(CONNECTIONS)
def connect_and_reset(t):
    """Connections that are reset at once, before they are accepted."""
    count = 0
    while not t.over():
        with contextlib.suppress(OSError):
            t.socket().close()
            count += 1
    return f"{count} connections"


@attack(CONNECTIONS)
def thousands_idle(t):
    """Thousands of connections that say nothing."""
    crowd = []
    while not t.over() and len(crowd) < t.many(8000, 2000):
        with contextlib.suppress(OSError):
            crowd.append(t.socket())
    return hold(t, crowd)


@attack(CONNECTIONS, settings={"max.connections.per.ip": 200, "max.connections": 2000})
def more_than_are_allowed(t):
    """More connections than one address may have, and those who are refused come again."""
    frame = request("ApiVersions", 3, ASK)
    return flood(t, t.many(1500, 600), frame, pause=0.5)


@attack(CONNECTIONS)
def open_and_close(t):
    """Connections that ask one thing and go, before or after the answer."""
    frame, count = request("ApiVersions", 3, ASK), 0
    while not t.over():
        with contextlib.suppress(OSError), t.socket() as s:
            s.sendall(frame if count % 3 else metadata_of_all())
            if count % 2:
                s.recv(65536)
            count += 1
    return f"{count} connections"


@attack(CONNECTIONS)
def half_open(t):
    """Clients that end their side after a long poll, a large fetch, or half a request, and stay."""
    frames = [fetch(COLD, [(0, 1 << 40)], max_wait=600_000), fetch(COLD, [(p, 0) for p in range(48)]), b"\0\0\1\0half"]
    crowd = []
    for n in range(t.many(1000, 300)):
        s = t.socket(receive=8192)
        s.sendall(frames[n % 3])
        s.shutdown(socket.SHUT_WR)
        crowd.append(s)
    return hold(t, crowd)


@attack(CONNECTIONS)
def small_answers_unread(t):
    """A thousand clients ask much and read nothing: windows of zero."""
    return flood(t, t.many(1000, 300), request("ApiVersions", 3, ASK) * 100, read=False, receive=4096, pause=0.5)


@attack(PROCESS, unread=True, settings={"corelane.log.level": "debug"})
def a_log_that_nobody_reads(t):
    """Standard error is a full pipe, and every connection is worth a line of it."""
    return flood(t, 40, b"\0\0\0\1")


@attack(PROCESS, limits={"NOFILE": 300})
def few_descriptors(t):
    """A process of 300 descriptors, more connections than that, and topics that need some."""
    crowd = []
    while not t.over():
        with contextlib.suppress(OSError):
            crowd.append(t.socket())
        if len(crowd) > 500:
            crowd.pop(0).close()
        time.sleep(0.002)
    return f"{len(crowd)} connections"


@attack(PROCESS, frozen=True)
def new_topics_on_a_frozen_disk(t):
    """Topics are created and deleted while one of two disks stands still."""
    turn = 0
    with t.connection() as c:
        while not t.over():
            c.socket.settimeout(max(0.1, t.left()))
            body = {"Topics": [{"Name": f"f{turn}", "NumPartitions": 2, "ReplicationFactor": 1}], "timeoutMs": 2000}
            if c.patient("CreateTopics", 7, body, t) is None:
                break
            turn += 1
    time.sleep(t.left())
    return f"{turn} topics"
