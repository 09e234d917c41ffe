"""The shop on the standard library's own server: `plain_http.py PORT`. SQL by PyMySQL, calls by http.client."""

import json
import os
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import redis

import database
import downstream

cache = redis.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def ping(self):
        return 200, "pong"

    def product(self, number):
        cache.get(f"product:{number}")
        rows = database.query("SELECT id, name, price FROM products WHERE id = %s", (int(number),))
        if not rows:
            return 404, "no such product"
        cache.set(f"product:{number}", rows[0][1], ex=60)
        return 200, rows[0][1]

    def order(self):
        note = self.body.decode()[:100]
        database.transaction(
            ("INSERT INTO orders (product_id, quantity, note) VALUES (%s, %s, %s)", (1, 2, note)),
            ("UPDATE products SET stock = stock - %s WHERE id = %s", (2, 1)),
        )
        cache.incr("orders")
        return 201, "ordered"

    def gone(self):
        return 404, "gone"

    def boom(self):
        return 500, "the shop is on fire"

    def sql_error(self):
        try:
            database.query("SELECT * FROM no_such_table WHERE id = %s", (1,))
        except database.Error:
            return 500, "the database said no"
        return 200, "impossible"

    def conflict(self):
        values = (1, "twin", 1, 1)
        try:
            database.query("INSERT INTO products (id, name, price, stock) VALUES (%s, %s, %s, %s)", values)
        except database.Error:
            return 409, "already there"
        return 200, "impossible"

    def redis_error(self):
        cache.set("greeting", "hello")
        try:
            cache.lpush("greeting", "not a list")
        except redis.ResponseError:
            return 500, "wrong type"
        return 200, "impossible"

    def pipeline(self):
        with cache.pipeline(transaction=False) as batch:
            batch.set("pipeline:a", 1)
            batch.incr("pipeline:a")
            batch.get("pipeline:a")
            batch.execute()
        return 200, "three answers"

    def transaction(self):
        with cache.pipeline(transaction=True) as batch:
            batch.set("transaction:a", 1)
            batch.incr("transaction:a")
            batch.execute()
        return 200, "two answers"

    def call(self, library, kind, argument=""):
        timeout = 0.15 if kind == "slow" else 5.0
        try:
            status, _ = downstream.call(library, f"/{kind}/{argument}?id={self.id}", timeout=timeout)
        except downstream.FAILURES as error:
            return 502, type(error).__name__
        return 200, str(status)

    def forward(self, library):
        status, _ = downstream.call(library, f"/echo?id={self.id}", method="POST", body=self.body)
        return 200, str(status)

    def checkout(self, number):
        database.query("SELECT stock FROM products WHERE id = %s", (int(number),))
        cache.get(f"product:{number}")
        status, _ = downstream.call("requests", f"/status/200?id={self.id}")
        database.query("UPDATE products SET stock = stock - 1 WHERE id = %s", (int(number),))
        cache.delete(f"product:{number}")
        return 200, str(status)

    def sleep(self, seconds):
        time.sleep(float(seconds))
        return 200, "awake"

    def upload(self):
        return 200, json.dumps({"length": len(self.body)})

    routes = [
        ("GET", r"/ping", ping),
        ("GET", r"/products/(\d+)", product),
        ("POST", r"/orders", order),
        ("GET", r"/gone", gone),
        ("GET", r"/boom", boom),
        ("GET", r"/sql-error", sql_error),
        ("GET", r"/conflict", conflict),
        ("GET", r"/redis-error", redis_error),
        ("GET", r"/pipeline", pipeline),
        ("GET", r"/transaction", transaction),
        ("GET", r"/call/([^/]+)/([^/]+)(?:/([^/]+))?", call),
        ("POST", r"/forward/([^/]+)", forward),
        ("GET", r"/checkout/(\d+)", checkout),
        ("GET", r"/sleep/([\d.]+)", sleep),
        ("POST", r"/upload", upload),
    ]

    def serve(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.id = parse_qs(url.query).get("id", [""])[0]
        method = "GET" if self.command == "HEAD" else self.command
        if method == "GET" and url.path == "/stream":
            return self.stream()
        for verb, pattern, handler in self.routes:
            match = re.fullmatch(pattern, url.path)
            if verb == method and match:
                return self.answer(*handler(self, *(group for group in match.groups() if group is not None)))
        return self.answer(404, "no such page")

    def answer(self, status, text):
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(20):
            part = f"line {number}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self):
        self.serve()

    def do_HEAD(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def log_message(self, *_arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A caller that gave up is what some tests are about."""


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Shop).serve_forever()
