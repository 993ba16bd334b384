"""The audience: who a run is about, as a snapshot taken from the organisation's own data and brought up to date.

Never writes to that data, and never drops a person without saying so.
"""

from commplan.audience.refresh import Refreshed, refresh
from commplan.audience.snapshot import Resolution, rejects_path, resolve

__all__ = ["Refreshed", "Resolution", "refresh", "rejects_path", "resolve"]
