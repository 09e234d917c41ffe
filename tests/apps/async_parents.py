"""Calls from tasks, for many requests at once: as an ASGI application, or `async_parents.py PORT` as a server on asyncio's own
streams. Every call has its request's number and its kind in its path."""

import asyncio
import http.client
import os
import sys

BACKEND = int(os.environ["BACKEND_PORT"])

free = []
background = set()


async def call(number, kind):
    """One call on a connection of a pool that all requests share."""
    reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", BACKEND)
    writer.write(f"GET /echo/{number}-{kind} HTTP/1.1\r\nHost: backend\r\n\r\n".encode())
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
    await reader.readexactly(length)
    free.append((reader, writer))


def blocking_call(number, kind):
    connection = http.client.HTTPConnection("127.0.0.1", BACKEND)
    connection.request("GET", f"/echo/{number}-{kind}")
    connection.getresponse().read()
    connection.close()


async def later(number):
    await asyncio.sleep(0.1)
    await call(number, "background")


async def work(number):
    await asyncio.sleep(number % 7 / 1000)
    await call(number, "nested")
    await asyncio.gather(call(number, "gather"), call(number, "gather"))
    await asyncio.get_running_loop().run_in_executor(None, blocking_call, number, "executor")
    task = asyncio.ensure_future(later(number))
    background.add(task)
    task.add_done_callback(background.discard)


def number_of(path):
    return int(path.rpartition("/")[2]) if path.startswith("/work/") else None


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    number = number_of(scope["path"])
    if number is not None:
        await work(number)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    await send({"type": "http.response.body", "body": b"ok\n"})


async def serve(reader, writer):
    """All requests of one connection."""
    # Before 3.11 nobody else holds the task while it waits.
    background.add(asyncio.current_task())
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            number = number_of(head.split(None, 2)[1].decode())
            if number is not None:
                await work(number)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
    finally:
        background.discard(asyncio.current_task())


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
