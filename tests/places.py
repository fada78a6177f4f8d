"""Where tests put their files."""

import os
from pathlib import Path

MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None
"""A file system in memory, for tests that sync a thousand times; None means the usual temporary folder."""

ROOT = Path(__file__).parents[1]
"""The checkout."""
