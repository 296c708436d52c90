"""Every way to run Hearken, and the only place that knows all the rooms."""
