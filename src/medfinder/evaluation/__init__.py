"""From a model and a split to the tables of the field."""
