"""Self-contained HTML reports: pages, charts, and players with a timeline of who speaks."""
