"""From tables of results to selections, figures and verdicts. Never imports torch."""
