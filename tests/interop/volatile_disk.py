"""A disk with a volatile cache, for power cuts on a real file system: `volatile_disk.py MOUNTPOINT IMAGE`.

A small FUSE file system with one file, `disk`, for a loop device to sit on. Every write goes to IMAGE at once, where it is read back, and is
remembered until the next flush. On the line `cut FILE SEED` FILE becomes what a power cut would leave: all that was flushed and, of the
rest, a random part, sector by sector; nothing of it with seed 0. From the line `hold` until the cut no flush ends: what is acknowledged
meanwhile has not waited for one. Needs root and /dev/fuse.
"""

import ctypes
import os
import random
import select
import shutil
import struct
import sys
import time

SECTOR = 512
ROOT, DISK = 1, 2
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 1, 2, 3, 4, 14, 15, 16, 17, 18, 20
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET, FALLOCATE = 25, 26, 27, 28, 29, 36, 42, 43
ENOENT, ENOSYS, EOPNOTSUPP = 2, 38, 95
MAX_WRITE = 1 << 17
DIRECT_IO = 1
BIG_WRITES = 1 << 5


class Disk:
    def __init__(self, mountpoint, image):
        self.image, self.durable = image, image + ".durable"
        shutil.copyfile(image, self.durable)
        self.file, self.flushed = os.open(image, os.O_RDWR), os.open(self.durable, os.O_RDWR)
        self.size = os.path.getsize(image)
        self.pending = []
        # The flushes that wait for the cut; none when they are not held up.
        self.held = None
        self.fuse = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.fuse},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"volatile", mountpoint.encode(), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount", mountpoint)

    def serve(self):
        while True:
            ready, _, _ = select.select([self.fuse, sys.stdin], [], [])
            if sys.stdin in ready:
                line = sys.stdin.readline().split()
                if not line:
                    return
                if line[0] == "hold":
                    self.held = self.held or []
                else:
                    self.cut(line[1], int(line[2]))
                    held, self.held = self.held or [], None
                    for request in held:
                        self.answer(request)
                print("done", flush=True)
            if self.fuse in ready:
                try:
                    request = os.read(self.fuse, MAX_WRITE + 8192)
                except OSError as error:
                    if error.errno == 19:  # unmounted
                        return
                    raise
                self.answer(request)

    def cut(self, path, seed):
        shutil.copyfile(self.durable, path)
        dice = random.Random(seed)
        target = os.open(path, os.O_RDWR)
        for offset, data in self.pending if seed else []:
            for at in range(0, len(data), SECTOR):
                if dice.random() < 0.5:
                    os.pwrite(target, data[at : at + SECTOR], offset + at)
        os.close(target)

    def answer(self, request):
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        if opcode == FSYNC and self.held is not None:
            self.held.append(request)
            return
        error, body = self.handle(opcode, node, request[40:])
        os.write(self.fuse, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)

    def handle(self, opcode, node, body):
        if opcode == INIT:
            major, minor = struct.unpack_from("<II", body)
            flags = BIG_WRITES
            return 0, struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), 1 << 17, flags, 16, 12, MAX_WRITE, 1, 0, 0, 0)
        if opcode == LOOKUP:
            return (0, struct.pack("<QQQQII", DISK, 0, 3600, 3600, 0, 0) + self.attributes(DISK)) if body.rstrip(b"\0") == b"disk" else (ENOENT, b"")
        if opcode in (GETATTR, SETATTR):
            return 0, struct.pack("<QII", 3600, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", 1, DIRECT_IO if opcode == OPEN else 0, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, os.pread(self.file, size, offset)
        if opcode == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = body[40 : 40 + size]
            os.pwrite(self.file, data, offset)
            self.pending.append((offset, data))
            return 0, struct.pack("<II", size, 0)
        if opcode == FSYNC:
            for offset, data in self.pending:
                os.pwrite(self.flushed, data, offset)
            self.pending.clear()
            return 0, b""
        if opcode == STATFS:
            return 0, struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 20, 1 << 20, 1000, 1000, 4096, 255, 4096, 0)
        if opcode == FALLOCATE:
            return EOPNOTSUPP, b""
        if opcode in (FLUSH, RELEASE, RELEASEDIR, READDIR):
            return 0, b""
        return ENOSYS, b""

    def attributes(self, node):
        now = int(time.time())
        mode, size = (0o40755, 4096) if node == ROOT else (0o100644, self.size)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, now, now, now, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    disk = Disk(sys.argv[1], sys.argv[2])
    print("ready", flush=True)
    disk.serve()
