"""Set the scale of the model's confidences, so that a box at the default of 0.25 is worth an alarm.

A detector's raw scores say which box is likelier, not how often a clean surface gets one. All scores are lowered by one
step (of their logits, so their order and with it the average precision stay), as far as it takes on clean frames that
neither the training nor any figure of the card uses.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIDENCE = 0.25
"""The default of the CONFIDENCE setting."""

ALARM_SHARE = 0.01
"""At most this part of the clean frames may have a box of `CONFIDENCE` or more; half of what the card promises."""

SCORE_BIASES = re.compile(r"\.cv3\.\d+\.2\.bias$")
"""The last layer before the scores, one for each of the scales that the head looks at; one bias for each class."""


def logit(score: float) -> float:
    """The inverse of the logistic function; `score` in 0..1, both ends excluded."""
    return math.log(score / (1 - score))


def step_for(strongest: Sequence[float]) -> float:
    """By how much all logits are to fall, from the strongest score of each clean frame (0 where there was no box)."""
    ranked = sorted(strongest, reverse=True)
    first_to_silence = ranked[int(ALARM_SHARE * len(ranked))]
    return max(0.0, logit(first_to_silence) - logit(CONFIDENCE)) if first_to_silence > 0 else 0.0


def lower(path: Path, step: float) -> None:
    """Write the ONNX file anew with every score's logit lowered by `step`; `ValueError` if it has no such scores."""
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    graph: Any = onnx.load(path)
    biases = [held for held in graph.graph.initializer if SCORE_BIASES.search(held.name)]
    if not biases:
        raise ValueError(f"{path} has no layer whose name ends like {SCORE_BIASES.pattern}")
    for held in biases:
        values = numpy_helper.to_array(held)
        held.CopyFrom(numpy_helper.from_array((values - step).astype(values.dtype), held.name))
    fresh = path.with_suffix(".fresh")
    onnx.save(graph, fresh)
    fresh.replace(path)
