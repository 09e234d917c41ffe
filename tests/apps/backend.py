"""The service that the shops call: `backend.py PORT`. Answers, delays or drops, as the path says.

/status/CODE · /slow/SECONDS · /drop (closes without an answer) · /half (closes within the answer)
/chunked/COUNT · /big/BYTES · /echo (the body's length) · /headers (the request's header fields as JSON)
"""

import json
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, content_type="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, _, argument = urlsplit(self.path).path.lstrip("/").partition("/")
        if kind == "status":
            self.answer(int(argument), f"status {argument}\n".encode())
        elif kind == "slow":
            time.sleep(float(argument))
            self.answer(200, b"at last\n")
        elif kind == "drop":
            self.drop()
        elif kind == "half":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.drop()
        elif kind == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(int(argument)):
                part = f"part {number}\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "big":
            self.answer(200, b"x" * int(argument))
        elif kind == "echo":
            self.answer(200, f"{len(body)}\n".encode())
        elif kind == "headers":
            self.answer(200, json.dumps(dict(self.headers)).encode(), "application/json")
        else:
            self.answer(404, b"no such thing\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def log_message(self, *_arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A caller that gave up is what some tests are about."""


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Backend).serve_forever()
