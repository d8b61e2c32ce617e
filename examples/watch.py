#!/usr/bin/env python3
"""Lists, changes, follows and forks a running world: python3 examples/watch.py [URL]. Needs Python 3 and nothing else."""

import json
import os
import sys
import urllib.request

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7170"
WORLD = URL + "/v1/worlds/town"
HEADERS = {"content-type": "application/json", "accept": "application/json"}
if "EVERWORLD_TOKEN" in os.environ:
    HEADERS["authorization"] = "Bearer " + os.environ["EVERWORLD_TOKEN"]


def open_(method, url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {**HEADERS, **headers}, method=method)
    return urllib.request.urlopen(request, timeout=30)


def ask(method, path, body=None):
    with open_(method, WORLD + path, body) as answer:
        return json.load(answer)


# The hungriest five, and what all bakers have in common.
for entity in ask("GET", "/entities?sort=-needs.hunger&limit=5&select=name,needs.hunger")["items"]:
    print("hungry:", entity["uid"], entity["components"])
sums = ask("POST", "/query", {"where": "occupation.trade==baker", "aggregate": ["count", "avg(needs.hunger)"]})
print("bakers:", sums["items"][0]["values"])

# Somebody new; the answer comes when a tick has made him.
born = ask("POST", "/entities?ack=applied", {"prototype": "townsman", "components": {"purse": {"coins": 7}}})
uid, tick = born["created"][0], born["tick"]
print(f"tick {tick}: entity {uid} is there")

# What happens around him, for five messages.
with open_("GET", f"{WORLD}/changes?around={uid},50&select=position,goal", accept="application/x-ndjson") as stream:
    for message, _ in zip((json.loads(line) for line in stream if line.strip()), range(5)):
        print(f"tick {message['tick']}: {len(message['enter'])} came, {len(message.get('leave', []))} left, "
              f"{len(message.get('changed', []))} changed")

# The same world as it was before, beside this one.
print("fork:", ask("POST", "/fork", {"at_tick": tick - 1, "name": f"before-{uid}"}))
