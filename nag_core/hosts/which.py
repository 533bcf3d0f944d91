"""Which WebUI this process runs in."""

from __future__ import annotations

from nag_core.hosts.a1111 import host as a1111
from nag_core.hosts.base import Host
from nag_core.hosts.diffusers import sdnext
from nag_core.hosts.patcher import forge, ldm_patched, neo
from nag_core.hosts.unsupported import UnsupportedHost


def detect() -> Host:
    """The adapter for the WebUI this process runs in, by what can be imported; `UnsupportedHost` with the
    reason.
    """
    for adapter in (sdnext, neo, forge, ldm_patched, a1111):
        host = adapter.probe()
        if host is not None:
            return host
    raise UnsupportedHost("this WebUI has no UNet patcher (Forge's backend or ldm_patched) and is not A1111")


def detected() -> Host | None:
    """The same, None where there is none."""
    try:
        return detect()
    except UnsupportedHost:
        return None
