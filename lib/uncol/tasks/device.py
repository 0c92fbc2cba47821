"""The device that a request names."""

from __future__ import annotations

import torch
from monailabel.utils.others.generic import device_list, name_to_device

from uncol.errors import RequestError


def device_of(wanted: object) -> torch.device:
    """Return the device that a request's option `device` names; by default a GPU if there is one.

    Args:
        wanted: a name from the list that viewers show, `cpu`, `cuda:0`, a list with one of them
            first, or None.

    Raises:
        RequestError: there is no such device.
    """
    name = wanted[0] if isinstance(wanted, list) and wanted else wanted
    unknown = RequestError(
        f"There is no device {str(wanted)[:80]!r}; choose one of {', '.join(device_list())}, cpu."
    )
    if name is not None and not isinstance(name, str):
        raise unknown
    try:
        device = torch.device(name_to_device(name))
    except RuntimeError as error:
        raise unknown from error
    if device.type not in ("cpu", "cuda") or (device.index or 0) >= max(
        1, torch.cuda.device_count()
    ):
        raise unknown
    return device
