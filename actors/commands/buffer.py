"""`buffer`: look into the buffer, and mend it; all of it is safe while the device runs."""

from actors.commands.front import Entry, Front

READ = "actors.commands.buffer_read"
CHANGE = "actors.commands.buffer_change"
ENTRIES = {
    "Look": {
        "stats": Entry(f"{READ}:stats", "Show counts, sizes and ages."),
        "list": Entry(f"{READ}:list_", "List rows, the newest first."),
        "show": Entry(f"{READ}:show", "Show one row with its prediction."),
        "export": Entry(f"{READ}:export", "Write rows as lines of JSON, predictions byte for byte."),
    },
    "Deliver again": {
        "reset-failed": Entry(f"{CHANGE}:reset_failed", "Let quarantined predictions be tried again."),
        "replay": Entry(f"{CHANGE}:replay", "Send predictions again that were sent already."),
        "import": Entry(f"{CHANGE}:import_", "Bring exported predictions back."),
    },
    "Make room": {
        "cleanup": Entry(f"{CHANGE}:cleanup", "Delete sent predictions that are old enough."),
        "vacuum": Entry(f"{CHANGE}:vacuum", "Give free pages back to the file system."),
        "discard": Entry(f"{CHANGE}:discard", "Give predictions up; each number stays explained."),
    },
    "Mend": {
        "repair": Entry(f"{CHANGE}:repair", "Check the database, and replace it if it is damaged."),
    },
}

buffer = Front(
    ENTRIES,
    "buffer",
    help="""Look into the buffer, and mend it.

    All of it is safe while the device runs: what looks only opens the database read-only, and what changes something
    asks the running device to do it. Conditions (--where) are SQL on the columns id, status, image_id, timestamp,
    buffered_at, sent_at, retry_count, last_error and prediction_data.

    \b
    Examples:
      app.py buffer list --status failed
      app.py buffer list --image camera-01/frame-000017
      app.py buffer export --where "timestamp > 1769596240" -o rows.jsonl
      app.py buffer replay --since 2h
      app.py buffer discard --where "status = 'failed' AND image_id LIKE 'cam-2%'"
    """,
)
