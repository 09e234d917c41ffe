"""An ordinary web service on the standard library alone: one thread a request, a stock service over HTTP, Redis.

It knows nothing of tracing. Each Redis command of an order goes through another pair of system calls, so that one
request shows whether the agent reads all of them under the kernel at hand.
"""

import asyncio
import http.client
import http.server
import json
import os
import socket
import sys
import threading

PORT, STOCK_PORT, REDIS_PORT = (int(arg) for arg in sys.argv[1:4])


class RedisError(Exception):
    pass


class Redis:
    """One connection, opened when the service starts and kept."""

    def __init__(self, port):
        self.lock = threading.Lock()
        self.sock = socket.create_connection(("127.0.0.1", port))
        fd = self.sock.fileno()
        self.ways = {
            "send": (lambda parts: self.sock.sendall(b"".join(parts)), lambda: self.sock.recv(4096)),
            "write": (lambda parts: os.write(fd, b"".join(parts)), lambda: os.read(fd, 4096)),
            "writev": (lambda parts: os.writev(fd, parts), lambda: self.readv(fd)),
            "sendmsg": (self.sock.sendmsg, lambda: self.sock.recvmsg(4096)[0]),
        }

    @staticmethod
    def readv(fd):
        head, rest = bytearray(3), bytearray(4096)
        count = os.readv(fd, [head, rest])
        return bytes((head + rest)[:count])

    def command(self, way, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            data = str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        write, read = self.ways[way]
        with self.lock:
            write(parts)
            answer = read()
            while not self.complete(answer):
                answer += read()
        if answer.startswith(b"-"):
            raise RedisError(answer[1:].strip().decode())
        return answer

    @staticmethod
    def complete(answer):
        line, end, rest = answer.partition(b"\r\n")
        if not line.startswith(b"$") or line == b"$-1":
            return bool(end)
        return bool(end) and len(rest) >= int(line[1:]) + 2


redis = Redis(REDIS_PORT)


def added(count):
    total = 0
    for number in range(count):
        total += number  # armed
    return total


class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/order/"):
            self.order(self.path.rpartition("/")[2])
        elif self.path.startswith("/sum/"):
            self.answer(200, {"sum": added(int(self.path.rpartition("/")[2]))})
        elif self.path == "/broken":
            self.broken()
        else:
            self.answer(404, {"error": "no such page"})

    def order(self, item):
        stock = http.client.HTTPConnection("127.0.0.1", STOCK_PORT, timeout=20)
        stock.request("GET", f"/stock/{item}")
        answer = json.load(stock.getresponse())
        left = answer["left"]
        stock.close()
        redis.command("send", "SET", f"order:{item}", left)
        redis.command("write", "GET", f"order:{item}")
        redis.command("writev", "INCR", "orders")
        # From a task, by a thread of its executor.
        asyncio.run(asyncio.to_thread(redis.command, "sendmsg", "EXPIRE", f"order:{item}", 60))
        self.answer(200, {"item": item, "left": left, "context": answer["context"]})

    def broken(self):
        try:
            redis.command("send", "LPUSH", "orders", "not a list")
        except RedisError as error:
            self.answer(500, {"error": str(error)})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Shop).serve_forever()
