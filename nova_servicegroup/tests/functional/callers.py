# SPDX-License-Identifier: Apache-2.0

"""Every caller of ``service_is_up`` in Nova 34, driven through an outage.

Each caller is a generator function; the first line of its docstring names it
in the documentation. It prepares what it needs, and yields; it asks Nova while
there is doubt, and yields; when Nova has come to rest it yields what the
caller gets and what is saved (two strings); and when the outage is over
it sees the operation through and yields how that went.
"""

import concurrent.futures
import datetime
import json
import pathlib
import re
import shutil
import subprocess
import time

import requests

from nova_servicegroup.tests.fixtures import noauth
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process

HOSTS = KVM_1, KVM_2, METAL = 'kvm-1', 'kvm-2', 'metal-1'
ZONES = {'kvm': [KVM_1, KVM_2], 'metal': [METAL]}
LATEST = '2.100'
UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
# How long a call to a host that doesn't answer lasts, in seconds. Nova's
# default is a minute.
RPC_TIMEOUT = 8
# The API that deletes softly.
SOFT = 'soft'


class Answer:
    """What the API answered: a status, a text, and the JSON if any."""

    def __init__(self, response):
        self.status = response.status_code
        self.text = response.text
        self.body = response.json() if response.content else None

    def __str__(self):
        if self.status < 400:
            return str(self.status)
        fault, = self.body.values()
        return '%d: %s' % (self.status, anonymous(fault['message']))


def anonymous(text):
    """Return a text without what differs from run to run."""
    text = UUID.sub('UUID', ' '.join(text.split()))
    return re.sub('|'.join(HOSTS), 'HOST', text)


def install_driver(tree):
    """Put the virt driver of these tests into a plug-in tree."""
    shutil.copy(pathlib.Path(nova.__file__).with_name('virt.py'),
                pathlib.Path(tree) / 'nova/virt/answering.py')


def config(around):
    """Return the sections of nova.conf that a Scene needs."""
    return {
        **around.config(),
        'DEFAULT': {'compute_driver': 'answering.Driver',
                    'rpc_response_timeout': RPC_TIMEOUT},
        'quota': {'instances': -1, 'cores': -1, 'ram': -1},
        'scheduler': {'discover_hosts_in_cells_interval': 2},
        # A frozen process keeps its connection, as in the first minutes.
        'oslo_messaging_rabbit': {'heartbeat_timeout_threshold': 0}}


