"""Where scans and labels live: a studies folder or a PACS."""
