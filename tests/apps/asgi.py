"""An asynchronous shop for uvicorn: plain ASGI, one Redis call."""

import os

import redis.asyncio

cache = redis.asyncio.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    status, body = 200, b"pong\n"
    if scope["path"] == "/visit":
        body = b"%d\n" % await cache.incr("visits")
    elif scope["path"] != "/ping":
        status, body = 404, b"no such page\n"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
