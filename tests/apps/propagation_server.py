"""A server that calls another: `propagation_server.py PORT OTHER`. One thread a request.

/call/ID: asks the other for /called/ID, and answers with what that answered.
/calls/ID: three times, on one connection.
"""

import http.client
import http.server
import sys

PORT, OTHER = int(sys.argv[1]), int(sys.argv[2])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind, _, number = self.path[1:].partition("/")
        answers = []
        if kind in ("call", "calls"):
            connection = http.client.HTTPConnection("127.0.0.1", OTHER, timeout=20)
            for _ in range(1 if kind == "call" else 3):
                connection.request("GET", f"/called/{number}")
                answers.append(connection.getresponse().read().decode())
            connection.close()
        body = "\n".join(answers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", PORT), Handler).serve_forever()
