"""The screens of kdnas: they read and steer the store, and never load a model."""