class Scene:
    """A cloud with two zones, flavors and images, and what is asked of it."""

    def __init__(self, cloud, around):
        self.cloud = cloud
        self.around = around
        self.image = around.make_image()
        self._session = requests.Session()
        # Or a server may close an idle connection just when it is used.
        self._session.headers['Connection'] = 'close'
        # Past any proxy.
        self._session.trust_env = False
        self._ring = None

    def prepare(self):
        """Make what the callers share."""
        for number, name in ((1, 'small'), (2, 'large')):
            self.admin('POST', '/flavors', {'flavor': {
                'id': str(number), 'name': name, 'ram': 64 * number,
                'vcpus': 1, 'disk': 1}})
        process.wait_until(
            lambda: len(self.mapped_hosts()) == len(HOSTS), 60,
            'discovery of the computes')
        self.aggregates = {}
        for zone, hosts in ZONES.items():
            aggregate = self.admin('POST', '/os-aggregates', {'aggregate': {
                'name': zone, 'availability_zone': zone}}).body['aggregate']
            self.aggregates[zone] = aggregate['id']
            for host in hosts:
                self.admin('POST', '/os-aggregates/%d/action' %
                           aggregate['id'], {'add_host': {'host': host}})
        self._start_ring()

    def close(self):
        if self._ring is not None:
            self._ring.kill()
            self._ring.wait()

    # Asking

    def admin(self, method, path, body=None, version=LATEST, api='controller',
              token='admin'):
        """Ask the API as its administrator; return the Answer."""
        port = self.cloud.services['nova-api', api].port
        return Answer(self._session.request(
            method, 'http://%s:%d/v2.1%s' % (process.LOOPBACK, port, path),
            json=body, timeout=180, headers={
                'X-Auth-Token': token,
                'OpenStack-API-Version': 'compute ' + version,
                'X-OpenStack-Nova-API-Version': version}))

    def tenant(self, method, path, body=None, **how):
        """Ask as a tenant, who must not read the name of a host."""
        answer = self.admin(method, path, body, token=noauth.TENANT, **how)
        for host in HOSTS:
            assert host not in answer.text, (method, path, answer.text)
        return answer

    def openstack(self, *arguments):
        """Run the client as an operator types it; return how it ended."""
        port = self.cloud.services['nova-api', 'controller'].port
        done = subprocess.run(
            [nova.BIN / 'openstack', '--os-auth-type', 'none',
             '--os-endpoint', 'http://%s:%d/v2.1' % (process.LOOPBACK, port),
             *arguments], env=dict(nova.environment(), no_proxy='*'),
            capture_output=True, text=True)
        return anonymous('exit %d %s' % (
            done.returncode, done.stdout + done.stderr))

    def ring(self):
        """Let the ironic driver make its hash ring; return the hosts in it."""
        self._ring.stdin.write('\n')
        self._ring.stdin.flush()
        return json.loads(self._ring.stdout.readline())

    def _start_ring(self):
        config = nova.write_config(
            self.cloud.directory / 'conf/ring.conf',
            self.cloud.nova_conf('controller', config={'DEFAULT': {
                'log_file': self.cloud.directory / 'logs/ring.log'}}))
        self._ring = subprocess.Popen(
            [nova.BIN / 'python', '-m',
             'nova_servicegroup.tests.functional.hash_ring', config],
            env=nova.environment(self.cloud.plugin_tree), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)
        assert len(self.ring()) == len(HOSTS) + 1

    # Servers

    def boot(self, **more):
        """Ask for a server as a tenant; return its id."""
        answer = self.tenant('POST', '/servers', {'server': dict({
            'name': 'server', 'imageRef': self.image, 'flavorRef': '1',
            'networks': 'none'}, **more)})
        assert answer.status == 202, answer.text
        return answer.body['server']['id']

    def build(self, host):
        """Build a tenant's server on a host; return its id."""
        # Only administrators name hosts.
        answer = self.admin('POST', '/servers', {'server': {
            'name': 'server', 'imageRef': self.image, 'flavorRef': '1',
            'networks': 'none', 'host': host}})
        assert answer.status == 202, answer.text
        server = answer.body['server']['id']
        self.wait(server, vm_state='active', task_state=None)
        assert self.server(server)['host'] == host
        return server

    def action(self, who, server, name, arguments=None, **how):
        """POST an action of a server; return the Answer."""
        return who('POST', '/servers/%s/action' % server,
                   {name: arguments}, **how)

    def server(self, server):
        """Return the row of a server, {} when the cell has none."""
        for database in 'nova', 'nova_cell0':
            for row in self.cloud.database.query(
                    database, 'SELECT vm_state, task_state, host, deleted, '
                    'image_ref FROM instances WHERE uuid = %s', server):
                return row
        return {}

    def wait(self, server, timeout=60, **fields):
        """Wait until a server's row has these fields."""
        def has_them():
            row = self.server(server)
            return row and all(row[name] == value
                               for name, value in fields.items())
        try:
            process.wait_until(has_them, timeout, str(fields), interval=0.2)
        except process.NotReady as e:
            raise process.NotReady('%s: %s\n%s' % (
                e, self.server(server), self.cloud.log_ends())) from None

    def saved(self, server):
        """Return what is saved of a server, as a short text.

        What a tenant is shown of it is looked through for names of hosts.
        """
        row = self.server(server)
        if not row:
            return 'not built yet'
        if row['deleted']:
            return 'deleted'
        path = '/servers/' + server
        shown = self.tenant('GET', path).body['server']
        for action in self.tenant(
                'GET', path + '/os-instance-actions').body['instanceActions']:
            self.tenant('GET', '%s/os-instance-actions/%s' % (
                path, action['request_id']))
        parts = [row['vm_state']]
        if row['task_state']:
            parts.append(row['task_state'])
        if 'fault' in shown:
            parts.append(anonymous(shown['fault']['message']))
        return ', '.join(parts)

    def done_by_host(self, server, words, host):
        """Assert that a host's nova-compute did what its log calls so."""
        lines = self.cloud.services['nova-compute', host].lines(words)
        assert [line for line in lines if server in line], (words, server)

    # Services

    def mapped_hosts(self):
        return [row['host'] for row in self.cloud.database.query(
            'nova_api', 'SELECT host FROM host_mappings')]

    def services(self):
        """Return what the API lists, by host, of the computes."""
        answer = self.admin('GET', '/os-services?binary=nova-compute')
        assert answer.status == 200, answer.text
        return {row['host']: row for row in answer.body['services']}

    def service(self, host):
        """Return the row of a nova-compute."""
        row, = self.cloud.database.query(
            'nova', 'SELECT disabled, forced_down FROM services WHERE '
            '`binary` = "nova-compute" AND deleted = 0 AND host = %s', host)
        return row

    def wait_idle(self):
        """Wait until Nova has nothing in hand but what waits for a host."""
        def everything():
            return [self.cloud.database.query(database, statement)
                    for database in ('nova', 'nova_cell0')
                    for statement in (
                        'SELECT uuid, vm_state, task_state, host, deleted, '
                        'launched_at FROM instances ORDER BY uuid',
                        'SELECT id, status FROM migrations ORDER BY id')
                    ] + [json.dumps(self.around.volumes)]
        seen, since = None, time.monotonic()
        deadline = since + 20 * RPC_TIMEOUT
        while time.monotonic() < since + RPC_TIMEOUT + 2:
            assert time.monotonic() < deadline, seen
            now = everything()
            if now != seen:
                seen, since = now, time.monotonic()
            time.sleep(0.3)


