# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup metrics``: exports states to Prometheus."""

import time

from nova_servicegroup.cmd import base

LISTEN = '127.0.0.1:9894'
#: seconds between checks
INTERVAL = 1.0


class Metrics(base.Command):
    """Export to Prometheus how many services are up, down, or in doubt.

    Runs on a controller until it is interrupted, and checks all services
    repeatedly. One is enough for a deployment; several report the same. It has
    no metrics of single hosts, unless --per-host is given.

    With --local it exports the counters of the services of this host, from the
    folder [servicegroup] metrics_dir. It is not needed if node_exporter runs,
    whose textfile collector reads that folder.

    Needs prometheus_client: pip install nova-servicegroup[metrics].
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        where = parser.add_mutually_exclusive_group()
        where.add_argument(
            '--listen', metavar='ADDRESS:PORT', type=_address,
            default=_address(LISTEN),
            help='where Prometheus reads them by HTTP, by default %s, which '
                 'other machines cannot reach; put an IPv6 address in '
                 'brackets' % LISTEN)
        where.add_argument(
            '--textfile', metavar='PATH',
            help='write them to a file instead, for the textfile collector of '
                 'node_exporter; the name ends with .prom')
        parser.add_argument(
            '--interval', type=base.seconds, metavar='S', default=INTERVAL,
            help='seconds between checks, by default %g' % INTERVAL)
        what = parser.add_mutually_exclusive_group()
        what.add_argument('--per-host', action='store_true',
                          help='export the state of each host, too: a time '
                               'series for each')
        what.add_argument('--local', action='store_true',
                          help='only the heartbeats of the services of this '
                               'host')
        return parser

    def take_action(self, parsed_args):
        path = parsed_args.textfile
        if path is not None and not path.endswith('.prom'):
            raise base.CommandError(
                '--textfile %s: node_exporter reads files only whose names '
                'end with .prom.' % path)
        try:
            import prometheus_client
        except ImportError as e:
            raise base.CommandError(
                'There is no prometheus_client (%s): pip install '
                'nova-servicegroup[metrics], into the Python of this command.'
                % e) from e
        registry = prometheus_client.CollectorRegistry()
        check = (self._local(registry) if parsed_args.local
                 else self._deployment(registry, parsed_args.per_host))
        if path is None:
            address, port = parsed_args.listen
            try:
                prometheus_client.start_http_server(
                    port, addr=address, registry=registry)
            except OSError as e:
                raise base.CommandError(
                    'Cannot listen on %s port %d: %s. Choose another with '
                    '--listen.' % (address, port, e)) from e
            self.app.LOG.info('Listening on %s port %d.', address, port)
        reported = None
        while True:
            check()
            if path is not None:
                error = _write(prometheus_client, path, registry)
                if error != reported:
                    reported = error
                    self.app.stderr.write(
                        'error: %s\n' % error if error else
                        '%s is written again.\n' % path)
            time.sleep(parsed_args.interval)

    def _deployment(self, registry, per_host):
        from nova_servicegroup.cmd import exporter
        from nova_servicegroup.cmd import watcher
        from nova_servicegroup import version
        deployment = self.deployment(watcher.TIMEOUT)
        return exporter.Deployment(
            watcher.Watcher(deployment), deployment.driver, version.version(),
            registry, per_host).check

    def _local(self, registry):
        from nova_servicegroup.cmd import deployment
        from nova_servicegroup.cmd import exporter
        conf = deployment.read(self.app.options.config_file,
                               self.app.options.config_dir)
        directory = conf.servicegroup.metrics_dir
        if not directory:
            raise base.CommandError(
                '[servicegroup] metrics_dir is not set, so the services of '
                'this host count nothing: set it, and restart them.')
        registry.register(exporter.Local(directory, conf.service_down_time))
        return lambda: None


def _write(prometheus_client, path, registry):
    """Write the metrics to a file; return what is wrong, or None."""
    try:
        prometheus_client.write_to_textfile(path, registry)
    except OSError as e:
        return 'cannot write %s: %s' % (path, e.strerror)
    return None


def _address(text):
    """Return (address, port)."""
    address, _, port = text.rpartition(':')
    if not address or not 0 < int(port) < 65536:
        raise ValueError(text)
    return address.strip('[]'), int(port)


# argparse names it when it refuses a value.
_address.__name__ = 'ADDRESS:PORT'
