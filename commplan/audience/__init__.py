"""The audience: who a run is about, as a snapshot taken from the organisation's own data and brought up to date.

Never writes to that data, and never drops a person without saying so.
"""
