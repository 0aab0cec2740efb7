"""`hansang jobs`."""

from __future__ import annotations

import json
from collections.abc import Callable

from conftest import KEY, Running
from hansang import Client
from terminal import typed


def test_jobs_are_listed_shown_and_followed(serve: Callable[..., Running]) -> None:
    url = serve(demo=False).url
    assert typed("jobs", "list", "--url", url).out == "No job there: hansang train xor --url URL\n"
    job = Client(url).train("and", trainer="perceptron")
    listed = typed("jobs", "list", "--url", url).out
    assert listed.startswith(f"{job['id']}  train  and  succeeded 100%  ")
    assert [each["id"] for each in json.loads(typed("jobs", "list", "--url", url, "--json").out)] == [job["id"]]
    shown = typed("jobs", "show", job["id"], "--url", url).out.splitlines()
    assert shown[:5] == [
        f"id            {job['id']}",
        "kind          train",
        "model         and",
        "state         succeeded",
        "progress      100%",
    ]
    assert "accuracy      1" in shown
    followed = typed("jobs", "follow", job["id"], "--url", url).out.splitlines()
    assert followed[0] == "started"
    assert followed[1].startswith("epoch 1  errors ")
    assert "succeeded" in followed
    events = [json.loads(line) for line in typed("jobs", "follow", job["id"], "--url", url, "--json").out.splitlines()]
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))


def test_a_job_is_cancelled_once(serve: Callable[..., Running]) -> None:
    url = serve(demo=False).url
    client = Client(url)
    rows = [[x / 300, x / 300 + 0.01 * (x % 3)] for x in range(300)]
    job = client.train("slow", rows, trainer="mlp", options={"epochs": 100_000}, wait=False)
    answer = typed("jobs", "cancel", job["id"], "--url", url)
    assert answer.status == 0
    assert answer.out.startswith(f"{job['id']} is asked to stop; it was ")
    assert [event.kind for event in client.events(job["id"])][-1] == "cancelled"
    again = typed("jobs", "cancel", job["id"], "--url", url)
    assert again.status == 1
    assert "has ended (cancelled); there is nothing to cancel." in again.err


def test_a_job_that_failed_says_why(serve: Callable[..., Running]) -> None:
    url = serve(demo=False).url
    client = Client(url)
    data = {"columns": ["a", "y"], "rows": [["red", 1], ["blue", 0]]}
    job = client.train("colours", data, trainer="perceptron", wait=False)
    assert [event.kind for event in client.events(job["id"])][-1] == "failed"
    shown = typed("jobs", "show", job["id"], "--url", url).out
    assert "error         A perceptron tells 0 from 1 by numbers" in shown
    assert 'hint          Use the trainer "mlp"' in shown


def test_an_unknown_job_and_a_missing_key_are_errors(serve: Callable[..., Running]) -> None:
    url = serve(demo=False, key=KEY).url
    denied = typed("jobs", "list", "--url", url)
    assert (denied.status, denied.out) == (1, "")
    assert "API key" in denied.err
    unknown = typed("jobs", "show", "job_none", "--url", serve(demo=False).url)
    assert unknown.status == 1
    assert unknown.err.startswith("error: There is no job 'job_none'.\n")
