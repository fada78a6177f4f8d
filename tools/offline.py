"""Keep Ultralytics to itself: no network, no installing, no settings outside the working folder."""

import os
import shutil
from pathlib import Path


def stay_offline(folder: Path) -> None:
    """Set what Ultralytics reads when it is first imported, with its settings in `folder`; call this before the import.

    Training looks for a font and asks the network where it finds none, so it is given one that came with matplotlib.
    """
    os.environ["YOLO_OFFLINE"] = "1"
    os.environ["YOLO_AUTOINSTALL"] = "0"
    os.environ["YOLO_VERBOSE"] = "0"
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    os.environ["MPLCONFIGDIR"] = str(folder)
    settings = folder / "Ultralytics"
    settings.mkdir(parents=True, exist_ok=True)
    from matplotlib import get_data_path  # noqa: PLC0415  only now has it been told where to keep its cache

    shutil.copyfile(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", settings / "Arial.ttf")
