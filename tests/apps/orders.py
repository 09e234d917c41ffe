"""Orders that are paid, to put breakpoints into: over HTTP with threads of its own (`orders.py PORT`), as WSGI
(`orders:wsgi`), as ASGI (`orders:asgi`), or as tasks of Celery (`orders:tasks`).

`/pay/NUMBER` answers with what the function had in its variables when it came to the marked line, and with the ids of
process and thread.
"""

import asyncio
import json
import os
import sys
import threading


class Order:
    def __init__(self, number):
        self.number = number
        self.total = 11.5 * number
        self.lines = [("espresso", 2), ("cake", number)]
        self.paid = False


def seen(variables):
    return json.dumps(
        {
            "locals": variables,
            "pid": os.getpid(),
            "tid": threading.get_native_id(),
        },
        default=vars,
    )


def charge(number, api_key):
    order = Order(number)
    user = {"name": "Zoë", "plan": "pro", "password": "hunter2"}
    tax, cents = round(order.total * 0.19, 2), number * 10**20
    tags = ("new", None, True)
    answer = seen(dict(locals()))  # break: seen
    return answer  # break: paid


async def charge_later(number):
    await asyncio.sleep(0.001 * (number % 7))
    total = number * 2
    await asyncio.sleep(0)
    return seen({"number": number, "total": total})  # break: later


def number_of(path):
    return int(path.rsplit("/", 1)[1].split("?")[0])


def respond(path):
    if path.startswith("/pay/"):
        return 200, charge(number_of(path), "sk_live_abcdefghijklmnopqrstuvwx").encode()
    return (200, b"pong\n") if path == "/ping" else (404, b"no such page\n")


def wsgi(environ, start_response):
    status, body = respond(environ["PATH_INFO"])
    start_response(f"{status} Whatever", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b"pong\n"
    if scope["path"].startswith("/pay/"):
        body = (await charge_later(number_of(scope["path"]))).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if "REDIS_PORT" in os.environ:
    from celery import Celery

    broker = f"redis://127.0.0.1:{os.environ['REDIS_PORT']}/0"
    tasks = Celery("orders", broker=broker, backend=broker)

    @tasks.task(name="pay")
    def pay(number):
        return charge(number, "sk_live_abcdefghijklmnopqrstuvwx")


def serve(port):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, body = respond(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def send_tasks(count):
    """Sends so many tasks and prints how many each process did."""
    answers = [pay.delay(number) for number in range(count)]
    pids = {}
    for answer in answers:
        pid = json.loads(answer.get(timeout=60))["pid"]
        pids[pid] = pids.get(pid, 0) + 1
    print(json.dumps(pids))


if __name__ == "__main__":
    if sys.argv[1] == "send":
        import orders

        orders.send_tasks(int(sys.argv[2]))
    else:
        serve(int(sys.argv[1]))
