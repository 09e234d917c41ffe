"""Blocking clients and the ways in which threads and greenlets make calls with them."""

import contextlib
import contextvars
import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import psycopg2
import pymysql
import redis
import requests
import urllib3

from tokens import REDIS_SCRIPT, answered, clients_of, expected_status, here, token

HOST = "127.0.0.1"
UPSTREAM = int(os.environ.get("UPSTREAM_PORT", "0"))
#: Connections of one process to one database: fewer than requests, so that they are shared.
POOL_SIZE = 6


class Pool:
    """Connections that are opened when needed, up to a limit, and handed from request to request."""

    def __init__(self, connect):
        self.connect = connect
        self.free = queue.LifoQueue()
        for _ in range(POOL_SIZE):
            self.free.put(None)

    @contextlib.contextmanager
    def connection(self):
        connection = self.free.get()
        try:
            connection = connection or self.connect()
            yield connection
        finally:
            self.free.put(connection)


def _psycopg2():
    connection = psycopg2.connect(host=HOST, port=os.environ["PG_PORT"], user="postgres", dbname="shop")
    connection.autocommit = True
    return connection


def _psycopg():
    return psycopg.connect(
        host=HOST, port=os.environ["PG_PORT"], user="postgres", dbname="shop", autocommit=True, prepare_threshold=None
    )


def _pymysql():
    return pymysql.connect(
        host=HOST, port=int(os.environ["MYSQL_PORT"]), user="shop", password="shop", database="shop", autocommit=True
    )


_pools = {"psycopg2": Pool(_psycopg2), "psycopg": Pool(_psycopg), "pymysql": Pool(_pymysql)}
_redis = redis.Redis(host=HOST, port=int(os.environ.get("REDIS_PORT", "0")))
_session = requests.Session()
_session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=8))
_manager = urllib3.PoolManager(maxsize=8)
_httpx = httpx.Client(timeout=30)


def _sql(client, call, sleep):
    with _pools[client].connection() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {sleep}(0.002), %s AS {here(call)}", (1,))
        cursor.fetchall()


def _http(client, call):
    url = f"http://{HOST}:{UPSTREAM}/echo/"
    if client == "requests":
        answer = _session.get(url + here(call), timeout=30)
        return answer.status_code, answer.content
    if client == "urllib3":
        answer = _manager.request("GET", url + here(call), timeout=30, retries=False)
        return answer.status, answer.data
    if client == "httpx":
        answer = _httpx.get(url + here(call))
        return answer.status_code, answer.content
    if client == "urllib":
        try:
            with urllib.request.urlopen(url + here(call), timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.read()
    connection = http.client.HTTPConnection(HOST, UPSTREAM, timeout=30)
    try:
        connection.request("GET", f"/echo/{here(call)}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


CLIENTS = ["psycopg2", "requests", "redis", "urllib3", "psycopg", "httpclient", "pymysql", "httpx", "urllib"]


def make(name, client):
    """One call, which carries `name`."""
    if client in ("psycopg2", "psycopg"):
        _sql(client, name, "pg_sleep")
    elif client == "pymysql":
        _sql(client, name, "sleep")
    elif client == "redis":
        _redis.incr("calls")
        try:
            _redis.eval(REDIS_SCRIPT, 1, here(name))
        except redis.ResponseError as error:
            if not str(error).startswith(f"{name} "):
                raise
    else:
        status, body = _http(client, name)
        if (status, body) != (expected_status(name), f"{name}\n".encode()):
            raise RuntimeError(f"{name} was answered with {status} {body!r}")
    answered(name)


def call(number, kind, client):
    """One call for a request, whichever thread makes it."""
    make(token(number, kind, client), client)


def leaf(name):
    """The calls of a service that was itself called with `name`."""
    make(f"{name}__psycopg2", "psycopg2")
    make(f"{name}__redis", "redis")


def _nested(number, kind, clients):
    def inner(client):
        call(number, kind, client)

    for client in clients:
        inner(client)


def _thread(number, kind, clients):
    threads = [threading.Thread(target=call, args=(number, kind, client)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pool(number, kind, clients):
    for future in [executor.submit(call, number, kind, client) for client in clients]:
        future.result()


def _context_pool(number, kind, clients):
    futures = [executor.submit(contextvars.copy_context().run, call, number, kind, client) for client in clients]
    for future in futures:
        future.result()


def _background(number, kind, clients):
    def later():
        time.sleep(0.05)
        for client in clients:
            call(number, kind, client)

    threading.Thread(target=later).start()


_jobs = queue.SimpleQueue()


def _serve_jobs():
    while True:
        job, done = _jobs.get()
        try:
            call(*job)
        finally:
            done.release()


def _queue(number, kind, clients):
    for client in clients:
        done = threading.Semaphore(0)
        _jobs.put(((number, kind, client), done))
        done.acquire()


def _gevent(number, kind, clients):
    import gevent

    gevent.joinall([gevent.spawn(call, number, kind, client) for client in clients], raise_error=True)


def _eventlet(number, kind, clients):
    import eventlet

    for greenlet in [eventlet.spawn(call, number, kind, client) for client in clients]:
        greenlet.wait()


#: The process's pool of threads.
executor = ThreadPoolExecutor(6)


def start():
    """Starts the threads that a process shares among its requests: to be called before the first."""
    barrier = threading.Barrier(7)
    for _ in range(6):
        executor.submit(barrier.wait)
    barrier.wait()
    for _ in range(2):
        threading.Thread(target=_serve_jobs, daemon=True).start()


#: Kind of call: how it is made, and how many at once.
KINDS = {
    "nested": (_nested, 2),
    "thread": (_thread, 2),
    "pool": (_pool, 2),
    "contextpool": (_context_pool, 2),
    "backthread": (_background, 1),
    "queue": (_queue, 1),
}


def greenlets():
    """The kind that the server's library of greenlets adds."""
    if os.environ.get("GREENLETS") == "gevent":
        return {"spawn": (_gevent, 2)}
    if os.environ.get("GREENLETS") == "eventlet":
        return {"spawn": (_eventlet, 2)}
    return {}


def work(number):
    """All calls of a request of a server that gives it a thread or a greenlet."""
    time.sleep(number % 5 / 1000)
    for position, (kind, (way, count)) in enumerate({**KINDS, **greenlets()}.items()):
        way(number, kind, clients_of(number, position, CLIENTS, count))


def patient():
    """Makes psycopg2, which waits in C, give way to other greenlets: its documented hook, as psycogreen sets it."""
    if os.environ.get("GREENLETS") == "gevent":
        from gevent.socket import wait_read, wait_write
    elif os.environ.get("GREENLETS") == "eventlet":
        from eventlet.hubs import trampoline

        def wait_read(descriptor):
            trampoline(descriptor, read=True)

        def wait_write(descriptor):
            trampoline(descriptor, write=True)

    else:
        return

    def wait(connection):
        while True:
            state = connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            if state == psycopg2.extensions.POLL_READ:
                wait_read(connection.fileno())
            else:
                wait_write(connection.fileno())

    psycopg2.extensions.set_wait_callback(wait)
