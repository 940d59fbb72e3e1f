"""Stack files to service specs: load, interpolate, validate, convert."""
