"""The page: one file, and the policy under which a browser runs it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources


def read_page() -> tuple[bytes, str]:
    """The page, and the policy that lets its own script and style run and nothing else."""
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    hashes = {}
    for tag in ("script", "style"):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in parts)
        hashes[tag] = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page.encode(), policy
