# SPDX-License-Identifier: Apache-2.0

"""Checks that Nova uses this package, and that its configuration works."""

import importlib.metadata
import json
import subprocess

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import urls
from nova_servicegroup import conf as sg_conf
from nova_servicegroup.doctor import Check
from nova_servicegroup.doctor import Finding
from nova_servicegroup.doctor import Level
from nova_servicegroup import exception
from nova_servicegroup.integration import dropin

#: the steps of a Nova service at its start that matter here
_AS_A_SERVICE = '''
import importlib.metadata, json, sys, warnings
warnings.simplefilter('ignore')
root, *arguments = sys.argv[1:]
if root:
    sys.path.insert(0, root)
found = {'error': None, 'driver': None, 'package': None, 'failed': ''}
try:
    from nova import config, servicegroup, version
    found['nova'] = version.version_string()
    config.parse_args(['nova-servicegroup', *arguments])
    found['api'] = servicegroup.API.__module__
    # What the drop-in would log.
    found['failed'] = getattr(servicegroup, '_unlogged', '')
    try:
        found['package'] = importlib.metadata.version('nova-servicegroup')
    except importlib.metadata.PackageNotFoundError:
        pass
    found['driver'] = type(servicegroup.API()._driver).__module__
except Exception as e:
    found['error'] = '%s: %s' % (type(e).__name__, e)
print('\\n' + json.dumps(found))
'''
_HOOK = ('In nova.conf:\n[DEFAULT]\nconfig_source = liveness\n\n[liveness]\n'
         'driver = nova_servicegroup\n\nand restart Nova\'s services. Or, in '
         'a tree of your own: nova-servicegroup dropin install')
#: report_interval should fit so often into service_down_time, at least
_LEAST_BEATS = 3


def check(site):
    """Find Nova, and check that it uses this package."""
    try:
        tree = dropin.Tree(site.nova, site.python)
        state = tree.content_state()
        found = _as_a_service(tree, site)
    except (dropin.DropInError, OSError, subprocess.TimeoutExpired,
            ValueError) as e:
        yield Finding(
            Level.UNKNOWN, 'The Nova that runs here is not known: %s' % e,
            'Services whose Nova does not load this package use Nova\'s own '
            'drivers, or do not start with zk.',
            'nova-servicegroup doctor --nova PATH --python PATH, with the '
            'folder that holds nova/ and the Python of Nova\'s services; or '
            '--skip nova on a host without Nova.')
        return
    ways = []
    if _has_hook(site.conf):
        ways.append('configuration hook')
    if state != dropin.NOT_INSTALLED:
        ways.append('drop-in')
    yield _in_effect(site, tree, found, ways)
    if state == dropin.OUTDATED:
        yield Finding(
            Level.WARNING, 'The drop-in in %s is %s.' % (tree.file, state),
            'It may do something else than this version expects.',
            'nova-servicegroup dropin install --nova %s, and restart Nova\'s '
            'services' % tree.root)


