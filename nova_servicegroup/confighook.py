# SPDX-License-Identifier: Apache-2.0

"""The configuration hook, as its entry point names it.

An environment keeps the entry points of its installation, so this name must
not change.
"""

from nova_servicegroup.integration.confighook import ConfigSourceDriver

__all__ = ['ConfigSourceDriver']
