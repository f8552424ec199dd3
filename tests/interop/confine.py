"""Takes rights and resources from a process before it becomes a broker: limits, another user, refused system calls."""

import ctypes
import os
import random
import resource
import struct

IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
BPF_LOAD, BPF_JUMP_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06
SECCOMP_RETURN_ERRNO, SECCOMP_ALLOW = 0x50000, 0x7FFF0000


def confined(directory, uid=None, refuse=(), errno=0, **limits):
    """What to run between fork and exec: the limits (NOFILE=16, ...), the user, and system calls that end with `errno`.

    `directory` becomes the user's.
    """
    if uid is not None:
        os.chown(directory, uid, uid)

    def confine():
        for name, value in limits.items():
            number = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(number, (value, value))
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        if refuse:
            refuse_calls(refuse, errno)

    return confine


def some_user():
    """A user without processes or locked memory, or `None` where this process may not become one."""
    return random.randrange(50_000, 60_000) if os.geteuid() == 0 else None


def refuse_calls(numbers, errno):
    """A seccomp filter that lets the calls of these numbers end with `errno`."""
    program = instruction(BPF_LOAD, 0, 0, 0)  # the call's number
    for number in numbers:
        program += instruction(BPF_JUMP_EQUAL, 0, 1, number)
        program += instruction(BPF_RETURN, 0, 0, SECCOMP_RETURN_ERRNO | errno)
    program += instruction(BPF_RETURN, 0, 0, SECCOMP_ALLOW)
    code = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def instruction(operation, if_true, if_false, value):
    return struct.pack("=HBBI", operation, if_true, if_false, value)
