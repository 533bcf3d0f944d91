"""A WebUI's checkout against tests/host_table.py, by its source alone: `--webui-dir CHECKOUT`, any Python."""

from pathlib import Path

import pytest

from tests import host_table
from tests.drift import provoked


@pytest.fixture
def tree(request):
    folder = request.config.getoption("--webui-dir") or request.config.getoption("--sdnext-dir")
    if not folder:
        pytest.skip("needs --webui-dir or --sdnext-dir, a WebUI's checkout")
    return Path(folder).resolve()


def test_the_checkout_has_everything_that_the_extension_relies_on(tree):
    entries = host_table.entries(host_table.host_of(tree))
    assert len(entries) > 40
    assert [said for entry in entries if (said := host_table.missing(tree, entry))] == []


def test_each_of_these_things_would_be_missed_if_it_had_another_name_there(tree, tmp_path):
    entries = host_table.entries(host_table.host_of(tree))
    for number, entry in enumerate(entries):
        changed = provoked.copied(tree, tmp_path / str(number), entry)
        assert entry.name in host_table.missing(changed, entry)
