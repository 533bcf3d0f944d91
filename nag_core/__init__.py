"""Normalized Attention Guidance (NAG, arXiv 2505.21179) for the Stable Diffusion WebUI family.

Reading order: guidance, config, attention.cross, session, hosts.base, webui.panel, scripts/nag_guidance.py.
Importing this package does no work and holds no state: a WebUI keeps it in memory over "Reload UI".
"""

__version__ = "0.1.0"
