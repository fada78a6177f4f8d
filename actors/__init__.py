"""The device: actors that share nothing and talk only over bounded memory channels.

The cast (one file each):

| actor | takes | gives | in a sentence |
|---|---|---|---|
| inference | frames, images | `Accept` | sees: frames in, predictions out |
| buffer_writer | `Accept`, `Outcome`, `PageRequest` | `Receipt`, `Stored`, `Page`, nudge | sole owner of the disk |
| batcher | `Stored` | `Batch` (live lane) | groups by count, bytes and time |
| uplink | `Batch` (both lanes) | `Outcome`, `Report`, `Delivery` | the only one that speaks to the cloud |
| connectivity | `Report` | the link's state | decides whether the link is up |
| recovery | nudges, the link's state, `Page` | `PageRequest`, `Batch` (backlog lane) | brings the backlog home |
| monitor | every actor's state cell | `AlertChange`, the pulse | looks once a second, says when something is wrong |
| notifier | `AlertChange` | | tells a webhook of every alert |

The channel map:

    frames -> inference -Accept-> buffer_writer -Stored-> batcher -live Batch-> uplink -> cloud
                                   ^  ^  |  |                                   ^ |  |
                                   |  |  |  +--nudge--> recovery -backlog Batch-+ |  |
                                   |  |  +--Page------>    |                      |  |
                                   |  +--PageRequest-------+                      |  |
                                   +--------Outcome-------------------------------+  |
                                                     connectivity <-----Report-------+
    connectivity ~link state~> uplink, recovery, monitor
    uplink ~live batches under way~> recovery

`-x->` is a channel, `~x~>` a state cell (`trio_util.AsyncValue`) that nobody waits to write.

Rules: whoever holds a channel's end closes it, with `with channel:` as the actor's first line; end-of-stream is how a
stop walks down. In every ring one edge never blocks: buffer_writer -> batcher (a full live lane leaves predictions
pending), the nudge, every `Reply`, and the state cells. Only `pipeline.py` opens channels. Actors never import each
other or a port's library; ports never import actors.

The public names of the library are those in `__all__`: `from actors import Settings, open_pipeline`. They are looked up
when asked for, so that a program that needs one small module does not import the whole device.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.handle import CallTooLarge
    from actors.loading import load_settings
    from actors.messages import PipelineClosed, Receipt
    from actors.pipeline import Pipeline, Ports, open_pipeline
    from actors.ports.detectors import CallableDetector
    from actors.ports.images import FrameUnreadable
    from actors.settings import Settings, SettingsError, WhenFull
    from cloud.wire import Detection, Prediction, WireError

_ROOMS = {
    "CallTooLarge": "actors.handle",
    "CallableDetector": "actors.ports.detectors",
    "Detection": "cloud.wire",
    "FrameUnreadable": "actors.ports.images",
    "Pipeline": "actors.pipeline",
    "PipelineClosed": "actors.messages",
    "Ports": "actors.pipeline",
    "Prediction": "cloud.wire",
    "Receipt": "actors.messages",
    "Settings": "actors.settings",
    "SettingsError": "actors.settings",
    "WhenFull": "actors.settings",
    "WireError": "cloud.wire",
    "load_settings": "actors.loading",
    "open_pipeline": "actors.pipeline",
}

__all__ = [
    "CallTooLarge",
    "CallableDetector",
    "Detection",
    "FrameUnreadable",
    "Pipeline",
    "PipelineClosed",
    "Ports",
    "Prediction",
    "Receipt",
    "Settings",
    "SettingsError",
    "WhenFull",
    "WireError",
    "load_settings",
    "open_pipeline",
]


def __getattr__(name: str) -> object:
    """A public name, from the room that it lives in."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'actors' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)
