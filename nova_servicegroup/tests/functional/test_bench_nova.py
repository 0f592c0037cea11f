# SPDX-License-Identifier: Apache-2.0

"""bench/real_nova.py with fifty services in one round."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROWS = 50


@pytest.mark.long
def test_all_drivers_answer_in_nova_and_files_are_written(tmp_path):
    done = subprocess.run(
        [sys.executable, 'bench/real_nova.py', '--rows', str(ROWS),
         '--seconds', '0', '--output', tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    result = json.loads((tmp_path / 'nova.json').read_text())
    assert (result['about']['rows'], result['about']['rounds']) == (ROWS, 1)
    for what in 'filter', 'os_services', 'service_list':
        assert set(result[what]) == {'nova-db', 'nova-mc', 'db', 'mc', 'zk'}
        for figures in result[what].values():
            assert figures['not_up'] == 0
            assert figures['ms'] > 0 and figures['cpu_ms'] > 0
        assert result[what]['nova-db']['ratio'] == 1
    table = (tmp_path / 'nova.rst').read_text()
    assert len(re.findall(r'^   "zk", "[0-9.]+", ', table, re.M)) == 3
