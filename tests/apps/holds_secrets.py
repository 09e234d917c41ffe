"""Holds secrets in all kinds of places, each with "planted" in it, and ordinary values with "ordinary" in them.

Standard library only, Python 3.8 and newer. After one line it sleeps.
"""
import collections
import dataclasses
import enum
import functools
import pathlib
import time


class Account:
    def __init__(self):
        self.login = "ordinary-01"
        self._password = "planted-01"
        self.nested = {"deep": {"deeper": {"client_secret": "planted-02", "colour": "ordinary-02"}}}


class Slotted:
    __slots__ = ("api_key", "size")

    def __init__(self):
        self.api_key = "planted-03"
        self.size = "ordinary-03"


@dataclasses.dataclass
class Header:
    name: str
    value: str


class Setting(enum.Enum):
    PASSWORD = "planted-04"
    COLOUR = "ordinary-04"


class Failure(Exception):
    def __init__(self, message, token):
        super().__init__(message)
        self.token = token


Pair = collections.namedtuple("Pair", "user_token shape")


def closure(private_key, shape):
    def inner():
        typed()
        return private_key, shape

    return inner


def named(user, pwd, **options):
    access_token, refreshToken = "planted-05", b"planted-06"
    session_id, pin, none_token, author, monkey = "planted-07", 4711471147, None, "ordinary-05", "ordinary-06"
    closure("planted-08", "ordinary-07")()
    return user, pwd, options, access_token, refreshToken, session_id, pin, none_token, author, monkey


def typed():
    account, slotted, pair = Account(), Slotted(), Pair("planted-09", "ordinary-08")
    header, setting, colour = Header("Authorization", "planted-10"), Setting.PASSWORD, Setting.COLOUR
    error = Failure("no login with password=planted-11 for ordinary-09", "planted-12")
    keyed = KeyError("password", "planted-13")
    partial = functools.partial(print, sep="ordinary-10", api_key="planted-14")
    path = pathlib.PurePosixPath("/ordinary-11/token=planted-15")
    contained()
    return account, slotted, pair, header, setting, colour, error, keyed, partial, path


def contained():
    headers = {"Accept": "ordinary-12", "X-Api-Key": "planted-16", b"Cookie": b"planted-17"}
    scope = [(b"host", b"ordinary-13"), (b"authorization", b"planted-18")]
    arguments = ["tool", "--colour", "ordinary-14", "--password", "planted-19", "--token=planted-20"]
    environment = {"LANG": "ordinary-15", "DB_PASSWORD": "planted-21", "credentials": ["planted-22"]}
    variables = [{"name": "DB_PASSWORD", "value": "planted-23"}, {"name": "LANG", "value": "ordinary-16"}]
    deque = collections.deque([("secret", "planted-24"), ("shape", "ordinary-17")])
    for key, value in {"csrf_token": "planted-25"}.items():
        texts()
    return headers, scope, arguments, environment, variables, deque, key, value


def texts():
    document = '{"user": "ordinary-18", "password": "planted-26", "tags": ["ordinary-19"]}'
    form = "user=ordinary-20&password=planted-27"
    raw = b'{"user": "ordinary-21", "api_key": "planted-28"}'
    url = "https://ordinary-22.example.com/?token=planted-29&page=2"
    database = "postgres://ordinary:planted-30@ordinary-23.example.com/shop"
    statement = "SELECT * FROM ordinary_24 WHERE name = 'planted-31'"
    mail = "sent to planted-32@example.com by ordinary-25"
    note = "is eyJhbGciOiJIUzI1NiJ9.eyJwbGFudGVkIjoxfQ.planted33planted ordinary-26"
    cut = "ordinary-27 " + "x" * 230 + " planted-34@example.com " + "x" * 500
    log = "ordinary-28\nAuthorization: Bearer planted-35\nX: ordinary-29"
    cloud = "AKIAPLANTED000000036"
    card, number = 4111111111111111, 1234567890123456
    view = {"password": "planted-39", "shape": "ordinary-32"}.values()
    buffer = memoryview(b"ordinary-33 password=planted-40")
    print("ready", flush=True)
    time.sleep(600)
    return document, form, raw, url, database, statement, mail, note, cut, log, cloud, card, number, view, buffer


if __name__ == "__main__":
    named("ordinary-30", "planted-37", secret_key="planted-38", shape="ordinary-31")
