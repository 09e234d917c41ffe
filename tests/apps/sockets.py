"""An HTTP server by hand, to read and write its sockets in every way: `sockets.py MODE ADDRESS`.

MODE: blocking, file, vectored, message, partial, sendfile, select, epoll. ADDRESS: HOST:PORT, [HOST]:PORT or a path.
Every request is answered on the connection's own thread, but with `epoll`: there one thread serves all.
"""

import os
import select
import socket
import sys
import tempfile
import threading

mode, address = sys.argv[1], sys.argv[2]


class Wire:
    """Bytes of one connection, in the way of `mode`."""

    def __init__(self, connection):
        self.connection = connection
        self.fd = connection.fileno()
        self.seen = 0
        if mode in ("select", "epoll"):
            connection.setblocking(False)

    def read(self):
        if mode == "file":
            return os.read(self.fd, 65536)
        if mode == "vectored":
            parts = [bytearray(11), bytearray(1000), bytearray(65536)]
            count = os.readv(self.fd, parts)
            return b"".join(parts)[:count]
        if mode == "message":
            parts = [bytearray(7), bytearray(65536)]
            count = self.connection.recvmsg_into(parts)[0]
            return b"".join(parts)[:count]
        if mode == "partial":
            # A few bytes at a time at first; a big body would take for ever.
            data = self.connection.recv(7 if self.seen < 2000 else 5000)
            self.seen += len(data)
            return data
        if mode == "select":
            select.select([self.connection], [], [])
        return self.connection.recv(65536)

    def write(self, head, body):
        if mode == "file":
            self.write_all(lambda rest: os.write(self.fd, rest), head + body)
        elif mode == "vectored":
            pieces = [head[:9], head[9:], body] if body else [head[:9], head[9:]]
            self.write_rest(os.writev(self.fd, pieces), head + body)
        elif mode == "message":
            pieces = [head, body[:5], body[5:]]
            self.write_rest(self.connection.sendmsg(pieces), head + body)
        elif mode == "partial":
            data = head + body
            step = 5 if len(data) < 2000 else 20_000
            for start in range(0, len(data), step):
                self.connection.sendall(data[start : start + step])
        elif mode == "sendfile":
            self.connection.sendall(head)
            with tempfile.TemporaryFile() as file:
                file.write(body)
                file.flush()
                offset = 0
                while offset < len(body):
                    offset += os.sendfile(self.fd, file.fileno(), offset, len(body) - offset)
        elif mode in ("select", "epoll"):
            self.write_all(self.write_when_ready, head + body)
        else:
            self.connection.sendall(head + body)

    def write_when_ready(self, rest):
        try:
            return self.connection.send(rest)
        except BlockingIOError:
            select.select([], [self.connection], [])
            return 0

    def write_rest(self, count, data):
        if count < len(data):
            self.connection.sendall(data[count:])

    def write_all(self, write, data):
        view = memoryview(data)
        while view:
            view = view[write(view) :]


class Session:
    """Requests of one connection: fed with bytes, answers what is complete."""

    def __init__(self, wire):
        self.wire = wire
        self.buffer = b""
        self.continued = False

    def feed(self, data):
        """False when the connection is over."""
        self.buffer += data
        while True:
            head, separator, rest = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return len(self.buffer) < 65536
            lines = head.decode("latin-1").split("\r\n")
            words = lines[0].split(" ")
            if len(words) != 3 or not words[2].startswith("HTTP/1."):
                return False
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if fields.get("expect") == "100-continue" and not self.continued:
                self.continued = True
                self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
            if fields.get("transfer-encoding") == "chunked":
                end = rest.find(b"0\r\n\r\n")
                if end < 0:
                    return True
                body, rest = rest[:end], rest[end + 5 :]
            else:
                length = int(fields.get("content-length", 0))
                if len(rest) < length:
                    return True
                body, rest = rest[:length], rest[length:]
            self.buffer, self.continued = rest, False
            self.answer(words[0], words[1].partition("?")[0], len(body), words[2])
            if fields.get("connection") == "close" or words[2] == "HTTP/1.0":
                return False

    def answer(self, method, path, received, version):
        status, body = 200, f"received {received}\n".encode()
        kind, _, argument = path.lstrip("/").partition("/")
        if kind == "status":
            status = int(argument)
        elif kind == "big":
            body = b"x" * int(argument)
        head = f"{version} {status} Status\r\nContent-Type: text/plain\r\n"
        if kind == "chunked":
            chunks = b"".join(b"5\r\nabcde\r\n" for _ in range(int(argument)))
            self.wire.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), chunks + b"0\r\n\r\n")
            return
        if method == "HEAD":
            self.wire.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), b"")
            return
        self.wire.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body)


def serve(connection):
    wire = Wire(connection)
    session = Session(wire)
    with connection:
        try:
            while (data := wire.read()) and session.feed(data):
                pass
        except OSError:
            pass


def serve_all_by_epoll(listener):
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    sessions = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                sessions[connection.fileno()] = Session(Wire(connection))
                poll.register(connection.fileno(), select.EPOLLIN | select.EPOLLET)
                fd = connection.fileno()
            session = sessions[fd]
            try:
                while (data := session.wire.read()) and session.feed(data):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            del sessions[fd]
            session.wire.connection.close()


def listen():
    if address.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
    else:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
    listener.listen(128)
    return listener


if __name__ == "__main__":
    server = listen()
    if mode == "epoll":
        serve_all_by_epoll(server)
    while True:
        accepted, _ = server.accept()
        threading.Thread(target=serve, args=(accepted,), daemon=True).start()
