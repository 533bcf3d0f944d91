"""What some tests need beyond the host's packages, and which of their cases run by default."""

import importlib.metadata

import pytest


def _installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


needs_diffusers = pytest.mark.skipif(
    not _installed("diffusers").startswith("0.39."),
    reason=f"written for the webui4 extra's diffusers 0.39, here is {_installed('diffusers')}",
)
# The diffusers host looks at what it finds, whatever the version.
needs_any_diffusers = pytest.mark.skipif(
    _installed("diffusers") == "none", reason="needs diffusers (the webui4 extra)"
)
needs_pipelines = pytest.mark.skipif(
    "none" in (_installed("diffusers"), _installed("transformers")),
    reason="needs diffusers and transformers (the webui4 extra)",
)


def often(cases, *kept):
    """All cases of a test: `kept` by default, the others, which vary the same path, in the slow tier."""

    def slow(case):
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, marks=pytest.mark.slow)

    return [case if case in kept else slow(case) for case in cases]
