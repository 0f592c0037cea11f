# SPDX-License-Identifier: Apache-2.0

"""Which version of this package is installed."""

import functools
import importlib.metadata


@functools.cache
def version():
    """Return the version of this package, for people."""
    try:
        return importlib.metadata.version('nova-servicegroup')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'
