"""A local page that shows decoded images with a realism slider, see `nicc.viewer.server`."""
