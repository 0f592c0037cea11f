# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.
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
