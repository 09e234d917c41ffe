"""A control server with the contract of the TraceKit SDKs, told by the test how to behave.

    control_server.py PORT [--tls CERT KEY] [--state JSON]

Contract: `GET /sdk/snapshots/active/{service}`, `GET /sdk/events?service=…` (server-sent events) and
`POST /sdk/snapshots/capture`, each with the header `X-API-Key: secret`.

For the test:
    POST /admin/state {…}   sets keys of the state below
    POST /admin/event {"event": …, "data": …}   sends an event to all streams; "raw" instead sends bytes
    POST /admin/drop        breaks all streams
    GET  /admin/log         what has come: {"polls": [{"service", "time"}], "streams": n, "captures": […], "refused": n,
                            "stolen": n}
Port 0 chooses a free one; a line of JSON on standard output tells it.
"""

import argparse
import json
import queue
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

STATE = {
    # By service.
    "breakpoints": {},
    "kill_switch": False,
    # What polls get: ok, garbage, huge, slow, redirect, drip, or a status.
    "poll": "ok",
    # What streams get: ok, garbage, html, or a status; null: the answer to a poll names none.
    "stream": None,
    # What captures get: a status.
    "capture": 201,
}
LOG = {"polls": [], "streams": 0, "captures": [], "refused": 0, "stolen": 0}
LOCK = threading.Lock()
STREAMS = {}


def active(service):
    with LOCK:
        answer = {"breakpoints": STATE["breakpoints"].get(service, []), "kill_switch": STATE["kill_switch"]}
        if STATE["stream"] is not None:
            answer["sse_endpoint"] = f"/sdk/events?service={service}"
        return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/admin/log":
            with LOCK:
                return self.answer(200, LOG)
        if url.path == "/stolen":
            with LOCK:
                LOG["stolen"] += 1
        if self.headers.get("X-API-Key") != "secret":
            with LOCK:
                LOG["refused"] += 1
            return self.answer(401, {"error": "no key"})
        if url.path.startswith("/sdk/snapshots/active/"):
            return self.poll(unquote(url.path.removeprefix("/sdk/snapshots/active/")))
        if url.path == "/sdk/events":
            return self.stream(parse_qs(url.query)["service"][0])
        return self.answer(404, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
        if self.path == "/admin/state":
            with LOCK:
                STATE.update(body)
            return self.answer(200, {})
        if self.path == "/admin/event":
            text = body.get("raw")
            if text is None:
                text = f"event: {body['event']}\ndata: {json.dumps(body['data'])}\n\n"
            with LOCK:
                for stream in STREAMS:
                    stream.put(text.encode())
            return self.answer(200, {})
        if self.path == "/admin/drop":
            with LOCK:
                for stream in STREAMS:
                    stream.put(None)
            return self.answer(200, {})
        if self.headers.get("X-API-Key") != "secret":
            return self.answer(401, {})
        if self.path == "/sdk/snapshots/capture":
            with LOCK:
                LOG["captures"].append(body)
                status = STATE["capture"]
            return self.answer(status, {"id": "1"})
        return self.answer(404, {})

    def poll(self, service):
        with LOCK:
            LOG["polls"].append({"service": service, "time": time.time()})
            how = STATE["poll"]
        if isinstance(how, int):
            return self.answer(how, {"error": "as told"})
        if how == "garbage":
            return self.answer(200, None, b"<html>\x00\xff{{{")
        if how == "huge":
            return self.answer(200, None, b'{"breakpoints": [' + b'"' + b"x" * (6 << 20) + b'"]}')
        if how == "slow":
            time.sleep(30)
        if how == "redirect":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/stolen")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if how == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.3)
        return self.answer(200, active(service))

    def stream(self, service):
        with LOCK:
            LOG["streams"] += 1
            how = STATE["stream"]
        if isinstance(how, int):
            return self.answer(how, {"error": "as told"})
        if how == "html":
            return self.answer(200, None, b"<html><body>Welcome to the hotel's network</body></html>")
        events = queue.Queue()
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        if how == "garbage":
            return self.wfile.write(b"\x00\xff\xfe data\n\nevent: init\ndata: {{{\n\n" * 10 + b"data: " + b"x" * (5 << 20))
        with LOCK:
            STREAMS[events] = service
        try:
            self.wfile.write(f"event: init\ndata: {json.dumps(active(service))}\n\n".encode())
            while (data := events.get()) is not None:
                self.wfile.write(data)
                self.wfile.flush()
            # In the middle of an event, as when a proxy dies.
            self.wfile.write(b"event: breakpoint_cre")
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        finally:
            with LOCK:
                del STREAMS[events]

    def answer(self, status, value, body=None):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--state", type=json.loads, default={}, metavar="JSON", help="as for /admin/state")
    options = parser.parse_args()
    STATE.update(options.state)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
