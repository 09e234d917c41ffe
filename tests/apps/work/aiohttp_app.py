"""The work under aiohttp's server. `aiohttp_app.py PORT`."""

import sys

from aiohttp import web

import blocking
from coroutines import Clients

clients = web.AppKey("clients", Clients)


async def ping(request):
    return web.Response(text="pong\n")


async def work(request):
    await request.app[clients].work(int(request.match_info["number"]))
    return web.Response(text="done\n")


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    async for part in request.app[clients].parts(int(request.match_info["number"])):
        await response.write(part)
    await response.write_eof()
    return response


async def start(app):
    app[clients] = Clients()
    app[clients].start_workers()


async def stop(app):
    await app[clients].close()


def main():
    blocking.start()
    app = web.Application()
    app.on_startup.append(start)
    app.on_cleanup.append(stop)
    app.add_routes([web.get("/ping", ping), web.get("/work/{number}", work), web.get("/stream/{number}", stream)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


main()
