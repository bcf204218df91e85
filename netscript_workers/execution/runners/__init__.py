"""Where handlers run: inside the worker, or in processes of their own."""

from __future__ import annotations
