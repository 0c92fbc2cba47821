"""Servers beside a real PACS. A package, so that its fixtures end with it."""
