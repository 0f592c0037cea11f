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

"""What one ``is_up`` about a living host costs, driver by driver.

The zk driver on a running ensemble and the db driver, beside Nova's in-tree db
driver, in one process and one run. What it costs with memcached is measured by
mc.py, where the whole fleet reports. Takes about ten seconds.

    python bench/question.py [--output bench/results]

Writes question.json: ``is_up_us``, microseconds by driver, the best of 20
rounds of 10,000; ``ratio``, Nova's by ours.
"""

import argparse
import contextlib
import json
import pathlib
import tempfile
import timeit

import nova.conf
from nova.servicegroup.drivers import db as in_tree_db
from oslo_utils import timeutils

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import db
from nova_servicegroup.drivers import zk
from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import zookeeper

ROUNDS, COUNT = 20, 10000


def is_up_us(driver):
    """Return microseconds for one answer, when there is no other work."""
    now = timeutils.utcnow()
    record = dict(answers.record('h0'), updated_at=now, last_seen_up=now)
    if not driver.is_up(record):
        raise SystemExit('%r takes a living host for dead' % driver)
    best = min(timeit.repeat(lambda: driver.is_up(record),
                             number=COUNT, repeat=ROUNDS))
    return round(best / COUNT * 1e6, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / 'results')
    arguments = parser.parse_args()
    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    sg_conf.register_opts(conf)
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix='sg-bench-')))
        ensemble = stack.enter_context(zookeeper.Ensemble(directory))
        conf.set_override('address', ensemble.address, group='zookeeper')
        session = evzookeeper.ZKSession(ensemble.address, timeout=30)
        stack.callback(session.close)
        membership.Membership(session, '/servicegroups/compute', 'h0',
                              timeout=30)
        reader = zk.ZooKeeperDriver(conf=conf)
        figures = {'zk': is_up_us(reader), 'db': is_up_us(db.DbDriver()),
                   'nova db': is_up_us(in_tree_db.DbDriver())}
        reader._session.close()
    result = {'is_up_us': figures, 'ratio': {
        name: round(figures['nova db'] / figures[name], 2)
        for name in ('zk', 'db')}}
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + '\n'
    (arguments.output / 'question.json').write_text(text)
    print(text, end='')


if __name__ == '__main__':
    main()
