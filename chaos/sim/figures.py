"""What the device and the cloud tell as metrics, against the truth."""

from collections import Counter
from collections.abc import Mapping, Sequence

from actors.ports.metrics import Metrics
from actors.status import Status
from chaos.sim.books import Violation


def read_metrics(page: bytes) -> dict[str, float]:
    """The samples without labels on a page in the format of Prometheus."""
    lines = (line.split(" ") for line in page.decode().splitlines() if line.startswith("holdfast_"))
    return {name: float(value) for name, value in lines if "{" not in name}


def check_device_metrics(status: Status, truth: Mapping[str, int]) -> None:
    """The page of a device that has converged; `truth` goes by the names of the status."""
    told = read_metrics(Metrics(lambda: status).page())
    names = {
        "last_seq": "holdfast_accepted_predictions_total",
        "sent": "holdfast_sent_predictions_total",
        "evicted": "holdfast_evicted_predictions_total",
        "failed": "holdfast_quarantined_predictions",
        "pending": "holdfast_pending_predictions",
        "in_flight": "holdfast_in_flight_predictions",
        "in_memory": "holdfast_memory_only_predictions",
        "posts": "holdfast_posts_total",
        "duplicates": "holdfast_duplicate_predictions_total",
    }
    wrong = {
        name: (told[page_name], truth[name]) for name, page_name in names.items() if told[page_name] != truth[name]
    }
    if wrong:
        raise Violation(f"metrics of the device, told and true: {wrong}")


def check_cloud_metrics(before: Sequence[bytes], after: Sequence[bytes], truth: Mapping[str, int]) -> None:
    """The pages of replicas none of which has died, from before and after the cloud was asked what it has.

    What the network delivers late may arrive in between.
    """
    least, most = _summed(before), _summed(after)
    for what, true in truth.items():
        name = f"holdfast_cloud_predictions_{what}_total"
        if not least[name] <= true <= most[name]:
            raise Violation(f"metrics of the cloud: {name} is {most[name]:g}, the truth is {true}")


def _summed(pages: Sequence[bytes]) -> Counter[str]:
    """One cloud's figures out of its replicas'."""
    total = Counter[str]()
    for page in pages:
        for name, value in read_metrics(page).items():
            total[name] += int(value)
    return total
