"""
Run a program on what looks like an older kernel: C{python -m tests.support.older 83 --
PROGRAM ...}.

The socket options whose numbers are given are unknown to the program, and to what
it starts: a seccomp filter answers for them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# linux/include/uapi/linux/prctl.h, seccomp.h, and bpf_common.h
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD = 0x20
_EQUAL = 0x15
_RETURN = 0x06

# Where struct seccomp_data has the call's number, and the lower half of its third
# argument.
_NUMBER = 0
_OPTION = 32

#: The numbers of setsockopt and getsockopt.
CALLS = {"x86_64": (54, 55), "aarch64": (208, 209)}


def hide(options: list[int]) -> None:
    """
    Make setsockopt(2) and getsockopt(2) fail with C{ENOPROTOOPT} for these options, at
    every level.

    @raise OSError: if the kernel takes no filter.
    """
    first, second = CALLS[platform.machine()]
    count = len(options)
    program = [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 1, 0, first),
        (_EQUAL, 0, 1 + count, second),
        (_LOAD, 0, 0, _OPTION),
        *((_EQUAL, count - place, 0, each) for place, each in enumerate(options)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.ENOPROTOOPT),
    ]
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """
    Hide what the command line asks for, and become the program.
    """
    place = sys.argv.index("--")
    hide([int(each) for each in sys.argv[1:place]])
    program = sys.argv[place + 1 :]
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
