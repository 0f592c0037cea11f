# SPDX-License-Identifier: Apache-2.0

"""Three nova-computes and nine light members: one is killed, six are cut off.

"make demo" runs this with the Python of its environment. Exit code 0: success;
1: a step failed, or a server is missing; 130: interrupted. It leaves no
process behind, and files only after a failure.
"""

import argparse
import contextlib
import pathlib
import shutil
import signal
import sys
import tempfile
import textwrap
import time

from nova_servicegroup.cmd import progress
from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.tests.fixtures import process

import cloud
import stores

COMPUTES = ['compute-1', 'compute-2', 'compute-3']
#: members without a nova-compute; those of a rack share a process
RACKS = {'rack-a': ['light-1', 'light-2', 'light-3', 'light-4'],
         'rack-b': ['light-5', 'light-6', 'light-7', 'light-8', 'light-9']}
ALL = COMPUTES + RACKS['rack-a'] + RACKS['rack-b']
CUT = ['compute-3', *RACKS['rack-b']]
LIST = ['list', '--long', '-c', 'Host', '-c', 'State', '-c', 'Place There',
        '-c', 'Answer to Nova']

# With less, heartbeats of a busy machine would be late.
SHORT = {'report_interval': 1, 'service_down_time': 10}
#: With zk, Nova's defaults are fast enough.
OPTIONS = {'zk': {}, 'mc': SHORT, 'db': SHORT}
#: seconds, with the default of [zookeeper] recv_timeout: by then a tenth of
#: the hosts would be down, if no more than that were silent
SOME_LOST = 18
MANY = 'too much of its group is silent'


def say(text=''):
    print('\n'.join(textwrap.fill(line, 79) for line in text.split('\n')),
          flush=True)


def show(nova, pattern, *arguments):
    """Show a command and what it prints, once that matches a pattern."""
    with progress.Progress('Asking'):
        text = nova.wait_shown(pattern, *arguments).rstrip('\n') + '\n'
    say()
    print('$ nova-servicegroup %s\n%s' % (' '.join(
        "'%s'" % one if ' ' in one else one for one in arguments), text),
        flush=True)


def milliseconds(change, since):
    return '%.0f ms' % (1000 * (change.moment - since))


def seconds(change, since):
    return '%.1f s' % (change.moment - since)


def start(nova):
    say('Starting three nova-computes, and nine members that only report.')
    with progress.Progress('Starting'):
        for host in COMPUTES:
            nova.start_compute(host, cut=host in CUT)
        for name, hosts in RACKS.items():
            nova.start(name, 'light.py', ','.join(hosts), cut=hosts[0] in CUT)
        nova.wait(ALL, ['up'])
    say('All twelve are up.')


def kill(nova, host):
    """SIGKILL a nova-compute; return (moment, the Change that follows)."""
    say('$ kill -KILL %d    # the nova-compute of %s' % (
        nova.processes[host].pid, host))
    killed = nova.kill(host)
    with progress.Progress('Waiting until %s is down' % host):
        return killed, nova.wait([host], ['ended', 'down'])


def kill_one(nova, driver):
    say('\n1. A nova-compute is killed\n')
    host = 'compute-2'
    killed, change = kill(nova, host)
    if driver == 'zk':
        say('%s later the scheduler no longer chooses %s. With Nova\'s own '
            'drivers it does for up to a minute.' % (
                milliseconds(change, killed), host))
    else:
        say('%s later %s is down: its last heartbeat is older than '
            'service_down_time then, %d s here and 60 s by default. With zk '
            'that takes milliseconds.' % (
                seconds(change, killed), host, SHORT['service_down_time']))
    show(nova, change.reason, 'explain', host)

    started = time.monotonic()
    nova.start_compute(host)
    with progress.Progress('Waiting until %s is up' % host):
        change = nova.wait([host], ['up'])
    say('Started again, %s is up after %s.' % (host, seconds(change, started)))
    # Who falls silent while another one is coming back counts as silent
    # together with it.
    time.sleep(2 * OPTIONS[driver].get('report_interval', 0))


