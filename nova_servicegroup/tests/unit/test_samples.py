# SPDX-License-Identifier: Apache-2.0

"""The sample configuration and the snippets, ours and those in the field."""

import configparser
import json
import pathlib
import re
import subprocess
import sys

from oslo_config import generator
from oslo_utils import importutils
import pytest

from nova_servicegroup import drivers
from nova_servicegroup.drivers import base

ROOT = pathlib.Path(__file__).parents[3]
ETC = ROOT / 'etc/nova'

# As the manuals of the last twelve years have them. Each goes to the end of
# a nova.conf, so those without a section header belong to the one before.
FIELD = {
    'zk in the admin guide': ('[DEFAULT]\n', '''
# Driver for the ServiceGroup service
servicegroup_driver="zk"
[zookeeper]
address="192.168.2.1:2181,192.168.2.2:2181,192.168.2.3:2181"
''', {
        'driver': 'ZooKeeperDriver',
        'zookeeper.address':
            '192.168.2.1:2181,192.168.2.2:2181,192.168.2.3:2181'}),
    'zk in the wiki': ('[DEFAULT]\nstate_path = /var/lib/nova\n', '''
servicegroup_driver="zk"

[zookeeper]
address="192.168.0.1:2181,192.168.0.2:2181,192.168.0.3:2181"
''', {
        'driver': 'ZooKeeperDriver',
        'zookeeper.address':
            '192.168.0.1:2181,192.168.0.2:2181,192.168.0.3:2181'}),
    'mc in the admin guide': ('[DEFAULT]\n', '''
# Driver for the ServiceGroup service
servicegroup_driver = "mc"

memcached_servers = <None>

service_down_time = 60
''', {
        'driver': 'MemcachedDriver',
        'DEFAULT.memcached_servers': ['<None>'],
        'DEFAULT.service_down_time': 60}),
    'mc in the older guide': ('[DEFAULT]\n', '''
servicegroup_driver="mc"
memcached_servers=<None>
service_down_time=60
''', {
        'driver': 'MemcachedDriver',
        'DEFAULT.memcached_servers': ['<None>'],
        'DEFAULT.service_down_time': 60}),
}

SNIPPETS = {'db': 'DbDriver', 'mc': 'MemcachedDriver', 'zk': 'ZooKeeperDriver'}

# A process of its own, since register() changes the Nova that it is in.
READ = '''
import json
import sys

import nova.conf
import nova.servicegroup

from nova_servicegroup.integration import register

register.register()
conf = nova.conf.CONF
answers = {}
for path, names in json.load(sys.stdin).items():
    conf.clear()
    conf(['--config-file', path], project='nova')
    answer = answers[path] = {
        'driver': type(nova.servicegroup.API()._driver).__name__}
    for name in names:
        group, _, option = name.rpartition('.')
        section = conf if group == 'DEFAULT' else conf[group]
        answer[name] = section[option]
print(json.dumps(answers))
'''


def names_in(path):
    """Return the options that a file sets, as section.option."""
    parser = configparser.ConfigParser(default_section=None)
    parser.read(path)
    return ['%s.%s' % (section, option) for section in parser.sections()
            for option in parser.options(section)]


@pytest.fixture(scope='module')
def read(tmp_path_factory):
    """What a Nova with the plug-in reads, by the name of the snippet."""
    directory = tmp_path_factory.mktemp('conf')
    paths = {name: ETC / 'snippets' / (name + '.conf') for name in SNIPPETS}
    for name, (before, snippet, _) in FIELD.items():
        paths[name] = directory / (name + '.conf')
        paths[name].write_text(before + snippet)
    child = subprocess.run(
        [sys.executable, '-c', READ], stdout=subprocess.PIPE, text=True,
        input=json.dumps({str(path): names_in(path)
                          for path in paths.values()}))
    assert child.returncode == 0
    answers = json.loads(child.stdout)
    return {name: answers[str(path)] for name, path in paths.items()}


def test_the_sample_is_what_the_options_say(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    new = tmp_path / 'sample'
    generator.main([
        '--config-file', str(ETC / 'nova-servicegroup-config-generator.conf'),
        '--output-file', str(new)])
    committed = (ETC / 'nova-servicegroup.conf.sample').read_text()
    assert new.read_text() == committed, 'run "make genconfig" and commit'


@pytest.mark.parametrize('name', SNIPPETS)
def test_our_snippets_choose_their_driver(read, name):
    assert read[name]['driver'] == SNIPPETS[name]
    assert read[name]['DEFAULT.servicegroup_driver'] == name


@pytest.mark.parametrize('name', FIELD)
def test_snippets_in_the_field_are_read_unchanged(read, name):
    for option, value in FIELD[name][2].items():
        assert read[name][option] == value


@pytest.mark.parametrize('promise', list(base.Promise), ids=lambda p: p.name)
def test_the_readme_promises_what_the_drivers_promise(promise):
    rows = re.findall(r'^   \* - (.*)\n     - (.*)\n     - (.*)\n     - (.*)$',
                      (ROOT / 'README.rst').read_text(), re.MULTILINE)
    names = rows[0][1:]
    assert set(names) == set(drivers.DRIVERS)
    (answers,) = [row[1:] for row in rows if row[0] == promise.value]
    for name, answer in zip(names, answers):
        promises = importutils.import_class(drivers.DRIVERS[name]).promises
        assert answer == ('yes' if promise in promises else 'no'), name