def _as_a_service(tree, site):
    """Start Nova's Python with nova.conf; return what _AS_A_SERVICE found."""
    # Isolated, as Nova's services are.
    done = subprocess.run(
        [tree.python(), '-I', '-c', _AS_A_SERVICE,
         str(tree.root) if site.python else '',
         *deployment.arguments(site.config_files, site.config_dirs)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=dropin.CHECK_LIMIT)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as e:
        raise ValueError('%s ended with %d: %s' % (
            tree.python(), done.returncode, done.stderr.strip()[-300:])) from e


def _in_effect(site, tree, found, ways):
    nova = 'Nova %s in %s' % (found.get('nova') or 'of an unknown version',
                              tree.root)
    api = (found.get('api') or '').partition('.')[0]
    if found['error'] and api in ('', 'nova_servicegroup'):
        return Finding(
            Level.CRITICAL, '%s does not start with this configuration: %s' % (
                nova, urls.TRANSPORT + '.' if found['error'].partition(':')[0]
                in urls.MALFORMED else found['error']),
            'A service that is restarted does not come back.',
            'Change the option that it names in nova.conf.')
    if api != 'nova_servicegroup':
        needed = (site.driver not in ('db', 'mc')
                  or site.conf.servicegroup.also_report)
        return Finding(
            Level.CRITICAL if needed else Level.WARNING,
            '%s does not load nova-servicegroup: neither the configuration '
            'hook nor the drop-in has an effect.%s' % (
                nova, found['failed'] and ' ' + found['failed'][0]),
            'Its services do not start with zk.' if site.driver == 'zk' else
            'Its services use Nova\'s own driver, without this package.',
            _HOOK)
    package = importlib.metadata.version('nova-servicegroup')
    if found['package'] != package:
        return Finding(
            Level.WARNING, '%s has nova-servicegroup %s, and this command is '
            'of %s.' % (nova, found['package'], package),
            'The output of this command may differ from what Nova does.',
            'Run the command of the Python that Nova runs with: %s -m '
            'nova_servicegroup.cmd.main doctor' % tree.python())
    return Finding(
        Level.OK, '%s uses the driver %s of nova-servicegroup %s, by the %s.'
        % (nova, found['driver'].rpartition('.')[2], package,
           ' and the '.join(ways) or 'tree itself'))


def _has_hook(conf):
    for name in conf.config_source:
        try:
            if conf[name].driver == 'nova_servicegroup':
                return True
        except Exception:  # noqa: S112, the name of no driver
            continue
    return False


def configuration(site):
    """Check for options that are invalid, or contradict each other."""
    conf = site.conf
    try:
        interval, down_time = sg_conf.check_intervals(conf)
        # They raise an error if an option is invalid.
        if site.uses('zk'):
            site.zookeeper
        if site.uses('mc'):
            site.memcached
    except exception.ConfigurationError as e:
        yield Finding(
            Level.CRITICAL, str(e), 'Nova\'s services do not start with it, '
            'or report nothing.', 'Change that option in nova.conf, and '
            'restart Nova\'s services.')
        return
    unknown = set(conf.servicegroup.also_report) - {'db', 'mc', 'zk'}
    if unknown:
        yield Finding(
            Level.CRITICAL, '[servicegroup] also_report names no driver: %s.'
            % ', '.join(sorted(unknown)), 'Nova\'s services do not start.',
            '[servicegroup]\nalso_report = zk')
    if site.has_database:
        # Lets Nova read the configuration, too, which takes seconds.
        try:
            site.deployment  # its making is the check
        except base.CommandError as e:
            yield Finding(
                Level.CRITICAL, str(e), 'Nova\'s services do not start with '
                'it.', 'Change that option in nova.conf; or run this with the '
                'Python of Nova\'s services.')
            return
    yield _intervals(interval, down_time)
    yield from _relations(site, down_time)


def _intervals(interval, down_time):
    text = 'report_interval is %d s and service_down_time %d s' % (
        interval, down_time)
    why = ('With %s lost heartbeats a living service is down.' % (
        'no' if down_time <= interval else int(down_time / interval)))
    fix = '[DEFAULT]\nservice_down_time = %d\n\non every node' % (6 * interval)
    if down_time <= interval:
        return Finding(Level.CRITICAL, text + ': every service would be down '
                       'between two heartbeats.', why, fix)
    if down_time < _LEAST_BEATS * interval:
        return Finding(Level.WARNING, text + ': less than %d heartbeats.'
                       % _LEAST_BEATS, why, fix)
    return Finding(Level.OK, text + '.')


def _relations(site, down_time):
    options = site.conf.servicegroup
    timeout = site.conf.zookeeper.recv_timeout / 1000
    if site.uses('zk') and 2 * timeout > down_time:
        yield Finding(
            Level.WARNING, '[zookeeper] recv_timeout is %g s, more than half '
            'of service_down_time (%d s).' % (timeout, down_time),
            'A host without power is detected no sooner than with heartbeats '
            'in the database.', '[zookeeper]\nrecv_timeout = %d' % min(
                4000, down_time * 100))
    if site.uses('mc') and 4 * options.view_refresh > down_time:
        yield Finding(
            Level.WARNING, '[servicegroup] view_refresh is %g s, more than a '
            'quarter of service_down_time (%d s).' % (
                options.view_refresh, down_time),
            'It adds to the time until a dead host is detected.',
            '[servicegroup]\nview_refresh = 1')
    if options.outage_policy == 'down':
        yield Finding(
            Level.WARNING, '[servicegroup] outage_policy is down.',
            'When the store is lost, every living host may be evacuated, and '
            'instances run twice.', '[servicegroup]\noutage_policy = safe')
    if options.mass_failure_threshold > 1:
        yield Finding(
            Level.WARNING, '[servicegroup] mass_failure_threshold is %g, '
            'which turns the guard off.' % options.mass_failure_threshold,
            'When a switch or the message bus fails, every host behind it is '
            'down at once, and may be evacuated while it runs.',
            '[servicegroup]\nmass_failure_threshold = 0.5')


CHECKS = [Check('nova', check, limit=dropin.CHECK_LIMIT),
          Check('configuration', configuration, limit=dropin.CHECK_LIMIT)]
