"""An OTLP receiver that writes what it gets as lines of JSON.

It shares no code with the agent: messages are decoded by the `opentelemetry-proto` package, so a test that
reads its output proves that others can read what the agent sends.

    collector.py [--grpc PORT] [--http PORT] --out FILE [--fail N CODE] [--tls CERT KEY] [--client-ca CA]
                 [--require-header K=V] [--partial N] [--delay SECONDS]

Port 0 chooses a free one. When it listens, one line of JSON on standard output tells the ports:
`{"ready": true, "grpc": 40001, "http": 40002}`. It ends on SIGTERM, SIGINT, or when its standard input is
closed and `--stdin` is given, and then prints `{"requests": …, "failed": …, "spans": …, "points": …, "logs": …}`.

One line for each span:
    {"resource": {…}, "resource_schema_url": "…", "scope": {"name": …, "version": …}, "schema_url": "…",
     "trace_id": "hex", "span_id": "hex", "parent_span_id": "hex" or null, "trace_state": "…", "flags": 257,
     "name": "…", "kind": "SPAN_KIND_SERVER", "start_time_unix_nano": 1, "end_time_unix_nano": 2,
     "attributes": {…}, "status": {"code": "STATUS_CODE_UNSET", "message": ""}, "events": […], "links": […],
     "request": {"transport": "grpc" or "http", "encoding": "gzip" or "identity", "headers": {…}}}
  (grpcio does not tell the encoding of a request. It is concluded from how many bytes came over the wire, and
  null with TLS.)
One line for each metric data point:
    {"metric": "…", "unit": "…", "description": "…", "type": "histogram" or "sum" or "gauge",
     "temporality": "AGGREGATION_TEMPORALITY_CUMULATIVE", "monotonic": true, "attributes": {…},
     "start_time_unix_nano": 1, "time_unix_nano": 2, "value": 3,
     "count": 1, "sum": 0.1, "min": 0.1, "max": 0.1, "bounds": […], "buckets": […],
     "exemplars": [{"trace_id": "hex", "span_id": "hex", "value": 0.1}], resource, scope … as above}
One line for each log record:
    {"event_name": "…", "time_unix_nano": 1, "observed_time_unix_nano": 2, "severity": "SEVERITY_NUMBER_INFO",
     "severity_text": "INFO", "body": …, "trace_id": "hex" or null, "span_id": "hex" or null, "flags": 1,
     "attributes": {…}, resource, scope … as above}
"""

import argparse
import gzip
import json
import signal
import socket
import ssl
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

MESSAGES = {
    "/v1/traces": (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse),
    "/v1/metrics": (
        metrics_service_pb2.ExportMetricsServiceRequest,
        metrics_service_pb2.ExportMetricsServiceResponse,
    ),
    "/v1/logs": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse),
}


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    content = getattr(any_value, kind)
    if kind == "array_value":
        return [value(item) for item in content.values]
    if kind == "kvlist_value":
        return attributes(content.values)
    if kind == "bytes_value":
        return content.hex()
    return content


def attributes(pairs):
    """A plain map; a key that occurs twice breaks the protocol, so it is an error."""
    result = {}
    for pair in pairs:
        if pair.key in result:
            raise ValueError(f"attribute {pair.key} occurs twice")
        result[pair.key] = value(pair.value)
    return result


def origin(of_resource, of_scope):
    return {
        "resource": attributes(of_resource.resource.attributes),
        "resource_schema_url": of_resource.schema_url,
        "scope": {"name": of_scope.scope.name, "version": of_scope.scope.version},
        "schema_url": of_scope.schema_url,
    }


def spans(request):
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield origin(of_resource, of_scope) | {
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_span_id": span.parent_span_id.hex() or None,
                    "trace_state": span.trace_state,
                    "flags": span.flags,
                    "name": span.name,
                    "kind": trace_pb2.Span.SpanKind.Name(span.kind),
                    "start_time_unix_nano": span.start_time_unix_nano,
                    "end_time_unix_nano": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "dropped_attributes_count": span.dropped_attributes_count,
                    "status": {
                        "code": trace_pb2.Status.StatusCode.Name(span.status.code),
                        "message": span.status.message,
                    },
                    "events": [
                        {
                            "name": event.name,
                            "time_unix_nano": event.time_unix_nano,
                            "attributes": attributes(event.attributes),
                        }
                        for event in span.events
                    ],
                    "links": [
                        {
                            "trace_id": link.trace_id.hex(),
                            "span_id": link.span_id.hex(),
                            "attributes": attributes(link.attributes),
                        }
                        for link in span.links
                    ],
                }