# Servers

def create(scene):
    """Create a server, every candidate in doubt"""
    yield
    server = scene.boot()
    yield
    yield '202', scene.saved(server)
    yield seen_through(scene, server, lambda: scene.boot(),
                       vm_state='active')


def create_anywhere(scene):
    """Create servers, some candidates in doubt"""
    yield
    # The weighers would not take the same host three times by chance.
    for _ in range(3):
        server = scene.boot()
        scene.wait(server, vm_state='active', task_state=None)
        assert scene.server(server)['host'] == METAL, scene.server(server)
    yield
    yield '202', scene.saved(server) + ' on a certain host'
    yield 'done'


def create_in_zone(scene):
    """Create a server in a zone in doubt, another one certain"""
    def ask():
        return scene.boot(availability_zone='kvm')
    yield
    server = ask()
    yield
    yield '202', scene.saved(server)
    yield seen_through(scene, server, ask, vm_state='active')


def delete(scene):
    """Delete a server"""
    server = scene.build(KVM_1)
    yield
    answer = scene.tenant('DELETE', '/servers/' + server)
    yield
    yield str(answer), scene.saved(server)
    how = seen_through(scene, server, None, vm_state='deleted')
    # Not by the API, behind the back of a host that lives.
    scene.done_by_host(server, 'Terminating instance', KVM_1)
    yield how


def soft_delete(scene):
    """Delete a server softly"""
    server = scene.build(KVM_1)
    yield
    answer = scene.tenant('DELETE', '/servers/' + server, api=SOFT)
    yield
    yield str(answer), scene.saved(server)
    how = seen_through(scene, server, None, vm_state='soft-delete')
    assert scene.action(scene.tenant, server, 'restore').status == 202
    scene.wait(server, vm_state='active', task_state=None)
    yield how


def rebuild(scene):
    """Rebuild a server from another image"""
    server = scene.build(KVM_1)
    image = scene.around.make_image()

    def ask():
        return scene.action(scene.tenant, server, 'rebuild',
                            {'imageRef': image})
    yield
    answer = ask()
    yield
    yield str(answer), scene.saved(server)
    yield seen_through(scene, server, ask, vm_state='active',
                       image_ref=image)


def resize(scene):
    """Resize a server"""
    server = scene.build(KVM_1)

    def ask():
        return scene.action(scene.tenant, server, 'resize',
                            {'flavorRef': '2'})
    yield
    answer = ask()
    yield
    yield str(answer), scene.saved(server)
    yield seen_through(scene, server, ask, vm_state='resized')


def confirm_resize(scene):
    """Confirm a resize"""
    server = scene.build(KVM_1)
    scene.action(scene.tenant, server, 'resize', {'flavorRef': '2'})
    scene.wait(server, vm_state='resized', task_state=None)

    def ask():
        return scene.action(scene.tenant, server, 'confirmResize')
    yield
    answer = ask()
    yield
    yield str(answer), scene.saved(server) + migration(scene, server)
    yield seen_through(scene, server, ask, vm_state='active')


