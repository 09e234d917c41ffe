"""The work in Django's asynchronous views, in one file: daphne and uvicorn."""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

import blocking
from coroutines import shared
from tokens import clients_of

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="not a secret, this is a test",
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)


async def ping(request):
    shared()
    return HttpResponse("pong\n")


async def work(request, number):
    await shared().work(number)
    return HttpResponse(f"{number}\n")


async def stream(request, number):
    return StreamingHttpResponse(shared().parts(number), content_type="text/plain")


def in_a_thread(request, number):
    for client in clients_of(number, 0, blocking.CLIENTS, 3):
        blocking.call(number, "threadpool", client)
    return HttpResponse(f"{number}\n")


urlpatterns = [
    path("ping", ping),
    path("work/<int:number>", work),
    path("stream/<int:number>", stream),
    path("sync/<int:number>", in_a_thread),
]
blocking.start()
application = get_asgi_application()
