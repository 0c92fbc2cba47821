"""Put the app into MONAI Label's running server: mends, viewers, routes and limits."""

from __future__ import annotations

from starlette.middleware import Middleware

from uncol.server.host import Host
from uncol.server.limits import UploadLimit, share_heaps
from uncol.server.mends.access import check_tokens, guard_reload
from uncol.server.mends.dicom_seg import name_dicom_segments
from uncol.server.mends.errors import answer_errors
from uncol.server.mends.proxy import forward_queries
from uncol.server.mends.requests import check_infer_params, name_annotators
from uncol.server.mends.threads import unblock
from uncol.server.mends.training import manage_training
from uncol.server.model_routes import add_model_routes
from uncol.server.viewers import VIEWERS
from uncol.versions.store import ModelStore


def mend_server(host: Host, models: ModelStore, *, max_upload_mb: int) -> None:
    """Apply everything to the running server, once.

    Args:
        host: the app.
        models: the versions that clients may look at.
        max_upload_mb: most MiB of one upload.
    """
    # the module builds the FastAPI application; importing it in a child would build another
    from monailabel.app import app as api  # noqa: PLC0415

    answer_errors(api)
    unblock(api)
    manage_training(host)
    check_tokens()
    guard_reload(api)
    forward_queries(host)
    name_dicom_segments(host)
    name_annotators()
    check_infer_params()
    for prepare in VIEWERS:
        prepare()
    add_model_routes(api, models)
    share_heaps()
    api.user_middleware.insert(0, Middleware(UploadLimit, limit_mb=max_upload_mb))
    api.middleware_stack = api.build_middleware_stack()  # it was built when start-up began
