"""Views of the shop."""

import os
import time

import redis
from django.db import DatabaseError, IntegrityError, connection
from django.db.models import F
from django.db.transaction import atomic
from django.http import Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404

import downstream

from .models import Order, Product

cache = redis.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


def ping(request):
    return HttpResponse("pong\n")


def product(request, number):
    key = f"product:{number}"
    seen = cache.get(key)
    found = get_object_or_404(Product, id=number)
    cache.set(key, found.name, ex=60)
    return JsonResponse({"id": found.id, "name": found.name, "cached": seen is not None})


def order(request):
    with atomic():
        Order.objects.create(product_id=1, quantity=2, note=request.body.decode()[:100])
        Product.objects.filter(id=1).update(stock=F("stock") - 2)
    cache.incr("orders")
    return JsonResponse({"ok": True}, status=201)


def _names(orders):
    return [order.product.name for order in orders]


def listed(request, count):
    return JsonResponse({"names": _names(Order.objects.order_by("id")[:count])})


def _report(seconds):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [float(seconds)])


def report(request, seconds):
    _report(seconds)
    return HttpResponse("reported\n")


def gone(request):
    raise Http404


def boom(request):
    raise RuntimeError("the shop is on fire")


def sql_error(request):
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM no_such_table WHERE id = %s", [1])
    except DatabaseError:
        return HttpResponse("the database said no\n", status=500)
    return HttpResponse("impossible\n")


def conflict(request):
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO products (id, name, price, stock) VALUES (%s, %s, %s, %s)", [1, "twin", 1, 1]
            )
    except IntegrityError:
        return HttpResponse("already there\n", status=409)
    return HttpResponse("impossible\n")


def redis_error(request):
    cache.set("greeting", "hello")
    try:
        cache.lpush("greeting", "not a list")
    except redis.ResponseError:
        return HttpResponse("wrong type\n", status=500)
    return HttpResponse("impossible\n")


def pipeline(request):
    with cache.pipeline(transaction=False) as batch:
        batch.set("pipeline:a", 1)
        batch.incr("pipeline:a")
        batch.get("pipeline:a")
        return JsonResponse({"answers": len(batch.execute())})


def transaction(request):
    with cache.pipeline(transaction=True) as batch:
        batch.set("transaction:a", 1)
        batch.incr("transaction:a")
        return JsonResponse({"answers": len(batch.execute())})


def call(request, library, kind, argument=""):
    path = f"/{kind}/{argument}?id={request.GET.get('id', '')}"
    timeout = 0.15 if kind == "slow" else 5.0
    try:
        status, length = downstream.call(library, path, timeout=timeout)
    except downstream.FAILURES as error:
        return HttpResponse(f"{type(error).__name__}\n", status=502)
    return JsonResponse({"status": status, "length": length})


def forward(request, library):
    path = f"/echo?id={request.GET.get('id', '')}"
    status, length = downstream.call(library, path, method="POST", body=request.body)
    return JsonResponse({"status": status, "length": length})


def checkout(request, number):
    Product.objects.filter(id=number).values_list("stock").first()
    cache.get(f"product:{number}")
    status, _ = downstream.call("requests", f"/status/200?id={request.GET.get('id', '')}")
    Product.objects.filter(id=number).update(stock=F("stock") - 1)
    cache.delete(f"product:{number}")
    return JsonResponse({"status": status})


def stream(request):
    return StreamingHttpResponse((f"line {number}\n" for number in range(20)), content_type="text/plain")


def sleep(request, seconds):
    time.sleep(float(seconds))
    return HttpResponse("awake\n")


def upload(request):
    return JsonResponse({"length": len(request.body)})
