"""Gateways out: one module per provider, one failure table, one HTTP transport under all of them."""
