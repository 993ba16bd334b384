"""The flows: where Prefect lives, and nowhere below."""
