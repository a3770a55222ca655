"""Takes memory in the memory cgroup of process PID until that process is gone: hog.py PID."""

import os
import sys

pid = int(sys.argv[1])
for line in open(f"/proc/{pid}/cgroup"):
    number, controllers, path = line.strip().split(":", 2)
    if controllers == "memory":
        group = f"/sys/fs/cgroup/memory{path}"
        break
    if number == "0" and os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        group = f"/sys/fs/cgroup{path}"
with open(f"{group}/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
# In no process's own memory, which would count for as much as the score of a small agent.
taken = os.memfd_create("hog")
megabytes = 0
while os.path.exists(f"/proc/{pid}"):
    if megabytes > 1024:
        sys.exit("1 GiB was taken and nobody was killed: there is no limit")
    os.write(taken, b"x" * 1048576)
    megabytes += 1
