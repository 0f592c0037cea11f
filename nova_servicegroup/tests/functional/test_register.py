# SPDX-License-Identifier: Apache-2.0

"""register() and the configuration hook, each in a process of its own."""

import pytest

from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import tree as nova_tree

REGISTERED = '''
from nova import servicegroup
from nova.conf import CONF
CONF([], project='nova')
CONF.set_override('servicegroup_driver', 'zk')
assert servicegroup.API is servicegroup.api.API
assert servicegroup.API.__module__ == 'nova_servicegroup.api'
assert all(hasattr(servicegroup.API, n)
           for n in ('leave', 'get_all', 'get_one'))
assert CONF.servicegroup.outage_policy == 'safe'
print('good')
'''


@pytest.fixture
def tree(tmp_path):
    nova_tree.make(tmp_path)
    return tmp_path


@pytest.mark.parametrize('times', [1, 2])
def test_nova_uses_the_package(tree, times):
    done = nova_tree.run(
        tree, 'from nova_servicegroup.integration import register\n' +
        'register.register()\n' * times + REGISTERED)
    assert done.stdout == 'good\n', done.stderr


def test_every_driver_is_in_novas_mapping(tree):
    done = nova_tree.run(tree, '''
from nova_servicegroup import drivers, register
register.register()
from nova.servicegroup import api
assert api._driver_name_class_mapping == drivers.DRIVERS
print(*sorted(drivers.DRIVERS))
''')
    assert done.stdout == 'db mc zk\n', done.stderr


@pytest.mark.parametrize('harm, expected', [
    ('api._driver_name_class_mapping = []', '_driver_name_class_mapping'),
    ('del api._driver_name_class_mapping["db"]', 'the driver db'),
    ('del api.API.service_is_up', 'API.service_is_up'),
    ('options.SERVICEGROUP_OPTS[0].type.choices = ["db"]', 'choices'),
    ('options.SERVICEGROUP_OPTS.clear()', 'servicegroup_driver'),
])
def test_an_unknown_nova_is_refused_and_not_changed(tree, harm, expected):
    done = nova_tree.run(tree, '''
from nova import servicegroup
from nova.conf import servicegroup as options
from nova.servicegroup import api
%s
before = (dict(vars(api)), dict(vars(servicegroup)))
from nova_servicegroup import exception, register
try:
    register.register()
except exception.UnsupportedNovaError as e:
    print(e)
assert before == (dict(vars(api)), dict(vars(servicegroup)))
''' % harm)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert 'Nova 26 to 34 are known' in done.stdout


@nova_tree.needs_native_threads
def test_native_threads_stay_native(tree):
    done = nova_tree.run(tree, '''
from nova_servicegroup.integration import register
register.register()
assert 'eventlet' not in sys.modules
assert 'nova.cmd' not in sys.modules
from nova import monkey_patch
monkey_patch.patch(backend='threading')
import nova.servicegroup
nova.servicegroup.api.CONF([], project='nova')
nova.servicegroup.API()
assert 'eventlet' not in sys.modules
print('good')
''')
    assert done.stdout == 'good\n', done.stderr


@nova_tree.needs_native_threads
def test_nova_manage_has_its_service_category(tree):
    done = nova_tree.run(tree, '''
import os
os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = 'true'
from nova import monkey_patch
monkey_patch.patch()
import nova.cmd.common
from nova_servicegroup.integration import register
for _ in range(2):
    register.register()
from nova.cmd import manage
sys.argv = ['nova-manage', 'bash-completion']
manage.main()
print(*sorted(manage.CATEGORIES))
''')
    first, second = done.stdout.splitlines()
    assert first.split().count('service') == 1, done.stderr
    assert second.split().count('service') == 1


HOOK = texts.block('README.rst', 'hook')


@nova_tree.needs_native_threads
def test_the_hook_registers_from_a_configuration_folder(tree):
    folder = tree / 'nova.conf.d'
    folder.mkdir()
    (folder / 'liveness.conf').write_text(HOOK)
    done = nova_tree.run(tree, '''
from oslo_config import cfg
# The way in which Nova 34 reads its configuration before it has decided.
early = cfg.ConfigOpts()
early(['--config-dir', sys.argv[1]])
assert 'nova' not in sys.modules and 'eventlet' not in sys.modules
from nova.conf import CONF
CONF(['--config-dir', sys.argv[1]], project='nova')
before = CONF
''' + REGISTERED.replace("CONF([], project='nova')", ''), folder)
    assert done.stdout == 'good\n', done.stderr


def test_the_hook_survives_an_unknown_nova(tree):
    folder = tree / 'nova.conf.d'
    folder.mkdir()
    (folder / 'liveness.conf').write_text(HOOK)
    done = nova_tree.run(tree, '''
from nova.conf import CONF
from nova.servicegroup import api
del api._driver_name_class_mapping['db']
CONF(['--config-dir', sys.argv[1]], project='nova')
print(api.API.__module__)
''', folder)
    assert done.stdout == 'nova.servicegroup.api\n', done.stderr
    assert done.stderr.count('does not know this Nova') == 1


def test_the_hook_does_nothing_outside_nova(tree):
    folder = tree / 'nova.conf.d'
    folder.mkdir()
    (folder / 'liveness.conf').write_text(HOOK)
    done = nova_tree.run(tree, '''
from oslo_config import cfg
cfg.CONF(['--config-dir', sys.argv[1]])
print('nova' in sys.modules)
''', folder)
    assert done.stdout == 'False\n', done.stderr
