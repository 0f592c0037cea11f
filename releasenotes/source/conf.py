# SPDX-License-Identifier: Apache-2.0

"""Sphinx configuration of the release notes."""

project = 'nova-servicegroup release notes'
copyright = 'nova-servicegroup contributors'
extensions = ['reno.sphinxext']
html_theme = 'furo'
