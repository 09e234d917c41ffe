"""A shop that has secrets wherever programs have them; `secretive.json` has them all, and ordinary data besides. Serves HTTP on
the port of the first argument; databases are at the ports that follow. The other arguments are only there to be seen."""

import collections
import dataclasses
import http.client
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import psycopg2
import redis

PORT, POSTGRES, REDIS, BACKEND = (int(port) for port in sys.argv[1:5])
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "secretive.json")) as corpus:
    CORPUS = json.load(corpus)
S, O = CORPUS["secrets"], CORPUS["ordinary"]


@dataclasses.dataclass
class User:
    name: str
    title: str
    password: str
    age: int = 36


Login = collections.namedtuple("Login", "user password")


class Client:
    def __init__(self):
        self.endpoint = O["path"]
        self.auth_token = S["token"]
        self.options = {"retries": 3, "auth": {"client_secret": S["deep"], "author": O["author"]}}


class ShopError(Exception):
    def __init__(self, message, code):
        super().__init__(message)
        self.code = code
        self.api_key = S["api_key"]


def failing():
    try:
        raise ValueError("invalid password '%s' for user bob" % S["exception"])
    except ValueError as error:
        raise ShopError("login failed: password=%s" % S["exception"], 402) from error


def names(cursor):
    """Ordinary data, and only that."""
    name, title, author, path = O["name"], O["title"], O["author"], O["path"]
    sort_key, cache_key, next_token = O["sort_key"], O["cache_key"], O["next_token"]
    uuid, sha, when, version = O["uuid"], O["sha"], O["when"], O["version"]
    text, header, currency, tag = O["text"], O["header"], O["currency"], O["tag"]
    return cursor  # ordinary


def pay(request, body):
    """Secrets in variables: by name, by value, nested, in texts."""
    password = S["password"]
    api_key = S["api_key"]
    settings = {"database": {"host": "db", "password": S["nested"]}, "timeout": 30}
    user = User(O["name"], O["title"], S["password"])
    login = Login("ada", S["tuple"])
    client = Client()
    headers = [("Authorization", "Bearer " + S["bearer"]), ("Accept", O["header"]), ("Cookie", "sid=" + S["cookie"])]
    by_name = {"Authorization": "Bearer " + S["bearer"], "X-Api-Key": S["api_key"], "Accept": O["header"]}
    row = {"name": "password", "value": S["row"]}
    note = "see " + S["jwt"] + " in text"
    payment = "paid with " + S["card"]
    listed = [S["aws"], O["tag"]]
    return client  # secrets


def talk(request, body):
    """Secrets in texts: messages, URLs, statements, arguments, bytes."""
    blob = "-----BEGIN PRIVATE KEY-----\n" + S["pem"] + "\n-----END PRIVATE KEY-----"
    dsn = "postgres://shop:%s@db.internal:5432/shop" % S["dsn"]
    url = "https://ada:%s@api.example.com/v1?page=2&signature=%s" % (S["userinfo"], S["signature"])
    message = "connection refused: password=%s host=db" % S["template"]
    contact = "write to %s please" % S["email_in_text"]
    mail = S["mail"]
    number = "ssn " + S["ssn"]
    raw = b"token=" + S["bytes"].encode()
    arguments = ["tool", "--password", S["argv"], "--verbose"]
    statement = "SELECT * FROM users WHERE code = '%s'" % S["sql"]
    random = S["random"]
    title, quick = O["title"], O["text"]
    try:
        failing()
    except ShopError as caught:
        error = caught
        return error  # texts


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        pay(self, None)
        talk(self, None)
        names(None)
        backend = http.client.HTTPConnection("127.0.0.1", BACKEND)
        backend.request("GET", "/?api_key=%s&page=2" % S["query"], headers={"Authorization": "Bearer " + S["bearer"]})
        backend.getresponse().read()
        backend.close()
        with DATABASE.cursor() as cursor:
            cursor.execute("SELECT '%s' AS code, 17 AS page" % S["sql"])
            try:
                cursor.execute("SELECT no_such_function('%s')" % S["sql"])
            except psycopg2.Error:
                DATABASE.rollback()
        CACHE.set("session:7", S["redis"])
        body = b"done"
        self.send_response(200)
        self.send_header("Set-Cookie", "sid=" + S["cookie"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, *_):
        pass


DATABASE = psycopg2.connect(host="127.0.0.1", port=POSTGRES, user="postgres", dbname="postgres")
CACHE = redis.Redis(port=REDIS)
HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
