"""Routes of the shop."""

from django.urls import path

from . import views

urlpatterns = [
    path("ping", views.ping),
    path("products/<int:number>", views.product),
    path("orders", views.order),
    path("listed/<int:count>", views.listed),
    path("report/<str:seconds>", views.report),
    path("gone", views.gone),
    path("boom", views.boom),
    path("sql-error", views.sql_error),
    path("conflict", views.conflict),
    path("redis-error", views.redis_error),
    path("pipeline", views.pipeline),
    path("transaction", views.transaction),
    path("call/<str:library>/<str:kind>", views.call),
    path("call/<str:library>/<str:kind>/<str:argument>", views.call),
    path("forward/<str:library>", views.forward),
    path("checkout/<int:number>", views.checkout),
    path("stream", views.stream),
    path("sleep/<str:seconds>", views.sleep),
    path("upload", views.upload),
]
