"""A WebUI's checkout against tests/host_table.py, by its source alone: `--webui-dir CHECKOUT`, any Python."""

from pathlib import Path

import pytest

from tests import host_table


def test_the_checkout_has_everything_that_the_extension_relies_on(request):
    folder = request.config.getoption("--webui-dir") or request.config.getoption("--sdnext-dir")
    if not folder:
        pytest.skip("needs --webui-dir or --sdnext-dir, a WebUI's checkout")
    tree = Path(folder).resolve()
    entries = host_table.entries(host_table.host_of(tree))
    assert len(entries) > 40
    assert [said for entry in entries if (said := host_table.missing(tree, entry))] == []
