"""Helpers around the model; import the module you need, this package itself stays light."""