def points(request):
    for of_resource in request.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                common = origin(of_resource, of_scope) | {
                    "metric": metric.name,
                    "unit": metric.unit,
                    "description": metric.description,
                    "type": kind,
                }
                if kind in ("histogram", "sum"):
                    common["temporality"] = metrics_pb2.AggregationTemporality.Name(data.aggregation_temporality)
                if kind == "sum":
                    common["monotonic"] = data.is_monotonic
                for point in data.data_points:
                    line = common | {
                        "attributes": attributes(point.attributes),
                        "start_time_unix_nano": point.start_time_unix_nano,
                        "time_unix_nano": point.time_unix_nano,
                    }
                    if kind == "histogram":
                        line |= {
                            "count": point.count,
                            "sum": point.sum,
                            "min": point.min,
                            "max": point.max,
                            "bounds": list(point.explicit_bounds),
                            "buckets": list(point.bucket_counts),
                            "exemplars": [
                                {
                                    "trace_id": exemplar.trace_id.hex(),
                                    "span_id": exemplar.span_id.hex(),
                                    "value": exemplar.as_double,
                                }
                                for exemplar in point.exemplars
                            ],
                        }
                    else:
                        line["value"] = getattr(point, point.WhichOneof("value"))
                    yield line


def logs(request):
    for of_resource in request.resource_logs:
        for of_scope in of_resource.scope_logs:
            for record in of_scope.log_records:
                yield origin(of_resource, of_scope) | {
                    "event_name": record.event_name,
                    "time_unix_nano": record.time_unix_nano,
                    "observed_time_unix_nano": record.observed_time_unix_nano,
                    "severity": logs_pb2.SeverityNumber.Name(record.severity_number),
                    "severity_text": record.severity_text,
                    "body": value(record.body),
                    "trace_id": record.trace_id.hex() or None,
                    "span_id": record.span_id.hex() or None,
                    "flags": record.flags,
                    "attributes": attributes(record.attributes),
                }


# What each path carries: how it is counted, and how it is written.
ITEMS = {"/v1/traces": ("spans", spans), "/v1/metrics": ("points", points), "/v1/logs": ("logs", logs)}


class Refused(Exception):
    """The request gets this answer instead of being written."""

    def __init__(self, http_status, grpc_code, message):
        super().__init__(message)
        self.http_status = http_status
        self.grpc_code = grpc_code


# What a gRPC client sees where an HTTP client sees this status.
GRPC_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def failure(code):
    """`--fail N CODE`: CODE is an HTTP status or the name of a gRPC code; each implies the other."""
    if code.isdigit():
        return int(code), GRPC_CODES.get(int(code), grpc.StatusCode.UNKNOWN)
    grpc_code = grpc.StatusCode[code.upper()]
    return next((status for status, other in GRPC_CODES.items() if other is grpc_code), 500), grpc_code


class Receiver:
    def __init__(self, options):
        self.out = open(options.out, "a", encoding="utf-8")
        self.lock = threading.Lock()
        self.failures_left = 0
        if options.fail:
            self.failures_left = int(options.fail[0])
            self.http_status, self.grpc_code = failure(options.fail[1])
        self.required = [tuple(pair.split("=", 1)) for pair in options.require_header]
        self.partial = options.partial
        self.delay = options.delay
        self.counts = {"requests": 0, "failed": 0, "spans": 0, "points": 0, "logs": 0}

    def receive(self, path, request, transport, encoding, headers):
        """Writes the request's lines; returns how many items it claims to have refused."""
        if self.delay:
            time.sleep(self.delay)
        counted, read = ITEMS[path]
        lines = list(read(request))
        with self.lock:
            self.counts["requests"] += 1
            for key, expected in self.required:
                if headers.get(key.lower()) != expected:
                    self.counts["failed"] += 1
                    raise Refused(401, grpc.StatusCode.UNAUTHENTICATED, f"header {key} is missing or wrong")
            if self.failures_left:
                self.failures_left -= 1
                self.counts["failed"] += 1
                raise Refused(self.http_status, self.grpc_code, "failing as told")
            for line in lines:
                line["request"] = {"transport": transport, "encoding": encoding, "headers": headers}
                self.out.write(json.dumps(line) + "\n")
            self.out.flush()
            self.counts[counted] += len(lines)
            refused, self.partial = min(self.partial, len(lines)), 0
            return refused


