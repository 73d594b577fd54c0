"""From tables of results to selections, figures and verdicts. Needs pandas and matplotlib, never torch."""
