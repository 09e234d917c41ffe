"""Celery tasks that run the counted line. As a program: sends as many tasks as it is told to, and awaits their results."""

import os
import sys

from celery import Celery

import counted

redis = "redis://127.0.0.1:%s/0" % os.environ["REDIS_PORT"]
app = Celery("counted_tasks", broker=redis, backend=redis)


@app.task(name="counted.task")
def task(path):
    return counted.handled(path)


if __name__ == "__main__":
    results = [task.delay("/task/%d" % number) for number in range(int(sys.argv[1]))]
    print(sum(result.get(timeout=60) > 0 for result in results))
