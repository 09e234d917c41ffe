"""`late_sdk.py PORT`: serves without a tracer, until `/set-up` sets up the OpenTelemetry SDK for `requests`.

`/call` makes one HTTP call and one Redis command. COLLECTOR_PORT is where the SDK exports to.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import redis
import requests

cache = redis.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))
session = requests.Session()


def set_up():
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.requests import RequestsInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{os.environ['COLLECTOR_PORT']}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=300))
    trace.set_tracer_provider(provider)
    RequestsInstrumentor().instrument()


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/set-up":
            set_up()
        elif url.path == "/call":
            cache.incr("calls")
            session.get(f"http://127.0.0.1:{os.environ['BACKEND_PORT']}/status/200?{url.query}")
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
