"""Published formats of models to ours and back, strict and safe."""
