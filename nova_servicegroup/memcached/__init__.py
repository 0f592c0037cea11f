# SPDX-License-Identifier: Apache-2.0

"""Heartbeats in memcached: the bytes, the servers, and what a reader sees."""
