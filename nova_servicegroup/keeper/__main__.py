# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""``python -m nova_servicegroup.keeper``: started by evzookeeper only.

Standard input is the socket to the parent, standard output (for want of
another number) its lifeline. The one argument is for the readers of ``ps``.
"""

import os
import signal
import sys


def main():
    # A service manager that stops the service signals us too, uWSGI's with
    # QUIT, and Ctrl-C may. The parent decides when it is over.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
                   signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
                   signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # Started by a thread that blocks signals, as uWSGI's do, we would never
    # get the alarm that ends an orphan.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        from nova_servicegroup.keeper import loop
    except ImportError as e:
        _fail('%s. Install nova-servicegroup with its requirements where '
              'Nova is installed.' % e)
    loop.serve_stdin()
    # Threads of kazoo have nothing left to do.
    os._exit(0)


def _fail(reason):
    from nova_servicegroup.keeper import protocol
    os.write(0, protocol.encode('failed', reason=reason))
    sys.exit(1)


if __name__ == '__main__':
    main()
