"""The parts of the seeded simulation (`python -m chaos.simulate`): devices, links and a cloud in one process.

| file | in a sentence |
|---|---|
| `plan.py` | what a seed decides: topology, settings, workload, and which faults are on |
| `world.py` | one run: faults, then healing, then convergence, then the verdict |
| `device.py` | one device's lives, and the ways in which they end |
| `host.py` | what it stands on: disk, clock, link, the callers' books |
| `callers.py` | the workload |
| `past.py` | what the last release left on a device |
| `older.py` | what the last release said on the wire, and the ledger that its cloud left |
| `weather.py` | what befalls it while it works |
| `cloud.py` | the replicas on one ledger, and the requests that they serve |
| `link.py` | the way between the two, which can be cut and which lies |
| `damage.py` | bits that flip, and what each may cost |
| `drive.py` | a host's disk below the real files: it fills up, refuses, and forgets what was not synced |
| `calls.py`, `sqlite_calls.py` | where the system calls of Python and of SQLite meet that disk |
| `platter.py` | what a power cut may leave of a disk |
| `clock.py` | a host's idea of the time |
| `scale.py` | sizes made small, so that few records fill a segment, a batch, a buffer |
| `books.py` | what the workload knows: every prediction made, every receipt given |
| `oracle.py` | the verdict: the guarantees, checked against those books |
| `figures.py` | what device and cloud tell as metrics, against the truth |
| `coverage.py` | what a run has met, and what must not stay unmet |
| `shrink.py` | a smaller plan that still fails |
"""
