"""IN: what providers and recipients tell us, verified and translated; pure, and ignorant of the store."""
