"""The work under Sanic. `sanic_app.py PORT`."""

import sys

from sanic import Sanic, text

import blocking
from coroutines import Clients

app = Sanic("work")


@app.before_server_start
async def start(app, _):
    blocking.start()
    app.ctx.clients = Clients()
    app.ctx.clients.start_workers()


@app.after_server_stop
async def stop(app, _):
    await app.ctx.clients.close()


@app.get("/ping")
async def ping(request):
    return text("pong\n")


@app.get("/work/<number:int>")
async def work(request, number):
    await app.ctx.clients.work(number)
    return text("done\n")


@app.get("/stream/<number:int>")
async def stream(request, number):
    response = await request.respond(content_type="text/plain")
    async for part in app.ctx.clients.parts(number):
        await response.send(part)
    await response.eof()


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, access_log=False, motd=False)
