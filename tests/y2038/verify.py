"""Looks at what the machine of scripts/test-2040 printed and at what the receivers took:
verify.py 2040|today CONSOLE RECORD RECORD_OF_THE_OTHER."""

import json
import os
import re
import sys
import time

name, console, record, other = sys.argv[1:]
# 2^31 s after 1970 is 2038-01-19; the machine's clock starts at 2040-06-01 and the test lasts minutes.
begin = 2222121600 if name == "2040" else time.time() - 3600
end = begin + 3600 + 60

text = open(console, errors="replace").read().replace("\r", "")
steps = {
    step: (int(status), output)
    for step, output, status in re.findall(r"^@begin (\w+)\n(.*?)\n@end (\d+)$", text, re.M | re.S)
}


def demand(holds, claim):
    if not holds:
        sys.exit(f"{name}: not so: {claim}; see {console}\n{text[-4000:]}")


def in_time(timestamp):
    return begin <= timestamp <= end


def batches(path):
    if not os.path.exists(path):
        return []
    return [json.loads(line)["body"] for line in open(path)]


demand("@done" in text, "the machine ran to its end")
demand("panicked" not in text, "nothing panicked")
demand(steps["clock"][0] == 0, "the clock could be set")
demand(steps["check"][0] == 0, "the configuration is good")
demand(steps["queued"][0] == 1, "without an endpoint --once fails")
status, output = steps["refused"]
words = "expired" if name == "2040" else "not valid yet"
demand(status == 1 and words in output.lower(), f"a certificate of another time is refused as {words}")
demand(not batches(other), "its receiver got nothing")
demand(steps["delivered"][0] == 0, "--once delivers")
demand(steps["ready"][0] == 0, "it becomes ready")
demand('"accepted":1' in steps["posted"][1].replace(" ", ""), "the HTTP source answers after the commit")

year = time.gmtime(begin).tm_year
demand(f" {year} " in steps["headers"][1], f"the Date header says {year}")
health = json.loads(steps["health"][1])
demand(in_time(health["timestamp"]), "the health page has the right time")
demand(0 < health["metrics"]["uptime_seconds"] < 3600, "and the time since boot")
demand(steps["flushed"][0] == 0, "the daemon delivers")
demand(health["status"] in ("healthy", "degraded"), "the health page does not say unhealthy")
demand(in_time(health["cloud"]["last_flush_time"]), "and when it delivered last")
demand(steps["stopped"][0] == 0, "SIGTERM ends it in order")

bodies = batches(record)
items = [item for body in bodies for item in body["items"]]
boiler = [item["timestamp"] for item in items if item["sensor_name"] == "boiler"]
# The last parts of a batch id are the lane and the first and last number in it; nothing may be missing.
ranges = sorted(tuple(map(int, body["batch_id"].rsplit("-", 3)[1:3])) for body in bodies)
demand(ranges[0][0] == 1, "what the first process stored arrives")
demand(all(after[0] == before[1] + 1 for before, after in zip(ranges, ranges[1:])), f"nothing is missing in {ranges}")
demand(len(boiler) > 3, "what the daemon read arrives")
demand(all(in_time(item["timestamp"]) for item in items), "every reading has the right time")
demand(all(in_time(body["timestamp"]) for body in bodies), "every batch has the right time")
demand(boiler == sorted(boiler), "the readings are in order")
demand(any(item["sensor_name"] == "posted" for item in items), "what was posted arrives")
stores = {body["batch_id"].rsplit("-", 4)[0] for body in bodies}
demand(len(stores) == 1, "all come from one store")
print(f"{name}: {len(items)} items in {len(bodies)} batches, from {min(boiler):.0f} to {max(boiler):.0f}")
