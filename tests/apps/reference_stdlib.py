"""Reference spans for what the OpenTelemetry SDK has no instrumentation for: `http.server` and `http.client`.

Used only in the parity tests' SDK runs: as gunicorn's configuration (`--config python:reference_stdlib`) for
http.client, and as `reference_stdlib.py PORT` in place of plain_http.py for both. The spans are made by the
SDK's API, with the attributes that the HTTP conventions require.
"""

import http.client
import sys
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from opentelemetry import context, propagate, trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.trace import SpanKind, Status, StatusCode

tracer = trace.get_tracer("reference_stdlib")


def trace_client():
    """One client span from `request` to the end of `getresponse`, unless another instrumentation is at work."""
    plain_request = http.client.HTTPConnection.request
    plain_getresponse = http.client.HTTPConnection.getresponse

    def request(self, method, url, *arguments, **options):
        # requests and urllib3 come through a subclass, and have spans of their own.
        if type(self) is http.client.HTTPConnection and is_http_instrumentation_enabled():
            self.reference_span = tracer.start_span(
                method,
                kind=SpanKind.CLIENT,
                attributes={
                    "http.request.method": method,
                    "url.full": f"http://{self.host}:{self.port}{url}",
                    "server.address": self.host,
                    "server.port": self.port,
                },
            )
        return plain_request(self, method, url, *arguments, **options)

    def getresponse(self):
        span = self.__dict__.pop("reference_span", None)
        if span is None:
            return plain_getresponse(self)
        try:
            response = plain_getresponse(self)
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        else:
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 400:
                span.set_attribute("error.type", str(response.status))
                span.set_status(Status(StatusCode.ERROR))
            return response
        finally:
            span.end()

    http.client.HTTPConnection.request = request
    http.client.HTTPConnection.getresponse = getresponse


def trace_server(handler):
    """One server span around every `do_…` method."""
    plain_send_response = BaseHTTPRequestHandler.send_response

    def send_response(self, code, *arguments):
        span = trace.get_current_span()
        span.set_attribute("http.response.status_code", code)
        if code >= 500:
            span.set_attribute("error.type", str(code))
            span.set_status(Status(StatusCode.ERROR))
        plain_send_response(self, code, *arguments)

    def traced(method):
        def do(self):
            url = urlsplit(self.path)
            host, _, port = self.headers.get("Host", "").partition(":")
            attributes = {
                "http.request.method": self.command,
                "url.path": url.path,
                "url.query": url.query,
                "url.scheme": "http",
                "server.address": host,
                "client.address": self.client_address[0],
                "network.protocol.version": "1.1",
                "user_agent.original": self.headers.get("User-Agent", ""),
            }
            if port:
                attributes["server.port"] = int(port)
            parent = context.attach(propagate.extract(self.headers))
            try:
                with tracer.start_as_current_span(self.command, kind=SpanKind.SERVER, attributes=attributes):
                    method(self)
            finally:
                context.detach(parent)

        return do

    handler.send_response = send_response
    for name in [name for name in dir(handler) if name.startswith("do_")]:
        setattr(handler, name, traced(getattr(handler, name)))


def post_fork(server, worker):
    trace_client()


if __name__ == "__main__":
    import signal

    import plain_http

    # SIGTERM ends the process without atexit, where the SDK exports what it still has.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    trace_client()
    trace_server(plain_http.Shop)
    plain_http.Server(("127.0.0.1", int(sys.argv[1])), plain_http.Shop).serve_forever()
