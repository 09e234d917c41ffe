"""Records the HTTP and Redis captures from real clients and servers.

Needs `redis-server` and `curl` on the path and, in the interpreter that runs it: redis, hiredis, requests,
urllib3, httpx, aiohttp, flask, gunicorn. Usage: python record.py
"""

import asyncio
import http.client
import http.server
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

import aiohttp
import httpx
import redis
import requests
import urllib3

from proxy import Recorder

HERE = pathlib.Path(__file__).parent


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens on {port}")


def record_redis(port):
    upstream = ("127.0.0.1", port)

    def recorder(name, client, note):
        return Recorder(upstream, name, "redis", client, note)

    client = f"redis-py {redis.__version__}"
    for protocol in (2, 3):
        with recorder(f"redis-resp{protocol}", client, "commands of every answer type, errors") as proxy:
            r = redis.Redis(port=proxy.port, protocol=protocol, db=1, client_name="shop")
            r.flushdb()
            r.set("greeting", "hello")
            r.get("greeting")
            r.get("missing")
            r.incr("count")
            r.lpush("list", *range(20))
            r.lrange("list", 0, -1)
            r.hset("hash", mapping={"a": 1, "b": 2})
            r.hgetall("hash")
            r.sadd("set", "x", "y")
            r.smembers("set")
            r.zadd("z", {"m": 1.5})
            r.zscore("z", "m")
            r.config_get("maxmemory*")
            r.exists("a", "b")
            r.eval("return {1, 'two', {3}}", 0)
            for bad in (lambda: r.incr("greeting"), lambda: r.lpop("greeting"), lambda: r.execute_command("NOPE", 1)):
                try:
                    bad()
                except redis.ResponseError:
                    pass
            r.set("big", b"x" * 8_000)
            r.get("big")
            r.blpop("never", timeout=1)
            r.close()
        with recorder(f"redis-pipeline-resp{protocol}", client, "pipelines, transactions") as proxy:
            r = redis.Redis(port=proxy.port, protocol=protocol)
            with r.pipeline(transaction=False) as pipe:
                pipe.set("a", 1).get("a").lpop("a").incr("a").execute(raise_on_error=False)
            with r.pipeline(transaction=True) as pipe:
                pipe.set("b", 1).incr("b").execute()
            with r.pipeline(transaction=True) as pipe:
                pipe.set("b", "x").incr("b").execute(raise_on_error=False)
            with r.pipeline(transaction=False) as pipe:
                for i in range(400):
                    pipe.set(f"key:{i}", "v" * 20)
                pipe.execute()
            r.transaction(lambda pipe: (pipe.get("a"), pipe.multi(), pipe.set("c", 1)), "a")
            r.close()
        with recorder(f"redis-pubsub-resp{protocol}", client, "subscriptions and messages") as proxy:
            r = redis.Redis(port=proxy.port, protocol=protocol)
            other = redis.Redis(port=port)
            sub = r.pubsub()
            sub.subscribe("news", "sport")
            for _ in range(2):
                sub.get_message(timeout=1)
            sub.psubscribe("w*")
            sub.get_message(timeout=1)
            for channel in ("news", "weather"):
                other.publish(channel, "text")
            for _ in range(2):
                sub.get_message(timeout=1)
            sub.ping()
            sub.get_message(timeout=1)
            sub.unsubscribe()
            sub.get_message(timeout=1)
            sub.close()
            r.close()
    with recorder("redis-auth", client, "user and password, refused and accepted") as proxy:
        admin = redis.Redis(port=port)
        admin.acl_setuser("shop", enabled=True, passwords=["+sesame"], commands=["+@all"], keys=["*"])
        for password in ("wrong", "sesame"):
            once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
            r = redis.Redis(port=proxy.port, username="shop", password=password, db=2, retry=once)
            try:
                r.ping()
            except redis.AuthenticationError:
                pass
            r.close()

    async def concurrent(address):
        r = redis.asyncio.Redis(port=address, max_connections=1, single_connection_client=True)
        await asyncio.gather(*(r.get(f"key:{i}") for i in range(5)))
        await r.aclose()

    with recorder("redis-asyncio", client, "asyncio, one connection") as proxy:
        asyncio.run(concurrent(proxy.port))
    with recorder("redis-timeout", client, "the client gives up") as proxy:
        r = redis.Redis(port=proxy.port, socket_timeout=0.2, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0))
        try:
            r.blpop("never", timeout=2)
        except redis.TimeoutError:
            pass
        r.close()