def cold_migrate(scene):
    """Migrate a server cold"""
    server = scene.build(KVM_1)

    def ask():
        return scene.action(scene.admin, server, 'migrate')
    yield
    answer = ask()
    yield
    yield str(answer), scene.saved(server) + migration(scene, server)
    yield seen_through(scene, server, ask, vm_state='resized')


def live_migrate(scene):
    """Migrate a server live (2.34 and later)"""
    yield from _live_migrate(scene, LATEST, None)


def live_migrate_before(scene):
    """Migrate a server live to a host (before 2.34)"""
    yield from _live_migrate(scene, '2.25', KVM_2)


def _live_migrate(scene, version, host):
    server = scene.build(KVM_1)

    def ask():
        return scene.action(
            scene.admin, server, 'os-migrateLive',
            {'host': host, 'block_migration': 'auto'}, version=version)

    def moved():
        row = scene.server(server)
        return row['host'] != KVM_1 and row['task_state'] is None
    yield
    answer = ask()
    yield
    yield str(answer), scene.saved(server) + migration(scene, server)
    how = 'done'
    if not moved():
        how = 'done when asked again'
        assert ask().status == 202
        process.wait_until(moved, 60, 'end of the live migration')
    yield how


def evacuate(scene):
    """Evacuate a server of a host that lives"""
    server = scene.build(KVM_1)
    yield
    answer = scene.action(scene.admin, server, 'evacuate', {})
    yield
    assert scene.server(server)['host'] == KVM_1
    yield str(answer), scene.saved(server) + migration(scene, server)
    answer = scene.action(scene.admin, server, 'evacuate', {})
    assert answer.status == 400, answer.text
    yield 'refused: the host is up'


def detach(scene):
    """Detach a volume"""
    server = scene.build(KVM_1)
    volume = scene.around.make_volume()
    path = '/servers/%s/os-volume_attachments' % server
    scene.tenant('POST', path, {'volumeAttachment': {'volumeId': volume}})
    process.wait_until(
        lambda: scene.around.volumes[volume]['status'] == 'in-use', 60,
        'a volume attached')
    yield
    answer = scene.tenant('DELETE', '%s/%s' % (path, volume))
    yield
    yield str(answer), 'volume: ' + scene.around.volumes[volume]['status']
    process.wait_until(
        lambda: scene.around.volumes[volume]['status'] == 'available',
        60, 'a volume detached')
    assert not scene.tenant('GET', path).body['volumeAttachments']
    yield 'done'


def unshelve(scene):
    """Unshelve a server"""
    server = scene.build(KVM_1)
    scene.action(scene.tenant, server, 'shelve')
    scene.wait(server, vm_state='shelved_offloaded', task_state=None)

    def ask():
        return scene.action(scene.tenant, server, 'unshelve')
    yield
    answer = ask()
    yield
    yield str(answer), scene.saved(server)
    yield seen_through(scene, server, ask, vm_state='active')


# Displays

def host_status(scene):
    """Show a server: its host_status (2.16 and later)"""
    server = scene.build(KVM_1)

    def ask():
        answer = scene.admin('GET', '/servers/' + server)
        return '%d: %s' % (answer.status,
                           answer.body['server']['host_status'])
    yield from _display(ask)


def list_servers(scene):
    """List servers with their host_status"""
    server = scene.build(KVM_1)

    def ask():
        answer = scene.admin('GET', '/servers/detail?all_tenants=1')
        row, = (row for row in answer.body['servers'] if row['id'] == server)
        return '%d: %s' % (answer.status, row['host_status'])
    yield from _display(ask)


def list_services(scene):
    """List services: state and updated_at"""
    def ask():
        asked = datetime.datetime.now(datetime.timezone.utc)
        shown = []
        for row in scene.services().values():
            updated = datetime.datetime.fromisoformat(row['updated_at'])
            age = asked - updated.replace(tzinfo=datetime.timezone.utc)
            # The API leaves the fraction of the second away.
            fresh = age.total_seconds() < scene.cloud.report_interval + 1.5
            shown.append('%s, %s' % (
                row['state'], 'now' if fresh else 'long ago'))
        return '200: ' + '; '.join(sorted(set(shown)))
    yield from _display(ask)


