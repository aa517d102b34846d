"""``mlx_rcnn serve``: a model behind a page and an HTTP server."""

from __future__ import annotations

import argparse
import ipaddress
import socket
from typing import TYPE_CHECKING

from ...serving import check_installed
from ...serving.answers import model_name
from ...serving.limits import MIB, Limits
from ...serving.worker import Worker
from ..errors import CommandError, load_model
from ..flags.common import model_settings
from ..preflight import set_device
from ..said import say_warning
from .files import files_of

if TYPE_CHECKING:
    from ...models import Detector

_GRACE = 5.0  # seconds beyond the limits of requests, at the end


def run(args: argparse.Namespace) -> int:
    """Serve ``args.model`` until Ctrl-C or SIGTERM; 130 if a second signal cut the end short."""
    try:
        check_installed()
    except ImportError as error:
        raise CommandError(str(error)) from error
    from ...serving.app import build_app  # both need the extra
    from ...serving.guard import is_loopback, own_names
    from ...serving.server import serve

    # The port is taken before the model is loaded, so that a mistake shows at once.
    with _listen(args.host, args.port) as listening:
        limits = Limits(
            max_bytes=args.max_size * MIB,
            max_pixels=args.max_pixels * 1_000_000,
            queue=args.queue,
            batch_size=args.batch_size,
            seconds=float(args.timeout),
        )
        worker = Worker(lambda: _load(args), limits, model_name(args.model))
        model = worker.start()
        app = build_app(
            worker, limits, files_of(model), tuple(own_names(args.host, args.allow_host))
        )
        host, port = listening.getsockname()[:2]
        if not is_loopback(host):
            say_warning(
                f"--host {args.host}: other machines reach this server, and it has no password: "
                "expected a network you trust"
            )
        print(f"serving {args.model} at {_url(host, port)} (Ctrl-C ends)", flush=True)

        def stopping() -> str:
            left = worker.unanswered
            return f"stopping; {left} images are answered first" if left else "stopping"

        in_order = serve(app, listening, limits.seconds + limits.body_seconds + _GRACE, stopping)
        worker.stop(drop=not in_order)
    print(f"{worker.answered} images predicted")
    return 0 if in_order else 130


def _listen(host: str, port: int) -> socket.socket:
    from ...serving.server import listen

    try:
        return listen(host, port)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror | UnicodeError):
            raise CommandError(f"--host {host}: no such name or address", 1) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise CommandError(
            f"cannot listen on {host} port {port}: {reason}; expected a port that is free: "
            "give another by --port, or 0 for any",
            1,
        ) from error


def _load(args: argparse.Namespace) -> Detector:
    """The model, in the thread that computes."""
    set_device(args.device)
    model = load_model(args.model, args.dtype, model_settings(args))
    if model.needs_proposals:
        raise CommandError(
            f"{args.model} is a {type(model).__name__}, which looks at boxes that are given: "
            "expected a model that proposes them itself"
        )
    return model


def _url(host: str, port: int) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:  # the page is opened on this machine
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
