"""HALP's dynamic model selection while frames run: which variant of a menu the next one takes."""
