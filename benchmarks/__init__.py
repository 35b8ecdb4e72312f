"""Measurements that a user can run: each prints a table, and ends with one line of JSON."""

from __future__ import annotations

from star_model.threads import limit_spinning

limit_spinning()  # before a module of this package loads torch
