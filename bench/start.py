# SPDX-License-Identifier: Apache-2.0

"""Measures what the package adds to the start of Nova's processes.

A process imports the modules of nova-api, nova-compute or nova-manage, and
makes as many servicegroup API objects as those: nova-api 243. Once with Nova's
db driver, and once with the package and each of its drivers, without joins or
queries: question.py measures the first answer. Takes about a minute.

    python bench/start.py [--repeat 3] [--output bench/results]

Writes start.json and start.rst (for the documentation). In start.json, for
each program and driver, ``cpu_ms`` for registering, the driver's imports and
the API objects, ``all_cpu_ms`` for all of the start, and ``memory_mb``
(resident) at its end: the minimum of all runs. For ours ``added_cpu_ms`` and
``added_memory_mb``, the difference to Nova's.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import report

ROOT = pathlib.Path(__file__).resolve().parents[1]
#: program -> (what it imports, how many API objects it makes)
PROGRAMS = {
    'nova-api': ('nova.api.openstack.compute', 243),
    'nova-compute': ('nova.compute.manager', 3),
    'nova-manage': ('nova.cmd.manage', 1)}
IN_TREE = 'nova-db'
DRIVERS = IN_TREE, 'db', 'mc', 'zk'
CHILD = '''
import importlib, json, logging, re, sys, time
module, count, driver = sys.argv[1], int(sys.argv[2]), sys.argv[3]
importlib.import_module(module)
import nova.conf
from nova import servicegroup
conf = nova.conf.CONF
conf([], project='nova', default_config_files=[])
logging.disable(logging.CRITICAL)
began = time.process_time()
if driver != 'nova-db':
    from nova_servicegroup.integration import register
    register.register()
    conf.set_override('servicegroup_driver', driver)
    conf.set_override('memcache_servers', ['127.0.0.1:11211'], 'cache')
    conf.set_override('address', '127.0.0.1:2181', 'zookeeper')
apis = [servicegroup.API() for _ in range(count)]
memory = re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1]
now = time.process_time()
print(json.dumps({'cpu_ms': (now - began) * 1000, 'all_cpu_ms': now * 1000,
                  'memory_mb': int(memory) / 1024}))
'''


def start(program, driver):
    """Return the figures of one process."""
    module, count = PROGRAMS[program]
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', CHILD, module, str(count),
         driver], check=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT),
                 OS_NOVA_DISABLE_EVENTLET_PATCHING='true'))
    return json.loads(done.stdout.splitlines()[-1])


def measure(program, repeat):
    runs = [{driver: start(program, driver) for driver in DRIVERS}
            for _ in range(repeat)]
    least = {driver: {name: min(run[driver][name] for run in runs)
                      for name in runs[0][driver]}
             for driver in DRIVERS}
    nova = least[IN_TREE]
    for driver, figures in least.items():
        if driver != IN_TREE:
            figures['added_cpu_ms'] = figures['cpu_ms'] - nova['cpu_ms']
            figures['added_memory_mb'] = (
                figures['memory_mb'] - nova['memory_mb'])
    return {driver: {name: round(figure, 1)
                     for name, figure in figures.items()}
            for driver, figures in least.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--output', type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / 'results')
    arguments = parser.parse_args()
    result = {'about': report.about(), 'programs': {}}
    for program in PROGRAMS:
        found = result['programs'][program] = measure(
            program, arguments.repeat)
        for driver, figures in found.items():
            report.say('%-12s %-8s %s' % (program, driver, '  '.join(
                '%s %g' % item for item in figures.items())))
    path = report.write(arguments.output, 'start', result)
    path.with_suffix('.rst').write_text(
        report.measured(result['about']) + report.table(
            'What the package adds to the start of a process',
            ['program', 'driver', 'CPU, ms', 'memory, MB'],
            [[program, driver, '%.0f' % figures['added_cpu_ms'],
              '%.1f' % figures['added_memory_mb']]
             for program, found in result['programs'].items()
             for driver, figures in found.items() if driver != IN_TREE]))


if __name__ == '__main__':
    main()
