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
| monitor | every actor's state cell | status, alerts | counts, and says when something is wrong |

The channel map:

    frames -> inference -Accept-> buffer_writer -Stored-> batcher -live Batch-> uplink -> cloud
                                   ^  ^  |  |                                   ^ |  |
                                   |  |  |  +--nudge--> recovery -backlog Batch-+ |  |
                                   |  |  +--Page------>    |                      |  |
                                   |  +--PageRequest-------+                      |  |
                                   +--------Outcome-------------------------------+  |
                                                     connectivity <-----Report-------+
    connectivity ~link state~> uplink, recovery, monitor

`-x->` is a channel, `~x~>` a state cell (`trio_util.AsyncValue`) that nobody waits to write.

Rules: whoever holds a channel's end closes it, with `with channel:` as the actor's first line; end-of-stream is how a
stop walks down. In every ring one edge never blocks: buffer_writer -> batcher (a full live lane leaves predictions
pending), the nudge, every `Reply`, and the state cells. Only `pipeline.py` opens channels. Actors never import each
other or a port's library; ports never import actors.
"""
