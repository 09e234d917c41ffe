"""One line that runs once for each request, and a function that is not called under gunicorn."""

import asyncio


def handled(path):
    return path.count("/")  # armed


def wsgi(environ, start_response):
    body = b"%d\n" % handled(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await asyncio.sleep(0.001)
    body = b"%d\n" % handled(scope["path"])
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
