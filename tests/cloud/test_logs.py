"""The log never holds up a request, whoever reads it."""

import json
import os
import threading

from cloud.logs import LineWriter


def test_a_log_that_nobody_reads_blocks_nobody_and_says_later_what_it_dropped():
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as stream:
        writer = LineWriter(stream, lines_max=50)

        def log() -> None:
            for number in range(5_000):
                writer.msg(json.dumps({"event": "request", "number": number, "pad": "x" * 100}))

        # Nobody reads yet: a writer that waits for a reader would never get to the end, however long that takes here.
        logging = threading.Thread(target=log, daemon=True)
        logging.start()
        logging.join(60)
        assert not logging.is_alive()
        seen = []
        dropped = 0
        while not dropped:
            line = json.loads(reader.readline())
            dropped = line.get("lines", 0)
            seen += [line["number"]] if "number" in line else []
        assert seen == list(range(len(seen)))
        assert 0 < dropped < 5_000
        writer.close()


def test_what_waits_is_written_at_the_end(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        writer = LineWriter(stream)
        for number in range(100):
            writer.info(str(number))
        writer.close()
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(100)]


def test_a_stream_that_is_gone_ends_the_writing_and_nothing_else(tmp_path):
    stream = (tmp_path / "log").open("w")
    stream.close()
    writer = LineWriter(stream, lines_max=2)
    for _ in range(10):
        writer.info("x")
    writer.close()