class Relay:
    """Forwards connections and counts what clients send."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        # By the port from which the relay connects to the server: bytes since they were last asked for.
        self.received = {}

    def start(self, server_port):
        threading.Thread(target=self.accept, args=(server_port,), daemon=True).start()

    def accept(self, server_port):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", server_port))
            except OSError:  # the server stops
                client.close()
                continue
            key = server.getsockname()[1]
            self.received[key] = 0
            threading.Thread(target=self.pump, args=(client, server, key), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, None), daemon=True).start()

    def pump(self, source, sink, key):
        try:
            while data := source.recv(65536):
                if key is not None:
                    self.received[key] += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def take(self, peer):
        """Bytes that came from this peer, as grpcio names it (`ipv4:127.0.0.1:40001`), since the last call."""
        key = int(peer.rsplit(":", 1)[1])
        count, self.received[key] = self.received[key], 0
        return count


def grpc_server(receiver, port, tls):
    relay = Relay(port)

    def export(path):
        response_type = MESSAGES[path][1]

        def handle(_self, request, context):
            headers = {key: text for key, text in context.invocation_metadata() if isinstance(text, str)}
            encoding = "gzip" if relay.take(context.peer()) < request.ByteSize() else "identity"
            if tls:
                encoding = None
            try:
                refused = receiver.receive(path, request, "grpc", encoding, headers)
            except Refused as error:
                context.abort(error.grpc_code, str(error))
            except ValueError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return answer(response_type, path, refused)

        return handle

    traces = type("Traces", (trace_service_pb2_grpc.TraceServiceServicer,), {"Export": export("/v1/traces")})
    metrics = type(
        "Metrics", (metrics_service_pb2_grpc.MetricsServiceServicer,), {"Export": export("/v1/metrics")}
    )
    records = type("Logs", (logs_service_pb2_grpc.LogsServiceServicer,), {"Export": export("/v1/logs")})
    # Without this option two collectors could share a port unnoticed.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(metrics(), server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(records(), server)
    address = "127.0.0.1:0"
    if tls:
        certificate, key, client_ca = (path and open(path, "rb").read() for path in tls)
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=client_ca, require_client_auth=client_ca is not None
        )
        bound = server.add_secure_port(address, credentials)
    else:
        bound = server.add_insecure_port(address)
    server.start()
    relay.start(bound)
    return server, relay.port


def answer(response_type, path, refused):
    response = response_type()
    if refused:
        partial = response.partial_success
        partial.error_message = "refusing as told"
        if path == "/v1/traces":
            partial.rejected_spans = refused
        elif path == "/v1/logs":
            partial.rejected_log_records = refused
        else:
            partial.rejected_data_points = refused
    return response


def http_server(receiver, port, tls):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                self.answer(200, self.receive(body))
            except Refused as error:
                self.answer(error.http_status, str(error).encode())
            except Exception as error:  # whatever is wrong with the request is the client's fault
                self.answer(400, repr(error).encode())

        def receive(self, body):
            if self.path not in MESSAGES:
                raise Refused(404, None, f"no {self.path} here")
            request_type, response_type = MESSAGES[self.path]
            if self.headers.get("content-type") != "application/x-protobuf":
                raise Refused(415, None, "only application/x-protobuf")
            encoding = self.headers.get("content-encoding", "identity")
            if encoding == "gzip":
                body = gzip.decompress(body)
            elif encoding != "identity":
                raise Refused(415, None, "only gzip")
            headers = {key.lower(): text for key, text in self.headers.items()}
            request = request_type.FromString(body)
            refused = receiver.receive(self.path, request, "http", encoding, headers)
            return answer(response_type, self.path, refused).SerializeToString()

        def answer(self, status, body):
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf" if status == 200 else "text/plain")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls:
        certificate, key, client_ca = tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        # The handshake must not happen in accept(), where one client could hold up all others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_address[1]


def main():
    parser = argparse.ArgumentParser(description="OTLP receiver for tests")
    parser.add_argument("--grpc", type=int, metavar="PORT", help="serve OTLP/gRPC; 0 chooses a port")
    parser.add_argument("--http", type=int, metavar="PORT", help="serve OTLP/HTTP; 0 chooses a port")
    parser.add_argument("--out", required=True, metavar="FILE", help="lines of JSON are appended here")
    parser.add_argument("--fail", nargs=2, metavar=("N", "CODE"), help="answer the first N requests with CODE")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="PEM files of the server")
    parser.add_argument("--client-ca", metavar="CA", help="with --tls: clients need a certificate of this CA")
    parser.add_argument("--require-header", action="append", default=[], metavar="K=V")
    parser.add_argument("--partial", type=int, default=0, metavar="N", help="claim to refuse N items once")
    parser.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="before each answer")
    parser.add_argument("--stdin", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()
    if options.grpc is None and options.http is None:
        parser.error("give --grpc, --http or both")

    receiver = Receiver(options)
    tls = [*options.tls, options.client_ca] if options.tls else None
    ready = {"ready": True}
    servers = []
    if options.grpc is not None:
        server, ready["grpc"] = grpc_server(receiver, options.grpc, tls)
        servers.append(lambda: server.stop(1).wait())
    if options.http is not None:
        http, ready["http"] = http_server(receiver, options.http, tls)
        servers.append(http.shutdown)

    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    if options.stdin:
        threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
    print(json.dumps(ready), flush=True)
    end.wait()
    for stop in servers:
        stop()
    with receiver.lock:
        receiver.out.close()
        print(json.dumps(receiver.counts), flush=True)


if __name__ == "__main__":
    main()
