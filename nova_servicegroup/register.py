# SPDX-License-Identifier: Apache-2.0

"""Puts the package into the Nova of this process: what the drop-in calls.

The block in a tree of Nova stays when this package is upgraded, so what it
imports must stay here.
"""

from nova_servicegroup.integration.register import register

__all__ = ['register']
