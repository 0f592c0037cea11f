# SPDX-License-Identifier: Apache-2.0

"""Options of the metrics."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt(
        'metrics_dir',
        help="""
Folder for files with metrics of the heartbeats of each process.

For the textfile collector of Prometheus' node_exporter, or for
``nova-servicegroup metrics --local``. After each heartbeat, a process writes
``nova_servicegroup_<binary>_<pid>.prom``. The folder must exist, on a local
file system (best in memory), and the user that Nova runs as must be able to
write to it. Needs prometheus_client: ``pip install
nova-servicegroup[metrics]``. A failed write is logged and has no other effect.

Default: none; nothing is counted or written.
"""),
]
