"""What BPF objects does the kernel hold? By bpf(2), with nothing but ctypes: bpftool is not in the guest."""

import ctypes
import os
import platform
import struct

SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]

# enum bpf_cmd of include/uapi/linux/bpf.h.
PROG_GET_NEXT_ID, MAP_GET_NEXT_ID, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID = 11, 12, 13, 14
OBJ_GET_INFO_BY_FD, LINK_GET_NEXT_ID = 15, 31

# The members of enum bpf_prog_type and enum bpf_map_type that an agent like ours uses.
PROG_TYPES = {
    2: "kprobe", 5: "tracepoint", 7: "perf_event", 13: "sock_ops", 16: "sk_msg", 17: "raw_tracepoint",
    26: "tracing", 31: "syscall",
}
MAP_TYPES = {
    1: "hash", 2: "array", 3: "prog_array", 4: "perf_event_array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash",
    10: "lru_percpu_hash", 11: "lpm_trie", 18: "sockhash", 27: "ringbuf",
}

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attr):
    result = libc.syscall(SYS_BPF, command, ctypes.byref(attr), ctypes.sizeof(attr))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def ids(command):
    """All ids of one kind, in ascending order."""
    found, last = [], 0
    while True:
        # { start_id, next_id, open_flags }
        attr = ctypes.create_string_buffer(struct.pack("III", last, 0, 0), 12)
        try:
            bpf(command, attr)
        except FileNotFoundError:
            return found
        last = struct.unpack_from("III", attr.raw)[1]
        found.append(last)


def info(command, number, size):
    """The first `size` bytes of struct bpf_prog_info or bpf_map_info."""
    fd = bpf(command, ctypes.create_string_buffer(struct.pack("III", number, 0, 0), 12))
    try:
        buffer = ctypes.create_string_buffer(size)
        # { bpf_fd, info_len, info }
        bpf(OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(struct.pack("IIQ", fd, size, ctypes.addressof(buffer)), 16))
        return buffer.raw
    finally:
        os.close(fd)


def text(raw):
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def programs():
    """(id, type, name) of every loaded program. struct bpf_prog_info: type at 0, name at 64."""
    for number in ids(PROG_GET_NEXT_ID):
        raw = info(PROG_GET_FD_BY_ID, number, 80)
        kind = struct.unpack_from("I", raw)[0]
        yield number, PROG_TYPES.get(kind, f"type {kind}"), text(raw[64:80])


def maps():
    """(id, type, name) of every map. struct bpf_map_info: type at 0, name at 24."""
    for number in ids(MAP_GET_NEXT_ID):
        raw = info(MAP_GET_FD_BY_ID, number, 40)
        kind = struct.unpack_from("I", raw)[0]
        yield number, MAP_TYPES.get(kind, f"type {kind}"), text(raw[24:40])


def links():
    """Ids of every BPF link (raw tracepoints, tracing programs; perf events are none before 5.15)."""
    return ids(LINK_GET_NEXT_ID)
