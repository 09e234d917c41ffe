"""The stock service that the shop asks. It is never attached to."""

import http.server
import json
import sys


class Stock(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if not self.path.startswith("/stock/"):
            self.send_error(404)
            return
        body = json.dumps({
            "item": self.path.rpartition("/")[2], "left": 3,
            "context": [self.headers["traceparent"], self.headers["tracestate"]],
        }).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Stock).serve_forever()
