"""The plugins of an App: which there are, which are selected, their start order, instances and services."""
