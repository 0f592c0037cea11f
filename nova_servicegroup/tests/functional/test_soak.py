# SPDX-License-Identifier: Apache-2.0

"""A minute of bench/soak.py with a hundred members of each driver."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.long
def test_a_minute_of_soak(tmp_path):
    done = subprocess.run(
        [sys.executable, 'bench/soak.py', '--minutes', '1', '--members', '100',
         '--keepers', '4', '--readers', '1', '--interval', '2',
         '--down-time', '10', '--without-picture', '--output', tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    result = json.loads((tmp_path / 'soak.json').read_text())
    for driver in ('db', 'mc', 'zk'):
        reader = result['readers'][driver + ' reader 1']
        assert reader['answers'] > 500 and reader['transitions'] > 3
        assert sum(count for what, count in result['changes'].items()
                   if what.startswith(driver)) > 10
    assert 'false' in (tmp_path / 'soak.rst').read_text()
