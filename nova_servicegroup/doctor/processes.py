# SPDX-License-Identifier: Apache-2.0

"""Checks of Nova's processes on this host and of their systemd units."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import typing

from nova_servicegroup.doctor import Check
from nova_servicegroup.doctor import Finding
from nova_servicegroup.doctor import Level
from nova_servicegroup.doctor import listed

#: programs whose processes join a group
JOINING = ('nova-compute', 'nova-conductor', 'nova-scheduler')
_KEEPER = 'nova_servicegroup.keeper'
#: share of the descriptors in use; more is a warning
_MOST_USED = 0.8
#: smallest limit of descriptors that a Nova service should have
_LEAST_LIMIT = 1024
#: seconds that systemctl may take
_LIMIT = 10

#: names of units in Debian, RDO and DevStack
_UNITS = ('nova-*', 'openstack-nova-*', 'devstack@n-*')
#: parts of the names of units whose processes have keepers
_WITH_KEEPER = ('compute', 'cpu', 'conductor', 'cond', 'scheduler', 'sch',
                'api')
_PROPERTIES = ('Id', 'LoadState', 'KillMode', 'OOMPolicy', 'TasksMax',
               'TasksCurrent', 'MemoryMax', 'MemoryCurrent', 'LimitCORESoft',
               'LimitNOFILESoft')
#: threads and processes that the keepers of a unit need in addition
_TASKS = 20
#: bytes that they need in addition
_MEMORY = 64 * 1024 * 1024


class Process(typing.NamedTuple):
    """A process of Nova, or a keeper.

    :param program: name of the program; 'keeper' for a keeper
    :param parent: process id
    :param inner: its process id in its container
    :param serves: of a keeper, the inner id of the process that it serves, or
        of the parent of the workers that it serves
    """

    pid: int
    parent: int
    program: str
    inner: int
    serves: int | None = None


def running(proc=pathlib.Path('/proc')):
    """Return Nova's processes and keepers here, a list of Process."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / 'cmdline').read_bytes().decode(
                errors='replace').split('\0')
            parent = int((entry / 'stat').read_text().rpartition(
                ')')[2].split()[1])
            inner = int(re.search(r'^NSpid:.*?(\d+)$', (
                entry / 'status').read_text(), re.MULTILINE)[1])
        except (OSError, ValueError, IndexError, TypeError):
            # It ended meanwhile.
            continue
        # A script follows its Python.
        program = next((os.path.basename(word).partition(':')[0].strip()
                        for word in words[:4]
                        if os.path.basename(word).startswith('nova-')), None)
        if program == 'nova-servicegroup':
            continue
        serves = None
        if _KEEPER in words[:5]:
            program = 'keeper'
            label = re.search(r'\[(\d+)\]', ' '.join(words))
            serves = label and int(label[1])
        if program:
            found.append(Process(int(entry.name), parent, program, inner,
                                 serves))
    return found


def drivers(site):
    """Find services that run with another driver than nova.conf names."""
    found = running()
    parents = {one.pid: one.parent for one in found}
    inner = {one.inner: one.pid for one in found if one.program != 'keeper'}
    with_keeper = set()
    for one in found:
        if one.program == 'keeper':
            # Its parent, or the parent of that worker; a keeper that workers
            # share is no child of theirs.
            with_keeper.update((one.parent, parents.get(one.parent),
                                inner.get(one.serves)))
    services = [one for one in found if one.program in JOINING
                and one.parent not in
                {other.pid for other in found if other.program == one.program}]
    uses_zk = site.uses('zk')
    wrong = [one for one in services if (one.pid in with_keeper) != uses_zk]
    if wrong:
        names = listed('%s (pid %d)' % (one.program, one.pid)
                       for one in wrong)
        yield Finding(
            Level.CRITICAL if uses_zk else Level.WARNING,
            ('These services run without a keeper, so without the driver zk '
             'that nova.conf has: %s.' if uses_zk else
             'These services run with a keeper, so with the driver zk, which '
             'nova.conf does not have: %s.') % names,
            'They started with another configuration. Readers with the '
            'current one see them as down, or in doubt.',
            'systemctl restart UNIT, for each of them')
    elif services:
        yield Finding(Level.OK, '%d services of Nova run here as nova.conf '
                      'has it.' % len(services))


def descriptors(site):
    """Compare the open files of processes with their limits."""
    short = []
    found = running()
    for one in found:
        limit, used = _descriptors(one.pid)
        if limit is not None and (
                limit < (_LEAST_LIMIT if one.program != 'keeper' else 64)
                or used is not None and used > _MOST_USED * limit):
            short.append('%s (pid %d: %s of %d)' % (
                one.program, one.pid, 'some' if used is None else used,
                limit))
    if short:
        yield Finding(
            Level.WARNING, 'Too few file descriptors (RLIMIT_NOFILE) for: %s.'
            % listed(short), 'Without a free one a service can start no '
            'keeper, and reach neither the store nor the message bus.',
            'systemctl edit UNIT\n[Service]\nLimitNOFILE=65536\n\nand restart '
            'it')
    elif found:
        yield Finding(Level.OK, '%d processes of Nova here have descriptors '
                      'to spare.' % len(found))


