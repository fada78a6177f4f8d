"""Write the tables of docs/metrics.md anew, from the code: `python -m tools.metrics`."""

import re
from pathlib import Path

from actors.alerts import ALERTS
from actors.ports.metrics import FIGURES

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def table() -> str:
    """What stands between the marks: every metric, then every alert."""
    metrics = [
        f"| `{figure.exposed_name}` | {figure.kind} | {', '.join(figure.labels)} | {figure.help} |"
        for figure in FIGURES
    ]
    alerts = [f"| `{name}` | {alert.meaning} |" for name, alert in ALERTS.items()]
    head = ["| metric | type | labels | |", "|---|---|---|---|"]
    between = ["", "## Alerts", "", "| `alert` | holds while |", "|---|---|"]
    return "\n".join([*head, *metrics, *between, *alerts])


def main() -> None:
    """Replace what stands between the marks."""
    text = PAGE.read_text(encoding="utf-8")
    fresh = re.sub(
        r"(?s)(<!-- metrics -->\n).*(\n<!-- /metrics -->)", lambda marks: marks[1] + table() + marks[2], text
    )
    PAGE.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
