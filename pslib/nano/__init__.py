"""The laptop world: texts and worlds, the base model, fast decoding."""