class Old(http.server.BaseHTTPRequestHandler):
    """HTTP/1.0 as http.server speaks it: the end of the connection ends the body."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"until the end")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


def record_http(app_port):
    upstream = ("127.0.0.1", app_port)
    gunicorn_version = subprocess.run([sys.executable, "-m", "gunicorn", "--version"], capture_output=True, text=True)
    server = gunicorn_version.stdout.strip() or "gunicorn"

    def recorder(name, client, note, to=upstream, by=server):
        return Recorder(to, name, "http", client, f"{note}; server: {by}")

    def use(session, base):
        session.get(base + "/hello?name=x", headers={"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
        session.get(base + "/missing")
        session.get(base + "/fail")
        session.post(base + "/echo", data=b"y" * 3000)
        session.get(base + "/stream")
        session.get(base + "/large")
        session.head(base + "/hello")
        session.get(base + "/empty")
        session.post(base + "/echo", data=iter([b"chunk one", b"chunk two"]))

    with recorder("http-requests", f"requests {requests.__version__}", "keep-alive, chunked both ways") as proxy:
        with requests.Session() as session:
            use(session, f"http://127.0.0.1:{proxy.port}")
    with recorder("http-httpx", f"httpx {httpx.__version__}", "keep-alive") as proxy:
        with httpx.Client(base_url=f"http://127.0.0.1:{proxy.port}") as session:
            session.get("/hello")
            session.post("/echo", json={"a": [1, 2, 3]})
            session.get("/stream")
            session.get("/missing")
    with recorder("http-urllib3", f"urllib3 {urllib3.__version__}", "keep-alive, body not read") as proxy:
        pool = urllib3.HTTPConnectionPool("127.0.0.1", proxy.port, maxsize=1)
        pool.request("GET", "/hello")
        pool.request("PUT", "/echo", body=b"z" * 9000)
        pool.request("GET", "/large")
        pool.close()

    async def use_aiohttp(port):
        async with aiohttp.ClientSession() as session:
            for path in ("/hello", "/stream", "/fail"):
                async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                    await response.read()

    with recorder("http-aiohttp", f"aiohttp {aiohttp.__version__}", "keep-alive") as proxy:
        asyncio.run(use_aiohttp(proxy.port))
    python = f"http.client {sys.version.split()[0]}"
    with recorder("http-client-timeout", python, "the client gives up") as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=0.3)
        connection.request("GET", "/slow")
        try:
            connection.getresponse()
        except TimeoutError:
            pass
        connection.close()
    with recorder("http-malformed", "raw socket", "garbage, then 400") as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as raw:
            raw.sendall(b"GARBAGE\r\n\r\n")
            while raw.recv(4096):
                pass
    curl = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split(" (")[0]
    body = pathlib.Path(tempfile.mkdtemp()) / "body"
    body.write_bytes(b"b" * 5000)
    with recorder("http-curl-continue", curl, "Expect: 100-continue") as proxy:
        subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-H", "Expect: 100-continue", "--data-binary", f"@{body}",
             f"http://127.0.0.1:{proxy.port}/echo"], check=True)
    with recorder("http-curl-upgrade", curl, "Connection: Upgrade that is declined, then another request") as proxy:
        subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-o", "/dev/null", "--http2", f"http://127.0.0.1:{proxy.port}/hello",
             f"http://127.0.0.1:{proxy.port}/stream"], check=True)
    old = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=old.serve_forever, daemon=True).start()
    by = f"http.server {sys.version.split()[0]}"
    with recorder("http-10", python, "until close", old.server_address, by) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
        connection.request("GET", "/old")
        connection.getresponse().read()
        connection.close()
    old.shutdown()


def main():
    redis_port, app_port = free_port(), free_port()
    scratch = tempfile.mkdtemp()
    processes = [
        subprocess.Popen(
            ["redis-server", "--port", str(redis_port), "--dir", scratch, "--save", "", "--bind", "127.0.0.1"],
            stdout=subprocess.DEVNULL),
        subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "4", "-b", f"127.0.0.1:{app_port}",
             "--chdir", str(HERE), "--log-level", "critical", "app:app"]),
    ]
    try:
        wait_for(redis_port)
        wait_for(app_port)
        record_redis(redis_port)
        record_http(app_port)
    finally:
        for process in processes:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