def _descriptors(pid):
    """Return (soft limit, number in use), each None if unknown."""
    try:
        limits = pathlib.Path('/proc/%d/limits' % pid).read_text()
        line, = [line for line in limits.splitlines()
                 if line.startswith('Max open files')]
        limit = int(line.split()[3])
    except (OSError, ValueError):
        return None, None
    try:
        return limit, len(os.listdir('/proc/%d/fd' % pid))
    except OSError:
        # The process is of another user.
        return limit, None


def units(site):
    """Check the systemd properties that affect a service and its keeper."""
    done = subprocess.run(
        ['systemctl', 'show', '--type=service', '--property',
         ','.join(_PROPERTIES), *('%s.service' % name for name in _UNITS)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=_LIMIT)
    if done.returncode:
        yield Finding(
            Level.UNKNOWN, 'systemctl does not show the units of Nova: %s'
            % done.stderr.strip().partition('\n')[0],
            'A unit may kill a service and its keeper at the same time.',
            'Run this where systemd runs, or --skip units')
        return
    seen = 0
    for text in done.stdout.strip().split('\n\n'):
        unit = dict(line.partition('=')[::2] for line in text.splitlines())
        if unit.get('LoadState') == 'loaded' and any(
                word in unit['Id'] for word in _WITH_KEEPER):
            seen += 1
            yield from _unit(unit)
    if seen:
        yield Finding(Level.OK, '%d units of Nova were read.' % seen)


def _unit(unit):
    name = unit['Id']
    def edit(line):
        return ('systemctl edit %s\n[Service]\n%s\n\nand systemctl restart %s'
                % (name, line, name))

    if unit.get('KillMode') == 'mixed':
        yield Finding(
            Level.WARNING, '%s has KillMode=mixed.' % name,
            'systemd kills the keeper as soon as its service has ended, '
            'mostly before it could report that: a killed service is detected '
            'after recv_timeout and not within milliseconds.',
            edit('KillMode=control-group'))
    if unit.get('OOMPolicy') in ('stop', 'kill'):
        yield Finding(
            Level.WARNING, '%s has OOMPolicy=%s.' % (name, unit['OOMPolicy']),
            'When the kernel kills a process of it for lack of memory, the '
            'keeper ends, too, and cannot report that the host is alive.',
            edit('OOMPolicy=continue'))
    if unit.get('LimitCORESoft') not in ('0', None, ''):
        yield Finding(
            Level.WARNING, '%s writes core dumps (LimitCORE=%s).' % (
                name, unit['LimitCORESoft']),
            'A crash is detected only after the core dump is written.',
            edit('LimitCORE=0'))
    tasks = _number(unit.get('TasksMax'))
    if tasks is not None and (
            tasks < (_number(unit.get('TasksCurrent')) or 0) + _TASKS):
        yield Finding(
            Level.CRITICAL, '%s has TasksMax=%d, and %s run.' % (
                name, tasks, unit.get('TasksCurrent')),
            'At the limit no keeper can be started: the service is seen as '
            'down.', edit('TasksMax=%d' % max(512, 2 * tasks)))
    memory = _number(unit.get('MemoryMax'))
    if memory is not None and (
            memory < (_number(unit.get('MemoryCurrent')) or 0) + _MEMORY):
        yield Finding(
            Level.WARNING, '%s has MemoryMax=%d M, and %d M are in use.' % (
                name, memory >> 20,
                (_number(unit.get('MemoryCurrent')) or 0) >> 20),
            'A keeper takes 21 MB, and up to 60 MB in a process that asks: '
            'the kernel may kill either.', edit('MemoryMax=%dM' % (
                (memory >> 20) + 256)))
    files = _number(unit.get('LimitNOFILESoft'))
    if files is not None and files < _LEAST_LIMIT:
        yield Finding(
            Level.WARNING, '%s has LimitNOFILE=%d.' % (name, files),
            'Without a free descriptor it can start no keeper, and reach '
            'neither the store nor the message bus.',
            edit('LimitNOFILE=65536'))


def _number(text):
    """Return a number of systemd's as an int; None for no limit."""
    return int(text) if text and text.isdigit() and int(text) < 2 ** 63 \
        else None


def _has_systemd(site):
    return (shutil.which('systemctl') is not None and site.uses('zk')
            and pathlib.Path('/run/systemd/system').is_dir())


CHECKS = [Check('processes', drivers), Check('descriptors', descriptors),
          Check('units', units, _has_systemd)]
