"""A client of many kinds: `propagation.py PORT COUNT SEED GO`. It waits for the file GO, sends about COUNT requests to
127.0.0.1:PORT, the same bytes for the same seed, and counts what it sends. Whatever is not as it must be ends it.
PROPAGATION_PAUSE: seconds between what it does.

Paths tell the other end what to do: /slow makes it read late.
"""

import http.client
import os
import random
import socket
import sys
import tempfile
import time

import requests
import urllib3

PAUSE = float(os.environ.get("PROPAGATION_PAUSE", 0))
PORT, COUNT, SEED, GO = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rng = random.Random(SEED)
number, doing = 0, None
OWN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# What must never be taken for a request, because it is in a body or in a tunnel.
DECOY = b"GET /decoy HTTP/1.1\r\nHost: decoy\r\n\r\n"


def path(kind="r"):
    global number
    number += 1
    return f"/{kind}/{doing.__name__}/{number}?{'q' * rng.choice([0, 0, 3, 40, 900, 3000])}"


def body(most=2000):
    kind = rng.randrange(4)
    size = rng.choice([0, 1, 7, 100, most])
    if kind == 0:
        return (DECOY * (size // len(DECOY) + 1))[: max(size, len(DECOY))]
    if kind == 1:
        return b"\r\n" * (size // 2) + b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    return rng.randbytes(size)


def check(condition, what):
    if not condition:
        raise SystemExit(f"request {number}: {what}")


class Raw:
    """A connection of which every byte is counted."""

    def __init__(self, **options):
        self.sock = socket.create_connection(("127.0.0.1", PORT), timeout=30)
        self.file = self.sock.makefile("rb")
        for name, value in options.items():
            self.sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)

    def send(self, data, flags=0):
        sent = self.sock.send(data, flags)
        check(sent == len(data), f"{sent} of {len(data)} bytes were taken")

    def send_all(self, data):
        """As a non-blocking program does, which goes on where the kernel stopped."""
        view, total = memoryview(data), 0
        while total < len(data):
            sent = self.sock.send(view[total:])
            check(0 < sent <= len(data) - total, f"{sent} bytes were taken of {len(data) - total}")
            total += sent

    def answer(self, expected=200):
        line = self.file.readline()
        check(line.startswith(b"HTTP/1."), f"no answer but {line!r}")
        status, length = int(line.split()[1]), 0
        while (line := self.file.readline()) != b"\r\n":
            check(bool(line), "the answer ends within its head")
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        check(status == expected, f"status {status}")
        return self.file.read(length)

    def close(self):
        self.file.close()
        self.sock.close()


def head(method="GET", version="1.1", kind="r", **headers):
    lines = [f"{method} {path(kind)} HTTP/{version}", "Host: a"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"X-{i}: {'v' * rng.randrange(60)}" for i in range(rng.randrange(6))]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(content, **headers):
    return head("POST", Content_Length=len(content), **headers) + content


def pieces(data, most):
    """Cut at random places."""
    cuts = sorted(rng.sample(range(1, len(data)), min(most, len(data) - 1)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]


def standard_library():
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    for _ in range(rng.randrange(1, 6)):
        kind = rng.randrange(5)
        if kind == 0:
            connection.request("GET", path(), headers={"Accept": "*/*"})
        elif kind == 1:
            connection.request("POST", path(), body=body())
        elif kind == 2:
            connection.request("PUT", path(), body=iter([body() + b"x" for _ in range(3)]))
        elif kind == 3:
            connection.request("GET", path(), headers={"Traceparent": OWN})
        else:
            connection.putrequest("DELETE", path())
            connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        check(answer.status == 200, answer.status)
    connection.close()


session = requests.Session()
pool = urllib3.PoolManager(maxsize=1)
BASE = f"http://127.0.0.1:{PORT}"


def libraries():
    kind = rng.randrange(6)
    if kind == 0:
        answer = session.get(BASE + path())
    elif kind == 1:
        answer = session.post(BASE + path(), data=body(200_000), timeout=30)
    elif kind == 2:
        answer = session.post(BASE + path(), data=(part + b"." for part in [body(), body()]))
    elif kind == 3:
        answer = session.get(BASE + path(), headers={"traceparent": OWN, "tracestate": "a=b"})
    elif kind == 4:
        answer = pool.request("GET", BASE + path())
    else:
        answer = pool.request("POST", BASE + path(), body=body(), headers={"Content-Type": "x/y"})
    check(getattr(answer, "status", None) == 200 or getattr(answer, "status_code", None) == 200, answer)


def split_heads():
    raw = Raw()
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(3):
        data = rng.choice([head, lambda: post(body() + b"!")])()
        end = data.index(b"\r\n\r\n")
        cut = rng.choice([None, end, end + 1, end + 2, end + 3, end + 4])
        parts = pieces(data, rng.randrange(1, 9)) if cut is None else [data[:cut], data[cut:]]
        for part in parts:
            if part:
                raw.send(part)
        raw.answer()
    raw.close()


def single_bytes():
    raw = Raw()
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b"GET %s HTTP/1.1\r\nA: b\r\n\r\n" % path().split("?")[0].encode()
    for byte in data:
        raw.send(bytes([byte]))
    raw.answer()
    raw.close()


def pipelined():
    raw = Raw()
    data = b""
    count = rng.randrange(2, 12)
    for _ in range(count):
        data += rng.choice([head, lambda: post(body()), lambda: chunked(), lambda: head(traceparent=OWN)])()
    if rng.randrange(2):
        raw.send_all(data)
    else:
        for part in pieces(data, 5):
            raw.send_all(part)
    for _ in range(count):
        raw.answer()
    raw.close()


def chunked(trailers=False):
    data = head("POST", Transfer_Encoding="chunked")
    for _ in range(rng.randrange(5)):
        part = body() + b"+"
        data += b"%x%s\r\n%s\r\n" % (len(part), rng.choice([b"", b";ext=1"]), part)
    return data + b"0\r\n" + (b"Trailer: GET / HTTP/1.1\r\n" if rng.randrange(2) else b"") + b"\r\n"


def vectors():
    raw = Raw()
    for _ in range(3):
        data = post(body() + b"?")
        sent = raw.sock.sendmsg(pieces(data, rng.randrange(1, 20)))
        check(sent == len(data), f"sendmsg took {sent} of {len(data)}")
        raw.answer()
        data = post(body() + b"?")
        parts = pieces(data, 4)
        sent = os.writev(raw.sock.fileno(), parts)
        check(sent == len(data), f"writev took {sent} of {len(data)}")
        raw.answer()
    raw.close()


def more_to_come():
    raw = Raw()
    for _ in range(3):
        data = post(body(5000) + b"*")
        parts = pieces(data, 4)
        for part in parts[:-1]:
            raw.send(part, socket.MSG_MORE)
        raw.send(parts[-1])
        raw.answer()
    raw.close()


def expects():
    raw = Raw()
    for _ in range(2):
        content = DECOY * 3
        raw.send(head("PUT", Expect="100-continue", Content_Length=len(content)))
        raw.answer(100)
        raw.send(content[:50])
        raw.send(content[50:])
        raw.answer()
        raw.send(head())
        raw.answer()
    raw.close()


def from_file():
    content = DECOY * rng.randrange(1, 3000)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        raw = Raw()
        raw.send(head("PUT", Content_Length=len(content)))
        sent = 0
        while sent < len(content):
            sent += os.sendfile(raw.sock.fileno(), file.fileno(), sent, len(content) - sent)
        raw.answer()
        # The size line and the data of a chunk come different ways.
        raw.send(head("PUT", Transfer_Encoding="chunked"))
        raw.send(b"%x\r\n" % len(content))
        file.seek(0)
        raw.sock.sendfile(file)
        raw.send(b"\r\n0\r\n\r\n")
        raw.answer()
        # A head from a pipe.
        ends = os.pipe()
        data = head()
        os.write(ends[1], data)
        check(os.splice(ends[0], raw.sock.fileno(), len(data)) == len(data), "splice")
        raw.answer()
        for end in ends:
            os.close(end)
        raw.send(head())
        raw.answer()
        raw.close()


def large():
    """More than the other end takes at once, from a socket that does not block."""
    raw = Raw(SO_SNDBUF=rng.choice([5000, 20_000, 100_000]))
    for _ in range(2):
        content = DECOY * 10_000
        data = head("POST", kind="slow", Content_Length=len(content)) + content
        raw.sock.setblocking(False)
        total = 0
        while total < len(data):
            try:
                sent = raw.sock.send(memoryview(data)[total:])
                check(0 < sent <= len(data) - total, f"{sent} bytes were taken")
                total += sent
            except BlockingIOError:
                time.sleep(0.001)
        raw.sock.settimeout(30)
        raw.answer()
    raw.close()


def old_version():
    raw = Raw()
    raw.send(head(version="1.0"))
    raw.answer()
    raw.send(head(version="1.0", Connection="keep-alive"))
    raw.answer()
    raw.close()


def upgraded():
    raw = Raw()
    raw.send(head())
    raw.answer()
    raw.send(head(Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Key="x"))
    raw.answer(101)
    for _ in range(3):
        raw.send(DECOY)
        raw.send(b"\x81\x05hello" + DECOY)
    raw.close()


def tunnel():
    raw = Raw()
    raw.send(head("CONNECT"))
    raw.answer()
    for _ in range(3):
        raw.send(DECOY)
        raw.send(head())
    raw.close()


def not_http():
    raw = Raw()
    for data in rng.choice([
        [b"\x16\x03\x01\x02\x00\x01", DECOY],
        [b"*1\r\n$4\r\nPING\r\n", DECOY],
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", DECOY],
        [b"GET /old\r\n\r\n", DECOY],
        [b"GET / HTTP/1.1\nHost: a\n\n", DECOY],
        [b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", DECOY],
        [b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", DECOY],
        [b"G", b"\x00" + DECOY],
    ]):
        raw.send(data)
    raw.close()


def lenient():
    raw = Raw()
    raw.send(post(b"body") + b"\r\n")
    raw.answer()
    raw.send(b"\r\n" + head(method="M-SEARCH"))
    raw.answer()
    raw.close()


def long_head():
    raw = Raw()
    raw.send_all(head(X_Long="y" * rng.choice([1000, 4000, 9000, 30_000])))
    raw.answer()
    raw.send(head())
    raw.answer()
    raw.close()


KINDS = [standard_library] * 4 + [libraries] * 8 + [
    split_heads, split_heads, single_bytes, pipelined, pipelined, vectors, more_to_come, expects, from_file, old_version,
    upgraded, tunnel, not_http, lenient, long_head,
]


def main():
    global doing
    while not os.path.exists(GO):
        time.sleep(0.01)
    turns = 0
    while number < COUNT:
        turns += 1
        doing = large if turns % 60 == 0 else rng.choice(KINDS)
        doing()
        time.sleep(PAUSE)
    session.close()
    pool.clear()
    print(f"sent {number}", flush=True)


main()
