"""Measuring codecs side by side: codecs, metrics, runs, BD-rates and reports behind ``nicc bench``."""