def list_hypervisors(scene):
    """List hypervisors"""
    def ask():
        answer = scene.admin('GET', '/os-hypervisors')
        return '%d: %s' % (answer.status, ' '.join(sorted({
            row['state'] for row in answer.body['hypervisors']})))
    yield from _display(ask)


def show_hypervisor(scene):
    """Show a hypervisor (before 2.88)"""
    path = _hypervisor(scene)

    def ask():
        answer = scene.admin('GET', path, version='2.87')
        return '%d: %s' % (answer.status, answer.body['hypervisor']['state'])
    yield from _display(ask)


def show_hypervisor_uptime(scene):
    """Show a hypervisor and its uptime (2.88 and later)"""
    path = _hypervisor(scene)

    def ask():
        return str(scene.admin('GET', path))
    yield from _display(ask)


def uptime(scene):
    """Show a hypervisor's uptime (before 2.88)"""
    path = _hypervisor(scene) + '/uptime'

    def ask():
        return str(scene.admin('GET', path, version='2.87'))
    yield from _display(ask)


def zones(scene):
    """List availability zones in detail"""
    def ask():
        answer = scene.admin('GET', '/os-availability-zone/detail')
        available = {
            service['available']
            for zone in answer.body['availabilityZoneInfo']
            for host, services in zone['hosts'].items() if host in HOSTS
            for service in services.values()}
        return '%d: %s' % (answer.status, ' '.join(
            'available' if one else 'not available' for one in available))
    yield from _display(ask)


def _hypervisor(scene):
    row, = (row for row in scene.admin(
        'GET', '/os-hypervisors').body['hypervisors']
        if row['hypervisor_hostname'] == KVM_1)
    return '/os-hypervisors/' + row['id']


def _display(ask):
    yield
    answer = ask()
    yield
    yield answer, ''
    yield ask()


# What nobody waits for

def cache_images(scene):
    """Cache an image on the hosts of an aggregate"""
    def ask():
        conductor = scene.cloud.services['nova-conductor', 'controller']
        since = conductor.mark()
        answer = scene.admin(
            'POST', '/os-aggregates/%d/images' % scene.aggregates['kvm'],
            {'cache': [{'id': scene.image}]})
        line = conductor.wait_log('completed in', 60, since)
        return answer, re.search('[0-9]+ cached.*', line)[0]
    yield
    answer, counts = ask()
    yield
    yield str(answer), counts
    yield ask()[1]


def hash_ring(scene):
    """Make the hash ring of the ironic driver"""
    def ask():
        ring = scene.ring()
        if isinstance(ring, str):
            return ring
        missing = {*HOSTS, 'controller'} - set(ring)
        return 'without %s' % sorted(missing) if missing else 'all hosts'
    yield from _display(ask)


def discover_hosts(scene):
    """Discover hosts by the scheduler"""
    scheduler = scene.cloud.services['nova-scheduler', 'controller']
    since = scheduler.mark()
    yield
    # As if this compute were new.
    scene.cloud.database.query(
        'nova_api', 'DELETE FROM host_mappings WHERE host = %s', METAL)
    scene.cloud.database.query(
        'nova', 'UPDATE compute_nodes SET mapped = 0 WHERE host = %s', METAL)
    process.wait_until(lambda: METAL in scene.mapped_hosts(), 30,
                       'a new host found')
    yield
    assert not scheduler.lines('Error during SchedulerManager', since)
    yield 'no error', 'the new host is mapped'
    yield 'done'


# What an operator does about a host

def disable(scene):
    """Disable a service, and enable it"""
    yield
    path = '/os-services/' + scene.services()[KVM_2]['id']
    off = scene.admin('PUT', path, {'status': 'disabled'})
    disabled = scene.service(KVM_2)['disabled']
    on = scene.admin('PUT', path, {'status': 'enabled'})
    yield
    yield '%s; %s' % (off, on), 'disabled = %d; disabled = %d' % (
        disabled, scene.service(KVM_2)['disabled'])
    for status in 'disabled', 'enabled':
        assert scene.admin('PUT', path, {'status': status}).status == 200
        assert scene.services()[KVM_2]['status'] == status
    yield 'works'