def cut_off_half(nova, driver):
    say('\n2. A switch fails, and half of the members are cut off\n')
    if nova.store.switch:
        say('compute-3 and light-5 to light-9 reach their store through a TCP '
            'proxy. From now on it forwards nothing. All six live on.')
    else:
        say('compute-3 and light-5 to light-9 are frozen (SIGSTOP), since '
            'there is no network in between: no heartbeat of theirs arrives.')
    began = nova.cut_off()
    with progress.Progress('Waiting until they are missed'):
        change = nova.wait(CUT, ['unknown', 'down'])
    say('All six are "unknown" %s later.' % seconds(change, began))
    if driver == 'zk':
        say('\nA kill among the others is seen as before.\n')
        killed, change = kill(nova, 'compute-1')
        say('%s later the scheduler no longer chooses compute-1.'
            % milliseconds(change, killed))
        with progress.Progress('Waiting'):
            time.sleep(max(0, began + SOME_LOST - time.monotonic()))
        say('\n%d s after the switch failed. A single host that is lost is '
            'down after 8 s.' % SOME_LOST)
    show(nova, r'compute-3 .* unknown ', *LIST)
    if driver == 'zk':
        say('compute-1, which was killed, counts as silent, too:')
    show(nova, MANY, 'explain', 'compute-3')
    back = nova.reconnect()
    with progress.Progress('Waiting until they are back'):
        change = nova.wait(CUT, ['up'])
    called_down = {change.host for change in nova.changes
                   if change.moment > began and change.host in CUT
                   and change.new == 'down'}
    if called_down:
        raise cloud.DemoFailed('These were called down: %s' % ', '.join(
            sorted(called_down)))
    say('The switch works again: all six are up after %s. None of them was '
        'called down at any time.' % seconds(change, back))


def choose(options):
    """Return the driver of the options, or the best available one.

    :raises NotHere: the driver of the options isn't available
    """
    if options.zookeeper:
        return 'zk'
    try:
        stores.provide(options.driver or 'zk')
    except stores.NotHere as e:
        if options.driver:
            raise
        print('%s\nSo this is the db driver, which needs no server and sees '
              'a kill later.\n' % e, flush=True)
        return 'db'
    return options.driver or 'zk'


def zookeeper_address(text):
    try:
        return evzookeeper.check_address(text)
    except exceptions.BadAddress as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def tell(options, directory):
    driver = choose(options)
    with contextlib.ExitStack() as stack:
        with progress.Progress('Starting the %s driver\'s store' % driver):
            store = stack.enter_context(stores.running(
                driver, directory / 'store', options.zookeeper))
        say('Driver %s, which keeps liveness in %s.' % (driver, store.text))
        with progress.Progress('Making Nova\'s databases'):
            nova = stack.enter_context(cloud.Cloud(
                directory, store, OPTIONS[driver]))
        start(nova)
        kill_one(nova, driver)
        cut_off_half(nova, driver)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--driver', choices=['db', 'mc', 'zk'],
        help='by default zk, or db if there is no ZooKeeper')
    parser.add_argument(
        '--zookeeper', metavar='HOST:PORT', type=zookeeper_address,
        help='a running ZooKeeper; nothing is left in it')
    options = parser.parse_args()
    if options.zookeeper and options.driver not in (None, 'zk'):
        parser.error('--zookeeper is for --driver zk')
    # So that our children end, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    began = time.monotonic()
    directory = pathlib.Path(tempfile.mkdtemp(prefix='nova-servicegroup-'))
    try:
        tell(options, directory)
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        say('Interrupted: what was started is ended, its files are removed.')
        return 130
    except stores.NotHere as e:
        shutil.rmtree(directory)
        print(e, file=sys.stderr, flush=True)
        return 1
    except (cloud.DemoFailed, process.NotReady, OSError) as e:
        print('The demo failed: %s\nLogs are in %s.' % (e, directory),
              file=sys.stderr, flush=True)
        return 1
    shutil.rmtree(directory)
    say('\nDone in %d s. No process and no file is left.' % (
        time.monotonic() - began))
    return 0


if __name__ == '__main__':
    sys.exit(main())
