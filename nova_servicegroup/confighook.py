# SPDX-License-Identifier: Apache-2.0

"""The configuration hook, by the name that its entry point has.

An environment keeps the entry points that it was installed with, so what they
name must stay here.
"""

from nova_servicegroup.integration.confighook import ConfigSourceDriver

__all__ = ['ConfigSourceDriver']