def force_down(scene):
    """``openstack compute service set --down HOST nova-compute``"""
    command = 'compute', 'service', 'set'
    yield
    before = scene.services()
    result = scene.openstack(*command, '--down', KVM_2, 'nova-compute')
    yield
    states = {host: row['state'] for host, row in scene.services().items()}
    others = {host: before[host]['state'] for host in (KVM_1, METAL)}
    # Nobody else turns down with it.
    assert states == dict(others, **{KVM_2: 'down'})
    yield result, 'forced_down = %d' % scene.service(
        KVM_2)['forced_down']
    back = scene.openstack(*command, '--up', KVM_2, 'nova-compute')
    assert back == 'exit 0', back
    assert scene.services()[KVM_2]['state'] == 'up', scene.services()
    yield 'up after --up'


def evacuate_forced(scene):
    """Evacuate a server of a host that is forced down"""
    server = scene.build(KVM_2)

    def ask():
        return scene.action(scene.admin, server, 'evacuate', {})

    def moved():
        row = scene.server(server)
        # Since 2.95 it is stopped where it arrives, but not if it failed.
        return row['host'] != KVM_2 and row['task_state'] is None and (
            row['vm_state'] in ('stopped', 'active'))
    yield
    answer = ask()
    yield
    scene.wait_idle()
    yield str(answer), scene.saved(server) + migration(scene, server)
    how = 'done'
    if not moved():
        how = 'done when asked again'
        assert ask().status == 200
        process.wait_until(moved, 60, 'end of the evacuation')
    # Nova lets nobody call the host up before it cleaned up.
    compute = scene.cloud.services['nova-compute', KVM_2]
    compute.stop()
    scene.cloud.restart(compute)
    yield how


def migration(scene, server):
    """Return how a server's last migration stands, as part of a text."""
    rows = scene.cloud.database.query(
        'nova', 'SELECT status FROM migrations WHERE instance_uuid = %s '
        'ORDER BY id DESC LIMIT 1', server)
    return ''.join('; migration %(status)s' % row for row in rows)


def seen_through(scene, server, again, **goal):
    """See a server's operation through after the outage; return how.

    :param again: a function that asks for it again, None for what must come
        by itself; when it returns an id, that is of a new server
    """
    def reached():
        row = scene.server(server)
        return row and row['task_state'] is None and all(
            row[name] == value for name, value in goal.items())
    if goal == {'vm_state': 'deleted'}:
        scene.wait(server, **goal)
        assert scene.server(server)['deleted']
        return 'done'
    if reached():
        return 'done'
    assert again is not None, scene.server(server)
    answer = again()
    if isinstance(answer, str):
        server = answer
    elif answer.status >= 300:
        # It was done between the two.
        assert reached(), answer.text
        return 'done'
    scene.wait(server, task_state=None, **goal)
    return 'done when asked again'


#: Asked at once, while some computes are in doubt.
SOME = [create_anywhere, create_in_zone]
#: Asked at once, while all are.
TOGETHER = [
    create, delete, soft_delete, rebuild, resize, confirm_resize,
    cold_migrate, live_migrate, live_migrate_before, evacuate, detach,
    unshelve, host_status, list_servers, list_services, list_hypervisors,
    show_hypervisor, show_hypervisor_uptime, uptime, zones, cache_images,
    hash_ring]
#: Asked after these, each alone: they change what the others would see.
ALONE = [discover_hosts, disable, force_down, evacuate_forced]


def play(scene, doubt, together, alone=()):
    """Drive callers through an outage.

    :param doubt: a context manager: inside it there is doubt
    :returns: [(caller, told, saved, afterwards)], all strings
    """
    names = [caller.__doc__ for caller in (*together, *alone)]
    together = [caller(scene) for caller in together]
    alone = [caller(scene) for caller in alone]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        def step(callers):
            return list(pool.map(next, callers))

        step(together + alone)
        with doubt:
            step(together)
            scene.wait_idle()
            results = step(together)
            for caller in alone:
                next(caller)
                results.append(next(caller))
        scene.wait_idle()
        # Who changed a host last changes it back first.
        back = [next(caller) for caller in reversed(alone)]
        afterwards = step(together) + back[::-1]
    return [(name, *result, after) for name, result, after
            in zip(names, results, afterwards)]
