# SPDX-License-Identifier: Apache-2.0

"""Options of the metrics."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt(
        'metrics_dir',
        help="""
Folder in which each service keeps a file with metrics of its heartbeats.

For the textfile collector of Prometheus' node_exporter, or for
``nova-servicegroup metrics --local``. Each process has a file of its own,
``nova_servicegroup_<binary>_<pid>.prom``, which it writes after each of its
heartbeats. The folder has to be there, on a local file system, best in
memory, and the user that Nova runs as must be able to write to it. Needs
prometheus_client: ``pip install nova-servicegroup[metrics]``. What can't be
written costs a line in the log and nothing else.

Default: none, so that nothing is counted or written.
"""),
]
