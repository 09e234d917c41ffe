"""Executes `INT1`, which raises a debug exception without a reason in DR6."""

import ctypes
import mmap

CODE = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
CODE.write(b"\xf1\xc3")


def trap():
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(CODE)))()
