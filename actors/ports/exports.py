"""The lines of an export: whose number it is, and the prediction byte for byte."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from cloud.wire import Prediction, WireError, check_payload

LINE_BYTES_MAX = 1024 * 1024


class Exported(msgspec.Struct, frozen=True):
    """One line. Without a stream it belongs to none, and can only come in under a new number."""

    prediction: msgspec.Raw
    stream_id: str = ""
    seq: int = 0
    buffered_at: float = 0.0

    def as_new(self) -> Prediction:
        """The prediction without its number. `WireError`."""
        return msgspec.structs.replace(check_payload(self.prediction), seq=msgspec.UNSET)


_decoder = msgspec.json.Decoder(Exported)


def read_exports(path: Path) -> Iterator[Exported]:
    """The lines of a file, each checked. `WireError` with the line's number, `OSError`."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX):
            number += 1
            if not line.strip():
                continue
            try:
                found = _decoder.decode(line)
                check_payload(found.prediction)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WireError) as exc:
                raise WireError(f"{path}, line {number}: {exc}; nothing was imported") from exc
            yield found
