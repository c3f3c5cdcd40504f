"""What is said of a float network that cannot be measured, or not through all of its points."""

from __future__ import annotations

from qexplore._warnings import warn
from qexplore.model import Placement


def way_out(placement: Placement) -> str:
    """What to try where the float network, which lies at ``placement``, raised."""
    if placement.is_spread:
        return (
            f"It lies on several devices ({', '.join(map(str, placement.devices))}): its forward, or a hook, must "
            "bring tensors to the device of each part; batches that lie on one of them are left there"
        )
    where = "" if placement.device.type == "cpu" else f"Batches were brought to {placement.device}. "
    return f"{where}For batches of another form pass unpack=, a function of a batch that returns (inputs, target)"


def warn_of_not_passed(metric_name: str, names: tuple[str, ...]) -> None:
    """Warn of the points ``names``, which measuring never passes."""
    warn(
        f"measuring '{metric_name}' never passes the points {', '.join(map(repr, names))}: their widths "
        "change nothing in its scores. A metric of a whole set passes all when it calls model(x), and not a "
        "method of the network inside; leave out of the predicate what is not to be searched, or switch it off",
        RuntimeWarning,
    )
