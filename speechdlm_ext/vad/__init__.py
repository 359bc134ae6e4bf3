"""Speech detectors behind one interface."""
